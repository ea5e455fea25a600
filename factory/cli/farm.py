"""`factory farm`: several devices share the measurements."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table
from factory.cli.progress import shown_progress


def farm(
    devices: Annotated[list[str], typer.Argument(help="Device ids or paths of profiles.")],
    channels: Annotated[int, typer.Option(help="Channels C of the networks.")] = 16,
    layers: Annotated[int, typer.Option(help="Number of cells of the networks.")] = 8,
    input_shape: options.Input = "3x32x32",
    stem: options.Stem = "cifar",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 10,
    networks: Annotated[int, typer.Option(help="Random networks to measure.", min=0)] = 16,
    effort: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    out: Annotated[
        str | None, typer.Option(help="Folder of the tables (default: your latency_tables/).")
    ] = None,
    seed: options.Seed = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster: the local devices on each of its nodes."),
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Profile on several devices at once; equal ones share the work and end in one table."""
    from factory.api import farm as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            devices,
            channels=channels,
            layers=layers,
            input=input_shape,
            stem=stem,
            classes=classes,
            networks=networks,
            effort=effort,
            out=out,
            seed=seed or 0,
            ray=ray,
            progress=progress,
        )
    if json:
        print_json(answer)
        return
    for group in answer["groups"]:
        rows = [
            [
                entry["device"] + (" (simulated)" if entry["simulated"] else ""),
                entry["transport"],
                str(entry["measured"]),
                str(entry["failed"]),
                entry["lost"][:60] or "no",
            ]
            for entry in group["devices"]
        ]
        print_lines(table(["device", "transport", "measured", "failed", "lost"], rows))
        print_lines([f"{group['rows']} of {group['of']} rows in {group['table']}", ""])
    print_lines([f"{answer['seconds']:.0f} s"])
