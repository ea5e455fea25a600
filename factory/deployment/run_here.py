"""Running a file in this process, for its numbers only: a session, outputs for many pictures.

Times belong to :mod:`factory.devices`, which runs models in a child of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from factory.core.errors import InputError
from factory.graph.onnx_load import foreign_errors

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


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


def run_images(session: ort.InferenceSession, images: np.ndarray) -> np.ndarray:
    """First output for each picture, [N, values] in float64; the file's batch is one."""
    meta = session.get_inputs()[0]
    dtype = DTYPES.get(meta.type)
    if dtype is None:
        raise InputError(f"the input {meta.name!r} has the type {meta.type}, not that of pictures")
    output = session.get_outputs()[0].name
    with_batch = len(meta.shape) == images.ndim
    rows = []
    for image in images:
        fed = (image[None] if with_batch else image).astype(dtype, copy=False)
        with foreign_errors("the model does not run on the CPU", fix="check what it takes"):
            made = np.asarray(session.run([output], {meta.name: fed})[0], np.float64)
        rows.append(made.reshape(-1))
    return np.stack(rows)


def run_model(model: Path | str | bytes, images: np.ndarray) -> np.ndarray:
    """:func:`run_images` in a session of its own."""
    return run_images(open_session(model), images)
