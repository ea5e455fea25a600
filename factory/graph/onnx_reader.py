"""Walks through an ONNX graph and collects nodes; what an operator becomes is a handler's work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import onnx

from factory.core.errors import InputError
from factory.core.registry import Registry
from factory.graph.onnx_attributes import attribute_texts, attribute_values, kernel_name
from factory.graph.onnx_check import STANDARD, known_to_onnx
from factory.graph.onnx_constants import Facts
from factory.graph.onnx_costs import node_macs, parameters
from factory.graph.onnx_ops import encode_constant
from factory.graph.onnx_qlinear import QUANTISERS, Quantised
from factory.graph.opgraph import Attrs, Node, OpGraph
from factory.graph.shapes import Shape, elements, output_shape, shape_text

SHORT = 8  # a constant of so many elements is written into the attributes

Handler = Callable[["Reader", onnx.NodeProto], "Node | None"]


class Reader:
    """Goes through the nodes of one model, in order, and collects :class:`Node` objects."""

    def __init__(self, model: onnx.ModelProto, handlers: Registry[Handler]) -> None:
        self._handlers = handlers
        self.facts = Facts(model)
        self.graph = self.facts.model.graph
        self.quantised = Quantised(
            self.graph, self.facts.constants, self.facts.value, self.facts.types
        )
        self.uses: Counter[str] = Counter(value.name for value in self.graph.output)
        for node in self.graph.node:
            self.uses.update((*node.input, *captured(node)))
        self._notes: list[str] = []
        self.nodes: dict[str, Node] = {}  # first output -> node, in order
        self._alias: dict[str, str] = {}

    def read(self) -> OpGraph:
        """The raw graph."""
        inputs = {
            value.name: self.shape(value.name)
            for value in self.graph.input
            if value.name not in self.facts.constants
        }
        gone = {"", *self.facts.constants}
        kept_nodes = [
            _without_first(proto, gone)
            for proto in self.graph.node
            if not all(name in self.facts.constants for name in proto.output if name)
        ]
        for proto in kept_nodes:
            known = proto.op_type in self._handlers and proto.domain in STANDARD
            handler = self._handlers.get(proto.op_type) if known else generic
            try:
                node = handler(self, proto)
                if node is not None:
                    self._keep(proto, node)
            except (LookupError, ValueError, TypeError, ArithmeticError) as error:
                name = proto.name or proto.output[0]
                raise InputError(
                    f"operator {proto.op_type} (node {name!r}) is malformed",
                    where=f"model {self.graph.name!r}",
                    why=str(error),
                    fix="check the file with onnx.checker and export it again",
                ) from None
        outputs = [self.resolve(value.name) for value in self.graph.output]
        made = {*inputs, *self.nodes}
        made.update(name for node in self.nodes.values() for name, _ in node.more_outputs)
        kept = [name for name in outputs if name in made]
        return OpGraph(
            inputs,
            list(self.nodes.values()),
            kept,
            self.graph.name or "network",
            params=parameters(kept_nodes, self.facts),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def note(self, text: str) -> None:
        """Something that a person should know about the graph."""
        self._notes.append(text)

    def _keep(self, proto: onnx.NodeProto, node: Node) -> None:
        if proto.output[0] in self.quantised.outputs:
            node = replace(node, dtype=self.quantised.outputs[proto.output[0]])
        elif node.dtype == "f32":
            node = replace(node, made=self._dequantised_weights(proto))
        more = tuple(
            (name, self.shape(name))
            for name in proto.output[1:]
            if name
            and name not in self.facts.constants
            and (self.uses[name] or proto.op_type == "Split")
        )
        if more and proto.op_type not in ("Dropout", "BatchNormalization"):
            node = replace(node, more_outputs=more)
        macs = node_macs(proto, self.facts.shapes.get)
        if macs is not None and macs != node.kernel().macs:
            node = with_macs(node, macs)
        self.nodes[node.output] = node

    def _dequantised_weights(self, proto: onnx.NodeProto) -> tuple[str, ...]:
        """Nodes that dequantise weights of an operator that runs in floats, at every run."""
        made = []
        for name in proto.input:
            kind = self.quantised.border(name) if name in self.facts.constants else None
            shape = self.facts.shapes.get(name, ())
            if kind is not None and elements(shape) > 1:
                made.append(name)
                attrs = (("from", kind),)
                self.nodes[name] = Node("DequantizeLinear", (), name, attrs, (shape,), shape)
        return tuple(made)

    def _source(self, proto: onnx.NodeProto, name: str) -> str:
        """The tensor that ``proto`` reads for ``name``; dequantised where it runs in floats."""
        source = self.resolve(name)
        kind = self.quantised.border(name)
        if kind is None or name in self.facts.constants or proto.op_type in QUANTISERS:
            return source
        if proto.output[0] in self.quantised.outputs:
            return source
        output = name if name not in self.nodes else f"{name}/{proto.output[0]}"
        shape = self.shape(name)
        attrs = (("from", kind),)
        self.nodes[output] = Node("DequantizeLinear", (source,), output, attrs, (shape,), shape)
        return output

    def resolve(self, name: str) -> str:
        """The tensor that stands for ``name``."""
        return self._alias.get(name, name)

    def alias(self, name: str, source: str) -> None:
        """Let ``name`` stand for ``source`` (an operator that does nothing to time)."""
        self._alias[name] = self.resolve(source)

    def shape(self, name: str) -> Shape:
        """Static shape of a tensor of the model."""
        if name in self.facts.no_tensors:
            return ()
        shape = self.facts.shapes.get(name)
        if shape is None:
            raise InputError(
                f"the shape of tensor {name!r} is not static",
                where=f"model {self.graph.name!r}",
                why=f"{self.facts.maker(name)} decides it when the model runs",
                fix="the model can be measured all the same: `factory verify`",
            )
        if min(shape, default=0) < 0:
            raise InputError(
                f"tensor {name!r} would have the shape {list(shape)}",
                where=f"model {self.graph.name!r}",
                why="its operator does not fit into its input",
                fix="export the model for a larger input",
            )
        return shape

    def activations(self, proto: onnx.NodeProto) -> list[str]:
        """Inputs that depend on the graph inputs."""
        names = [*proto.input, *(name for name in captured(proto) if name not in proto.input)]
        return [name for name in names if name and name not in self.facts.constants]

    def node(
        self,
        proto: onnx.NodeProto,
        attrs: Attrs = (),
        *,
        op: str = "",
        inputs: list[str] | None = None,
        weight: Shape | None = None,
        weight_id: str | None = None,
        params: int = 0,
        out_shape: Shape | None = None,
    ) -> Node:
        """A node for ``proto``; its shape is added to ``attrs`` where no rule gives it."""
        names = self.activations(proto) if inputs is None else inputs
        names = [name for name in names if 0 not in self.shape(name)]
        if weight is not None and 0 in weight:  # it holds nothing
            weight = weight_id = None
        op = op or proto.op_type
        shapes = tuple(self.shape(name) for name in names)
        shape = self.shape(proto.output[0]) if out_shape is None else out_shape
        try:
            derived = output_shape(op, shapes, weight, dict(attrs)) if shapes else None
        except (ValueError, IndexError):
            derived = None
        if derived != shape:
            attrs = (*(pair for pair in attrs if pair[0] != "y"), ("y", shape_text(shape)))
        sources = tuple(self._source(proto, name) for name in names)
        output = proto.output[0]
        return Node(op, sources, output, attrs, shapes, shape, weight, weight_id, params)

    def constant_shape(self, proto: onnx.NodeProto, index: int) -> Shape | None:
        """Shape of the constant input ``index``, None where it is absent or an activation."""
        if len(proto.input) <= index or proto.input[index] not in self.facts.constants:
            return None
        return self.shape(proto.input[index])

    def numbers(self, proto: onnx.NodeProto, index: int) -> list[float] | None:
        """Values of the constant input ``index``, None where they are absent or unknown."""
        if self.constant_shape(proto, index) is None:
            return None
        value = self.facts.value(proto.input[index])
        return None if value is None else [float(item) for item in value.reshape(-1)]

    def integers(self, proto: onnx.NodeProto, index: int, attribute: str) -> list[int] | None:
        """Integers given as input ``index`` or, in older opsets, as ``attribute``."""
        found = self.numbers(proto, index)
        if found is not None:
            return [int(item) for item in found]
        value = attribute_values(proto).get(attribute)
        return [int(item) for item in value] if isinstance(value, list) else None


def generic(reader: Reader, proto: onnx.NodeProto) -> Node:
    """Any operator: its attributes, short constants as ``c<i>``, the largest one as weight."""
    attrs = dict(attribute_texts(proto))
    op = proto.op_type
    if proto.domain not in STANDARD and not known_to_onnx(proto):
        op = kernel_name(f"{proto.domain}.{op}")
    weight: Shape | None = None
    weight_id, params = None, 0
    for index, name in enumerate(proto.input):
        if not name or name not in reader.facts.constants:
            continue
        size = reader.facts.elements(name)
        value = reader.facts.value(name) if size <= SHORT else None
        if value is not None and value.dtype.kind in "iuf":
            if size:
                attrs[f"c{index}"] = encode_constant(value)
            continue
        params += size
        shape = reader.facts.shapes.get(name, (size,))
        if min(shape, default=1) > 0 and (weight is None or elements(shape) > elements(weight)):
            weight, weight_id = shape, name
    texts = tuple(sorted(attrs.items()))
    return reader.node(proto, texts, op=op, weight=weight, weight_id=weight_id, params=params)


def _without_first(proto: onnx.NodeProto, gone: set[str]) -> onnx.NodeProto:
    """``proto`` with the outputs from its first one on that is there and holds something."""
    first = next(index for index, name in enumerate(proto.output) if name not in gone)
    if not first:
        return proto
    named = onnx.NodeProto()
    named.CopyFrom(proto)
    del named.output[:first]
    return named


def with_macs(node: Node, macs: int) -> Node:
    """``node`` with its MACs as an attribute, before the shape of its output."""
    shape = tuple(pair for pair in node.attrs if pair[0] == "y")
    others = tuple(pair for pair in node.attrs if pair[0] not in ("y", "macs"))
    return replace(node, attrs=(*others, ("macs", str(macs)), *shape))


def captured(proto: onnx.NodeProto) -> list[str]:
    """Tensors from outside that the bodies of a node read."""
    found: dict[str, None] = {}
    for attribute in proto.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            made = {value.name for value in body.input} | {w.name for w in body.initializer}
            for node in body.node:
                for name in (*node.input, *captured(node)):
                    if name and name not in made:
                        found[name] = None
                made.update(node.output)
            found.update(dict.fromkeys(v.name for v in body.output if v.name not in made))
    return list(found)
