"""`factory search`: the first three stages of a build, and what methods there are."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from factory.cli import options
from factory.cli.output import print_json, print_lines, table
from factory.cli.progress import shown_progress
from factory.cli.report_lines import print_build


def search(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe (TOML file or known name).")
    ] = None,
    list_methods: Annotated[
        bool, typer.Option("--list", help="List the search methods and their choices, and stop.")
    ] = False,
    out: options.Out = None,
    scale: options.Scale = None,
    seed: options.Seed = None,
    seeds: Annotated[
        int | None, typer.Option(help="Searches from different seeds; the best is taken.", min=1)
    ] = None,
    dry_run: options.DryRun = False,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Discrete search instead: random, evolution, front-evolution, nsga2 or "
            "surrogate; the evolutionary ones also as NAME-plain, without a model; one query "
            "is a short training."
        ),
    ] = None,
    queries: Annotated[int, typer.Option(help="With --strategy: trainings per tier.", min=1)] = 30,
    epochs: Annotated[int, typer.Option(help="With --strategy: epochs of each.", min=1)] = 3,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Profile, fit and search: one architecture per tier, not yet trained."""
    from factory.api import search as verb

    with shown_progress(quiet or list_methods) as progress:
        answer = verb(
            recipe,
            list_methods=list_methods,
            out=out,
            scale=scale,
            seed=seed,
            seeds=seeds,
            dry_run=dry_run,
            strategy=strategy,
            queries=queries,
            epochs=epochs,
            progress=progress,
        )
    if json:
        print_json(answer)
    elif list_methods:
        print_lines(method_lines(answer))
    else:
        print_build(answer)


def method_lines(answer: dict[str, Any]) -> list[str]:
    """The axes, the presets as rows of choices, and how to write another row."""
    lines = ["A method is one choice on every axis; write them into a recipe's [search]:", ""]
    for axis, choices in answer["axes"].items():
        lines.append(axis)
        for name, text in choices.items():
            lines += _entry(name, text)
        lines.append("")
    for title in ("limits", "regularisers", "activations"):
        lines.append(title)
        for name, text in answer[title].items():
            lines += _entry(name, text)
        lines.append("")
    lines += ["Presets (preset = ...), published settings included:", ""]
    rows = [[name, *entry["row"].values()] for name, entry in answer["presets"].items()]
    lines += table(["preset", *answer["axes"]], rows)
    lines.append("")
    for name, entry in answer["presets"].items():
        lines += _entry(name, entry["text"])
    lines += ["", *textwrap.wrap(answer["short"] + ".", 98)]
    return lines


def _entry(name: str, text: str) -> list[str]:
    body = textwrap.wrap(text, 74, break_on_hyphens=False)
    return [f"  {name:<20}{body[0]}", *(" " * 22 + line for line in body[1:])]
