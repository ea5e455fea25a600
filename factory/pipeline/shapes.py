"""Words of the command line that become a space at a network size."""

from __future__ import annotations

import re

from factory.core.errors import InputError
from factory.spaces.cell_space import CellSpace
from factory.spaces.network_spec import NetworkSpec

DEFAULT_CLASSES = {"cifar": 10, "imagenet": 1000}


def parse_shape(text: str) -> tuple[int, int, int]:
    """'3x32x32' -> (3, 32, 32)."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,5})x(\d{1,5})", text.strip().lower())
    if match is None or not all(int(part) for part in match.groups()):
        raise InputError(
            f"input shape {text!r} is not CHANNELSxHEIGHTxWIDTH", fix="write for example 3x32x32"
        )
    channels, height, width = (int(part) for part in match.groups())
    return channels, height, width


def cell_space(
    channels: int, layers: int, input_shape: str, stem: str, classes: int | None
) -> CellSpace:
    """The cell space at the size of --channels --layers --input --stem --classes."""
    shape = parse_shape(input_shape)
    if not 2 <= layers <= 200:
        raise InputError(f"layers = {layers} is not accepted", fix="give a number from 2 to 200")
    if channels > 4096:
        raise InputError(f"channels = {channels} is not accepted", fix="give at most 4096")
    spec = NetworkSpec(
        channels=channels,
        layers=layers,
        stem=stem,
        input_shape=shape,
        num_classes=classes or DEFAULT_CLASSES.get(stem, 10),
    )
    return CellSpace(spec)
