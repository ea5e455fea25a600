"""`factory predict`: how long any ONNX file takes on a chip, without running it there."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table


def predict(
    model: Annotated[str, typer.Argument(help="An ONNX file with fixed shapes.")],
    device: options.Device,
    run: options.Run = None,
    top: Annotated[int, typer.Option(help="Show so many kernels.", min=0)] = 12,
    json: options.Json = False,
) -> None:
    """Predict the latency of an ONNX file on a chip, kernel by kernel."""
    from factory.api import predict as verb

    answer = verb(model, device, run=run)
    if json:
        print_json(answer)
        return
    rows = [
        [f"{part['share']:6.1%}", f"{part['ms']:.4f}", f"{part['count']:g}", part["source"],
         part["kernel"]]
        for part in answer["kernels"][:top]
    ]  # fmt: skip
    print_lines(
        [
            f"{answer['latency_ms']:.3f} ms on {answer['device']} "
            f"(90 % interval {answer['low_ms']:.3f} to {answer['high_ms']:.3f} ms)",
            *[f"note: {text}" for text in answer["warnings"]],
            "",
            *table(["share", "ms", "count", "source", "kernel"], rows),
        ]
    )
