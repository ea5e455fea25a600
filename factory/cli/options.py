"""The options that mean the same in every verb."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice.", min=0)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")]
Device = Annotated[str, typer.Option(help="Device id or the path of a device profile.")]
Scale = Annotated[str | None, typer.Option(help="A named scale of the recipe, e.g. small.")]
Out = Annotated[str | None, typer.Option(help="Run folder (default: runs/<recipe name>).")]
Run = Annotated[str | None, typer.Option("--run", help="Run folder to take the predictor from.")]
Input = Annotated[str, typer.Option("--input", help="Shape of one image, e.g. 3x32x32.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="Shape of an input with free dimensions: NAME=1x3x224x224; repeatable."
    ),
]
Values = Annotated[
    str | None, typer.Option("--inputs", help="An .npz file with an array for every input.")
]
Stem = Annotated[str, typer.Option(help="cifar or imagenet.")]
