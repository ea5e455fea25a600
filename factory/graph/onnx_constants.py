"""Static facts of an ONNX graph: the shape of every tensor, and values that need no input."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from factory.graph.onnx_load import inferred
from factory.graph.shapes import Shape

SMALL = 64  # elements of a constant that may be a shape, an axis or a limit
_ROUNDS = 8


class Facts:
    """Shapes, element types and constants of a model with static inputs.

    Attributes:
        model: the model with inferred shapes.
        shapes: static shape of every tensor whose shape is known.
        types: element type (TensorProto.DataType) of every such tensor.
        constants: names of all tensors that do not depend on an input, or hold no element.
        no_tensors: names of sequences, maps and optional values.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = inferred(model)
        self._collect()
        for _ in range(_ROUNDS):
            missing = self.unknown()
            if not missing or not self._fold_shape_arithmetic():
                break
            self.model = inferred(self.model)
            self._collect()
            if len(self.unknown()) >= len(missing):
                break

    def _collect(self) -> None:
        graph = self.model.graph
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}
        self.no_tensors: set[str] = set()
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, np.ndarray | None] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if not value.type.HasField("tensor_type"):
                if value.type.WhichOneof("value"):
                    self.no_tensors.add(value.name)
                continue
            self.types[value.name] = kind.elem_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
        for name, tensor in self._tensors.items():
            self.shapes[name] = tuple(tensor.dims)
            self.types[name] = tensor.data_type
        for sparse in graph.sparse_initializer:
            self.shapes[sparse.values.name] = tuple(sparse.dims)
        self.constants = set(self._tensors) | {s.values.name for s in graph.sparse_initializer}
        self.constants.update(name for name, shape in self.shapes.items() if 0 in shape)
        self._producers: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            for name in node.output:
                self._producers[name] = node
            if self._is_constant(node):
                self.constants.update(node.output)

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        if node.op_type in ("Shape", "Size"):
            return node.input[0] in self.shapes
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            return False
        return all(name in self.constants for name in node.input if name)

    def unknown(self, *, constants: bool = False) -> list[str]:
        """Tensors whose shape is not known; with ``constants`` those too that need no input."""
        return [
            name
            for node in self.model.graph.node
            for name in node.output
            if name
            and name not in self.shapes
            and (constants or name not in self.constants)
            and name not in self.no_tensors
        ]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes the tensor ``name``."""
        return self._producers.get(name)

    def maker(self, name: str) -> str:
        """The operator that makes the tensor ``name``, in words."""
        node = self._producers.get(name)
        if node is None:
            return "an operator"
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return f"operator {operator} (node {node.name or node.output[0]!r})"

    def _fold_shape_arithmetic(self) -> bool:
        """Turn computed shapes into initialisers; whether there were any."""
        graph = self.model.graph
        found = []
        for node in graph.node:
            for name in node.output:
                if name in self.constants and self.types.get(name, 7) == TensorProto.INT64:
                    value = self.value(name)
                    if value is not None and value.size <= SMALL:
                        found.append(numpy_helper.from_array(np.asarray(value), name))
        names = {tensor.name for tensor in found}
        kept = [node for node in graph.node if not names & set(node.output)]
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(found)
        return bool(found)

    def value(self, name: str) -> np.ndarray | None:
        """Value of the constant ``name``, None where it is unknown."""
        if name not in self._values:
            self._values[name] = None
            self._values[name] = self._evaluate(name)
        return self._values[name]

    def _evaluate(self, name: str) -> np.ndarray | None:
        if name in self._tensors:
            try:
                return numpy_helper.to_array(self._tensors[name])
            except (KeyError, ValueError, TypeError):
                return None  # an element type without a numpy equivalent
        node = self._producers.get(name)
        if node is None or name not in self.constants:
            return None
        if node.op_type == "Shape":
            return self._shape_value(node)
        if node.op_type == "Size":
            return np.asarray(np.prod(self.shapes[node.input[0]], dtype=np.int64))
        feeds: dict[str, Any] = {part: self.value(part) for part in node.input if part}
        if any(part is None for part in feeds.values()):
            return None
        try:
            from onnx.reference import ReferenceEvaluator

            results: Any = ReferenceEvaluator(self._alone(node)).run(None, feeds)
            return np.asarray(results[list(node.output).index(name)])
        except Exception:
            return None  # an operator that the reference does not run: the value stays unknown

    def _alone(self, node: onnx.NodeProto) -> onnx.ModelProto:
        empty = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = helper.make_graph([node], "constant", empty, outputs)
        return helper.make_model(graph, opset_imports=self.model.opset_import)

    def _shape_value(self, node: onnx.NodeProto) -> np.ndarray:
        limits: dict[str, int] = {a.name: a.i for a in node.attribute}
        shape = self.shapes[node.input[0]]
        return np.asarray(shape[limits.get("start", 0) : limits.get("end", len(shape))], np.int64)

    def elements(self, name: str) -> int:
        """Number of elements of the tensor ``name`` (1 where its shape is unknown)."""
        return int(np.prod(self.shapes.get(name, ()), dtype=np.int64))
