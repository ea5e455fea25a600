"""Atomic files: a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.core.errors import InputError

# What a system says against a path, whoever gave it.
REFUSED = (
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, or a path that the system refuses, into one clear sentence."""
    try:
        yield
    except UnicodeEncodeError:
        raise InputError(
            f"cannot write {str(path)!r}", why="no file can have that name", fix="choose another"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk is full while writing {path}",
                why="nothing was lost: the previous content is intact",
                fix="free some space and run the same command again, it goes on from here",
            ) from error
        if error.errno in REFUSED:
            raise InputError(
                f"cannot write {path}",
                why=os.strerror(error.errno),
                fix="choose another folder with --out",
            ) from error
        raise


def write_atomic_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to a temporary sibling, flush it to disk, rename it into place."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def write_atomic_text(path: Path | str, text: str) -> None:
    """:func:`write_atomic_bytes` for UTF-8 text."""
    write_atomic_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomic_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's content."""
    return sha256_bytes(Path(path).read_bytes())
