"""Simulated phones behind Debian's real adb client, with an adb server of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from fake_phone import FakePhone

from factory.devices import adb_client
from factory.devices.profile import DeviceProfile

ROOT = Path(__file__).resolve().parents[2]
# A loaded machine may stop all of us for minutes: no phone of ours is gone for that.
LIMITS = {"QUICK_TIMEOUT_S": 600.0, "STATE_TIMEOUT_S": 600.0}
ADB_MISSING = "needs the adb client: apt-get install adb"


class PhoneRack:
    """Phones by name in folders of their own; made in a ``with``.

    Args:
        folder: an empty folder.
        count: number of phones.
    """

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.environment = {
            "ANDROID_ADB_SERVER_PORT": str(port),
            "HOME": str(folder),
            "ADB_MDNS": "0",
        }
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        self._limits = {name: getattr(adb_client, name) for name in LIMITS}
        for name, limit_s in LIMITS.items():
            setattr(adb_client, name, limit_s)
        self.runner = folder / "factory_runner"
        here = Path(__file__).parent / "fake_runner.py"
        self.runner.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {here} "$@"\n')
        self.runner.chmod(0o755)
        self.phones = []
        for index in range(count):
            jail = folder / f"phone{index}"
            jail.mkdir()
            self.phones.append(FakePhone(jail))
        for phone in self.phones:
            said = self.adb("connect", phone.address)
            said += self.adb("-s", phone.address, "wait-for-device")
            assert adb_client.Adb(phone.address).is_there(), said

    def adb(self, *arguments: str) -> str:
        done = subprocess.run(["adb", *arguments], capture_output=True, text=True, timeout=600)
        return done.stdout + done.stderr

    def profile(self, device_id: str, index: int = 0, **more) -> DeviceProfile:
        """A profile of one thread that reaches one of the phones."""
        adb = {
            "serial": self.phones[index].address,
            "runner": str(self.runner),
            "patience_s": 120.0,
            "longest_wait_s": 0.0,
            **more.pop("adb", {}),
        }
        fields = {"id": device_id, "transport": "adb", "threads": 1, "timeout_s": 20.0}
        return DeviceProfile(**{**fields, "adb": adb, **more})

    def left_behind(self, index: int = 0) -> list[str]:
        """What lies in the folder of the phone in which we work."""
        return sorted(p.name for p in (self.phones[index].jail / "data/local/tmp").iterdir())

    def __enter__(self) -> PhoneRack:
        return self

    def __exit__(self, *_) -> None:
        for phone in self.phones:
            phone.close()
        if shutil.which("adb"):
            self.adb("kill-server")
        for name, limit_s in self._limits.items():
            setattr(adb_client, name, limit_s)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
