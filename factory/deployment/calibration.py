"""Calibration: the range of every activation, over real pictures, by onnxruntime.quantization.

Ranges are computed once a method and used for every file that is tried, so that leaving operators
in floats costs a rewrite of the graph and no second pass over the pictures. Histograms are
collected in chunks of pictures, because the runtime's calibrator keeps every activation of a
chunk in memory.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx

from factory.core.errors import InputError
from factory.core.temporary import TemporaryFolder
from factory.deployment.quiet import silenced

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
CHUNK_BYTES = 256 << 20
HISTOGRAM_IMAGES = 128
"""Entropy and percentile are slow over many pictures and gain nothing beyond these."""


class Images:
    """Feeds one picture at a time (the file's batch is fixed at one); a CalibrationDataReader."""

    def __init__(self, input_name: str, images: np.ndarray) -> None:
        self._name, self._images, self._next = input_name, images, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, or None at the end."""
        if self._next >= len(self._images):
            return None
        self._next += 1
        return {self._name: self._images[self._next - 1 : self._next]}

    def __len__(self) -> int:
        return len(self._images)


def calibrate(
    model: onnx.ModelProto, images: np.ndarray, method: Method, *, percentile: float = 99.99
) -> Any:
    """Ranges of the model's activations (a ``TensorsData`` of onnxruntime.quantization).

    Args:
        model: the fp32 model, with shapes inferred.
        images: checked calibration images, float32 [N,C,H,W].
        method: how a range follows from the values.
        percentile: share of the values kept, method percentile.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    taken = model.graph.input[0]
    kind = taken.type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise InputError(
            f"the input {taken.name!r} takes {onnx.TensorProto.DataType.Name(kind).lower()}",
            why="int8 files are calibrated with pictures in 32-bit floats",
            fix="export the network without the conversion of its input",
        )
    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    if method != "minmax":
        images = images[:HISTOGRAM_IMAGES]
    # Symmetric would spend half of the steps of a Relu output on values that never occur.
    extra: dict[str, Any] = (
        {"percentile": percentile, "symmetric": False} if method == "percentile" else {}
    )
    chunk = max(1, CHUNK_BYTES // max(_activation_bytes(model), 1))
    with TemporaryFolder("calib") as folder, silenced() as said:
        path = folder / "model.onnx"
        onnx.save_model(model, path)
        try:
            calibrator = create_calibrator(
                path,
                _quantisable_ops(),
                augmented_model_path=str(folder / "augmented.onnx"),
                calibrate_method=kinds[method],
                extra_options=extra,
            )
            name = model.graph.input[0].name
            for start in range(0, len(images), chunk):
                calibrator.collect_data(Images(name, images[start : start + chunk]))
            return calibrator.compute_data()
        except Exception as error:
            raise InputError(
                f"calibrating by {method} failed",
                why=" ".join(str(error).split())[:300] or said.tail(),
                fix="check that the model runs in fp32 on the calibration images",
            ) from error


def _quantisable_ops() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def _activation_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all activations of one picture."""
    total = 0
    for value in model.graph.value_info:
        size = 4
        for dim in value.type.tensor_type.shape.dim:
            size *= max(dim.dim_value, 1)
        total += size
    return total
