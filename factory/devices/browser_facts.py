"""What a page says of its device, put into words: the chip of a fingerprint, and the notes.

Everything here came over the wire: it is bounded, squeezed into one line, and only ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COARSE_TICK_MS = 0.02
_OTHER_BRANDS = re.compile(r"not.?a.?brand|^chromium$", re.IGNORECASE)
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("FxiOS", "Firefox"),
    ("Firefox", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome", "Chrome"),
    ("Version", "Safari"),
)
_SYSTEMS = ("iPhone", "iPad", "Android", "Macintosh", "Windows", "CrOS", "Linux")


def text(value: Any, longest: int = 60) -> str:
    """A value from the wire as one short printable line."""
    plain = "".join(c if c.isprintable() else " " for c in str(value or ""))
    return " ".join(plain.split())[:longest]


def number(value: Any, default: float = 0.0) -> float:
    """A finite number from the wire, not negative."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return float(value) if good else default


def browser_name(facts: Mapping[str, Any]) -> str:
    """'Chrome 150': the brand and its major version."""
    brands = _hints(facts).get("fullVersionList")
    named = [b for b in brands if isinstance(b, dict)] if isinstance(brands, list) else []
    own = [b for b in named if not _OTHER_BRANDS.search(text(b.get("brand")))]
    own = own or [b for b in named if text(b.get("brand")).lower() == "chromium"]
    if own:
        major = text(own[0].get("version")).split(".")[0]
        return f"{text(own[0].get('brand'), 30)} {major}".strip()
    agent = text(facts.get("user_agent"), 400)
    for mark, name in _BROWSERS:
        if found := re.search(rf"\b{mark}/(\d+)", agent):
            return f"{name} {found.group(1)}"
    return "unknown browser"


def system_name(facts: Mapping[str, Any]) -> str:
    """'Pixel 8, Android' where the browser tells the model, else the system alone."""
    hints = _hints(facts)
    agent = text(facts.get("user_agent"), 400)
    system = text(hints.get("platform"), 30) or next((s for s in _SYSTEMS if s in agent), "")
    architecture = text(hints.get("architecture"), 10)
    bits = text(hints.get("bitness"), 4)
    parts = (system, architecture, bits and f"{bits}-bit")
    system = " ".join(part for part in parts if part) or "unknown system"
    model = text(hints.get("model"), 40)
    return f"{model}, {system}" if model else system


def chip_name(facts: Mapping[str, Any]) -> str:
    """What a latency table must agree with: device, browser, cores and WASM features."""
    features = [name for name in ("simd", "relaxed_simd") if facts.get(name)]
    cores = int(number(facts.get("cores"), 1)) or 1
    return (
        f"{system_name(facts)} / {browser_name(facts)} / {cores} cores / "
        f"wasm {' '.join(features) or 'plain'}"
    )


def isolated(facts: Mapping[str, Any]) -> bool:
    """Whether the page may use WASM threads and a fine clock."""
    return bool(facts.get("isolated")) and bool(facts.get("shared_memory"))


def notes(facts: Mapping[str, Any], wanted_threads: int | str) -> list[str]:
    """What a person should know about measurements in this page."""
    found = ["measured in a browser: this is not the latency of a native application"]
    if not isolated(facts):
        found.append(
            "the page is not cross-origin isolated (no HTTPS): one thread, timed in batches"
            + ("" if wanted_threads == 1 else "; ask for HTTPS with network = 'lan'")
        )
    elif number(facts.get("tick_ms"), 1.0) > COARSE_TICK_MS:
        tick_ms = number(facts.get("tick_ms"), 1.0)
        found.append(f"the browser's clock ticks every {tick_ms:g} ms: short runs go in batches")
    if emulated(facts, "webgpu"):
        found.append("WebGPU is emulated in software here")
    return found


def emulated(facts: Mapping[str, Any], provider: str) -> bool:
    """Whether the accelerator is software that stands for one."""
    gpu = facts.get("webgpu")
    return provider == "webgpu" and isinstance(gpu, dict) and bool(gpu.get("software"))


def identifier(facts: Mapping[str, Any]) -> str:
    """A part of a device id: 'pixel-8-chrome-150'."""
    hints = _hints(facts)
    what = text(hints.get("model"), 40) or text(hints.get("platform"), 30)
    what = what or system_name(facts)
    name = f"{what} {browser_name(facts)}".lower()
    return "-".join(re.findall(r"[a-z0-9]+", name))[:60] or "browser"


def _hints(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    hints = facts.get("hints")
    return hints if isinstance(hints, dict) else {}
