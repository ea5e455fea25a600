"""`factory verify`: measure a model on a chip, certify it, check it against its certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table
from factory.cli.progress import shown_progress


def verify(
    model: Annotated[str | None, typer.Argument(help="An ONNX file, or an ORT file.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device id or the path of a device profile.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Latency budget (median) in milliseconds.")
    ] = None,
    certificate: Annotated[
        str | None, typer.Option(help="Check the model against this certificate (JSON).")
    ] = None,
    issue: Annotated[
        str | None, typer.Option(help="Write a certificate of what was measured (JSON, page).")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled pictures or the model's run: accuracy on the certificate."),
    ] = None,
    sustained_s: Annotated[
        float, typer.Option(help="Seconds of the longer run on the certificate.", min=0, max=3600)
    ] = 3.0,
    measure: Annotated[
        bool, typer.Option(help="With --certificate: measure the latency again.")
    ] = True,
    quiet: options.Quiet = False,
    input_shape: options.Shapes = None,
    inputs: options.Values = None,
    json: options.Json = False,
) -> None:
    """Measure a model on the chip; exit code 1: it does not hold, 3: undecided."""
    from factory.api import verify as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            model,
            device,
            max_latency_ms=max_latency_ms,
            certificate=certificate,
            issue=issue,
            data=data,
            sustained_s=sustained_s,
            measure=measure,
            input=input_shape,
            inputs=inputs,
            progress=progress,
        )
    if json:
        print_json(answer)
    elif certificate is not None:
        print_lines(_check_lines(answer))
    else:
        print_lines(_measured_lines(answer, max_latency_ms))
    if answer["exit_code"]:
        raise typer.Exit(answer["exit_code"])


def _measured_lines(answer: Mapping[str, Any], max_latency_ms: float | None) -> list[str]:
    lines = []
    if answer["median_ms"] is None:
        lines.append(f"{answer['verdict']} on {answer['device']}")
    else:
        budget = f" against a budget of {max_latency_ms:g} ms" if max_latency_ms else ""
        lines.append(
            f"{answer['verdict']}: median {answer['median_ms']:.3f} ms{budget} "
            f"(p10 {answer['p10_ms']:.3f}, p90 {answer['p90_ms']:.3f}) on {answer['device']}"
        )
        lines.append(_start_line(answer))
    if answer.get("reason"):
        lines.append(f"reason: {answer['reason']}")
    lines += [f"note: {text}" for text in answer.get("notes") or ()]
    if answer.get("certificate"):
        lines.append(f"certificate: {answer['certificate']}")
    return lines


def _checked(check: Mapping[str, Any]) -> str:
    if check["ok"]:
        return "holds"
    return "not decided" if check["undecided"] else "CHANGED"


def _start_line(answer: Mapping[str, Any]) -> str:
    """Cold start, memory and size, as far as they are known."""
    parts = [f"model size {answer['model_bytes'] / 1e6:.2f} MB"]
    if answer["cold_start_ms"] is not None:
        parts.append(
            f"cold start {answer['cold_start_ms']:.1f} ms (session {answer['session_ms']:.1f}, "
            f"first run {answer['first_run_ms']:.1f})"
        )
    if answer["peak_memory_mb"] is not None:
        parts.append(f"peak memory {answer['peak_memory_mb']:.1f} MB")
    return "; ".join(parts)


def _check_lines(answer: Mapping[str, Any]) -> list[str]:
    rows = [[check["name"], _checked(check), check["detail"]] for check in answer["checks"]]
    failed = sum(not check["ok"] and not check["undecided"] for check in answer["checks"])
    verdict = f"{failed} of {len(rows)} checks do not hold" if failed else answer["verdict"]
    return [*table(["check", "", "what"], rows), f"{answer['model']}: {verdict}"]
