"""`factory adapt`: a new chip from known chips' tables and about ten measured networks."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.progress import shown_progress
from factory.cli.report_lines import predictor_lines


def adapt(
    device: options.Device,
    known: Annotated[
        list[str], typer.Option("--from", help="A device whose latency table is known; several.")
    ],
    measurements: Annotated[int, typer.Option(help="Networks measured on the device.")] = 10,
    channels: Annotated[
        int | None, typer.Option(help="Only networks of the cell space with C channels.")
    ] = None,
    layers: Annotated[int, typer.Option(help="--channels: number of cells.")] = 8,
    input_shape: options.Input = "3x32x32",
    stem: options.Stem = "cifar",
    classes: Annotated[int, typer.Option(help="--channels: number of classes.", min=1)] = 10,
    out: Annotated[
        str | None, typer.Option(help="Folder of the table (default: your latency_tables/).")
    ] = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Know a new chip, or another runtime of a known one, from about ten measured networks."""
    from factory.api import adapt as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            device,
            known,
            measurements=measurements,
            channels=channels,
            layers=layers,
            input=input_shape,
            stem=stem,
            classes=classes,
            out=out,
            seed=seed or 0,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(answer)
        return
    if answer.get("dry_run"):
        macs = sorted(answer["macs"])
        print_lines(
            [
                f"{answer['networks']} networks of {macs[0] / 1e6:.1f} to {macs[-1] / 1e6:.1f} "
                f"M MACs would be measured on {answer['device']}"
            ]
        )
        return
    report = answer["report"]
    adapted = report["adapted"]
    factors = ", ".join(f"{name} {value:.2f}" for name, value in adapted["factors"].items())
    print_lines(
        [
            *predictor_lines(report),
            f"times of {adapted['from']}, multiplied: {factors}",
            f"90 % interval: +- {answer['half_width_percent']:.1f} %",
            *[f"failed: {reason}: {count}" for reason, count in answer["reasons"].items()],
            f"table: {answer['table']}",
            f"predictor: {answer['predictor']}",
        ]
    )
