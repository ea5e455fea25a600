"""`factory profile --browser`: whatever browser opens the page becomes a device with a profile.

The page tells what it runs on; that gives the device its id and its chip. The profile is written
into the user's device_profiles/, so that later commands find the device by its id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.resources import user_home
from factory.core.validation import validate
from factory.devices.base import Device
from factory.devices.profile import DeviceProfile, list_profiles, load_profile


@dataclass(frozen=True)
class BrowserRequest:
    """What `factory profile --browser` asks for.

    Attributes:
        lan: serve phones on the network (HTTPS); else this computer only.
        threads: most WASM threads; fewer where the page cannot have them.
        provider: "wasm", "webgpu" or "webnn".
        precision: "fp32" or "int8".
        port: of the page; None for the usual one.
        headless: start a Chromium without a window on this computer.
        name: id of the device; made from what the page tells by default.
    """

    lan: bool = False
    threads: int = 1
    provider: str = "wasm"
    precision: str = "fp32"
    port: int | None = None
    headless: bool = False
    name: str = ""


def any_browser(request: BrowserRequest | None) -> DeviceProfile:
    """The profile before any browser is known."""
    request = request or BrowserRequest()
    options: dict[str, object] = {
        "network": "lan" if request.lan else "loopback",
        "launch": "headless" if request.headless else "none",
    }
    if request.port is not None:
        options["port"] = request.port
    data = {
        "id": request.name or "browser",
        "chip": "any",
        "transport": "browser",
        "runtime": "ort-web",
        "execution_provider": request.provider,
        "precision": request.precision,
        "browser": options,
    }
    return validate(DeviceProfile, data, where="the options of --browser")


def open_browser(request: BrowserRequest) -> Device:
    """Wait for a browser and give it its own profile, written when it is new."""
    from factory.devices.browser import BrowserDevice

    if request.threads < 1:
        raise InputError(f"{request.threads} threads are not accepted", fix="give 1 or more")
    device = BrowserDevice(any_browser(request), most_threads=request.threads)
    try:
        device.start()
        device.profile = _own_profile(device, request)
    except BaseException:
        device.close()
        raise
    return device


def _own_profile(device: object, request: BrowserRequest) -> DeviceProfile:
    """The profile of the browser that came; an older one of the same name must be of it too."""
    from factory.devices import browser_facts
    from factory.devices.browser import BrowserDevice

    assert isinstance(device, BrowserDevice)
    facts, threads = device.link.facts, device.threads
    chip = browser_facts.chip_name(facts)
    provider = "" if request.provider == "wasm" else f"-{request.provider}"
    made = f"{browser_facts.identifier(facts)}{provider}-t{threads}-{request.precision}"
    name = request.name or made
    if name in list_profiles():
        known = load_profile(name)
        expected = (chip, "browser", request.provider, threads, request.precision)
        found = (known.chip, known.transport, known.execution_provider)
        if (*found, known.threads, known.precision) != expected:
            raise InputError(
                f"device {name!r} is another device or runs differently",
                where=str(list_profiles()[name]),
                why=f"this one is {chip!r}, {threads} threads, {request.precision}",
                fix="choose another name with --name",
            )
        return known
    profile = device.profile.model_copy(update={"id": name, "chip": chip, "threads": threads})
    path = user_home() / "device_profiles" / f"{name}.toml"
    write_atomic_text(path, _toml(profile))
    return load_profile(path)


def _toml(profile: DeviceProfile) -> str:
    """The profile as a TOML file; JSON writes these strings, numbers and truth values as TOML."""
    data = profile.model_dump(mode="json", exclude_defaults=True)
    options = data.pop("browser", {}) or {}
    head = "# A browser that opened the page of `factory profile --browser`.\nschema_version = 1\n"
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in data.items()]
    table = [f"{key} = {json.dumps(value)}\n" for key, value in options.items()]
    return head + "".join(lines) + ("\n[browser]\n" + "".join(table) if table else "")
