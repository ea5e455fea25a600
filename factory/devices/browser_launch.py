"""Opening the page: the address and its QR code for a person, or a Chromium without a window."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import weakref
from typing import TextIO

from factory.core.errors import InputError
from factory.core.temporary import TemporaryFolder

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-extensions",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-port=0",
)


def find_chromium(name: str = "") -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    for program in (name,) if name else PROGRAMS:
        if found := shutil.which(program):
            return found
    return None


class HeadlessChromium:
    """A Chromium of our own with an empty profile; it ends with this object or this process.

    Args:
        url: the page to open.
        program: name or path; the first known one on the PATH by default.
        insecure: accept the self-made certificate.
        extra: more flags, for tests.
    """

    def __init__(
        self, url: str, program: str = "", *, insecure: bool = False, extra: tuple[str, ...] = ()
    ) -> None:
        found = find_chromium(program)
        if found is None:
            raise InputError(
                f"there is no {program or 'Chromium'} on this machine",
                why='the profile says launch = "headless"',
                fix="install it (Debian: apt install chromium), or open the page yourself",
            )
        scratch = TemporaryFolder("browser")
        self.folder = scratch.path
        command = [found, *FLAGS, f"--user-data-dir={self.folder}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses to run as root with its sandbox
        if insecure:
            command.append("--ignore-certificate-errors")
        if os.name == "posix":  # its debugging pipe: Chromium ends when we do, however that was
            command = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>/dev/null', "sh", *command]
            command.append("--remote-debugging-pipe")
        with (self.folder / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *extra, url],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._finalizer = weakref.finalize(self, _end, self.process, scratch)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._finalizer.alive and self.process.poll() is None

    def close(self) -> None:
        """End it with all its helpers and remove its folder."""
        self._finalizer()


def _end(process: subprocess.Popen[bytes], scratch: TemporaryFolder) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            break
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # helpers that outlived it
    scratch.remove()


def show_address(url: str, digest: str = "", stream: TextIO | None = None) -> None:
    """Print the address, its QR code where a phone may scan it, and what to expect."""
    import segno

    stream = stream or sys.stderr
    lines = [f"Open this page on the device to be measured: {url}"]
    if digest:
        lines.append(
            "The browser will warn once that it does not know this computer's certificate "
            "(Advanced, then proceed); its SHA-256 is " + digest
        )
    with contextlib.suppress(OSError):
        print("\n".join(lines), file=stream)
        segno.make(url, error="l").terminal(out=stream, compact=True)
        stream.flush()
