"""A real device agent in a process of its own on loopback: started, killed, restarted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from factory.devices.profile import DeviceProfile

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-P", "-m", "factory.devices.agent_main")
NO_GATE = ("--max-busy-cores", "1000", "--max-temperature", "1000")


class RunningAgent:
    """An agent; ``profile(id)`` reaches it."""

    def __init__(self, *options: str, command=COMMAND, port: int = 0) -> None:
        self.command, self.options, self.port = command, options, port
        self.process: subprocess.Popen[str] | None = None
        self.scheme = "http"
        self.start()

    def start(self) -> None:
        """Start it, at the same port as before."""
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port), *NO_GATE, "--quiet", *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        first = self.process.stdout.readline()
        found = re.search(r"(https?)://127\.0\.0\.1:(\d+)", first)
        assert found, first
        self.scheme, self.port = found[1], int(found[2])

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def profile(self, device_id: str, *, patience_s: float = 120.0, **more) -> DeviceProfile:
        """A profile of one thread that reaches this agent."""
        agent = {"url": self.url, "patience_s": patience_s, **more.pop("agent", {})}
        fields = {"id": device_id, "transport": "agent", "threads": 1, "timeout_s": 20.0}
        return DeviceProfile(**{**fields, "agent": agent, **more})

    def kill(self) -> None:
        """End it as the out-of-memory killer does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> RunningAgent:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.process.stdout.closed:
            self.process.stdout.close()
