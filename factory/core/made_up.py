"""Made-up values for the inputs of models: of the right type and range, the same at every call.

Floats are standard normal, bytes cover their whole range, truth values are both. Wider whole
numbers are 0 or 1: what they mean (an index, a length, a mask, a shape) is not known, and most
models run with that; :func:`feeds` says what else to try, :func:`first_of` tries it. Standard
library and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

TYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "float": "f4", "float16": "f2", "double": "f8", "bool": "?",
        "uint8": "u1", "int8": "i1", "uint16": "u2", "int16": "i2",
        "uint32": "u4", "int32": "i4", "uint64": "u8", "int64": "i8",
    }.items()
}  # fmt: skip
"""Element types of inputs that are made up, by the runtime's names."""
MOST_ELEMENTS = 2**31
_CONSTANTS = (1, 0)  # of whole numbers, where the model does not run with drawn ones
Feeds = Mapping[str, np.ndarray]
Result = TypeVar("Result")
Inputs = Mapping[str, tuple[np.dtype, Sequence[int]]]


def values(
    name: str,
    dtype: np.dtype,
    shape: Sequence[int],
    rng: np.random.Generator,
    whole: int | None = None,
) -> np.ndarray:
    """Values of the input ``name``; ``whole`` is what each whole number wider than a byte is.

    Raises:
        ValueError: more elements than are made.
    """
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"input {name!r} is too large to be made here: {list(shape)}")
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    if whole is not None:
        return np.full(shape, whole, dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def feeds(inputs: Inputs, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Values of all inputs, best first: a model that does not run with one may with the next.

    There is more than one only where there are whole numbers, which may be what a model cannot
    take: a length of 0, or an index of 1 into one row.
    """
    wide = any(dtype.kind in "iu" and dtype.itemsize > 1 for dtype, _ in inputs.values())
    for whole in (None, *_CONSTANTS) if wide else (None,):
        rng = np.random.default_rng(seed)
        yield {
            name: values(name, dtype, shape, rng, whole) for name, (dtype, shape) in inputs.items()
        }


def first_of(run: Callable[[Feeds], Result], tries: Iterable[Feeds]) -> tuple[Feeds, Result]:
    """The first inputs that a model runs with, and what ``run`` of them gives.

    Raises what the first ones raised, where it runs with none.
    """
    first: Exception | None = None
    for inputs in tries:
        try:
            return inputs, run(inputs)
        except Exception as error:  # the runtime's, of many kinds
            first = first or error
    assert first is not None
    raise first
