"""The recipe that `factory new` writes: the demo's, with its name and its data replaced."""

from __future__ import annotations

import re
from pathlib import Path

from factory.core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_DIGITS = """\
[data]
kind = "digits"             # the 1,797 handwritten digits of scikit-learn; nothing to download
# kind = "image_folder"     # your own pictures, one sub-folder per class,
# root = "my-pictures"      # in this folder; with train/ and val/ inside it those are used
image_size = {image_size}             # pictures are resized to this many pixels a side
"""
_FOLDER = """\
[data]
kind = "image_folder"       # your own pictures, one sub-folder per class
root = {root}
image_size = {image_size}             # pictures are resized to this many pixels a side
"""


def template_text() -> str:
    """The demo recipe that comes with the package."""
    for folder in (_PACKAGE / "_data" / "recipes", _PACKAGE.parent / "recipes"):
        if (folder / "demo.toml").is_file():
            return (folder / "demo.toml").read_text(encoding="utf-8")
    raise InputError(
        "the package's recipes/demo.toml is missing",
        fix="install the package again: python -m pip install --force-reinstall model-factory",
    )


def fill_template(*, name: str, root: str | None, image_size: int) -> str:
    """The template for a run called ``name`` on the digits, or on the folder ``root`` (quoted)."""
    text = template_text()
    section = _DIGITS if root is None else _FOLDER
    data = section.format(root=root, image_size=image_size) + "\n"
    text = re.sub(r"\A(#[^\n]*\n)+", f"# {name}: made by `factory new`.\n", text)
    text = re.sub(r'(?m)^name = "demo"', f'name = "{name}"', text, count=1)
    text = re.sub(r"(?m)^description = .*\n", "", text, count=1)
    return re.sub(r"(?ms)^\[data\]\n.*?(?=^\[)", lambda _: data, text, count=1)
