"""`factory table`: latency tables shown, checked, merged, compared, imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.output import table as plain_table
from factory.cli.table_lines import check_lines, compare_lines, show_lines

table_app = typer.Typer(
    name="table",
    help="List the latency tables that are known; show, check, merge, compare, import one.",
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Table = Annotated[str, typer.Argument(help="Path of a latency table, or a device's id.")]
Replace = Annotated[bool, typer.Option(help="Overwrite a table that is there.")]


@table_app.callback()
def table(context: typer.Context, json: options.Json = False) -> None:
    """List the latency tables that are known; show, check, merge, compare, import one."""
    if context.invoked_subcommand is not None:
        return
    from factory.api import table as verb

    answer = verb()
    if json:
        print_json(answer)
        return
    good = [entry for entry in answer["tables"] if "error" not in entry]
    keys = ["device", "kernels", "networks", "failed", "quarantined", "date", "table"]
    print_lines(plain_table(keys, [[str(entry[key]) for key in keys] for entry in good]))
    print_lines([entry["error"] for entry in answer["tables"] if "error" in entry])


@table_app.command("show")
def show_table(table: Table, json: options.Json = False) -> None:
    """Show what a table holds: kernels by family, failures, provenance, clock, times."""
    from factory.api import show_table as verb

    _print(verb(table), json, show_lines)


@table_app.command("check")
def check_table(
    table: Table,
    release: Annotated[
        list[str] | None,
        typer.Option(help="Take this key or row out of quarantine; all: every one. Repeatable."),
    ] = None,
    repair: Annotated[bool, typer.Option(help="Move damaged lines into a file beside.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Check a table; rows that disagree go into quarantine. Exit code 0, 1 found, 2 unusable."""
    from factory.api import check_table as verb

    answer = verb(table, release=release or (), repair=repair, dry_run=dry_run)
    _print(answer, json, check_lines)
    raise typer.Exit(answer["exit_code"])


@table_app.command("merge")
def merge_tables(
    tables: Annotated[list[str], typer.Argument(help="Paths of tables, or ids of devices.")],
    out: Annotated[str | None, typer.Option(help="Path of the merged table (CSV).")] = None,
    device: Annotated[str | None, typer.Option(help="Device id of the merged table.")] = None,
    replace: Replace = False,
    json: options.Json = False,
) -> None:
    """Merge tables of one chip; rows that disagree go into the result's quarantine."""
    from factory.api import merge_tables as verb

    answer = verb(tables, out=out, device=device, replace=replace)
    _print(answer, json, _merge_lines)


@table_app.command("compare")
def compare_tables(
    a: Table,
    b: Table,
    biggest: Annotated[int, typer.Option(help="List so many differences.", min=0)] = 10,
    json: options.Json = False,
) -> None:
    """Compare two tables, of one chip or of two, kernel by kernel."""
    from factory.api import compare_tables as verb

    _print(verb(a, b, biggest=biggest), json, compare_lines)


@table_app.command("import")
def import_table(
    file: Annotated[str, typer.Argument(help="The foreign table, a CSV file.")],
    mapping: Annotated[str, typer.Option(help="TOML file: what its columns mean.")],
    out: Annotated[
        str | None, typer.Option(help="Folder of the table (default: your latency_tables/).")
    ] = None,
    replace: Replace = False,
    json: options.Json = False,
) -> None:
    """Import a foreign table, by a mapping that says what its columns mean."""
    from factory.api import import_table as verb

    _print(verb(file, mapping=mapping, out=out, replace=replace), json, _import_lines)


def _print(answer: Mapping[str, Any], json: bool, lines: Any) -> None:
    if json:
        print_json(answer)
    else:
        print_lines(lines(answer))


def _merge_lines(answer: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{part['table']}: {part['rows']} rows of {part['device']}" for part in answer["parts"]),
        f"{answer['rows']} rows, {answer['doubled']} held by several tables, "
        f"{answer['superseded']} replaced by later runs, "
        f"{len(answer['quarantined'])} into quarantine",
        *(f"  {entry['key']}: {entry['reason']}" for entry in answer["quarantined"][:10]),
        f"table: {answer['table']}",
        f"next: factory table show {answer['table']}",
    ]


def _import_lines(answer: Mapping[str, Any]) -> list[str]:
    return [
        f"{answer['kernels']} kernels and {answer['networks']} networks of {answer['device']}, "
        f"{answer['skipped']} rows left out, {len(answer['refused'])} refused",
        *(f"  {line}" for line in answer["refused"][:10]),
        f"table: {answer['table']}",
        f"device profile: {answer['profile']}",
        f"next: factory fit --device {answer['device']}",
    ]
