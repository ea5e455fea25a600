"""predict: the latency of any ONNX file on a chip, from the chip's table, without the chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.devices.profile import load_profile
from factory.graph.canonical import canonicalise, kernel_counts
from factory.pipeline.tables import predictor_for

SCHEMA_VERSION = 1


def predict(
    model: str | Path, device: str | Path, *, run: str | Path | None = None
) -> dict[str, Any]:
    """Predict how long ``model`` takes on ``device``.

    Args:
        model: an ONNX file with fixed shapes.
        device: a device's id or the path of its profile.
        run: take the predictor of this run folder; by default the device's latency table.

    Raises:
        InputError: no such file or device, no table of it, or a table of another chip.
    """
    from factory.graph.onnx_import import from_onnx, load_onnx

    profile = load_profile(device)
    graph = canonicalise(from_onnx(load_onnx(model)))
    predictor, source = predictor_for(profile, run)
    counts = kernel_counts(graph)
    notes = []
    if predictor.dtype == "i8" and all(kernel.dtype == "f32" for kernel in counts):
        counts = kernel_counts(graph, "i8")
        notes.append("the file is fp32 and the device runs int8: predicted as if quantised")
    if predictor.dtype == "f32" and any(kernel.dtype == "i8" for kernel in counts):
        raise InputError(
            f"{model} is an int8 model and device {profile.id!r} is profiled for fp32",
            why="a table belongs to one precision",
            fix="name a device whose precision is int8 (`factory devices` lists them)",
        )
    answer = predictor.predict(counts).to_dict()
    for part in answer["kernels"]:
        part["ms"] = part["predicted_ms"]
    return {
        **answer,
        "schema_version": SCHEMA_VERSION,
        "model": str(model),
        "device": profile.id,
        "predictor": str(source),
        "warnings": [*notes, *answer["warnings"]],
    }
