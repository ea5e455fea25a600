"""The latency table: measured facts of one (device, runtime, execution provider, precision).

A CSV file with a header of ``# key: json`` lines. Rows are appended and flushed to disk, those of
a block all at once. What a killed program or a full disk left of a block at the end is dropped when
the table is opened again, so that a table is the same however often its making was killed; nothing
else is ever rewritten. One process writes at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.files import disk_errors
from factory.core.provenance import provenance
from factory.core.reading import read_bytes
from factory.core.resources import search_path
from factory.devices.profile import DeviceProfile
from factory.profiling.quarantine import load_quarantine, row_id
from factory.profiling.rows import COLUMNS, Row
from factory.profiling.table_file import (
    SCHEMA_VERSION,
    columns_of,
    header_text,
    is_unfinished_header,
    open_locked,
    outline_of,
    parse_table,
    start_of_last,
    sync_folder,
    unfinished_rows,
    write_whole,
)

if TYPE_CHECKING:
    import pandas

UNMEASURED = "measure it with `factory profile`"


class LatencyTable(Closing):
    """Rows of one table; made by :meth:`open` (to append) or :meth:`read`.

    Rows in quarantine (:mod:`factory.profiling.quarantine`) count as not measured: they are in
    ``quarantined`` and in nothing else.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], rows: list[Row]) -> None:
        self.path = path
        self.header = dict(header)
        self.cut_tail = False
        self.quarantined: list[Row] = []
        self._quarantine = {row for row, entry in load_quarantine(path).items() if entry.holds}
        self._columns = columns_of(header)
        self._everything: list[Row] = []
        self._rows: list[Row] = []
        self._position: dict[tuple[str, str], int] = {}
        self._handle: int | None = None
        self._open_block: list[str] | None = None
        for row in rows:
            self._remember(row)

    @property
    def device_id(self) -> str:
        """Id of the device that was measured."""
        return str(self.header["device"])

    @property
    def dtype(self) -> str:
        """Data type of the kernels: "f32" or "i8"."""
        return str(self.header["dtype"])

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Chip, runtime, execution provider, threads and precision that the rows belong to."""
        return dict(self.header["fingerprint"])

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """Read a table; a row cut at the end is left out, every other fault is an InputError."""
        path = Path(path)
        return cls._of(path, read_bytes(path, "latency table", fix=UNMEASURED))[0]

    @classmethod
    def outline(cls, path: Path | str, kernels: Collection[str] = ()) -> LatencyTable:
        """The header, and of the rows only those of these kernels in place: soon read.

        For a table that was read as a whole before: other rows are not looked at, damaged or not.
        """
        path = Path(path)
        content = read_bytes(path, "latency table", fix=UNMEASURED)
        header, rows = outline_of(path, content, set(kernels))
        return cls(path, header, rows)

    @classmethod
    def _of(cls, path: Path, content: bytes) -> tuple[LatencyTable, int]:
        """The table in ``content`` and the length of its whole rows."""
        header, rows, end = parse_table(path, content)
        table = cls(path, header, rows)
        table.cut_tail = end < len(content)
        return table, end

    @classmethod
    def open(
        cls, path: Path | str, profile: DeviceProfile, describe: Mapping[str, Any]
    ) -> LatencyTable:
        """Open a table to append to it, or start it; holds its lock until closed.

        Raises InputError when it belongs to another chip or device, is damaged anywhere but at
        its end, or is being written by another process.
        """
        path = Path(path)
        handle = open_locked(path)
        try:
            with os.fdopen(os.dup(handle), "rb") as stream:
                content = stream.read()
            if is_unfinished_header(content):
                header = _new_header(profile, describe)
                with disk_errors(path):
                    os.ftruncate(handle, 0)
                    write_whole(handle, header_text(header).encode())
                    sync_folder(path.parent)
                table = cls(path, header, [])
            else:
                table, end = cls._of(path, content)
                check_fingerprint(table, describe)
                if table.device_id != profile.id:
                    raise InputError(
                        f"latency table {path} belongs to device {table.device_id!r}, "
                        f"not to {profile.id!r}",
                        fix="choose another folder or file",
                    )
                if rows := unfinished_rows(table.all_rows()):
                    end = start_of_last(content[:end], rows)
                    table, _ = cls._of(path, content[:end])
                if end < len(content):
                    os.ftruncate(handle, end)
        except BaseException:
            os.close(handle)
            raise
        table._handle = handle
        return table

    def rows(self, kind: str | None = None) -> list[Row]:
        """Rows of ``kind`` (all without one); of rows with the same key the newest, except
        reference rows, which are all kept.
        """
        newest = set(self._position.values())
        return [
            row
            for index, row in enumerate(self._rows)
            if (kind is None or row.kind == kind) and (row.kind == "reference" or index in newest)
        ]

    def has(self, key: str, *, kind: str | None = None) -> bool:
        """Whether a kernel or network of that key was measured, even if it failed."""
        kinds = (kind,) if kind else ("kernel", "network")
        return any((k, key) in self._position for k in kinds)

    def get(self, kind: str, key: str) -> Row | None:
        """The newest row of that kind and key."""
        position = self._position.get((kind, key))
        return None if position is None else self._rows[position]

    def append(self, row: Row) -> None:
        """Add a row and flush it to disk, or within :meth:`block` keep it for its end.

        A full disk leaves the table as it was.
        """
        if self._handle is None:
            raise RuntimeError(f"{self.path} was opened for reading")
        if fault := row.fault():
            raise ValueError(f"a row that must not be written: {fault}")
        text = row.text(self._columns)
        if self._open_block is not None:
            self._open_block.append(text)
        else:
            self._write([text])

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        """Rows appended within are written together, or not at all where something raises.

        The last of them is the reference row of their block: see :func:`unfinished_rows`.
        """
        self._open_block = []
        try:
            yield
            self._write(self._open_block)
        finally:
            self._open_block = None

    def _write(self, texts: Sequence[str]) -> None:
        assert self._handle is not None
        with disk_errors(self.path):
            write_whole(self._handle, "".join(texts).encode())
        for text in texts:  # the same digits as whoever reads the file gets
            self._remember(Row.parse(text, self._columns))

    def frame(self) -> pandas.DataFrame:
        """All rows as a pandas frame; the numbers of failed rows are NaN."""
        import pandas

        frame = pandas.DataFrame([vars(row) for row in self.rows()], columns=list(COLUMNS))
        measured = ["median_ms", "p10_ms", "p90_ms", "min_ms", "reorder_share"]
        frame.loc[frame["status"] != "ok", measured] = float("nan")
        return frame

    def without(self, ids: Iterable[str]) -> LatencyTable:
        """The same rows, to be read, with those of these row ids in quarantine too."""
        copy = LatencyTable(self.path, self.header, [])
        copy._quarantine |= set(ids)
        for row in self._everything:
            copy._remember(row)
        return copy

    def all_rows(self) -> list[Row]:
        """Every row in the order of the file: superseded ones and those in quarantine too."""
        return list(self._everything)

    def _remember(self, row: Row) -> None:
        self._everything.append(row)
        if self._quarantine and row_id(row) in self._quarantine:
            self.quarantined.append(row)
            return
        self._position[(row.kind, row.key)] = len(self._rows)
        self._rows.append(row)

    def close(self) -> None:
        """Give up the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def table_name(describe: Mapping[str, Any]) -> str:
    """File name of a device's table: `<device>__<runtime>-<version>__<ep>__<precision>.csv`."""
    facts = describe["fingerprint"]
    provider = str(facts["execution_provider"]).removesuffix("ExecutionProvider").lower()
    runtime = f"{facts['runtime']}-{facts['runtime_version']}"
    return f"{describe['device']}__{runtime}__{provider}__{facts['precision']}.csv"


def find_tables(device_id: str) -> list[Path]:
    """Every known table of a device in the latency_tables folders, the user's own first."""
    found: dict[str, Path] = {}
    for folder in search_path("latency_tables"):
        for path in sorted(folder.glob(f"{device_id}__*.csv")):
            found.setdefault(path.name, path)
    return list(found.values())


def check_fingerprint(table: LatencyTable, describe: Mapping[str, Any]) -> None:
    """Raise InputError when the table was measured on another chip, runtime or setting."""
    here, there = dict(describe["fingerprint"]), table.fingerprint
    for key in sorted(set(here) | set(there)):
        if here.get(key) != there.get(key):
            raise InputError(
                f"latency table {table.path} was measured with another {key.replace('_', ' ')}",
                why=f"the table says {there.get(key)!r}, device {describe['device']!r} has "
                f"{here.get(key)!r}",
                fix="measure this device into a table of its own with `factory profile`",
            )


def _new_header(profile: DeviceProfile, describe: Mapping[str, Any]) -> dict[str, Any]:
    facts = dict(describe)
    return {
        "schema_version": SCHEMA_VERSION,
        "device": profile.id,
        "dtype": profile.dtype,
        "fingerprint": facts.pop("fingerprint"),
        "describe": facts,
        "provenance": provenance(),
    }
