"""What a phone says about itself over adb: model, SoC, cores, clocks, ABI, temperature, battery."""

from __future__ import annotations

import re
from typing import Any

from factory.core.wire import digits
from factory.devices.adb_client import Adb
from factory.devices.base import answers_of
from factory.devices.messages import PHONE_FACTS

_PROPERTIES = "getprop"
_FILES = (
    "grep -H . /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq "
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor "
    "/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp "
    "/proc/cpuinfo /proc/meminfo 2>/dev/null; true"
)
_BATTERY = "dumpsys battery"


def phone_facts(adb: Adb) -> dict[str, Any]:
    """Everything that a table or a person may want to know of a phone; None where it is silent."""
    properties = parse_properties(adb.shell(constant=_PROPERTIES)[1])
    files = parse_files(adb.shell(constant=_FILES)[1])
    cores = _cores(files)
    maker = properties.get("ro.soc.manufacturer") or properties.get("ro.product.manufacturer", "")
    soc = properties.get("ro.soc.model") or properties.get("ro.board.platform") or "unknown SoC"
    model = properties.get("ro.product.model", "unknown model")
    abi = properties.get("ro.product.cpu.abi", "unknown ABI")
    battery = battery_facts(adb)
    facts = {
        "chip": f"android/{abi}/{maker} {soc}/{model}/{len(cores)}c",
        "model": model,
        "maker": properties.get("ro.product.manufacturer"),
        "soc": f"{maker} {soc}".strip(),
        "abi": abi,
        "android": properties.get("ro.build.version.release"),
        "build": properties.get("ro.build.fingerprint"),
        "emulated": "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")),
        "cores": cores,
        "memory_mb": _memory_mb(files),
        "thermal_c": _thermal(files),
        **battery,
    }
    with answers_of(adb.serial):
        checked: dict[str, Any] = PHONE_FACTS(facts, "")
    return checked


def battery_facts(adb: Adb) -> dict[str, Any]:
    """Charge in percent, temperature in degrees Celsius, whether it is plugged in."""
    values = {}
    for line in adb.shell(constant=_BATTERY)[1].splitlines():
        key, _, value = line.strip().partition(": ")
        values[key] = value.strip()
    tenths = values.get("temperature", "")
    return {
        "battery_percent": digits(values.get("level", "")),
        "battery_c": int(tenths) / 10 if re.fullmatch(r"-?[0-9]{1,4}", tenths) else None,
        "plugged": any(values.get(f"{kind} powered") == "true" for kind in ("AC", "USB")),
    }


def parse_properties(text: str) -> dict[str, str]:
    """`[key]: [value]` lines of getprop; what a phone answers is only ever shown, never run."""
    return {
        key: "".join(c if c.isprintable() else " " for c in value)[:200]
        for key, value in re.findall(r"^\[([^\]\n]+)\]: \[([^\]\n]*)\]", text, re.MULTILINE)
    }


def parse_files(text: str) -> dict[str, list[str]]:
    """`path:line` lines of grep -H, by path."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, _, value = line.partition(":")
        found.setdefault(path, []).append(value.strip())
    return found


def _cores(files: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Number, highest clock, governor and part of each core, slowest first by number."""
    parts: dict[int, str] = {}
    number = -1
    for line in files.get("/proc/cpuinfo", []):
        key, _, value = (word.strip() for word in line.partition(":"))
        if key == "processor" and (told := digits(value)) is not None:
            number = told
            parts.setdefault(number, "")
        elif key == "CPU part" and number >= 0:
            parts[number] = value
    for path in files:
        if match := re.match(r"/sys/devices/system/cpu/cpu([0-9]{1,5})/", path):
            parts.setdefault(int(match[1]), "")
    cores = []
    for core in sorted(parts):
        clock = f"/sys/devices/system/cpu/cpu{core}/cpufreq"
        highest = digits(files.get(f"{clock}/cpuinfo_max_freq", [""])[0])
        cores.append(
            {
                "core": core,
                "part": parts[core] or None,
                "max_mhz": None if highest is None else highest // 1000,
                "governor": files.get(f"{clock}/scaling_governor", [None])[0],
            }
        )
    return cores


def _thermal(files: dict[str, list[str]]) -> float | None:
    """The hottest sensor that names the processor."""
    found = []
    for path, lines in files.items():
        kind = files.get(path.removesuffix("/temp") + "/type", [""])[0].lower()
        if path.endswith("/temp") and any(word in kind for word in ("cpu", "soc")):
            told = digits(lines[0].removeprefix("-"))
            if told is not None and (degrees := told / 1e3) < 200:
                found.append(-degrees if lines[0].startswith("-") else degrees)
    return round(max(found), 1) if found else None


def _memory_mb(files: dict[str, list[str]]) -> int | None:
    for line in files.get("/proc/meminfo", []):
        key, _, value = line.partition(":")
        if key == "MemTotal" and (kb := digits((value.split() or [""])[0])) is not None:
            return kb // 1024
    return None


def fastest_cores(cores: list[dict[str, Any]], count: int) -> list[int]:
    """The numbers of the ``count`` fastest cores; of equal ones the last."""
    order = sorted(cores, key=lambda core: (core["max_mhz"] or 0, core["core"]))
    return sorted(core["core"] for core in order[-count:])
