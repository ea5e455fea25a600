"""Folders in the system's temporary folder that do not outlive the command that made them.

A folder is removed when its ``with`` ends, when its object goes or when the interpreter ends. Its
owner holds a lock on a file in it, which the system lets go however the owner ends: the next
command removes the folders whose lock is free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: that is the lock
    fcntl = None  # type: ignore[assignment]

PREFIX = "factory-"
LOCK = ".factory-lock"
LOG_PREFIX, LOG_SUFFIX = f"{PREFIX}error-", ".log"
LOG_DAYS = 7.0
"""The log of a fault is kept so long."""
UNLOCKED_DAYS = 1.0
"""A folder without a lock file is being made, or older than such files."""


class TemporaryFolder:
    """A new folder ``factory-<purpose>-...``; as a context manager it gives the path."""

    def __init__(self, purpose: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-"))
        lock = (self.path / (LOCK if fcntl is None else f"{LOCK}-free")).open("wb")
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, self.path / LOCK)  # nobody sees it unlocked
        self._finalizer = weakref.finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove it with all that is in it; removing it twice is fine."""
        self._finalizer()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _remove(path: Path, lock: IO[bytes]) -> None:
    lock.close()
    shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of commands that were killed, and logs older than LOG_DAYS."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX) or entry.is_symlink():
                continue
            with contextlib.suppress(OSError):
                _remove_abandoned(entry)


def _remove_abandoned(entry: os.DirEntry[str]) -> None:
    days = (time.time() - entry.stat().st_mtime) / 86_400
    if not entry.is_dir():
        log = entry.name.startswith(LOG_PREFIX) and entry.name.endswith(LOG_SUFFIX)
        if log and days > LOG_DAYS:
            os.unlink(entry.path)
        return
    try:
        lock = open(os.path.join(entry.path, LOCK), "rb+")  # noqa: SIM115 (closed by _remove)
    except FileNotFoundError:
        if days > UNLOCKED_DAYS:
            shutil.rmtree(entry.path, ignore_errors=True)
        return
    if fcntl is None:
        lock.close()
        os.unlink(os.path.join(entry.path, LOCK))  # fails while its owner has it open
        shutil.rmtree(entry.path, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
    else:
        _remove(Path(entry.path), lock)
