"""Doors for text that people and other programs write: recipes, profiles, tables, records."""

from __future__ import annotations

from pathlib import Path

from door import Door

from factory.devices.profile import load_profile
from factory.pipeline.recipe_loading import load_recipe

ROOT = Path(__file__).resolve().parents[2]

SIMULATED = b"""\
schema_version = 1
id = "sim"
chip = "a chip"
transport = "simulated"
execution_provider = "SimulatedExecutionProvider"
threads = 1
precision = "fp32"
timeout_s = 5.0
notes = "its times are made up"

[provider_options]
depth = 2

[simulated]
fp32_gmacs_per_s = 20.0
bandwidth_gb_per_s = 10.0
"""


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _recipe(content: bytes, folder: Path) -> None:
    recipe, _ = load_recipe(_write(folder, "r.toml", content), scale="small", seed=3)
    recipe.as_dict()


def _profile(content: bytes, folder: Path) -> None:
    load_profile(_write(folder, "sim.toml", content))


DOORS = [
    Door("recipe", lambda: [(ROOT / "recipes/cifar10.toml").read_bytes()], _recipe, "toml"),
    Door("device-profile", lambda: [SIMULATED], _profile, "toml"),
]
