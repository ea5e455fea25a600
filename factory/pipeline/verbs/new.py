"""new: a commented recipe to start from, for the digits or for your own pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.reading import exists, is_folder
from factory.pipeline.recipe_loading import recipe_from_text
from factory.pipeline.recipe_template import fill_template

SCHEMA_VERSION = 1


def new(
    path: str | Path,
    *,
    data: str | Path | None = None,
    image_size: int = 32,
    force: bool = False,
) -> dict[str, Any]:
    """Write a commented recipe to ``path``.

    Args:
        path: the file to write; ".toml" is added where it is missing.
        data: folder of your own pictures, one sub-folder per class; the digits by default.
        image_size: side of the square pictures.
        force: replace an existing file.
    """
    target = Path(path)
    if target.suffix != ".toml":
        target = target.with_name(target.name + ".toml")
    if exists(target) and not force:
        raise InputError(
            f"{target} is already there", why="nothing was overwritten", fix="pass --force"
        )
    if data is not None and not is_folder(Path(data).expanduser()):
        raise InputError(
            f"data folder {data} does not exist",
            fix="name the folder whose sub-folders are the classes",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._") or "my-run"
    root = None if data is None else json.dumps(str(data), ensure_ascii=False)
    text = fill_template(name=name, root=root, image_size=image_size)
    recipe_from_text(text, f"recipe {target}")
    write_atomic_text(target, text)
    return {
        "schema_version": SCHEMA_VERSION,
        "path": str(target),
        "next": f"factory build {target}",
    }
