"""`factory profile`: measure a chip."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import called, print_json, print_lines
from factory.cli.progress import shown_progress

MOST_REASONS = 3  # why rows failed


def profile(
    device: Annotated[
        str | None, typer.Option(help="Device id or the path of a device profile.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Measure whatever browser opens the page.")
    ] = False,
    lan: Annotated[
        bool, typer.Option("--lan", help="--browser: let phones on the network in (HTTPS).")
    ] = False,
    threads: Annotated[int, typer.Option(help="--browser: most threads.", min=1)] = 1,
    provider: Annotated[str, typer.Option(help="--browser: wasm, webgpu or webnn.")] = "wasm",
    precision: Annotated[str, typer.Option(help="--browser: fp32 or int8.")] = "fp32",
    port: Annotated[int | None, typer.Option(help="--browser: port of the page.", min=0)] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="--browser: start a Chromium without a window.")
    ] = False,
    name: Annotated[str, typer.Option(help="--browser: id of the new device.")] = "",
    channels: Annotated[int, typer.Option(help="Channels C of the networks.")] = 16,
    layers: Annotated[int, typer.Option(help="Number of cells of the networks.")] = 8,
    input_shape: options.Input = "3x32x32",
    stem: options.Stem = "cifar",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 10,
    networks: Annotated[int, typer.Option(help="Random networks to measure.", min=0)] = 16,
    effort: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    quick: Annotated[
        bool, typer.Option("--quick", help="Profile for any network: at most 3 minutes.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Profile for any network: at most 20 minutes.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Profile the network of this ONNX file, and its kernels within it."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the table (default: your latency_tables/).")
    ] = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure a chip for networks of one size, or with --quick or --full for any network."""
    from factory.api import profile as verb
    from factory.pipeline.browser_profile import BrowserRequest

    request = BrowserRequest(lan, threads, provider, precision, port, headless, name)
    with shown_progress(quiet) as progress:
        answer = verb(
            device,
            browser=request if browser else None,
            channels=channels,
            layers=layers,
            input=input_shape,
            stem=stem,
            classes=classes,
            networks=networks,
            effort=effort,
            quick=quick,
            full=full,
            model=model,
            out=out,
            seed=seed or 0,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(answer)
        return
    if quick or full:
        print_lines(_any_network_lines(answer))
        return
    if model is not None:
        print_lines(_one_network_lines(answer))
        return
    if dry_run:
        print_lines(
            [
                f"{answer['kernels']} kernels ({answer['measured_before']} of them measured "
                f"before) and {answer['networks']} networks would be measured on "
                f"{answer['device']}, into {answer['folder']}",
                *(
                    f"--effort {name}: about {plan['seconds'] / 60:.1f} min"
                    for name, plan in answer["efforts"].items()
                ),
            ]
        )
        return
    print_lines(
        [
            f"{answer['kernels']} kernels and {answer['networks']} networks on {_device(answer)}, "
            f"{answer['failed']} failed, {answer['seconds']:.0f} s",
            *_failure_lines(answer["reasons"]),
            *_drift_lines(answer),
            f"table: {answer['table']}",
            f"next: factory fit --device {answer['device']}",
        ]
    )


def _device(answer: dict[str, Any]) -> str:
    return called(answer["device"], (answer.get("describe") or {}).get("simulated"))


def _one_network_lines(answer: dict[str, Any]) -> list[str]:
    """What was measured of one file's network, or would be."""
    if answer.get("dry_run"):
        return [
            f"1 network of {answer['kernels']} different kernels would be measured on "
            f"{answer['device']}, about {answer['seconds']} s, into {answer['folder']}"
        ]
    before = " (it was in the table already)" if answer["skipped"] else ""
    return [
        f"{answer['networks']} network{before}, {answer['kernels_in_place']} of its "
        f"{answer['kernels']} kernels in place, on {_device(answer)}, {answer['failed']} failed, "
        f"{answer['seconds']:.0f} s",
        *_failure_lines(answer["reasons"]),
        *_drift_lines(answer),
        f"table: {answer['table']}",
        f"next: factory fit --device {answer['device']}",
    ]


def _any_network_lines(answer: dict[str, Any]) -> list[str]:
    """What was measured, or would be with either effort."""
    if answer.get("dry_run"):
        return [
            f"--{name}: about {plan['networks']} networks with {plan['kernels']} kernels, "
            f"{plan['seconds'] / 60:.1f} min (at most {plan['most_seconds'] / 60:.1f}), or until "
            f"the mean error on unseen networks is {plan['wanted_percent']:g} %"
            for name, plan in answer["efforts"].items()
        ] + [f"into {answer['folder']}"]
    rounds = [
        f"  {row['networks']:.0f} networks, "
        + (f"{row['kernels']:.0f} kernels, " if row["kernels"] else "")
        + f"{row['seconds']:.0f} s: mean error on unseen networks {row['error_percent']:.1f} %"
        for row in answer["rounds"]
    ]
    in_place = answer["kernels_in_place"]
    traced = any(row["kernels"] for row in answer["rounds"])
    return [
        f"{answer['networks']} networks on {_device(answer)}, {answer['failed']} failed, "
        + (f"{in_place} kernels in place" if traced else "no traces: kernels are inferred")
        + f", {answer['seconds']:.0f} s; {answer['stopped']}",
        *_failure_lines(answer["reasons"]),
        *rounds,
        *_drift_lines(answer),
        f"table: {answer['table']}",
        f"next: factory fit --device {answer['device']}",
    ]


def _drift_lines(answer: dict[str, Any]) -> list[str]:
    """How the clock moved, where it did."""
    return [answer["drift"]] if answer.get("drift") else []


def _failure_lines(reasons: dict[str, str]) -> list[str]:
    """Why rows failed, the most frequent reasons first."""
    counted = Counter(reasons.values()).most_common(MOST_REASONS + 1)
    lines = [f"  {number} failed: {reason}" for reason, number in counted[:MOST_REASONS]]
    return [*lines, "  others: see the table"] if len(counted) > MOST_REASONS else lines
