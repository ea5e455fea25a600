"""Running a file in this process, for its numbers only: a session, all outputs for many samples.

Times belong to :mod:`factory.devices`, which runs models in a child of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from factory.core.errors import InputError
from factory.deployment.agreement import Outputs
from factory.graph.onnx_load import foreign_errors

Samples = np.ndarray | Mapping[str, np.ndarray]
"""Values for N runs of a model: pictures [N, *one picture] for its one input, whose batch is one,
or for each of its inputs [N, *shape of the input]."""

DTYPES: dict[str, Any] = {
    "bool": np.bool_,
    "double": np.float64,
    "float": np.float32,
    "float16": np.float16,
    "string": np.object_,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip
"""By the name in ``tensor(...)``."""


def count(samples: Samples) -> int:
    """How many runs there are values for."""
    return len(samples if isinstance(samples, np.ndarray) else next(iter(samples.values())))


def part(samples: Samples, which: slice) -> Samples:
    """Some of the runs."""
    if isinstance(samples, np.ndarray):
        return samples[which]
    return {name: values[which] for name, values in samples.items()}


def feeds(samples: Samples, inputs: Sequence[tuple[str, int]]) -> Iterator[dict[str, np.ndarray]]:
    """What each run is fed with.

    Args:
        samples: the values.
        inputs: (name, number of dimensions) of each input of the model.
    """
    if isinstance(samples, np.ndarray):
        if len(inputs) != 1:
            raise InputError(f"the model has {len(inputs)} inputs, and there are only pictures")
        name, rank = inputs[0]
        for image in samples:
            yield {name: image[None] if rank == samples.ndim else image}
        return
    lacking = [name for name, _ in inputs if name not in samples]
    if lacking:
        raise InputError(f"there are no values for the input {lacking[0]!r}")
    for number in range(count(samples)):
        yield {name: np.asarray(samples[name][number]) for name, _ in inputs}


def open_session(
    model: Path | str | bytes,
    provider: str = "CPUExecutionProvider",
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """A single-threaded session; InputError with the runtime's reason when it does not load."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    content = model if isinstance(model, bytes) else str(model)
    name = "the model" if isinstance(model, bytes) else str(model)
    with foreign_errors(f"{name} does not load on {provider}", fix=""):
        return ort.InferenceSession(content, options, providers=[provider])


def run_outputs(session: ort.InferenceSession, samples: Samples) -> Outputs:
    """Every output for each sample, [N, values]; elements of sequences one after the other."""
    taken = session.get_inputs()
    types = {}
    for one in taken:
        kind = DTYPES.get(one.type.removeprefix("tensor(").removesuffix(")"))
        if kind is None:
            raise InputError(
                f"the input {one.name!r} has the type {one.type}, no tensor of numbers"
            )
        types[one.name] = kind
    names = [one.name for one in session.get_outputs()]
    rows: list[list[np.ndarray]] = [[] for _ in names]
    for fed in feeds(samples, [(one.name, len(one.shape)) for one in taken]):
        values = {name: value.astype(types[name], copy=False) for name, value in fed.items()}
        with foreign_errors("the model does not run on the CPU", fix="check what it takes"):
            made = session.run(None, values)
        for row, value in zip(rows, made, strict=True):
            row.append(_flat(value))
    return {name: _stacked(row) for name, row in zip(names, rows, strict=True)}


def _flat(value: object) -> np.ndarray:
    """One output as one dimension; an absent optional has no elements."""
    if isinstance(value, list):
        return np.concatenate([_flat(one) for one in value]) if value else np.zeros(0)
    if isinstance(value, dict):
        return np.concatenate([_flat([key, one]) for key, one in value.items()])
    return np.zeros(0) if value is None else np.asarray(value).reshape(-1)


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """[N, values]; where their number differs from sample to sample, all in one column."""
    if len({len(row) for row in rows}) == 1:
        return np.stack(rows)
    return np.concatenate(rows)[:, None]


def run_model(
    model: Path | str | bytes, samples: Samples, config: Mapping[str, str] | None = None
) -> Outputs:
    """:func:`run_outputs` in a session of its own."""
    return run_outputs(open_session(model, config=config), samples)


def run_images(model: Path | str | bytes, samples: Samples) -> np.ndarray:
    """The first output alone, [N, values]."""
    return next(iter(run_model(model, samples).values()))
