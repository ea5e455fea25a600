"""One build per run folder: an advisory lock that the system drops when its holder dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from factory.core.errors import InputError
from factory.core.files import disk_errors

try:
    import fcntl
except ImportError:  # not on this system: two builds in one folder are then not detected
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; raises InputError when another process holds it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
                raise InputError(
                    f"another build (process {holder}) is working in {folder}",
                    fix="wait for it, end it, or choose another folder with --out",
                ) from None
        with disk_errors(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
