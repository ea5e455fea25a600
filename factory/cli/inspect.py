"""`factory inspect`: size of a genotype, a named network or an ONNX file; what a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.cli.progress import shown_progress
from factory.cli.report_lines import data_lines
from factory.core.units import format_macs, format_params


def inspect(
    subject: Annotated[
        str,
        typer.Argument(
            help="A published genotype's name, a genotype's file or its text Genotype(...), the "
            "name of a network (mobilenet_v2), an ONNX file, or a folder of pictures."
        ),
    ],
    channels: Annotated[int, typer.Option(help="Channels C of the first cells.")] = 36,
    layers: Annotated[int, typer.Option(help="Number of cells.")] = 20,
    input_shape: options.Shapes = None,
    inputs: options.Values = None,
    stem: options.Stem = "cifar",
    classes: Annotated[
        int | None,
        typer.Option(help="Classes (default: 10, imagenet stem and networks: 1000).", min=1),
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Count parameters and MACs (conv + linear multiply-adds), without the auxiliary head.

    Of a folder of pictures: classes, counts and sizes, and what is left out or cannot be read.
    """
    from factory.api import inspect as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            subject,
            channels=channels,
            layers=layers,
            input=input_shape,
            inputs=inputs,
            stem=stem,
            classes=classes,
            progress=progress,
        )
    if json:
        print_json(answer)
        return
    if answer["kind"] == "image_folder":
        unreadable = [f"  {e['picture']}: {e['reason']}" for e in answer["data"]["unreadable"]]
        print_lines([*data_lines(answer["data"]), *unreadable])
        return
    print_lines(
        [
            answer["name"],
            format_params(answer["params"]),
            format_macs(answer["macs"]) + ", convention: conv + linear",
            f"{answer['macs_darts_paper'] / 1e6:.2f} M, convention: darts-paper "
            "(MACs + 2 x BatchNorm elements + ReLU elements)",
            f"{answer['peak_memory_bytes'] / 2**20:.2f} MiB peak activations",
            f"{answer['kernels']} kernels, {answer['distinct_kernels']} of them distinct",
            *_opaque(answer["opaque"]),
            *(f"note: {text}" for text in answer["notes"]),
        ]
    )


def _opaque(counts: Mapping[str, int]) -> list[str]:
    told = ", ".join(f"{number} x {name}" for name, number in counts.items())
    return [f"of which nothing is known but the name: {told}"] if told else []
