"""Provenance: which versions, on which machine, when; without importing what it reports."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "scikit-learn", "numpy")


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def factory_version() -> str:
    """Version of this package ("0+unknown" when run from an uninstalled tree)."""
    return package_version("model-factory") or "0+unknown"


def cpu_name() -> str:
    """The CPU's marketing name where the system tells it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware", "cpu model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def chip_fingerprint() -> str:
    """Identity of the local chip: architecture, name, family/model and core count.

    Two machines with the same fingerprint may share a latency table; a table with another
    fingerprint is refused where "local" is meant.
    """
    family = model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("cpu family", "CPU implementer"):
                family = family or value.strip()
            elif key.strip() in ("model", "CPU part"):
                model = model or value.strip()
    cores = os.cpu_count() or 1
    return f"{platform.machine()}/{cpu_name()}/{family}.{model}/{cores}c"


def machine_id() -> str | None:
    """The same for all processes of one machine until it is started anew; tells no name."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None


def now_utc() -> str:
    """Current time, ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def provenance() -> dict[str, object]:
    """Versions, machine and date, for the header of a run, a table or a report."""
    return {
        "factory": factory_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "chip": chip_fingerprint(),
        "date": now_utc(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }
