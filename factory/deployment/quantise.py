"""Quantisation: an fp32 ONNX file -> a static int8 one in QDQ form, through ONNX Runtime's own.

By default activations are uint8 with a zero point, weights int8 with one scale per output channel,
biases int32; other runtimes want other flavours (:mod:`factory.deployment.flavours`). The ranges
of the activations come from real, already normalised training images.

The runtime's optional pre-processing step is not run: shapes are inferred already, and its graph
optimiser would merge equal Adds and fuse operators for the machine that quantises, not for the
chip that runs the file.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.calibration import Images, Method, calibrate
from factory.deployment.flavours import CPU_FLAVOUR, Flavour
from factory.deployment.manifest import ModelManifest, describe_model
from factory.deployment.quiet import silenced
from factory.graph.onnx_load import foreign_errors, load_onnx


class QuantiseConfig(BaseModel):
    """How the int8 file is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(default="minmax", description="how the range of an activation is found")
    percentile: float = Field(
        default=99.99, gt=50, le=100, description="share of values kept, method percentile"
    )
    per_channel: bool = Field(default=True, description="one weight scale per output channel")
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights, for x86 chips without VNNI, whose int8 products may saturate",
    )


def quantise_onnx(
    path: Path | str,
    out: Path | str,
    calibration: np.ndarray,
    config: QuantiseConfig | None = None,
    flavour: Flavour = CPU_FLAVOUR,
) -> ModelManifest:
    """Write the int8 twin of the fp32 file ``path`` to ``out``, metadata kept.

    Args:
        path: an fp32 ONNX file with one image input of fixed shape and batch 1.
        out: the file to write, atomically.
        calibration: normalised training images, [N,C,H,W] float.
        config: calibration method and weight options.
        flavour: which number types the runtime wants.
    """
    config = config or QuantiseConfig()
    source = read_fp32(path)
    images = check_calibration(source, calibration, str(path))
    ranges = calibrate(source, images, config.method, percentile=config.percentile)
    model = quantise_model(source, ranges, config, flavour, where=str(path))
    write_atomic_bytes(out, model.SerializeToString(deterministic=True))
    return describe_model(out)


def read_fp32(path: Path | str) -> onnx.ModelProto:
    """The model of an fp32 file; InputError when it is missing or quantised already."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist", fix="export the model first")
    source = load_onnx(path)
    if any(node.op_type == "DequantizeLinear" for node in source.graph.node):
        raise InputError(
            f"{path} is quantised already", fix="give the fp32 file that it was made from"
        )
    return source


def quantise_model(
    source: onnx.ModelProto,
    ranges: Any,
    config: QuantiseConfig,
    flavour: Flavour = CPU_FLAVOUR,
    *,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    where: str = "the model",
) -> onnx.ModelProto:
    """The QDQ model for known ranges, checked.

    Args:
        source: the fp32 model.
        ranges: what :func:`factory.deployment.calibration.calibrate` returned for it.
        config: weight options.
        flavour: which number types the runtime wants.
        exclude: names of nodes that stay in floats.
        only: names of the only nodes to quantise; empty means all.
        where: told when it fails.
    """
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    if flavour.activation == "none":
        return _weights_only(source, config, exclude)
    options: dict[str, Any] = {
        "ActivationSymmetric": flavour.activation_symmetric,
        "WeightSymmetric": flavour.weight == "s8",
        "QDQKeepRemovableActivations": flavour.keep_relu,
        **dict(flavour.extra),
    }
    ops = sorted({*QLinearOpsRegistry, *QDQRegistry} - set(flavour.skip_ops))
    with silenced() as said:
        try:
            if flavour.qnn:
                options |= _qnn_options(source, flavour, types, exclude)
                ops = sorted({node.op_type for node in source.graph.node} - {"Cast"})
            quantizer = QDQQuantizer(
                copy.deepcopy(source),
                config.per_channel and flavour.per_channel,
                config.reduce_range,
                types[flavour.weight],
                types[flavour.activation],
                ranges,
                sorted(only),
                sorted(exclude),
                ops,
                options,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            model: onnx.ModelProto = quantizer.model.model
        except Exception as error:
            raise InputError(
                f"{where} could not be quantised",
                why=" ".join(str(error).split())[:300] or said.tail(),
                fix="check that it runs in fp32 on the calibration images",
            ) from error
    keep_identity(source, model)
    with foreign_errors("the quantised model is not valid"):
        onnx.checker.check_model(model, full_check=True)
    return model


def _qnn_options(
    source: onnx.ModelProto, flavour: Flavour, types: Any, exclude: Collection[str]
) -> dict[str, Any]:
    """Extra options of the runtime's own QNN configuration for this graph."""
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    config = get_qnn_qdq_config(
        source,
        Images(source.graph.input[0].name, np.zeros((0,), np.float32)),
        activation_type=types[flavour.activation],
        weight_type=types[flavour.weight],
        per_channel=flavour.per_channel,
        nodes_to_exclude=sorted(exclude),
    )
    return {k: v for k, v in config.extra_options.items() if v is not None}


def _weights_only(
    source: onnx.ModelProto, config: QuantiseConfig, exclude: Collection[str]
) -> onnx.ModelProto:
    """Weights of Conv and Gemm as s8 behind a DequantizeLinear, symmetric, a scale a channel.

    scale_c = max |w_c| / 127,  q = round(w / scale_c): the runtime's own rule for s8 weights.
    """
    model = copy.deepcopy(source)
    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    top = 64 if config.reduce_range else 127
    done: set[str] = set()
    new_nodes = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "ConvTranspose") or node.input[1] not in weights:
            continue
        name = node.input[1]
        if node.name in exclude:
            continue
        array = onnx.numpy_helper.to_array(weights[name])
        if array.dtype != np.float32 or array.ndim < 2:
            continue
        node.input[1] = f"{name}_dequantised"
        if name in done:
            continue
        done.add(name)
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        last = node.op_type == "ConvTranspose" or (node.op_type == "Gemm" and not transposed)
        axis = int(last)
        others = tuple(a for a in range(array.ndim) if a != axis)
        scale = np.maximum(np.abs(array).max(axis=others), 1e-12).astype(np.float32) / top
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        packed = np.clip(np.rint(array / scale.reshape(shape)), -top, top).astype(np.int8)
        graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(packed, f"{name}_quantised"),
                onnx.numpy_helper.from_array(scale, f"{name}_scale"),
                onnx.numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero"),
            ]
        )
        new_nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantised", f"{name}_scale", f"{name}_zero"],
                [f"{name}_dequantised"],
                name=f"{name}_dequantise",
                axis=axis,
            )
        )
    kept = [w for w in graph.initializer if w.name not in done]
    nodes = [*new_nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    keep_identity(source, model)
    with foreign_errors("the quantised model is not valid"):
        onnx.checker.check_model(model, full_check=True)
    return model


def keep_identity(source: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Carry metadata and names over; the quantiser keeps only some of them."""
    props = {p.key: p.value for p in source.metadata_props}
    props["precision"] = "int8"
    onnx.helper.set_model_props(model, props)
    model.producer_name = source.producer_name
    model.graph.name = source.graph.name


def check_calibration(model: onnx.ModelProto, images: np.ndarray, where: str) -> np.ndarray:
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
