"""Writes ONNX nodes one after the other, in fp32 or in QDQ form, for :mod:`graph.onnx_build`.

QDQ: every activation is quantised to uint8 (asymmetric) behind its operator and dequantised before
the next, weights are int8 with a scale an output channel, biases int32: the form that
onnxruntime.quantization writes and that ONNX Runtime fuses to integer operators. Weights are
random (He et al., arXiv 1502.01852), since only shapes and types decide the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from factory.graph.shapes import Shape, elements

OPSET = 20
IR_VERSION = 10
ACTIVATION_SCALE = 0.05
SIGNED_ZERO = 128  # zero point of an activation of either sign

Quantisation = tuple[float, int]  # scale, zero point
SIGNED: Quantisation = (ACTIVATION_SCALE, SIGNED_ZERO)
NUMBER = 0.55  # of an operand of one element
POSITIVE: Quantisation = (ACTIVATION_SCALE, 0)


class Writer:
    """Collects nodes and initialisers; a name stands for the float tensor that readers use.

    Attributes:
        quantised: whether what is written next is in int8.
        float_weights: whether its weights stay in floats even so.
    """

    float_weights = False

    def __init__(self, dtype: str, seed: int) -> None:
        self.quantised = dtype == "i8"
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.ranges: dict[str, Quantisation] = {}
        self.shapes: dict[str, Shape] = {}
        self._readable: dict[str, str] = {}
        self._reshaped: dict[tuple[str, Shape], str] = {}
        self._rng = np.random.default_rng(seed)
        self._range_names: set[str] = set()
        self._count = 0

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node."""
        name = f"{outputs[0]}__{op}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))

    def constant(self, values: np.ndarray, name: str = "") -> str:
        """Add an initialiser and return its name."""
        if not name:
            self._count += 1
            name = f"constant_{self._count}"
        self.initialisers.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, values: list[int] | tuple[int, ...]) -> str:
        """An int64 initialiser (axes, starts, shapes)."""
        return self.constant(np.asarray(values, np.int64))

    def random(self, shape: Shape, fan_in: int) -> np.ndarray:
        """Random normal values, standard deviation sqrt(2 / fan_in)."""
        scale = np.float32(np.sqrt(2.0 / max(fan_in, 1)))
        return self._rng.standard_normal(shape, np.float32) * scale

    def weight(self, name: str, shape: Shape, fan_in: int, axis: int = 0) -> tuple[str, np.ndarray]:
        """A random weight to read and, where quantised, its scale per slice of ``axis``."""
        values = self.random(shape, fan_in)
        if not self.quantised or self.float_weights:
            return self.constant(values, name), np.ones(0, np.float32)
        other = tuple(i for i in range(len(shape)) if i != axis)
        scale = np.maximum(np.abs(values).max(axis=other), 1e-6).astype(np.float32) / 127
        spread = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        whole = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
        zero = np.zeros(scale.shape, np.int8)
        return self._dequantised(name, whole, scale, zero, axis=axis), scale

    def bias(self, name: str, size: int, scale: np.ndarray) -> str:
        """A small random bias to read; int32 at the scale ``scale`` where quantised."""
        values = self._rng.standard_normal(size, np.float32) * np.float32(0.01)
        if not self.quantised or self.float_weights:
            return self.constant(values, name)
        whole = np.rint(values / scale).astype(np.int32)
        return self._dequantised(name, whole, scale, np.zeros(size, np.int32), axis=0)

    def operand(self, name: str, shape: Shape) -> str:
        """A random constant operand of an elementwise operator; uint8 where quantised."""
        values = np.abs(self.random(shape, 2)) + np.float32(0.1)
        if elements(shape) == 1:  # one that changes nothing would be taken out
            values = np.full(shape, NUMBER, np.float32)
        if not self.quantised or self.float_weights:
            return self.constant(values.astype(np.float32), name)
        whole = np.clip(np.rint(values / ACTIVATION_SCALE), 0, 255).astype(np.uint8)
        scale, zero = np.float32(ACTIVATION_SCALE), np.uint8(0)
        return self._dequantised(name, whole, np.asarray(scale), np.asarray(zero))

    def filled(self, name: str, shape: Shape, value: float) -> str:
        """A constant of one value to read (a normalisation's); int8 where quantised."""
        if not self.quantised or self.float_weights:
            return self.constant(np.full(shape, value, np.float32), name)
        whole = np.full(shape, 100 if value else 0, np.int8)
        scale = np.asarray(value / 100 if value else 1.0, np.float32)
        return self._dequantised(name, whole, scale, np.asarray(0, np.int8))

    def _dequantised(
        self, name: str, whole: np.ndarray, scale: np.ndarray, zero: np.ndarray, **attributes: int
    ) -> str:
        inputs = [
            self.constant(whole, f"{name}_q"),
            self.constant(scale, f"{name}_scale"),
            self.constant(zero, f"{name}_zero"),
        ]
        self.node("DequantizeLinear", inputs, [name], **attributes)
        return name

    def graph_input(self, name: str, shape: Shape, *, whole: bool) -> onnx.ValueInfoProto:
        """Declare a graph input: float, or uint8 where ``whole`` and quantised."""
        self.shapes[name] = shape
        if not self.quantised:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        self.ranges[name] = SIGNED
        read = f"{name}_dq"
        if whole:
            self._dequantise(name, read, SIGNED)
        else:
            self._quantise(name, f"{name}_q", SIGNED)
            self._dequantise(f"{name}_q", read, SIGNED)
        self._readable[name] = read
        elem = TensorProto.UINT8 if whole else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, elem, shape)

    def read(self, name: str, shape: Shape) -> str:
        """The float tensor of ``name`` as ``shape`` (a Reshape is added where it differs)."""
        source = self._readable.get(name, name)
        if self.shapes[name] == shape:
            return source
        if elements(self.shapes[name]) != elements(shape):
            raise ValueError(f"tensor {name!r} cannot be read as {shape}")
        key = (name, shape)
        if key not in self._reshaped:
            self._count += 1
            reshaped = f"{name}_as_{self._count}"
            result = self.result(reshaped)
            self._as_shape(source, self.shapes[name], shape, result)
            self.finish(reshaped, shape, self.ranges.get(name, SIGNED))
            self._reshaped[key] = self._readable.get(reshaped, reshaped)
        return self._reshaped[key]

    def _as_shape(self, source: str, before: Shape, after: Shape, result: str) -> None:
        """Squeeze or Unsqueeze where that will do: a runtime moves a Transpose through these."""
        few, many = (after, before) if len(after) < len(before) else (before, after)
        axes, place = [], 0
        for axis, size in enumerate(many):
            if place < len(few) and few[place] == size:
                place += 1
            elif size == 1:
                axes.append(axis)
        if place == len(few) and len(few) + len(axes) == len(many) and axes:
            op = "Squeeze" if many is before else "Unsqueeze"
            self.node(op, [source, self.ints(axes)], [result])
        else:
            self.node("Reshape", [source, self.ints(after)], [result])

    def result(self, name: str) -> str:
        """The name under which an operator must write the tensor ``name``."""
        return f"{name}_f" if self.quantised else name

    def finish(self, name: str, shape: Shape, range_: Quantisation, *, whole: bool = False) -> None:
        """Close the tensor ``name``: quantise it, and dequantise it again unless ``whole``."""
        self.shapes[name] = shape
        self.ranges[name] = range_
        if not self.quantised:
            return
        if whole:
            self._quantise(f"{name}_f", name, range_)
            return
        self._quantise(f"{name}_f", f"{name}_q", range_)
        self._dequantise(f"{name}_q", name, range_)

    def same(self, name: str, source: str) -> None:
        """Let the tensor ``name`` be the one that is read as ``source``."""
        self._readable[name] = source

    def requantise(self, name: str, source: str, range_: Quantisation = SIGNED) -> None:
        """The tensor ``name``: what is read as ``source``, in floats, quantised."""
        self._quantise(source, f"{name}_q", range_)
        self._dequantise(f"{name}_q", name, range_)

    def between(self, name: str, range_: Quantisation = SIGNED) -> str:
        """Quantise and dequantise the float tensor ``name`` inside a fused operator."""
        if not self.quantised:
            return name
        self._quantise(name, f"{name}_q", range_)
        self._dequantise(f"{name}_q", f"{name}_dq", range_)
        return f"{name}_dq"

    def _quantise(self, source: str, target: str, range_: Quantisation) -> None:
        self.node("QuantizeLinear", [source, *self._range(range_)], [target])

    def _dequantise(self, source: str, target: str, range_: Quantisation) -> None:
        self.node("DequantizeLinear", [source, *self._range(range_)], [target])

    def _range(self, range_: Quantisation) -> list[str]:
        scale, zero = range_
        names = [f"scale_{scale:.9g}", f"zero_{zero}"]
        for name, value in zip(names, (np.float32(scale), np.uint8(zero)), strict=True):
            if name not in self._range_names:
                self._range_names.add(name)
                self.constant(np.asarray(value), name)
        return names

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initialisers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="model-factory",
        )
