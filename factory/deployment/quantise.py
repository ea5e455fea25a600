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
import onnx_ir as ir
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.calibration import WIDEST_RANGE, Feeder, Method, calibrate, infinite
from factory.deployment.flavours import CPU_FLAVOUR, Flavour
from factory.deployment.manifest import ModelManifest, describe_model
from factory.deployment.passes.clip_to_max_min import clip_to_max_min
from factory.deployment.passes.plain_gemm import plain_gemm
from factory.deployment.passes.remove_unused import remove_unused
from factory.deployment.quiet import silenced
from factory.deployment.run_here import Samples, part, run_model
from factory.deployment.trials import without_form
from factory.graph.onnx_load import foreign_errors, load_onnx, with_shapes

PREPARE = (plain_gemm, clip_to_max_min)
"""Rewrites to forms that the runtime's quantiser knows."""


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
    calibration: Samples,
    config: QuantiseConfig | None = None,
    flavour: Flavour = CPU_FLAVOUR,
) -> ModelManifest:
    """Write the int8 twin of the fp32 file ``path`` to ``out``, metadata kept.

    Args:
        path: an fp32 ONNX file of fixed shapes.
        out: the file to write, atomically.
        calibration: normalised training images, [N,C,H,W] float, or values for every input.
        config: calibration method and weight options.
        flavour: which number types the runtime wants.
    """
    config = config or QuantiseConfig()
    quantiser = Quantiser(read_fp32(path), calibration, config, flavour, where=str(path))
    model = quantiser.model(config.method)
    write_atomic_bytes(out, model.SerializeToString(deterministic=True))
    return describe_model(out)


class Quantiser:
    """The int8 forms of one model in one flavour.

    The graph is brought into forms that the runtime's quantiser knows (PREPARE), ranges are found
    once a method, and operators that have no int8 form stay in floats: those that compute in other
    widths or hold values that are not finite, and those whose int8 form the runtime cannot run.

    Args:
        source: the fp32 model, shapes inferred.
        calibration: values for its inputs.
        config: weight options; ``method`` is not looked at.
        flavour: which number types the runtime wants.
        ranges: method -> ranges of this very model for these values, where another flavour has
            calibrated it already; what is missing is added.
        where: told when something fails.
    """

    def __init__(
        self,
        source: onnx.ModelProto,
        calibration: Samples,
        config: QuantiseConfig,
        flavour: Flavour = CPU_FLAVOUR,
        *,
        ranges: dict[str, Any] | None = None,
        where: str = "the model",
    ) -> None:
        self.source, self.config, self.flavour, self.where = source, config, flavour, where
        self.samples = check_calibration(source, calibration, where)
        self.ranges: dict[str, Any] = {} if ranges is None else ranges
        self.floats: dict[str, str] | None = None
        prepared = ir.from_proto(source)
        changed = [one_pass(prepared) for one_pass in PREPARE]
        if any(changed):
            remove_unused(prepared)
            self.source = with_shapes(ir.to_proto(prepared), f"{where} could not be prepared")

    def model(
        self, method: Method, *, exclude: Collection[str] = (), only: Collection[str] = ()
    ) -> onnx.ModelProto:
        """The QDQ model with the ranges of ``method``.

        Args:
            method: how the ranges are found.
            exclude: names of nodes that stay in floats.
            only: names of the only nodes to quantise; empty means all.
        """
        ranges = self._ranges(method)
        if self.floats is None:
            self.floats = self._without_int8(ranges)
        return self._attempt(ranges, {*exclude, *self.floats}, only)

    def _ranges(self, method: Method) -> Any:
        if self.flavour.activation == "none":
            return None
        if "minmax" not in self.ranges:
            self.ranges["minmax"] = calibrate(self.source, self.samples, "minmax")
        if method not in self.ranges:
            self.ranges[method] = calibrate(
                self.source,
                self.samples,
                method,
                percentile=self.config.percentile,
                leave_out=infinite(self.ranges["minmax"]),
            )
        return self.ranges[method]

    def _attempt(
        self, ranges: Any, exclude: Collection[str], only: Collection[str] = ()
    ) -> onnx.ModelProto:
        if self.flavour.activation == "none":
            if only:
                exclude = {*exclude, *(n.name for n in self.source.graph.node)} - set(only)
            return _weights_only(self.source, self.config, exclude)
        return quantise_model(
            self.source,
            ranges,
            self.config,
            self.flavour,
            exclude=exclude,
            only=only,
            where=self.where,
            check=not only,  # those are tried, not kept
        )

    def _without_int8(self, ranges: Any) -> dict[str, str]:
        """Name of each node that stays in floats -> why."""
        found: dict[str, str] = {}
        if ranges is not None:
            found = _odd_values(self.source, infinite(self.ranges["minmax"]))
        if not self._fault(ranges, found):
            return found
        nodes = [node for node in self.source.graph.node if node.name not in found]
        blamed = found  # as it was before
        found = found | without_form(nodes, lambda names: self._fault(ranges, blamed, names))
        why = self._fault(ranges, found)
        if why:
            raise InputError(
                f"{self.where} could not be quantised",
                why=why,
                fix="check that it runs in fp32 on the calibration inputs",
            )
        return found

    def _fault(self, ranges: Any, exclude: Collection[str], only: Collection[str] = ()) -> str:
        """Why the runtime does not make or run such a file; "" when it does."""
        try:
            content = self._attempt(ranges, exclude, only).SerializeToString()
            run_model(content, part(self.samples, slice(1)))
        except InputError as error:
            return str(error)
        return ""


def _odd_values(source: onnx.ModelProto, wide: Collection[str]) -> dict[str, str]:
    """Nodes that compute in other widths than 32 bits, or hold values that are not finite."""
    graph = source.graph
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in [*graph.value_info, *graph.input, *graph.output]
    }
    kinds |= {weight.name: weight.data_type for weight in graph.initializer}
    other = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    odd = {
        weight.name
        for weight in graph.initializer
        if weight.data_type == TensorProto.FLOAT
        and not np.abs(onnx.numpy_helper.to_array(weight)).max(initial=0.0) < WIDEST_RANGE
    }
    found = {}
    for node in graph.node:
        values = [name for name in [*node.input, *node.output] if name]
        wrong = next((name for name in values if name in odd or name in wide), None)
        if any(attribute.HasField("g") for attribute in node.attribute):
            found[node.name] = "it holds a graph of its own"
        elif wrong is not None:
            found[node.name] = f"the range of {wrong!r} is infinite"
        elif any(kinds.get(name) in other for name in values):
            found[node.name] = "it computes in floats of another width"
    return found


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
    check: bool = True,
) -> onnx.ModelProto:
    """The QDQ model for known ranges.

    Args:
        source: the fp32 model.
        ranges: what :func:`factory.deployment.calibration.calibrate` returned for it.
        config: weight options.
        flavour: which number types the runtime wants.
        exclude: names of nodes that stay in floats.
        only: names of the only nodes to quantise; empty means all.
        where: told when it fails.
        check: let ONNX's checker look at it.
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
    # A scale a channel does not fit the weights of groups, [Cin, Cout / groups, ...].
    overrides: dict[str, Any] = {
        node.input[1]: [{"quant_type": types[flavour.weight], "symmetric": flavour.weight == "s8"}]
        for node in source.graph.node
        if node.op_type == "ConvTranspose"
        and any(a.name == "group" and a.i > 1 for a in node.attribute)
    }
    options["TensorQuantOverrides"] = overrides
    ops = sorted({*QLinearOpsRegistry, *QDQRegistry} - set(flavour.skip_ops))
    with silenced() as said:
        try:
            if flavour.qnn:
                options |= _qnn_options(source, flavour, types, exclude, overrides)
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
    if check:
        with foreign_errors("the quantised model is not valid"):
            onnx.checker.check_model(model, full_check=True)
    return model


def _qnn_options(
    source: onnx.ModelProto,
    flavour: Flavour,
    types: Any,
    exclude: Collection[str],
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """Extra options of the runtime's own QNN configuration for this graph."""
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    config = get_qnn_qdq_config(
        source,
        Feeder(source, {v.name: np.zeros(0) for v in source.graph.input}),
        activation_type=types[flavour.activation],
        weight_type=types[flavour.weight],
        per_channel=flavour.per_channel,
        nodes_to_exclude=sorted(exclude),
        init_overrides=overrides,
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


def check_calibration(model: onnx.ModelProto, samples: Samples, where: str) -> Samples:
    """The calibration values, checked; one sentence about what is wrong with them."""
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.input
    }
    for name, dims in shapes.items():
        if 0 in dims:
            raise InputError(
                f"the input {name!r} has shape {dims}, not a fixed one",
                where=where,
                fix="export it with fixed shapes",
            )
    if isinstance(samples, np.ndarray):
        if len(shapes) != 1:
            raise InputError(
                f"the model has {len(shapes)} inputs, and pictures are for one", where=where
            )
        given = {next(iter(shapes)): samples[:, None]}
    else:
        given = dict(samples)
    for name, dims in shapes.items():
        values = given.get(name)
        if values is None:
            raise InputError(f"there are no values for the input {name!r}", where=where)
        if values.shape[1:] != dims or len(values) == 0:
            raise InputError(
                f"calibration values of shape {values.shape} do not fit the input {name!r}, {dims}",
                where=where,
                fix="pass values as an array [N, *shape of the input]",
            )
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise InputError("calibration values hold NaN or infinity", where=where)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    kinds = {name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in types.items()}
    if isinstance(samples, np.ndarray):
        kind = next(iter(kinds.values()))
        if np.issubdtype(kind, np.floating) and not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"calibration images are {samples.dtype}, not float",
                where=where,
                why="ranges must come from normalised pixels",
                fix="normalise them as the model's preprocessing says",
            )
        return np.ascontiguousarray(samples, dtype=kind)
    return {name: np.ascontiguousarray(samples[name], dtype=kind) for name, kind in kinds.items()}
