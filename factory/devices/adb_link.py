"""A phone with a runner on it: set up, jobs done and cleaned up, disconnections waited for."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar, cast

from factory.core.errors import InputError
from factory.core.temporary import TemporaryFolder
from factory.core.wire import digits, printable
from factory.devices.adb_client import Adb, PhoneGone
from factory.devices.adb_job import JOB, RESULTS
from factory.devices.adb_options import AdbOptions

T = TypeVar("T")
RUNNER_VARIABLE = "FACTORY_ANDROID_RUNNER"
MOST_CUTS = 3
LONGEST_PAUSE_S = 5.0
LONGEST_LINE, MOST_LINES = 1 << 16, 1000  # of a runner, in memory at a time
_ELF_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}


class PhoneLost(InputError):
    """The phone stayed away, in spite of patience: what is measured is kept."""


class RunnerFailed(Exception):
    """The runner crashed or hung; ``suspect`` is the model it was busy with, where known."""

    def __init__(self, reason: str, *, timed_out: bool = False, suspect: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.timed_out, self.suspect = reason, timed_out, suspect


def runner_path(options: AdbOptions, device_id: str, abi: str) -> Path:
    """The runner to push; InputError with the exact steps when it is missing or of another ABI."""
    given = options.runner or os.environ.get(RUNNER_VARIABLE, "")
    steps = (
        f"build tools/android_runner for {abi} with the NDK (its README.md has the commands) or "
        f"take your onnxruntime_perf_test, and set runner in the [adb] table or {RUNNER_VARIABLE}"
    )
    where = f"device profile {device_id!r}"
    if not given:
        raise InputError("there is no program to run on the phone", where=where, fix=steps)
    path = Path(given).expanduser()
    for file in (path, *(Path(name).expanduser() for name in options.libraries)):
        if not file.is_file():
            raise InputError(f"the file {str(file)!r} does not exist", where=where, fix=steps)
        built_for = elf_abi(file)
        if built_for and built_for != abi:
            raise InputError(
                f"{str(file)!r} is built for {built_for}, the phone runs {abi}",
                where=where,
                fix=steps,
            )
    return path


def elf_abi(path: Path) -> str:
    """The ABI that a program or library is built for; "" for what is no ELF file."""
    with path.open("rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return ""
    machine = int.from_bytes(head[18:20], "little")
    return _ELF_MACHINES.get(machine, f"machine {machine}")


class AdbLink:
    """The runner on one phone.

    Args:
        adb: commands to the phone.
        options: the profile's [adb] table.
        files: the runner first, then what goes beside it.
    """

    def __init__(self, adb: Adb, options: AdbOptions, files: Sequence[Path]) -> None:
        self.adb, self.options, self.files = adb, options, list(files)
        self.program = files[0].name
        self.root = f"{options.folder}/factory-{secrets.token_hex(6)}"
        self._ready = False

    def patiently(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is done again when the phone was gone meanwhile.

        PhoneLost when it stays away, RunnerFailed when it goes away every time.
        """
        for cuts in range(MOST_CUTS):
            try:
                self._set_up()
                return work()
            except PhoneGone as gone:
                self._ready = False
                self._wait(str(gone))
                last = f"the phone was lost {cuts + 1} times meanwhile ({gone})"
        raise RunnerFailed(last)

    def tell_version(self) -> str:
        """What the runner prints of itself."""
        text = f"cd {shlex.quote(self.root)} && LD_LIBRARY_PATH=. ./{shlex.quote(self.program)}"
        code, said = self.adb.shell(constant=f"{text} --version")
        if code != 0:
            lines = said.strip().splitlines()
            raise InputError(
                f"the runner does not start on phone {self.adb.serial!r}",
                why=printable(lines[-1], 300) if lines else f"exit code {code}",
                fix="check its ABI and that libonnxruntime.so is among the libraries of the "
                "[adb] table",
            )
        return said

    @contextlib.contextmanager
    def job(self, files: Mapping[str, bytes]) -> Iterator[Path]:
        """A fresh folder there that holds ``files``, and one here for what comes back."""
        there = f"{self.root}/job"
        self.adb.shell("rm", "-rf", there)
        self.adb.shell("mkdir", "-p", there)
        with TemporaryFolder("adb") as here:
            sent = here / "sent"
            sent.mkdir()
            for name, content in files.items():
                (sent / name).write_bytes(content)
            self.adb.push(sorted(sent.iterdir()), there)
            yield here
        with contextlib.suppress(PhoneGone):
            self.adb.shell("rm", "-rf", there)

    def run_job(self, timeout_s: float, here: Path) -> None:
        """Run our runner on the job that was pushed and pull its results into ``here``."""
        self.call([f"../{self.program}", JOB, RESULTS], timeout_s)
        self.fetch([RESULTS], here)

    def fetch(self, names: Sequence[str], here: Path) -> None:
        """Pull files of the job's folder."""
        if names:
            self.adb.pull([f"{self.root}/job/{name}" for name in names], here)

    def call(self, words: Sequence[str], timeout_s: float, *, says_done: bool = True) -> None:
        """Run a program in the job's folder and wait for it; ticks on stdout restart the clock.

        Raises RunnerFailed when it crashes or is silent for ``timeout_s``, PhoneGone when the
        phone is.
        """
        folder = shlex.quote(f"{self.root}/job")
        process = self.adb.start(f"cd {folder} && LD_LIBRARY_PATH=.. exec {shlex.join(words)}")
        lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        errors: deque[str] = deque(maxlen=1)

        def put(line: str | None) -> None:
            lines.put(line, timeout=timeout_s)

        _pump(cast("IO[bytes]", process.stdout), put, lambda: put(None))
        _pump(cast("IO[bytes]", process.stderr), errors.append, lambda: None)
        suspect: int | None = None
        phase, done = "", False
        try:
            while (line := lines.get(timeout=timeout_s)) is not None:
                words_said = line.split(maxsplit=2)
                done = done or line == "done"
                if words_said[:1] == ["tick"] and len(words_said) > 1:
                    told = digits(words_said[1])
                    suspect = suspect if told is None else told
                    phase = printable(words_said[2], 60) if len(words_said) > 2 else phase
            code = process.wait(timeout=10)
        except (queue.Empty, subprocess.TimeoutExpired):
            if not self.adb.is_there():
                raise PhoneGone("the phone fell silent") from None
            while_ = f" while {phase}" if phase else ""
            reason = f"timed out after {timeout_s:g} s{while_}"
            raise RunnerFailed(reason, timed_out=True, suspect=suspect) from None
        finally:
            _end(process)
        if (done or not says_done) and code == 0:
            return
        if not self.adb.is_there():
            raise PhoneGone(errors[-1] if errors else "the connection was cut")
        raise RunnerFailed(_death(code, errors), suspect=suspect)

    def clean_up(self) -> None:
        """Remove everything of ours from the phone, if it is there."""
        if self._ready:
            self._ready = False
            with contextlib.suppress(PhoneGone, InputError):
                self.adb.shell("rm", "-rf", self.root)

    def _set_up(self) -> None:
        """Put the runner on the phone, unless it is there (a phone may have been started anew)."""
        if self._ready:
            return
        program = f"{self.root}/{self.program}"
        if self.adb.shell("ls", program)[0] != 0:
            self.adb.shell("mkdir", "-p", self.root)
            self.adb.push(self.files, self.root)
        self.adb.shell("chmod", "755", program)
        self._ready = True

    def _wait(self, why: str) -> None:
        started, pause_s = time.monotonic(), 0.1
        while True:
            self.adb.reconnect()
            if self.adb.is_there():
                return
            waited_s = time.monotonic() - started
            if waited_s >= self.options.patience_s:
                raise PhoneLost(
                    f"phone {self.adb.serial!r} is gone",
                    why=f"{why}; waited {waited_s:.0f} s",
                    fix="connect it again and run the same command, it goes on",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _pump(stream: IO[bytes], sink: Callable[[str], None], end: Callable[[], None]) -> None:
    """Hand on the lines of a stream, then its end, from a thread of its own."""

    def work() -> None:
        with contextlib.suppress(OSError, ValueError, queue.Full):
            while line := stream.readline(LONGEST_LINE):
                if text := line.decode("utf-8", "replace").strip():
                    sink(text)
        with contextlib.suppress(queue.Full):
            end()

    threading.Thread(target=work, daemon=True).start()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the runner's stdin, which ends it there, and the adb client here."""
    with contextlib.suppress(OSError):
        cast("IO[bytes]", process.stdin).close()
    if process.poll() is None:
        process.kill()
    process.wait()


def _death(code: int, errors: Sequence[str]) -> str:
    said = f": {printable(errors[-1], 300)}" if errors else ""
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"the runner died of {signal.Signals(code - 128).name}{said}"
    return f"the runner ended with exit code {code}{said}"
