"""A real headless Chromium for tests: devices that run in it, and a remote control of its page."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

import aiohttp
import pytest

from factory.core.errors import InputError
from factory.devices.browser import BrowserDevice
from factory.devices.browser_files import ort_version
from factory.devices.browser_launch import find_chromium
from factory.devices.browser_options import BrowserOptions
from factory.devices.profile import DeviceProfile


def device(threads=1, provider="wasm", timeout_s=60.0, **options) -> BrowserDevice:
    """A device in a Chromium of its own; skips the test where there is none."""
    if find_chromium() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    try:
        ort_version()
    except InputError:
        pytest.skip("ONNX Runtime Web is not in place (run `make web`)")
    profile = DeviceProfile(
        id="page",
        chip="any",
        transport="browser",
        runtime="ort-web",
        execution_provider=provider,
        threads=threads,
        timeout_s=timeout_s,
        browser=BrowserOptions(
            **{"port": 0, "launch": "headless", "warmup_ms": 50.0, "patience_s": 60.0, **options}
        ),
    )
    return BrowserDevice(profile)


class Remote:
    """The page of a device's Chromium, over its debugging port."""

    def __init__(self, device: BrowserDevice) -> None:
        lines = (device.chromium.folder / "DevToolsActivePort").read_text().split()
        self.address = f"http://127.0.0.1:{lines[0]}"

    def command(self, *commands):
        """Results of (method, parameters) pairs, in one connection."""
        return asyncio.run(self._command(commands))

    async def _command(self, commands):
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{self.address}/json/list") as answer:
                pages = [p for p in await answer.json() if p["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as ws:
                results = []
                for number, (method, parameters) in enumerate(commands):
                    await ws.send_json({"id": number, "method": method, "params": parameters})
                    while (said := json.loads((await ws.receive()).data)).get("id") != number:
                        pass
                    results.append(said.get("result", said))
                return results

    def evaluate(self, expression: str):
        parameters = {"expression": expression, "returnByValue": True}
        return self.command(("Runtime.evaluate", parameters))[0]["result"].get("value")

    def reload(self) -> None:
        self.command(("Page.reload", {}))

    def text(self, element: str) -> str:
        return self.evaluate(f"document.getElementById('{element}').textContent")

    def wait_for_text(self, element: str, words: str, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in (seen := self.text(element)):
            assert time.monotonic() < deadline, f"{element} says {seen!r}, not {words!r}"
            time.sleep(0.1)

    def screenshot(self, path: Path, width=390, height=844, dark=False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        *_, shot = self.command(
            ("Emulation.setDeviceMetricsOverride", size),
            ("Emulation.setEmulatedMedia", {"features": scheme}),
            ("Page.captureScreenshot", {"format": "png"}),
        )
        path.write_bytes(base64.b64decode(shot["data"]))
