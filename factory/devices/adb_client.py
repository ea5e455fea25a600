"""The adb client as a child process: argument lists only, nothing of a device's answer in a shell.

`adb shell` hands one text to the phone's shell, so every piece of it is quoted here, and the few
texts with wildcards are constants of this package.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import InputError
from factory.core.wire import printable

QUICK_TIMEOUT_S = 20.0
STATE_TIMEOUT_S = 5.0
TRANSFER_TIMEOUT_S = 300.0
LONGEST_ANSWER = 1 << 20  # what comes after it is not kept
_SERIAL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")


class PhoneGone(Exception):
    """The phone does not answer (any more); the text is adb's own."""


@dataclass(frozen=True)
class Phone:
    """One line of `adb devices -l`."""

    serial: str
    state: str
    model: str = ""


def adb_path() -> str:
    """The adb client; InputError says how to get it."""
    found = shutil.which("adb")
    if found is None:
        raise InputError(
            "the adb client is not installed",
            fix="apt-get install adb, or take platform-tools from Android's developer site and put "
            "adb on the PATH",
        )
    return found


def parse_devices(text: str) -> list[Phone]:
    """What `adb devices -l` printed; lines that are no device are left out."""
    phones = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or line.startswith(("*", "List of")) or not _SERIAL.match(words[0]):
            continue
        facts = dict(word.split(":", 1) for word in words[2:] if ":" in word)
        phones.append(Phone(words[0], words[1], facts.get("model", "")))
    return phones


def list_phones() -> list[Phone]:
    """Every phone that the adb server knows, whatever its state."""
    listed = _run([adb_path(), "devices", "-l"], QUICK_TIMEOUT_S).stdout
    return parse_devices(listed.decode("utf-8", "replace"))


def find_phone(serial: str) -> Phone:
    """The phone of that serial, or the only one; InputError with what to do otherwise."""
    phones = list_phones()
    listed = printable(", ".join(f"{p.serial} ({p.state})" for p in phones), 300) or "none"
    fix = "connect it by USB with USB debugging on, or `adb connect ADDRESS`"
    if serial:
        chosen = [phone for phone in phones if phone.serial == serial]
        if not chosen:
            raise InputError(f"adb sees no phone {serial!r}", why=f"it sees: {listed}", fix=fix)
    else:
        chosen = [phone for phone in phones if phone.state == "device"] or phones
        if not chosen:
            raise InputError("adb sees no phone", fix=fix)
        if len(chosen) > 1:
            raise InputError(
                "adb sees several phones", why=listed, fix="name one by its serial number"
            )
    phone = chosen[0]
    if phone.state == "unauthorized":
        raise InputError(
            f"phone {phone.serial!r} does not trust this computer yet",
            fix="unlock it and accept the question about USB debugging",
        )
    return phone


class Adb:
    """Commands to one phone.

    Raises PhoneGone from every method when the phone is not there, InputError when adb itself
    cannot be run.
    """

    def __init__(self, serial: str) -> None:
        if not _SERIAL.match(serial):
            raise InputError(f"{serial!r} is no serial number of a phone", fix="see `adb devices`")
        self.serial = serial
        self._command = (adb_path(), "-s", serial)

    def shell(
        self, *arguments: str, constant: str = "", timeout_s: float | None = None
    ) -> tuple[int, str]:
        """Exit code and output of a command there.

        Args:
            arguments: the command and its arguments, each quoted for the phone's shell.
            constant: in place of them a text that is a constant of this package.
            timeout_s: then the phone counts as gone; None: QUICK_TIMEOUT_S.
        """
        text = constant or shlex.join(arguments)
        limit_s = QUICK_TIMEOUT_S if timeout_s is None else timeout_s
        done = self._adb("shell", text, timeout_s=limit_s)
        if done.returncode != 0 and not self.is_there():
            raise PhoneGone(_last_line(done.stderr) or "the connection was cut")
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def start(self, text: str) -> subprocess.Popen[bytes]:
        """A long command there, its output as it comes; closing its stdin ends our runner."""
        try:
            return subprocess.Popen(
                [*self._command, "shell", "-T", text],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError("adb cannot be started", why=str(error.strerror)) from None

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into an existing folder of the phone."""
        self._transfer("push", *(str(path) for path in files), folder + "/")

    def pull(self, remote: Sequence[str], folder: Path) -> None:
        """Copy files of the phone into a folder."""
        self._transfer("pull", *remote, str(folder))

    def is_there(self) -> bool:
        """Whether the phone answers."""
        with contextlib.suppress(PhoneGone):
            done = self._adb("get-state", timeout_s=STATE_TIMEOUT_S)
            return done.returncode == 0 and done.stdout.strip() == b"device"
        return False

    def reconnect(self) -> None:
        """Connect again to a phone that is reached over the network."""
        host, _, port = self.serial.rpartition(":")
        if host and port.isdigit():
            with contextlib.suppress(PhoneGone):
                _run([self._command[0], "connect", self.serial], QUICK_TIMEOUT_S)

    def _transfer(self, *arguments: str) -> None:
        done = self._adb(*arguments, timeout_s=TRANSFER_TIMEOUT_S)
        if done.returncode == 0:
            return
        said = _last_line(done.stderr) or _last_line(done.stdout)
        if not self.is_there():
            raise PhoneGone(said or "the connection was cut")
        raise InputError(
            f"adb {arguments[0]} failed on phone {self.serial!r}",
            why=said,
            fix="check the free space of the phone",
        )

    def _adb(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        return _run([*self._command, *arguments], timeout_s)


def _run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """What a call of adb printed, as much of it as any honest phone says, and its exit code."""
    pipe, kept = subprocess.PIPE, (bytearray(), bytearray())
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise InputError("adb cannot be started", why=str(error.strerror)) from None
    streams = zip((process.stdout, process.stderr), kept, strict=True)
    readers = [threading.Thread(target=_take, args=pair, daemon=True) for pair in streams]
    deadline = time.monotonic() + timeout_s
    for reader in readers:
        reader.start()
    try:
        for reader in readers:
            reader.join(max(deadline - time.monotonic(), 0.0))
        process.wait(max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        raise PhoneGone(f"no answer within {timeout_s:g} s") from None
    finally:
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, *map(bytes, kept))


def _take(stream: io.BufferedReader, kept: bytearray) -> None:
    """Read a stream to its end and keep its beginning."""
    with stream:
        while part := stream.read1(1 << 16):
            kept += part[: max(LONGEST_ANSWER - len(kept), 0)]


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    return printable(next((line for line in reversed(lines) if line), ""), 300)
