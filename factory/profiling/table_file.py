"""The latency table as a file: its lock, its header, its text, and writes that are whole or not.

Everything here works on bytes and paths; :mod:`factory.profiling.table` is the face of it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from factory.core.errors import InputError
from factory.core.files import disk_errors
from factory.core.reading import parse_json
from factory.core.validation import validate
from factory.profiling.rows import COLUMNS_OF_VERSION, Row

try:
    import fcntl
except ImportError:  # not on this system: two writers are then not detected
    fcntl = None  # type: ignore[assignment]

SCHEMA_VERSION = 4
READABLE = tuple(COLUMNS_OF_VERSION)
HEADER_KEYS = ("device", "dtype", "fingerprint")


class _Part(pydantic.BaseModel):
    """Where some rows of a merged table are from."""

    table: str = ""
    device: str = ""
    rows: int = 0
    blocks: list[int] = pydantic.Field(default=[], max_length=2)


class _Imported(pydantic.BaseModel):
    """What is used of an imported table's header."""

    source: str


class _Header(pydantic.BaseModel):
    """The keys of a header that are used by name; any others are kept as they are."""

    device: str = pydantic.Field(min_length=1, max_length=200)
    dtype: Literal["f32", "i8"]
    fingerprint: dict[str, Any]
    describe: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    imported: _Imported | None = None
    merged: list[_Part] = []


def open_locked(path: Path) -> int:
    """File descriptor of a table opened to append, made if absent, held by this process alone."""
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(
            f"cannot open latency table {path}",
            why=os.strerror(error.errno or 0),
            fix="choose another folder or file",
        ) from None
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise _being_written(path) from None
    except OSError:  # a file system without locks: go on without
        pass
    return handle


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Hold a table's lock, without opening it for writing, while something beside it is changed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _being_written(path) from None
            except OSError:  # a file system without locks: go on without
                pass
        yield
    finally:
        os.close(handle)


def _being_written(path: Path) -> InputError:
    return InputError(
        f"latency table {path} is being written by another process",
        fix="wait until it is done, or measure into another folder",
    )


def write_whole(handle: int, content: bytes) -> None:
    """Append all of ``content`` and flush it, or leave the file as it was and raise OSError."""
    size = os.fstat(handle).st_size
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a new file's name to disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def header_text(header: Mapping[str, Any]) -> str:
    """The header's lines and the line of column names; schema_version comes first."""
    lines = [f"# {key}: {json.dumps(value, allow_nan=False)}\n" for key, value in header.items()]
    return "".join(lines) + ",".join(columns_of(header)) + "\n"


def columns_of(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a table with this header: those of its schema version."""
    return COLUMNS_OF_VERSION[header["schema_version"]]


def is_unfinished_header(content: bytes) -> bool:
    """Whether a program was killed while it wrote the header: nothing was measured yet."""
    return any(_is_unfinished(content, version) for version in READABLE)


def _is_unfinished(content: bytes, version: int) -> bool:
    first = f"# schema_version: {version}\n".encode()
    if len(content) < len(first):
        return first.startswith(content)
    *whole, tail = content.split(b"\n")
    if not content.startswith(first) or not all(line.startswith(b"# ") for line in whole):
        return False
    return tail.startswith(b"#") or ",".join(COLUMNS_OF_VERSION[version]).encode().startswith(tail)


def parse_table(path: Path, content: bytes) -> tuple[dict[str, Any], list[Row], int]:
    """Header, rows, and the length of all whole lines (a cut last line is not looked at)."""
    header, found, end = scan_table(path, content)
    rows = []
    for number, row in found:
        if not isinstance(row, Row):
            raise _damaged(path, number, row)
        rows.append(row)
    return header, rows, end


def unfinished_rows(rows: Sequence[Row]) -> int:
    """How many rows at the end are of a block that was not written whole.

    A block ends with the row of its smallest reference, after those of the others; in a table
    without references there are no blocks to tell.
    """
    if not any(row.kind == "reference" for row in rows):
        return 0
    whole = {row.block for row in rows if row.kind == row.key == "reference"}

    def is_whole(row: Row) -> bool:
        return row.block in whole and (row.kind != "reference" or row.key == "reference")

    return next((n for n, row in enumerate(reversed(rows)) if is_whole(row)), len(rows))


def start_of_last(content: bytes, lines: int) -> int:
    """Where the last ``lines`` lines of a content that ends with a line end begin."""
    end = len(content)
    for _ in range(lines):
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end


def scan_table(
    path: Path, content: bytes
) -> tuple[dict[str, Any], list[tuple[int, Row | str]], int]:
    """Like :func:`parse_table`, but each line with its number; a damaged one as its fault."""
    end = content.rfind(b"\n") + 1
    header, first_row, lines = _lines(path, content[:end])
    columns = columns_of(header)
    found: list[tuple[int, Row | str]] = []
    for number, line in enumerate(lines, start=first_row):
        try:
            found.append((number, Row.parse(line, columns)))
        except ValueError as error:
            found.append((number, str(error)))
    return header, found, end


def outline_of(path: Path, content: bytes, kernels: set[str]) -> tuple[dict[str, Any], list[Row]]:
    """Header, and the rows of ``kernels`` in place; all others are skipped unread."""
    header, first_row, lines = _lines(path, content[: content.rfind(b"\n") + 1])
    rows, before = [], ("in_place,", 'in_place,"')  # texts with a comma are quoted
    for number, line in enumerate(lines, start=first_row):
        if line.startswith(before[0]):
            kernel = line[len(before[line.startswith(before[1])]) :].partition("@")[0]
            if kernel in kernels:
                try:
                    rows.append(Row.parse(line, columns_of(header)))
                except ValueError as error:
                    raise _damaged(path, number, str(error)) from None
    return header, rows


def _lines(path: Path, content: bytes) -> tuple[dict[str, Any], int, list[str]]:
    """Header, number of the first line of a row, and the lines of the rows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise _damaged(path, number, "not UTF-8 text") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")[:-1]]
    first_row = next((i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    header = _parse_header(path, lines[:first_row])
    missing = [key for key in HEADER_KEYS if key not in header]
    if missing or first_row == len(lines):
        raise InputError(
            f"latency table {path} is cut in its header",
            why=f"no {missing[0]!r}" if missing else "no line of column names",
            fix="remove the file and measure again with `factory profile`",
        )
    validate(_Header, header, where=f"the header of latency table {path}")
    if lines[first_row] != ",".join(columns_of(header)):
        raise _damaged(path, first_row + 1, "the column names differ")
    return header, first_row + 2, lines[first_row + 1 :]


def _parse_header(path: Path, lines: list[str]) -> dict[str, Any]:
    header: dict[str, Any] = {}
    for number, line in enumerate(lines, start=1):
        key, _, value = line[2:].partition(": ")
        try:
            header[key] = parse_json(value, f"the value of {key!r}")
        except InputError:
            raise _damaged(path, number, f"the value of {key!r} is not JSON") from None
    if "schema_version" not in header:
        raise InputError(
            f"{path} is not a latency table",
            why="its header has no schema_version",
            fix="name a table made by `factory profile`, or remove the file",
        )
    if header["schema_version"] not in READABLE:
        raise InputError(
            f"latency table {path} has schema version {header['schema_version']}",
            why=f"this version of the factory reads {' and '.join(map(str, READABLE))}",
            fix="measure it again with `factory profile`, or use the factory that wrote it",
        )
    return header


def _damaged(path: Path, line: int, why: str) -> InputError:
    return InputError(
        f"line {line} of latency table {path} is damaged",
        why=why,
        fix=f"remove line {line} and run `factory profile` again: only that row is measured anew",
    )
