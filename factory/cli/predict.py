"""`factory predict`: how long any ONNX file takes on chips, without running it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import called, print_json, print_lines, table

NAMED = 5


def predict(
    model: Annotated[str, typer.Argument(help="An ONNX file.")],
    device: Annotated[
        list[str],
        typer.Option(help="Device id or the path of a device profile; repeatable."),
    ],
    run: options.Run = None,
    html: Annotated[str | None, typer.Option(help="Write a page with plots to this file.")] = None,
    input_shape: options.Shapes = None,
    inputs: options.Values = None,
    top: Annotated[int, typer.Option(help="Show so many kernels.", min=0)] = 12,
    json: options.Json = False,
) -> None:
    """Predict the latency of an ONNX file on chips, kernel by kernel, and say what is slow."""
    from factory.core import guard

    guard.start("factory.graph.onnx_import")
    from factory.api import predict as verb

    answer = verb(model, device, run=run, html=html, input=input_shape, inputs=inputs)
    if json:
        print_json(answer)
        return
    answers = answer if isinstance(answer, list) else [answer]
    for number, one in enumerate(answers):
        print_lines([*([""] if number else []), *_lines(one, top)])
    if html is not None:
        print_lines(["", f"page: {answers[0]['html']}"])


def _lines(answer: Mapping[str, Any], top: int) -> list[str]:
    rows = [
        [f"{part['share']:6.1%}", f"{part['ms']:.4f}", f"{part['count']:g}", _source(part),
         part["kernel"], part["why"]]
        for part in answer["kernels"][:top]
    ]  # fmt: skip
    return [
        f"{answer['latency_ms']:.3f} ms on {called(answer['device'], answer['simulated'])} "
        f"(90 % interval {answer['low_ms']:.3f} to {answer['high_ms']:.3f} ms)",
        *_beside(answer),
        *_start_up(answer),
        *_folded(answer),
        *[f"note: {text.partition('; measure:')[0]}" for text in answer["warnings"]],
        *_to_measure(answer),
        "",
        *table(["share", "ms", "count", "source", "kernel", "why"], rows),
    ]


def _folded(answer: Mapping[str, Any]) -> list[str]:
    """Operators that cost nothing of their own."""
    numbers: Counter[str] = Counter()
    for part in answer["folded"]:
        numbers[part["kernel"].partition("(")[0]] += part["count"]
    if not numbers:
        return []
    told = ", ".join(f"{number} x {name}" for name, number in numbers.items())
    return [f"folded into the operator before, by this device's fusion tests: {told}"]


def _source(part: Mapping[str, Any]) -> str:
    names = {"measured": "lookup", "regressor": "regressor", "roofline": "roofline"}
    return names.get(part["source"], part["source"])


def _beside(answer: Mapping[str, Any]) -> list[str]:
    """The baselines and the chip's noise."""
    names = {"macs_line": "MACs only", "counts_ridge": "ridge on kernel counts"}
    told = [
        f"{names[name]} {one['latency_ms']:.3f} ms (mean error on unseen networks "
        f"{one['held_out']['mean_percent']:.1f} %)"
        for name, one in answer["baselines"].items()
    ]
    lines = [f"baselines: {'; '.join(told)}"] if told else []
    own = answer["held_out"]
    if own:
        lines.append(f"this predictor's mean error on unseen networks: {own['mean_percent']:.1f} %")
    noise = answer["noise"].get("reference_spread_percent")
    if noise is not None:
        lines.append(f"the chip's own noise: {noise:.1f} % between repeated measurements")
    return lines


def _start_up(answer: Mapping[str, Any]) -> list[str]:
    size = f"model size: {answer['model_bytes'] / 1e6:.2f} MB"
    known = answer["start_up"] or {}
    parts = [
        f"{name} {known[key]:.3g} {unit} (+-{known[error]:.0f} %)"
        for key, error, name, unit in (
            ("session_ms", "session_error_percent", "session creation", "ms"),
            ("first_run_ms", "first_run_error_percent", "first run", "ms"),
            ("peak_memory_mb", "peak_memory_error_percent", "peak memory", "MB"),
        )
        if key in known
    ]
    return ["; ".join([size, *parts])]


def _to_measure(answer: Mapping[str, Any]) -> list[str]:
    kernels = answer["measure"]
    if not kernels:
        return []
    command = f"factory profile --device {answer['device']} --model {answer['model']}"
    more = len(kernels) - NAMED
    return [
        f"measure these {len(kernels)} more to be surer (`{command}`):",
        *(f"  {text}" for text in kernels[:NAMED]),
        *([f"  and {more} more (--json lists them)"] if more > 0 else []),
    ]
