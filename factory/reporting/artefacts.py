"""What a run left on disk, read leniently: a missing or broken piece is noted, never fatal."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.reading import an_object, is_file, is_folder, parse_json, read_bytes

BASELINE = "no-latency"
STAGES = ("profile", "fit", "search", "train", "deploy", "verify", "report")
MOST = 1e30  # of any figure of a run: a larger one is none, and no axis of a drawing holds it
Json = dict[str, Any]


@dataclass
class TierArtefacts:
    """The files of one tier, empty where they are not there."""

    name: str
    recipe: Json = field(default_factory=dict)
    genotype: Json = field(default_factory=dict)
    search: Json = field(default_factory=dict)
    search_history: list[Json] = field(default_factory=list)
    seeds: Json = field(default_factory=dict)
    train: Json = field(default_factory=dict)
    train_history: list[Json] = field(default_factory=list)
    manifest: Json = field(default_factory=dict)
    verify: Json = field(default_factory=dict)


@dataclass
class RunArtefacts:
    """Everything the report is made from.

    Attributes:
        missing: one line per file that should be there and is not, or cannot be read.
    """

    root: Path
    record: Json = field(default_factory=dict)
    data: Json = field(default_factory=dict)
    profile: Json = field(default_factory=dict)
    fit: Json = field(default_factory=dict)
    tiers: list[TierArtefacts] = field(default_factory=list)
    baseline: TierArtefacts | None = None
    missing: list[str] = field(default_factory=list)


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < MOST else None


def mapping(value: Any) -> Json:
    """``value`` where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[Json]:
    """The objects in ``value`` where it is a list, else nothing."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def read_run(root: Path | str) -> RunArtefacts:
    """Read a run folder; raises InputError only where the folder is no run at all."""
    root = Path(root)
    if not is_folder(root):
        raise InputError(f"run folder {root} does not exist", fix="name the folder of a build")
    run = RunArtefacts(root)
    run.record = _json(run, "run.json")
    stages = [root / f"{n:02d}-{name}" for n, name in enumerate(STAGES[:-1], start=1)]
    if not run.record and not any(stage.is_dir() for stage in stages):
        raise InputError(
            f"{root} is no run folder",
            why="it has neither run.json nor a stage's folder",
            fix="name the folder of a build, or start one with `factory build RECIPE --out DIR`",
        )
    run.data = _json(run, "data.json", optional=True)
    run.profile = _json(run, "01-profile/summary.json")
    run.fit = _json(run, "02-fit/report.json")
    recipes = {
        str(t["name"]): t
        for t in records(mapping(run.record.get("recipe")).get("tiers"))
        if "name" in t
    }
    for name in _tier_names(root, recipes):
        run.tiers.append(_tier(run, name, recipes.get(name, {})))
    if (root / "03-search" / BASELINE).is_dir():
        run.baseline = _tier(run, BASELINE, {}, optional=True)
    return run


def _tier_names(root: Path, recipe: Iterable[str]) -> list[str]:
    """Tiers in the recipe's order, then those that only have files."""
    found: dict[str, None] = dict.fromkeys(recipe)
    for stage in ("03-search", "04-train", "05-deploy"):
        folder = root / stage
        if folder.is_dir():
            found |= dict.fromkeys(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    verify = root / "06-verify"
    if verify.is_dir():
        found |= dict.fromkeys(sorted(p.stem for p in verify.glob("*.json")))
    return [name for name in found if name != BASELINE and not name.startswith(".")]


def _tier(run: RunArtefacts, name: str, recipe: Json, optional: bool = False) -> TierArtefacts:
    return TierArtefacts(
        name=name,
        recipe=recipe,
        genotype=_json(run, f"03-search/{name}/genotype.json"),
        search=_json(run, f"03-search/{name}/result.json"),
        search_history=_lines(run, f"03-search/{name}/history.jsonl", optional=optional),
        seeds=_json(run, f"03-search/{name}/seeds.json", optional=True),
        train=_json(run, f"04-train/{name}/result.json", optional),
        train_history=_lines(run, f"04-train/{name}/history.jsonl", optional),
        manifest=_json(run, f"05-deploy/{name}/manifest.json", optional),
        verify=_json(run, f"06-verify/{name}.json", optional),
    )


def _json(run: RunArtefacts, name: str, optional: bool = False) -> Json:
    path = run.root / name
    if not is_file(path) and not is_folder(path):
        if not optional:
            run.missing.append(f"{name} is not there")
        return {}
    try:
        return an_object(parse_json(read_bytes(path), name, lenient=True), name)
    except InputError as error:
        run.missing.append(error.what + (f" ({error.why})" if error.why else ""))
        return {}


def _lines(run: RunArtefacts, name: str, optional: bool = False) -> list[Json]:
    """One object a line; a last line cut by a kill is left out."""
    try:
        content = read_bytes(run.root / name)
    except InputError:
        if not optional:
            run.missing.append(f"{name} is not there")
        return []
    found: list[Json] = []
    for line in content.splitlines():
        with contextlib.suppress(InputError):
            found.append(an_object(parse_json(line, name, lenient=True), name))
    return found
