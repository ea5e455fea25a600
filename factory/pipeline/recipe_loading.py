"""From a TOML file to a :class:`Recipe`: finding it, its scales, and what changed since last time.

A recipe may carry named scales: `[scale.small.training] epochs = 20` replaces that one key under
`--scale small`. In a list of tables (tiers) the entry of the same name is changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, nearest
from factory.core.files import sha256_bytes
from factory.core.reading import is_file, is_folder, parse_toml, read_toml
from factory.core.resources import find_resources

if TYPE_CHECKING:
    from factory.pipeline.recipe import Recipe


def find_recipe(name_or_path: str | Path) -> Path:
    """The recipe's file: a path, or the name of one of the known recipes."""
    path = Path(name_or_path)
    if is_file(path):
        return path
    known = find_resources("recipes", ".toml")
    name = str(name_or_path)
    stem = path.name.removesuffix(".toml")
    if name in known:
        return known[name]
    # recipes/demo.toml also works from a folder without recipes/: the packaged one is meant.
    if path.parts[:-1] == ("recipes",) and stem in known:
        return known[stem]
    if is_folder(path):
        raise InputError(f"recipe {path} is a folder", fix="name a TOML file")
    raise InputError(
        f"recipe {name} does not exist",
        fix=f"write one with `factory new my.toml`, or name a known one ({nearest(stem, known)})",
    )


def merged(base: Any, change: Any) -> Any:
    """``base`` with the keys of ``change`` laid over it; lists of named tables merge by name."""
    if isinstance(base, dict) and isinstance(change, dict):
        both = {key: merged(base[key], change[key]) for key in base.keys() & change.keys()}
        return {**base, **change, **both}
    if _named_tables(base) and _named_tables(change):
        changes = {entry["name"]: entry for entry in change}
        names = {entry["name"] for entry in base}
        kept = [_merged_entry(entry, changes.get(entry["name"], {})) for entry in base]
        return kept + [entry for entry in change if entry["name"] not in names]
    return change


_ALTERNATIVES = ("max_latency_ms", "latency_percentile")  # a tier has one of these


def _merged_entry(entry: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """An entry changed; a latency budget of one form replaces that of the other."""
    if any(key in change for key in _ALTERNATIVES):
        entry = {key: value for key, value in entry.items() if key not in _ALTERNATIVES}
    result: dict[str, Any] = merged(entry, change)
    return result


def _named_tables(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value)
    )


def apply_scale(data: dict[str, Any], scale: str | None, path: Path) -> dict[str, Any]:
    """Take the `[scale]` sections out of a parsed recipe and lay the chosen one over the rest."""
    scales = data.get("scale", {})
    rest = {key: value for key, value in data.items() if key != "scale"}
    if not isinstance(scales, dict) or not all(isinstance(v, dict) for v in scales.values()):
        raise InputError("[scale] must hold tables like [scale.small.training]", where=str(path))
    if scale is None:
        return rest
    if scale not in scales:
        raise InputError(
            f"unknown scale {scale!r}", where=f"recipe {path}", fix=nearest(scale, scales)
        )
    chosen = scales[scale]
    unknown = sorted(set(chosen) - set(rest))
    if unknown:
        raise InputError(
            f"[scale.{scale}] changes the section {unknown[0]!r}, which the recipe does not have",
            where=f"recipe {path}",
            fix=nearest(unknown[0], rest),
        )
    result = merged(rest, chosen)
    name = rest.get("recipe", {}).get("name") if isinstance(rest.get("recipe"), dict) else None
    if isinstance(name, str) and "name" not in chosen.get("recipe", {}):
        result["recipe"]["name"] = f"{name}-{scale}"
    return result


def load_recipe(
    name_or_path: str | Path, *, scale: str | None = None, seed: int | None = None
) -> tuple[Recipe, Path]:
    """The checked recipe and the file it came from; ``seed`` replaces the recipe's own."""
    from factory.core.validation import validate
    from factory.pipeline.recipe import Recipe

    path = find_recipe(name_or_path)
    data = apply_scale(read_toml(path, "recipe"), scale, path)
    if seed is not None and isinstance(data.get("recipe"), dict):
        data["recipe"] = {**data["recipe"], "seed": seed}
    return validate(Recipe, data, where=f"recipe {path}"), path


def recipe_from_text(text: str, where: str) -> Recipe:
    """The checked recipe in a TOML text, without a scale."""
    from factory.core.validation import validate
    from factory.pipeline.recipe import Recipe

    return validate(Recipe, apply_scale(parse_toml(text, where), None, Path(where)), where=where)


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, allow_nan=False).encode())


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """{'training.epochs': 30, 'tiers.cpu-1.max_macs': ...} for comparing two recipes."""
    if isinstance(value, dict):
        items = [(str(key), entry) for key, entry in value.items()]
    elif _named_tables(value):
        items = [(entry["name"], entry) for entry in value]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in items:
        flat.update(flattened(entry, f"{prefix}.{key}" if prefix else key))
    return flat


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys in which two resolved recipes differ, as 'training.epochs (30 -> 40)'."""
    before, after = flattened(old), flattened(new)
    missing = "absent"
    return [
        f"{key} ({before.get(key, missing)} -> {after.get(key, missing)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing)
    ]
