"""The one reader of text that other people and programs wrote: TOML, JSON, lines, tables.

Whatever a path or a file does wrong is one InputError: a path that the system refuses, a folder, a
file that is too large, bytes that are no UTF-8 text, a document that is no TOML or JSON or nests
too deep, a number that nothing here can count with, text that no other file could hold. A
byte-order mark is taken off. What a document says is for its own format to check.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.core.errors import InputError

MOST_MB = 256  # of a file of text; a million bytes each
MOST_TOML_MB = 4
DEEPEST = 64  # tables and lists inside each other
LARGEST_INTEGER = 2**64
_REFUSED = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EISDIR: "is a folder",
}


@contextlib.contextmanager
def path_errors(path: Path | str, what: str = "file", fix: str = "") -> Iterator[None]:
    """Turn whatever the system says against a path into one sentence.

    Args:
        path: as it was given.
        what: what should be there ("recipe", "certificate").
        fix: what to do where there is no such file.
    """
    try:
        yield
    except OSError as error:
        if told := _REFUSED.get(error.errno or 0):
            fix = "name a file" if error.errno == errno.EISDIR else fix or "check the path"
            raise InputError(f"{what} {path} {told}", fix=fix) from None
        raise InputError(
            f"cannot read {what} {path}", why=error.strerror or str(error), fix="check the path"
        ) from None
    except ValueError as error:  # a null byte, a character that no file's name can have
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot read {what} {str(path)!r}", why="no file can have that name", fix="correct it"
        ) from None


def is_file(path: Path | str) -> bool:
    """Whether a file is there; False for a path that the system refuses, whatever the reason."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; False for a path that the system refuses, whatever the reason."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def exists(path: Path | str) -> bool:
    """Whether anything is there; False for a path that the system refuses."""
    try:
        os.stat(path)
    except (OSError, ValueError):
        return False
    return True


def read_bytes(
    path: Path | str, what: str = "file", *, most_mb: float = MOST_MB, fix: str = ""
) -> bytes:
    """The content of a regular file of at most ``most_mb`` million bytes."""
    with path_errors(path, what, fix):
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
        if found.st_size > most_mb * 1e6:
            raise OSError(
                errno.EFBIG, f"{found.st_size / 1e6:.0f} MB, at most {most_mb:g} MB are read"
            )
        with open(path, "rb") as stream:
            return stream.read()


def decoded(content: bytes, where: str) -> str:
    """UTF-8 text, without the byte-order mark that some editors put in front."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{where} is not UTF-8 text",
            why=f"byte {content[error.start]:#04x} in line {line}",
            fix="save it as UTF-8",
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{where} is no text", why=f"line {line} holds a null character")
    return text


def read_text(
    path: Path | str, what: str = "file", *, most_mb: float = MOST_MB, fix: str = ""
) -> str:
    """The text of a file; see :func:`read_bytes` and :func:`decoded`."""
    return decoded(read_bytes(path, what, most_mb=most_mb, fix=fix), f"{what} {path}")


def read_names(path: Path | str, what: str = "names") -> list[str]:
    """The lines of a text file that are not blank, without the blanks around them."""
    lines = (line.strip() for line in read_text(path, what).splitlines())
    return [line for line in lines if line]


def read_toml(path: Path | str, what: str = "file", *, fix: str = "") -> dict[str, Any]:
    """The tables of a TOML file."""
    return parse_toml(read_text(path, what, most_mb=MOST_TOML_MB, fix=fix), f"{what} {path}")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables in a TOML text; the line of a fault is in the message."""
    try:
        value = tomllib.loads(text)
        _check(value, finite=False)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not valid TOML", why=_reason(error), fix="repair that line"
        ) from None
    return value


def read_json(path: Path | str, what: str = "file", *, most_mb: float = MOST_MB) -> Any:
    """The value in a JSON file; numbers are finite."""
    return parse_json(read_text(path, what, most_mb=most_mb), f"{what} {path}")


def parse_json(text: str | bytes, where: str, *, lenient: bool = False) -> Any:
    """The value in a JSON text, or in its bytes.

    Args:
        text: as it was read.
        where: the file or message it came from.
        lenient: numbers that are not finite are taken: NaN and Infinity as None.
    """
    if isinstance(text, bytes):
        text = decoded(text, where)
    try:
        value = json.loads(text, parse_constant=_no_number if lenient else _refuse_number)
        _check(value, finite=not lenient)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not valid JSON", why=_reason(error), fix="repair or remove it"
        ) from None
    return value


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """:func:`parse_json`, of an object."""
    return an_object(parse_json(text, where), where)


def read_object(path: Path | str, what: str = "file") -> dict[str, Any]:
    """:func:`read_json`, of an object."""
    return an_object(read_json(path, what), f"{what} {path}")


def an_object(value: Any, where: str) -> dict[str, Any]:
    """``value`` where it is an object of JSON; InputError otherwise."""
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object", fix="repair or remove it")
    return value


def _refuse_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _no_number(name: str) -> None:
    return None


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return f"more than {DEEPEST} tables or lists inside each other"
    text = str(error)
    if "integer string conversion" in text:
        return "a whole number of thousands of digits"
    return text


def _check(document: Any, *, finite: bool) -> None:
    """ValueError where a document holds what nothing here can use, with the place of it."""
    stack: list[tuple[Any, int, Any, Any]] = [([document], 0, None, None)]
    while stack:
        entry = stack.pop()
        container, depth, _, _ = entry
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} tables or lists inside each other")
        items: Any = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            if isinstance(key, str) and (fault := _text_fault(key)):
                raise ValueError(f"a key {fault}{_place(entry)}")
            if isinstance(value, dict | list):
                stack.append((value, depth + 1, key, entry))
                continue
            fault = ""
            if isinstance(value, str):
                fault = _text_fault(value)
            elif isinstance(value, float):
                fault = "is not finite" if finite and not math.isfinite(value) else ""
            elif isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
                fault = "is a whole number beyond 64 bits"
            if fault:
                raise ValueError(f"the value {fault}{_place((value, depth, key, entry))}")


def _text_fault(text: str) -> str:
    if "\0" in text:
        return "holds a null character"
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return ""


def _place(entry: tuple[Any, int, Any, Any] | None) -> str:
    """' at tiers[0].name', of an entry of :func:`_check`'s stack."""
    steps: list[Any] = []
    while entry is not None and entry[3] is not None:
        steps.append(entry[2])
        entry = entry[3]
    text = ""
    for step in reversed(steps[:-1]):  # the last is the document itself
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return f" at {text}" if text else ""
