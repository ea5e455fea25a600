"""`factory export`: any model as the files that its chips run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table
from factory.cli.progress import shown_progress
from factory.core.errors import EXIT_DOES_NOT_HOLD, InputError


def export(
    model: Annotated[
        str,
        typer.Argument(help="ONNX file, module:function of a torch network, or a run folder."),
    ],
    tier: Annotated[str | None, typer.Option(help="The tier of a run folder.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Form of the file (several times, or all); list shows them."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="The chip it is for: its form, passes measured on it.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="File to write, or a folder for several targets.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8 for a CPU (default: the tier's).")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an input, 3x224x224 or NAME=1x3x224x224."),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help="An .npz file with a value for each input.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures, one sub-folder a class: calibrate and judge.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Pictures of anything, or .npz of inputs: calibrate and compare."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Text file, one class name a line.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean per channel of scaled pixels, 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation per channel.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor on pixels of 0..255 (1/255); 1 leaves them.")
    ] = None,
    colour: Annotated[str | None, typer.Option(help="Order of channels: RGB or BGR.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="safetensors file for a module:function.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(help="name=value for a module:function; repeatable.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH: preprocessing inside, uint8 pixels in.")
    ] = None,
    soc: Annotated[
        list[str] | None, typer.Option(help="SoC models of qnn-context, one file each (43).")
    ] = None,
    max_drop_points: Annotated[
        float, typer.Option(help="Accuracy that int8 may lose, points.", min=0, max=100)
    ] = 1.0,
    finetune_steps: Annotated[
        int,
        typer.Option(help="Quantisation-aware training where nothing else helps; 0: none.", min=0),
    ] = 300,
    measure_passes: Annotated[
        bool, typer.Option(help="Measure optional passes on --device.")
    ] = True,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Export a model for its chips: ONNX, int8, ORT format and more; exit code 1 when refused."""
    if target == ["list"] or model == "list":
        _list_targets(json)
        return
    from factory.api import export as verb

    with shown_progress(quiet) as progress:
        answer = verb(
            model,
            tier=tier,
            target=target or (),
            device=device,
            out=out,
            precision=precision,
            input=input_shape or (),
            inputs=inputs,
            data=data,
            calibration=calibration,
            labels=labels,
            mean=_numbers(mean, "--mean"),
            std=_numbers(std, "--std"),
            scale=scale,
            colour=colour,
            weights=weights,
            arguments=arg or (),
            camera=camera,
            socs=soc or (),
            max_drop_points=max_drop_points,
            finetune_steps=finetune_steps,
            measure_passes=measure_passes,
            seed=seed or 0,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        print_json(answer)
    elif dry_run:
        names = ", ".join(entry["target"] for entry in answer["targets"])
        print_lines([f"{names} would go to {answer['path']}"])
    else:
        print_lines(_lines(answer))
    if not answer.get("ok", True):
        raise typer.Exit(EXIT_DOES_NOT_HOLD)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {text!r} is no list of numbers", fix="write for example 0.485,0.456,0.406"
        ) from None


def _list_targets(as_json: bool) -> None:
    from factory.deployment.targets import all_targets

    listed = [target.to_dict() for target in all_targets()]
    if as_json:
        print_json({"schema_version": 1, "targets": listed})
        return
    rows = [[t["name"], t["precision"], t["missing"] or t["summary"]] for t in listed]
    print_lines(table(["target", "precision", "what it is"], rows))


def _lines(answer: Mapping[str, Any]) -> list[str]:
    lines = []
    passes = answer.get("passes")
    if passes:
        rows = [
            [
                trial["name"],
                trial["status"],
                "-" if trial["gain_percent"] is None else f"{trial['gain_percent']:+.1f} %",
            ]
            for trial in passes["trials"]
        ]
        lines += table(["pass", f"on {passes['device']}", "gain"], rows) if rows else []
        lines += [passes["reason"]] if passes.get("reason") else []
    lines += table(
        ["target", "status", "MiB", "against fp32", "here"], map(_row, answer["targets"])
    )
    for entry in answer["targets"]:
        decided = entry["gate"] or entry["repair"]
        if entry["reason"]:
            lines.append(f"{entry['target']}: {entry['reason']}")
        elif decided:
            lines.append(f"{entry['target']}: {decided['verdict']}: {decided['reason']}")
    lines += [f"note: {note}" for note in answer["notes"]]
    return [*lines, f"trail: {answer['trail']}", f"wrote {answer['path']}"]


def _row(entry: Mapping[str, Any]) -> list[str]:
    sizes = list(entry["sizes_bytes"].values())
    found = entry["agreement"] or {}
    if found.get("accuracy") is not None:
        told = f"{found['accuracy']:.2%} ({-found['drop_points']:+.2f} points)"
    elif found:
        told = f"{found['signal_db']:.0f} dB"
    else:
        told = "-"
    here = f"ran on {entry['loaded_on']}" if entry["loaded_on"] else "not run"
    if entry["unmeasured"]:
        here += "; latency unmeasured"
    size = f"{sizes[0] / 2**20:.2f}" if sizes else "-"
    return [entry["target"], entry["status"], size, told, here]
