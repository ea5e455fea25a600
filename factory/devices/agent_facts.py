"""What a machine says about itself: chip, board, cores, clocks, temperature, memory, its load.

Part of the device agent: standard library only, and nothing here fails where a system does not
tell something (it is None then). Linux tells most, Android's Termux less, others little.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Any

from factory.core.provenance import chip_fingerprint, cpu_name, machine_id
from factory.core.wire import digits

CPU = Path("/sys/devices/system/cpu")
THERMAL = Path("/sys/class/thermal")
BOARD_FILES = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")


def read_text(path: Path | str) -> str:
    """The stripped content of a small system file, "" when it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()[:4096].decode(errors="replace").strip("\0 \n\t")
    return ""


def machine_facts() -> dict[str, Any]:
    """Everything about this machine that a person or a table may want to know."""
    return {
        "chip": chip_fingerprint(),
        "cpu": cpu_name(),
        "board": next((text for text in map(read_text, BOARD_FILES) if text), None),
        "machine": machine_id(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": core_facts(),
        "memory_mb": memory_mb(),
        "temperature_c": temperature_c(),
        "load_1min": load_1min(),
    }


def core_facts() -> list[dict[str, Any]]:
    """Number, highest and current clock in MHz and governor of each core."""
    facts = []
    for number in range(os.cpu_count() or 1):
        clock = CPU / f"cpu{number}" / "cpufreq"
        facts.append(
            {
                "core": number,
                "max_mhz": _mhz(clock / "cpuinfo_max_freq"),
                "mhz": _mhz(clock / "scaling_cur_freq"),
                "governor": read_text(clock / "scaling_governor") or None,
            }
        )
    return facts


def temperature_c() -> float | None:
    """The hottest sensor that names a processor or the whole chip, else the hottest of all."""
    named: list[float] = []
    others: list[float] = []
    with contextlib.suppress(OSError):
        for zone in THERMAL.glob("thermal_zone*"):
            with contextlib.suppress(ValueError):
                degrees = int(read_text(zone / "temp")) / 1e3
                if -40 < degrees < 200:
                    kind = read_text(zone / "type").lower()
                    mine = any(word in kind for word in ("cpu", "soc", "pkg", "package"))
                    (named if mine else others).append(degrees)
    found = named or others
    return round(max(found), 1) if found else None


def memory_mb() -> dict[str, int | None]:
    """Total and available memory."""
    found: dict[str, int | None] = {"total": None, "available": None}
    for line in read_text("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        name = {"MemTotal": "total", "MemAvailable": "available"}.get(key)
        if name and (kb := digits(value.split(maxsplit=1)[0] if value.split() else "")):
            found[name] = kb // 1024
    return found


def load_1min() -> float | None:
    """Running processes, mean of a minute; None where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def busy_cores(over_s: float = 0.25) -> float | None:
    """How many cores were busy during ``over_s``, of all processes; None where it is not told."""
    before = _busy_and_all()
    time.sleep(over_s)
    after = _busy_and_all()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)


def _busy_and_all() -> tuple[int, int] | None:
    words = read_text("/proc/stat").split("\n", 1)[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _mhz(path: Path) -> int | None:
    khz = digits(read_text(path))
    return None if khz is None else khz // 1000
