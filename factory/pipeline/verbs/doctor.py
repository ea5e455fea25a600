"""doctor: versions, execution providers, devices, disk; what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from typing import Any

from factory.core.provenance import cpu_name, factory_version, package_version
from factory.core.resources import search_path, user_home

SCHEMA_VERSION = 1
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "numpy": "numpy",
    "scikit-learn": "sklearn",
    "pydantic": "pydantic",
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
    "pandas": "pandas",
    "pillow": "PIL",
    "psutil": "psutil",
    "aiohttp": "aiohttp",
    "cryptography": "cryptography",
    "segno": "segno",
}
MINIMUM_DISK_GB = 2.0


def doctor() -> dict[str, Any]:
    """Look at this machine; ``ready`` is False when something that is needed is missing."""
    checks = [
        _check("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        _check("model-factory", "ok", factory_version()),
        *_packages(),
        *_providers(),
        _accelerator(),
        *_devices(),
        _pinning(),
        _disk("working folder", os.getcwd()),
        _disk("temporary folder", tempfile.gettempdir()),
        _check("own profiles, tables and recipes", "ok", f"in {user_home()} (or $FACTORY_HOME)"),
    ]
    ready = all(check["status"] != "missing" for check in checks)
    return {"schema_version": SCHEMA_VERSION, "ready": ready, "checks": checks}


def _check(name: str, status: str, found: str, fix: str = "") -> dict[str, str]:
    return {"name": name, "status": status, "found": found, "fix": fix}


def _packages() -> list[dict[str, str]]:
    checks = []
    for name, module in NEEDED.items():
        version = package_version(name)
        if importlib.util.find_spec(module) is None:
            fix = f"{os.path.basename(sys.executable)} -m pip install {name}"
            checks.append(_check(name, "missing", "not installed", fix))
        else:
            checks.append(_check(name, "ok", version or "installed, version unknown"))
    return checks


def _providers() -> list[dict[str, str]]:
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    found = list(onnxruntime.get_available_providers())
    checks = [_check("execution providers", "ok", ", ".join(found))]
    if "CPUExecutionProvider" not in found:
        fix = "python -m pip install --force-reinstall onnxruntime"
        checks.append(_check("CPUExecutionProvider", "missing", "not in this build", fix))
    return checks


def _accelerator() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return _check("accelerator for training", "warning", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        return _check("accelerator for training", "ok", torch.cuda.get_device_name(0))
    found = f"none; training runs on the CPU ({torch.get_num_threads()} threads)"
    return _check("accelerator for training", "ok", found)


def _devices() -> list[dict[str, str]]:
    from factory.pipeline.verbs.devices import devices

    entries = devices(check=importlib.util.find_spec("onnxruntime") is not None)["devices"]
    if not entries:
        fix = "put a profile into device_profiles/ (see docs/add-a-device.md)"
        searched = ", ".join(str(path) for path in search_path("device_profiles")) or "no folder"
        return [_check("devices", "missing", f"no device profile in {searched}", fix)]
    checks = []
    for entry in entries:
        if "error" in entry:
            checks.append(_check(f"device {entry['id']}", "warning", entry["error"], entry["path"]))
            continue
        notes = "; ".join(entry.get("describe", {}).get("notes", []))
        found = f"{entry['precision']}, {entry['execution_provider']}, threads {entry['threads']}"
        checks.append(_check(f"device {entry['id']}", "ok", found + (f" ({notes})" * bool(notes))))
    return checks


def _pinning() -> dict[str, str]:
    name, cores = "pinning to cores", os.cpu_count() or 1
    if hasattr(os, "sched_setaffinity"):
        return _check(name, "ok", f"possible, {cores} cores, {cpu_name()}")
    found = f"not possible on {platform.system()}: timings scatter more"
    return _check(name, "warning", found, "close other programs while a chip is measured")


def _disk(name: str, folder: str) -> dict[str, str]:
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.1f} GB free in {folder}"
    if free_gb < MINIMUM_DISK_GB:
        fix = f"free at least {MINIMUM_DISK_GB:g} GB"
        return _check(f"disk of the {name}", "warning", found, fix)
    return _check(f"disk of the {name}", "ok", found)
