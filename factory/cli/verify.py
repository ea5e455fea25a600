"""`factory verify`: measure an ONNX file on a chip and hold it against a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines
from factory.core.errors import EXIT_DOES_NOT_HOLD


def verify(
    model: Annotated[str, typer.Argument(help="An ONNX file with fixed shapes.")],
    device: options.Device,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Latency budget (median) in milliseconds.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure a model on the chip; exit code 1 when it is over its budget."""
    from factory.api import verify as verb

    answer = verb(model, device, max_latency_ms=max_latency_ms)
    if json:
        print_json(answer)
    else:
        budget = f" against a budget of {max_latency_ms:g} ms" if max_latency_ms else ""
        print_lines(
            [
                f"{answer['verdict']}: median {answer['median_ms']:.3f} ms{budget} "
                f"(p10 {answer['p10_ms']:.3f}, p90 {answer['p90_ms']:.3f}) "
                f"on {answer['device']}"
            ]
            + ([f"reason: {answer['reason']}"] if answer.get("reason") else [])
        )
    if not answer["holds"]:
        raise typer.Exit(EXIT_DOES_NOT_HOLD)
