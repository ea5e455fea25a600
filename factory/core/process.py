"""The parent's side of a child process: start it, talk to it, notice when it dies or hangs, end it.

The child is started in its own session, so that Ctrl-C reaches the factory alone, and it ends by
itself when its stdin ends: also when the factory is killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from factory.core.frames import (
    FOLDER_VARIABLE,
    LONGEST_CONTENT,
    BrokenFrame,
    read_frame,
    write_frame,
)
from factory.core.temporary import TemporaryFolder
from factory.core.wire import Wrong, printable

Frame = tuple[dict[str, Any], list[bytes]]
Read = Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]]
Watch = Callable[[int | None, str], None]
WATCH_EVERY_S = 0.5


class WorkerLost(Exception):
    """The worker died or hung; ``suspect`` is the model it had announced, where known."""

    def __init__(self, reason: str, *, timed_out: bool = False, suspect: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.timed_out, self.suspect = reason, timed_out, suspect


class WorkerProcess:
    """One child process. A request that fails leaves it dead; make a new one then."""

    def __init__(
        self,
        command: Sequence[str],
        code: Callable[[Path], Path] | None = None,
        *,
        name: str = "the runtime's process",
        scratch: bool = True,
        longest_answer: int = LONGEST_CONTENT,
        read: Read = lambda request, reply: reply,
    ) -> None:
        """A child that runs ``command``.

        Args:
            command: the program and its arguments.
            code: copies the child's source into the folder it is given (another Python).
            name: what an error calls the child.
            scratch: whether it gets a temporary folder, ``folder``.
            longest_answer: most bytes of the arrays that it may send.
            read: the child's reply to a request as it may be used; Wrong says what it is not.
        """
        self.name, self._read = name, read
        temporary = TemporaryFolder("worker") if scratch or code is not None else None
        self.folder = "" if temporary is None else str(temporary.path)
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives with the child)
        options: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        try:
            environment = _environment(None if code is None else code(Path(self.folder)))
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**environment, FOLDER_VARIABLE: self.folder},
                **options,
            )
        except BaseException:
            self.errors.close()
            if temporary is not None:
                temporary.remove()
            raise
        self._frames: queue.SimpleQueue[Frame | str] = queue.SimpleQueue()
        stdout = cast(BinaryIO, self.process.stdout)
        pumped = (stdout, self._frames, longest_answer)
        threading.Thread(target=_pump, args=pumped, daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self.process, temporary, self.errors)

    @property
    def alive(self) -> bool:
        """Whether the child still runs and was not given up."""
        return self._finalizer.alive and self.process.poll() is None

    def request(
        self,
        header: Mapping[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        timeout_s: float,
        watch: Watch | None = None,
    ) -> Frame:
        """Send a request and wait for its reply; ticks of life restart the clock.

        ``watch(model, phase)`` is called at every tick, and while there is none.
        Raises WorkerLost when the child dies or is silent for ``timeout_s``. Whatever interrupts
        this ends the child: a late answer must not be taken for the next one.
        """
        try:
            return self._exchange(header, blobs, timeout_s, watch)
        except BaseException:
            self.kill()
            raise

    def _exchange(
        self,
        header: Mapping[str, Any],
        blobs: Sequence[bytes],
        timeout_s: float,
        watch: Watch | None,
    ) -> Frame:
        silence = f"timed out after {timeout_s:g} s"
        if not self._send(header, blobs, timeout_s):
            raise WorkerLost(silence, timed_out=True)
        suspect: int | None = None
        phase = ""
        while True:
            try:
                frame = self._next(timeout_s, watch, suspect, phase)
            except queue.Empty:
                while_ = f" while {phase}" if phase else ""
                raise WorkerLost(silence + while_, timed_out=True, suspect=suspect) from None
            if isinstance(frame, str):
                raise WorkerLost(frame or self._death(), suspect=suspect)
            try:
                reply = self._read(header, frame[0])
            except Wrong as wrong:
                raise WorkerLost(f"{self.name} answers {wrong}") from None
            if reply["reply"] != "tick":
                return reply, frame[1]
            index = reply["index"]
            if reply["phase"] or index < 0:
                suspect, phase = (index if index >= 0 else None), reply["phase"]

    def _next(
        self, timeout_s: float, watch: Watch | None, suspect: int | None, phase: str
    ) -> Frame | str:
        """The next frame, or what :func:`_pump` says in its place.

        Raises queue.Empty after ``timeout_s`` of silence.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if watch is not None:
                watch(suspect, phase)
            left_s = max(deadline - time.monotonic(), 0.0)
            try:
                return self._frames.get(
                    timeout=left_s if watch is None else min(left_s, WATCH_EVERY_S)
                )
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise

    def _send(self, header: Mapping[str, Any], blobs: Sequence[bytes], timeout_s: float) -> bool:
        """Write the request; False when the child did not read it in time."""
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            self.process.kill()

        watchdog = threading.Timer(timeout_s, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            write_frame(cast(BinaryIO, self.process.stdin), header, blobs)
        except OSError:  # the child is gone; how it ended is read below
            if expired.is_set():
                return False
            raise WorkerLost(self._death()) from None
        finally:
            watchdog.cancel()
        return not expired.is_set()

    def _death(self) -> str:
        """How the child ended, in words."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"{self.name} closed its connection"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"{self.name} died of {name}"
        said = self.last_words()
        return f"{self.name} ended with exit code {code}" + (f": {said}" if said else "")

    def last_words(self) -> str:
        """The last line that the child wrote to stderr."""
        with contextlib.suppress(OSError, ValueError):
            end = self.errors.seek(0, os.SEEK_END)
            self.errors.seek(max(0, end - 2000))
            lines = self.errors.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
        return ""

    def kill(self) -> None:
        """End the child at once."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self._finalizer()

    def close(self) -> None:
        """Let the child end by itself, then make sure."""
        self._finalizer()


def _environment(code: Path | None) -> dict[str, str]:
    """The parent's environment, in which the child finds this same package, or only ``code``."""
    environment = dict(os.environ)
    if code is not None:
        environment["PYTHONPATH"] = str(code)
        environment.pop("PYTHONHOME", None)
        return environment
    root = str(Path(__file__).resolve().parents[2])
    known = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = root + (os.pathsep + known if known else "")
    return environment


def _pump(stdout: BinaryIO, frames: queue.SimpleQueue[Frame | str], longest: int) -> None:
    """Move frames from the pipe to the queue; then why there are no more, "" at its end."""
    reason = ""
    try:
        while (frame := read_frame(stdout, longest_content=longest)) is not None:
            frames.put(frame)
    except BrokenFrame as broken:
        reason = f"the answer of the runtime's process is damaged: {printable(str(broken), 200)}"
    except MemoryError:
        reason = "there is no memory for the answer of the runtime's process"
    except (OSError, ValueError):  # closed meanwhile
        pass
    finally:
        frames.put(reason)


def _end(
    process: subprocess.Popen[bytes], scratch: TemporaryFolder | None, errors: IO[bytes]
) -> None:
    """Close the child's stdin, wait a moment, kill it; remove its folder."""
    with contextlib.suppress(OSError, ValueError):
        cast(BinaryIO, process.stdin).close()
    deadline = time.monotonic() + 1.0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if process.poll() is None:
        process.kill()
        process.wait()
    errors.close()
    if scratch is not None:
        scratch.remove()
