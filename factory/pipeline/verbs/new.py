"""new: a commented recipe to start from, for the digits or for your own pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.progress import SILENT, Progress
from factory.core.reading import exists, is_folder
from factory.data.config import DEFAULT_IMAGE_SIZE, folder_config
from factory.pipeline.recipe_loading import recipe_from_text
from factory.pipeline.recipe_sizing import choose_sizes
from factory.pipeline.recipe_template import digits_recipe, folder_recipe

SCHEMA_VERSION = 1
DEFAULT_MINUTES = 30.0


def new(
    path: str | Path,
    *,
    data: str | Path | None = None,
    image_size: int | None = None,
    minutes: float = DEFAULT_MINUTES,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write a commented recipe to ``path``.

    Args:
        path: the file to write; ".toml" is added where it is missing.
        data: folder of your own pictures, one sub-folder per class; the digits by default. They
            are looked at, and the recipe's sizes follow from them.
        image_size: side of the square pictures in pixels; 32 for the digits, for your own it
            follows from theirs.
        minutes: what a build of your own pictures should take on this machine.
        force: replace an existing file.
        progress: where progress is reported.
    """
    target = Path(path)
    if target.suffix != ".toml":
        target = target.with_name(target.name + ".toml")
    if exists(target) and not force:
        raise InputError(
            f"{target} is already there", why="nothing was overwritten", fix="pass --force"
        )
    if not 1 <= minutes <= 100_000:
        raise InputError(f"minutes = {minutes:g} is not accepted", fix="give 1 to 100000")
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    if not 8 <= size <= 1024:
        raise InputError(f"image_size = {size} is not accepted", fix="give 8 to 1024 pixels")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._")[:64] or "my-run"
    answer: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "path": str(target)}
    if data is None:
        text = digits_recipe(name=name, image_size=size)
    else:
        from factory.data.survey import survey_folder

        survey = survey_folder(folder_config(_root(data)), progress)
        if not survey.shorter_px:
            survey.require_readable()
        progress.message("timing a few steps of search and training on this machine")
        sizes, cost = choose_sizes(survey, minutes=minutes, image_size=image_size)
        text = folder_recipe(name=name, root=_root(data), survey=survey, sizes=sizes, cost=cost)
        answer |= {
            "data": survey.as_dict(),
            "image_size": sizes.image_size,
            "epochs": sizes.epochs,
            "estimated_s": round(cost.total),
            "estimate": cost.sentence(),
        }
    recipe_from_text(text, f"recipe {target}")
    write_atomic_text(target, text)
    return {**answer, "next": f"factory build {target}"}


def _root(data: str | Path) -> str:
    root = str(data)
    try:
        root.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the data folder {ascii(root)[:200]} is not UTF-8", fix="rename the folder"
        ) from None
    if not root or not is_folder(Path(root).expanduser()):
        raise InputError(
            f"data folder {root!r} does not exist",
            fix="name the folder whose sub-folders are the classes",
        )
    return root
