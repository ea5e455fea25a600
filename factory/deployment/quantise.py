"""Quantisation: an fp32 ONNX file -> a static int8 one in QDQ form, through ONNX Runtime's own.

Activations are uint8 with a zero point, weights int8 with one scale per output channel, biases
int32. The ranges of the activations come from real, already normalised training images.

The runtime's optional pre-processing step is not run: shapes are inferred already, and its graph
optimiser would merge equal Adds and fuse operators for the machine that quantises, not for the
chip that runs the file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.manifest import ModelManifest, describe_model
from factory.deployment.quiet import silenced

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
HISTOGRAM_IMAGES = 128
"""Entropy and percentile keep every activation of every image in memory: they get no more."""


class QuantiseConfig(BaseModel):
    """How the int8 file is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax", description="how the range of an activation is found"
    )
    percentile: float = Field(
        default=99.99, gt=50, le=100, description="share of values kept, method percentile"
    )
    per_channel: bool = Field(default=True, description="one weight scale per output channel")
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights, for x86 chips without VNNI, whose int8 products may saturate",
    )


class _Images(CalibrationDataReader):
    """Feeds one picture at a time (the file's batch is fixed at one)."""

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


def quantise_onnx(
    path: Path | str,
    out: Path | str,
    calibration: np.ndarray,
    config: QuantiseConfig | None = None,
) -> ModelManifest:
    """Write the int8 twin of the fp32 file ``path`` to ``out``, metadata kept.

    Args:
        path: an fp32 ONNX file with one image input of fixed shape and batch 1.
        out: the file to write, atomically.
        calibration: normalised training images, [N,C,H,W] float.
        config: calibration method and weight options.
    """
    config = config or QuantiseConfig()
    path = Path(path)
    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist", fix="export the model first")
    source = onnx.load(path)
    if any(node.op_type == "DequantizeLinear" for node in source.graph.node):
        raise InputError(
            f"{path} is quantised already", fix="give the fp32 file that it was made from"
        )
    images = _check_calibration(source, calibration, str(path))
    if config.method != "minmax":
        images = images[:HISTOGRAM_IMAGES]
    input_name = source.graph.input[0].name
    options: dict[str, object] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    if config.method == "percentile":
        options["CalibPercentile"] = config.percentile
    with tempfile.TemporaryDirectory(prefix="factory-int8-") as folder, silenced() as said:
        target = Path(folder) / "model.onnx"
        try:
            quantize_static(
                path,
                target,
                _Images(input_name, images),
                quant_format=QuantFormat.QDQ,
                per_channel=config.per_channel,
                reduce_range=config.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[config.method],
                extra_options=options,
            )
            model = onnx.load(target)
        except Exception as error:
            raise InputError(
                f"{path} could not be quantised",
                why=" ".join(str(error).split())[:300] or said.tail(),
                fix="check that it runs in fp32 on the calibration images",
            ) from error
    _keep_identity(source, model)
    onnx.checker.check_model(model, full_check=True)
    write_atomic_bytes(out, model.SerializeToString(deterministic=True))
    return describe_model(out)


def _keep_identity(source: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Carry metadata and names over; the quantiser keeps only some of them."""
    props = {p.key: p.value for p in source.metadata_props}
    props["precision"] = "int8"
    onnx.helper.set_model_props(model, props)
    model.producer_name = source.producer_name
    model.graph.name = source.graph.name


def _check_calibration(model: onnx.ModelProto, images: np.ndarray, where: str) -> np.ndarray:
    """The calibration images as contiguous float32, or one sentence about what is wrong."""
    if len(model.graph.input) != 1:
        raise InputError(f"the model has {len(model.graph.input)} inputs, not one", where=where)
    dims = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    if len(dims) != 4 or dims[0] != 1 or 0 in dims:
        raise InputError(
            f"the input has shape {dims}, not a fixed [1,C,H,W]",
            where=where,
            fix="export it with fixed shapes and batch 1",
        )
    if images.ndim != 4 or images.shape[1:] != dims[1:] or len(images) == 0:
        raise InputError(
            f"calibration images of shape {images.shape} do not fit the input {dims}",
            where=where,
            fix="pass normalised training images as an array [N,C,H,W]",
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"calibration images are {images.dtype}, not float",
            where=where,
            why="ranges must come from normalised pixels",
            fix="normalise them as the model's preprocessing says",
        )
    if not np.isfinite(images).all():
        raise InputError("calibration images hold NaN or infinity", where=where)
    return np.ascontiguousarray(images, dtype=np.float32)
