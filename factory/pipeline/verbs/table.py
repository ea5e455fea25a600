"""table: latency tables shown, checked, merged, compared, and made from foreign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import EXIT_DOES_NOT_HOLD, EXIT_OK, EXIT_WRONG_INPUT, InputError
from factory.core.files import write_atomic_bytes, write_atomic_text
from factory.core.provenance import now_utc
from factory.core.reading import exists, is_file
from factory.core.resources import search_path, user_home
from factory.devices.profile import ONLY_A_TABLE, DeviceProfile, list_profiles, load_profile
from factory.pipeline.tables import mismatch, own_tables, table_for
from factory.profiling.quarantine import (
    Entry,
    load_quarantine,
    quarantine_path,
    row_id,
    save_quarantine,
)
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable, table_name
from factory.profiling.table_file import scan_table, unwritten

SCHEMA_VERSION = 1
FIXES = {
    "damaged": "`factory table check --repair` takes damaged lines out, into a file beside",
    "cut": "the next profile measures that row again",
}


def table() -> dict[str, Any]:
    """List the latency tables that are known, the user's own first."""
    found: dict[str, dict[str, Any]] = {}
    for folder in search_path("latency_tables"):
        for path in sorted(folder.glob("*.csv")):
            found.setdefault(path.name, _listed(path))
    return {"schema_version": SCHEMA_VERSION, "tables": list(found.values())}


def _listed(path: Path) -> dict[str, Any]:
    try:
        known = LatencyTable.read(path)
    except InputError as error:
        return {"table": str(path), "error": str(error)}
    rows = known.rows()
    return {
        "table": str(path),
        "device": known.device_id,
        "kernels": sum(row.kind in ("kernel", "in_place") and row.ok for row in rows),
        "networks": sum(row.kind == "network" and row.ok for row in rows),
        "failed": sum(not row.ok for row in rows),
        "quarantined": len(known.quarantined),
        "date": max((row.date for row in rows), default=""),
    }


def find_table(table: str | Path) -> Path:
    """The path of a table that is given by its path or by its device."""
    path = Path(table)
    if path.suffix == ".csv" or exists(path):
        return path
    return table_for(load_profile(str(table))).path


def show_table(table: str | Path) -> dict[str, Any]:
    """What a table holds: rows, kernels by family, failures, provenance, clock, times.

    Args:
        table: its path, or a device's id.
    """
    from factory.latency.table_summary import summarise_table

    path = find_table(table)
    known = LatencyTable.read(path)
    quarantined = [
        {"row": key, **entry.model_dump()} for key, entry in load_quarantine(path).items()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "table": str(path),
        **summarise_table(known),
        "quarantine": quarantined,
    }


def check_table(
    table: str | Path, *, release: Sequence[str] = (), repair: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Check a table; rows that disagree with the others go into its quarantine.

    Args:
        table: its path, or a device's id.
        release: keys or row ids to take out of quarantine for good; "all" for every row.
        repair: move damaged lines out of the table, into a file beside it.
        dry_run: only say what would be done.

    Returns:
        ``exit_code`` 0: nothing found; 1: something to know, the table can be used; 2: it cannot.
    """
    path = find_table(table)
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "table": str(path),
        "findings": [],
        "quarantined": [],
        "released": 0,
        "exit_code": EXIT_WRONG_INPUT,
    }
    findings: list[dict[str, Any]] = answer["findings"]
    if not is_file(path):
        LatencyTable.read(path)  # says why not
    content = path.read_bytes()
    try:
        _, scanned, end = scan_table(path, content)
    except InputError as error:
        findings.append({"what": "unusable", "text": str(error)})
        return answer
    damaged = {number: fault for number, fault in scanned if not isinstance(fault, Row)}
    for number, fault in damaged.items():
        findings.append({"what": "damaged", "line": number, "text": fault})
    if end < len(content):
        findings.append({"what": "cut", "text": f"the last line is cut; {FIXES['cut']}"})
    if damaged and not (repair and not dry_run):
        return answer
    if damaged:
        _repair(path, content, sorted(damaged))
    known = LatencyTable.read(path)
    from factory.latency.neighbours import judge
    from factory.profiling.drift import drifts_of

    entries = load_quarantine(path)
    answer["released"] = _release(path, entries, release)
    free = {key for key, entry in entries.items() if entry.released}
    judgement = judge(known, free)
    for drift in drifts_of(known):
        findings.append({"what": "drift", "text": drift.sentence()})
    fresh = {row_id(doubt.row): _entry(doubt) for doubt in judgement.doubts}
    fresh = {key: entry for key, entry in fresh.items() if key not in entries}
    entries.update(fresh)
    if fault := _unit_fault(known.without(key for key, entry in entries.items() if entry.holds)):
        findings.append({"what": "units", "text": fault})
        return answer
    if not dry_run and (fresh or answer["released"]):
        with unwritten(path):
            save_quarantine(path, entries)
    answer["quarantined"] = [
        {"row": key, "new": key in fresh, **entry.model_dump()}
        for key, entry in sorted(entries.items())
        if entry.holds
    ]
    answer.update(
        rows=len(known.all_rows()),
        judged=judgement.judged,
        unjudged=judgement.unjudged,
        quarantine=str(quarantine_path(path)) if entries else None,
        exit_code=EXIT_DOES_NOT_HOLD if findings or answer["quarantined"] else EXIT_OK,
    )
    return answer


def _repair(path: Path, content: bytes, damaged: Sequence[int]) -> None:
    """Take lines out of a table, atomically; they are first kept in a file beside it."""
    lines = content.split(b"\n")
    aside = path.with_name(path.name.removesuffix(".csv") + ".damaged.txt")
    with unwritten(path):
        before = aside.read_bytes() if exists(aside) else b""
        write_atomic_bytes(aside, before + b"".join(lines[n - 1] + b"\n" for n in damaged))
        out = set(damaged)
        kept = [line for number, line in enumerate(lines, start=1) if number not in out]
        write_atomic_bytes(path, b"\n".join(kept))


def _unit_fault(known: LatencyTable) -> str:
    """Why the times cannot all be milliseconds; "" when they can."""
    from factory.latency.facts import read_facts

    try:
        read_facts(known)
    except InputError as error:
        return str(error)
    return ""


def _release(path: Path, entries: dict[str, Entry], names: Sequence[str]) -> int:
    """Mark entries as released, in place; how many."""
    number = 0
    for name in names:
        found = [
            key
            for key, entry in entries.items()
            if name in ("all", key, entry.key) or entry.key.endswith(f"@{name}")
        ]
        if not found:
            held = sorted({entry.key for entry in entries.values() if entry.holds})
            raise InputError(
                f"no row {name!r} is in the quarantine of {path}",
                why=f"it holds {len(held)} keys" if held else "it is empty",
                fix="`factory table show` lists it; all releases every row",
            )
        for key in found:
            number += entries[key].holds
            entries[key] = entries[key].model_copy(update={"released": True})
    return number


def _entry(doubt: Any) -> Entry:
    row = doubt.row
    return Entry(
        kind=row.kind,
        key=row.key,
        median_ms=row.median_ms,
        date=row.date,
        by=doubt.by,
        expected_ms=float(f"{doubt.expected_ms:.6g}"),
        reason=doubt.reason,
        since=now_utc(),
    )


def merge_tables(
    tables: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    device: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Several tables of one chip as one; rows that disagree go into its quarantine.

    Args:
        tables: paths or device ids; a single one is brought to the current schema version.
        out: path of the merged table, a CSV file.
        device: id of its device; the first table's without it.
        replace: overwrite a table that is there.
    """
    from factory.latency.neighbours import judge
    from factory.profiling.merging import merge_rows

    if out is None:
        raise InputError("it is not clear where the merged table is to go", fix="give --out FILE")
    path = Path(out)
    if path.suffix != ".csv":
        raise InputError(f"{path} is not the name of a latency table", fix="let it end with .csv")
    if exists(path) and not replace:
        raise InputError(f"{path} is there already", fix="name another file, or give --replace")
    parts = [LatencyTable.read(find_table(one)) for one in tables]
    if not parts:
        raise InputError("there is nothing to merge", fix="name one table or more")
    merged = merge_rows(parts, path, device)
    entries = dict(merged.entries)
    free = {key for key, entry in entries.items() if entry.released}
    judged = merged.table
    fresh = {row_id(doubt.row): _entry(doubt) for doubt in judge(judged, free).doubts}
    fresh = {key: entry for key, entry in fresh.items() if key not in entries}
    entries.update(fresh)
    if exists(path):
        with unwritten(path):
            save_quarantine(path, entries)
            merged.write()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_quarantine(path, entries)  # first: a table without it would be believed in full
        merged.write()
    rows = merged.table.all_rows()
    return {
        "schema_version": SCHEMA_VERSION,
        "table": str(path),
        "device": merged.table.device_id,
        "parts": [
            {key: part[key] for key in ("table", "device", "rows", "blocks")}
            for part in merged.table.header["merged"]
        ],
        "rows": len(rows),
        "doubled": merged.doubled,
        "superseded": len(rows) - len(merged.table.rows()) - len(merged.table.quarantined),
        "quarantined": [{"row": key, **entry.model_dump()} for key, entry in fresh.items()],
        "quarantine": str(quarantine_path(path)) if entries else None,
    }


def compare_tables(a: str | Path, b: str | Path, *, biggest: int = 10) -> dict[str, Any]:
    """Two tables of one chip, or of two, kernel by kernel: b over a.

    Args:
        a: path or device id.
        b: the same.
        biggest: how many of the biggest differences are listed.
    """
    from factory.latency.table_comparison import compare

    first, second = LatencyTable.read(find_table(a)), LatencyTable.read(find_table(b))
    return {
        "schema_version": SCHEMA_VERSION,
        "a": {"table": str(first.path), "device": first.device_id},
        "b": {"table": str(second.path), "device": second.device_id},
        **compare(first, second, biggest),
    }


def import_table(
    file: str | Path, *, mapping: str | Path, out: str | Path | None = None, replace: bool = False
) -> dict[str, Any]:
    """A foreign table of latencies as one of ours, and a profile of its device.

    Args:
        file: the foreign table, CSV.
        mapping: TOML file that says what its columns mean.
        out: folder of the table; latency_tables/ of the user's home by default.
        replace: overwrite a table that is there.
    """
    from factory.profiling.foreign import imported_header, read_foreign, read_mapping
    from factory.profiling.table_file import header_text

    known = read_mapping(mapping)
    foreign = read_foreign(file, known)
    header = imported_header(known, Path(file), Path(mapping), foreign)
    folder = Path(out) if out is not None else own_tables()
    path = folder / table_name({"device": header["device"], **header})
    if exists(path) and not replace:
        raise InputError(f"{path} is there already", fix="give --replace, or --out FOLDER")
    profile_path = _profile_of(header, LatencyTable(path, header, []))
    text = header_text(header) + "".join(row.text() for row in foreign.rows)
    if exists(path):
        with unwritten(path):
            write_atomic_text(path, text)
    else:
        write_atomic_text(path, text)
    return {
        "schema_version": SCHEMA_VERSION,
        "table": str(path),
        "device": header["device"],
        "profile": str(profile_path),
        "kernels": sum(row.kind == "kernel" for row in foreign.rows),
        "networks": sum(row.kind == "network" for row in foreign.rows),
        "skipped": foreign.skipped,
        "refused": foreign.refused,
        "imported": header["imported"],
    }


def _profile_of(header: Mapping[str, Any], imported: LatencyTable) -> Path:
    """The device's profile: the known one, which must fit, or a new one without a transport."""
    from factory.pipeline.verbs.add_device import profile_text

    name, facts = header["device"], header["fingerprint"]
    known = list_profiles()
    if name in known:
        reason = mismatch(imported, load_profile(name))
        if reason:
            raise InputError(
                f"the mapping does not fit the known device {name!r}",
                why=reason,
                fix="correct the mapping's [table], or choose another device id there",
            )
        return known[name]
    if facts["chip"] == "local":
        raise InputError(
            "chip = 'local' is not the chip of an imported table",
            fix="give the chip's name in the mapping's [table]",
        )
    profile = DeviceProfile(
        id=name,
        chip=facts["chip"],
        transport=ONLY_A_TABLE,
        runtime=facts["runtime"],
        execution_provider=facts["execution_provider"],
        threads=facts["threads"],
        precision=facts["precision"],
        notes=f"Known from an imported table only: {header['imported']['source']}",
    )
    path = user_home() / "device_profiles" / f"{name}.toml"
    write_atomic_text(path, profile_text(profile, "an imported table"))
    return path
