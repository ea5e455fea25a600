"""OpGraph: a network as a list of operators with static shapes, and the builder of such graphs.

A BatchNorm after a convolution is never a node of a built graph: it is folded into the convolution,
which keeps count of its parameters and elements. Activations are separate nodes until the graph is
canonicalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.core.errors import InputError
from factory.graph.kernel import COMMUTATIVE, Kernel
from factory.graph.shapes import Shape, elements, output_shape, pads_text, shape_text, spatial_text

Attrs = tuple[tuple[str, str], ...]
Size = int | Sequence[int]


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        op: name of the ONNX operator.
        inputs: names of the activation inputs.
        output: name of the (first) output.
        attrs: attributes as a :class:`Kernel` writes them.
        in_shapes: shape of each activation input as this operator sees it.
        out_shape: shape of the (first) output.
        weight: shape of the weight, where there is one.
        weight_id: name of the weight, unique in the graph.
        params: parameters in training: weight, bias, and gamma and beta of a folded BatchNorm.
        bn_elements: output elements of the BatchNorm folded into this operator, else 0.
        dtype: as a :class:`Kernel` has it.
        more_outputs: (name, shape) of the second and further outputs (Split).
        made: outputs of nodes without inputs that make its weights at every run.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Attrs
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    weight: Shape | None = None
    weight_id: str | None = None
    params: int = 0
    bn_elements: int = 0
    dtype: str = "f32"
    more_outputs: tuple[tuple[str, Shape], ...] = ()
    made: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return (self.output, *(name for name, _ in self.more_outputs))

    def attr(self, name: str, default: str = "") -> str:
        """Value of the attribute ``name``, or ``default``."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    def kernel(self) -> Kernel:
        """This operator as a kernel; inputs of commutative operators are put in order."""
        shapes = self.in_shapes
        if len(shapes) > 1 and self.op in COMMUTATIVE and len(set(shapes)) > 1:
            shapes = tuple(sorted(shapes, key=lambda shape: (-elements(shape), shape)))
        return Kernel(self.op, shapes, self.weight, self.attrs, self.dtype)


@dataclass
class OpGraph:
    """A network.

    Attributes:
        inputs: shapes of the inputs by name.
        nodes: operators in topological order.
        outputs: names of the outputs.
        params: parameters of the whole, where they are not the sum of those of its nodes: weights
            that several nodes share count once.
        notes: what a person should know: what was assumed, what is not known.
    """

    inputs: dict[str, Shape]
    nodes: list[Node]
    outputs: list[str]
    name: str = "network"
    params: int | None = None
    notes: tuple[str, ...] = ()

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor, as its producer makes it."""
        found = dict(self.inputs)
        for node in self.nodes:
            found[node.output] = node.out_shape
            found.update(node.more_outputs)
        return found


class GraphBuilder:
    """Builds an :class:`OpGraph` operator by operator; every method returns a tensor's name."""

    def __init__(self, name: str = "network") -> None:
        self.name = name
        self._inputs: dict[str, Shape] = {}
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {}
        self._weight_ids: set[str] = set()

    def shape(self, x: str) -> Shape:
        """Shape of the tensor called ``x``."""
        return self._shapes[x]

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A graph input."""
        if name in self._shapes:
            raise ValueError(f"duplicate tensor {name!r}")
        self._inputs[name] = self._shapes[name] = tuple(shape)
        return name

    def conv(
        self,
        x: str,
        out_channels: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bn: bool = True,
        bias: bool = False,
        weight_id: str | None = None,
    ) -> str:
        """A convolution; ``bn`` folds a BatchNorm (gamma and beta) into it."""
        weight = (out_channels, self._shapes[x][1] // groups, *_pair(kernel))
        attrs = (
            ("s", spatial_text(_pair(stride))),
            ("p", pads_text(_pads(padding))),
            ("d", spatial_text(_pair(dilation))),
            ("g", str(groups)),
            ("act", "none"),
        )
        params = elements(weight) + bias * out_channels + bn * 2 * out_channels
        return self._add("Conv", (x,), attrs, weight, weight_id, params, bn=bn)

    def batch_norm(self, x: str) -> str:
        """A BatchNorm of its own; folded where ``x`` is a convolution that nobody else reads."""
        shape = self._shapes[x]
        params = 2 * shape[1]
        read = any(x in node.inputs for node in self._nodes)
        for index, node in enumerate(self._nodes):
            if node.output == x and node.op == "Conv" and not read:
                self._nodes[index] = replace(
                    node, params=node.params + params, bn_elements=elements(shape)
                )
                return x
        return self._add("BatchNormalization", (x,), (), (shape[1],), None, params, bn=True)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.unary("Relu", x)

    def unary(self, op: str, x: str, attrs: Attrs = ()) -> str:
        """Any operator of one activation input without weights (Sigmoid, HardSwish, Clip...)."""
        return self._add(op, (x,), attrs)

    def max_pool(self, x: str, k: Size, stride: Size, padding: Size = 0) -> str:
        """Maximum over windows of size ``k``."""
        return self._add("MaxPool", (x,), _pool_attrs(k, stride, padding))

    def avg_pool(self, x: str, k: Size, stride: Size, padding: Size = 0) -> str:
        """Mean over windows of size ``k``; padding does not count."""
        return self._add("AveragePool", (x,), _pool_attrs(k, stride, padding))

    def add(self, a: str, b: str) -> str:
        """a + b."""
        return self._add("Add", (a, b), ())

    def mul(self, a: str, b: str) -> str:
        """a * b, with broadcasting."""
        return self._add("Mul", (a, b), ())

    def concat(self, tensors: Sequence[str], axis: int = 1) -> str:
        """Concatenation along ``axis`` (channels)."""
        return self._add("Concat", tuple(tensors), (("axis", str(axis)),))

    def slice_hw(self, x: str, offset: Size) -> str:
        """x[:, :, offset:, offset:]."""
        return self._add("Slice", (x,), (("start", spatial_text(_pair(offset))),))

    def pad_hw(self, x: str, end: Size, begin: Size = 0) -> str:
        """Zeros around the image: ``end`` rows and columns after it, ``begin`` before it."""
        return self._add("Pad", (x,), (("p", pads_text((*_pair(begin), *_pair(end)))),))

    def global_avg_pool(self, x: str) -> str:
        """Mean over each channel, (1, C, 1, 1)."""
        return self._add("GlobalAveragePool", (x,), ())

    def linear(self, x: str, out_features: int, weight_id: str | None = None) -> str:
        """A fully connected layer with bias; an image is flattened first."""
        shape = self._shapes[x]
        if len(shape) > 2:
            flat = (shape[0], elements(shape[1:]))
            x = self._add("Flatten", (x,), (("y", shape_text(flat)),))
        features = self._shapes[x][1]
        weight = (out_features, features)
        params = elements(weight) + out_features
        return self._add("Gemm", (x,), (("act", "none"),), weight, weight_id, params)

    def operator(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: Attrs = (),
        *,
        weight: Sequence[int] | None = None,
        params: int | None = None,
    ) -> str:
        """Any other operator, by the names of its activation inputs; ``weight`` is a shape."""
        shape = None if weight is None else tuple(weight)
        own = (elements(shape) if shape else 0) if params is None else params
        return self._add(op, tuple(inputs), attrs, shape, None, own)

    def dense(self, x: str, out_features: int, *, bias: bool = True) -> str:
        """A fully connected layer over the last axis, the other axes kept."""
        features = self._shapes[x][-1]
        if bias:
            weight = (out_features, features)
            params = elements(weight) + out_features
            return self._add("Gemm", (x,), (("act", "none"),), weight, None, params)
        return self.operator("MatMul", (x,), weight=(features, out_features))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """The same elements in another shape."""
        return self.unary("Reshape", x, (("y", shape_text(tuple(shape))),))

    def transpose(self, x: str, order: Sequence[int]) -> str:
        """The axes in another order."""
        shape = self._shapes[x]
        turned = tuple(shape[axis] for axis in order)
        attrs: Attrs = (("perm", "x".join(map(str, order))),)
        if turned != shape:
            attrs = (*attrs, ("y", shape_text(turned)))
        return self.unary("Transpose", x, attrs)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        """Parts of the given sizes along ``axis``."""
        shape = self._shapes[x]
        parts = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        text = "x".join(map(str, sizes))
        attrs = (("axis", str(axis)), ("sizes", text), ("y", shape_text(parts[0])))
        first = self.unary("Split", x, attrs)
        more = tuple((f"{first}_{i}", part) for i, part in enumerate(parts[1:], 1))
        self._nodes[-1] = replace(self._nodes[-1], more_outputs=more)
        self._shapes.update(more)
        return [first, *(name for name, _ in more)]

    def slice(self, x: str, start: Sequence[int], shape: Sequence[int]) -> str:
        """The block of ``shape`` that begins at ``start``, an axis each."""
        x_shape, ends = self._shapes[x], tuple(b + n for b, n in zip(start, shape, strict=True))
        if len(shape) == 4 and not any(start[:2]) and ends == x_shape:
            return self.slice_hw(x, start[2:])
        attrs: Attrs = (("start", spatial_text(tuple(start))), ("y", shape_text(tuple(shape))))
        return self.unary("Slice", x, attrs)

    def finish(self, outputs: Sequence[str]) -> OpGraph:
        """The graph, with the tensors ``outputs`` as its outputs."""
        for name in outputs:
            if name not in self._shapes:
                raise ValueError(f"unknown output {name!r}")
        return OpGraph(dict(self._inputs), list(self._nodes), list(outputs), self.name)

    def _add(
        self,
        op: str,
        inputs: tuple[str, ...],
        attrs: Attrs,
        weight: Shape | None = None,
        weight_id: str | None = None,
        params: int = 0,
        *,
        bn: bool = False,
    ) -> str:
        index = len(self._nodes)
        name = f"{op.lower()}_{index}"
        shapes = tuple(self._shapes[x] for x in inputs)
        try:
            shape = output_shape(op, shapes, weight, dict(attrs))
        except ValueError as error:
            sizes = " and ".join(map(shape_text, shapes))
            raise InputError(
                f"{op} does not fit its input of shape {sizes}",
                where=f"graph {self.name!r}, operator {index}",
                why=str(error),
                fix="use a larger input or fewer layers",
            ) from None
        if weight is not None:
            weight_id = weight_id or f"{name}.weight"
            if weight_id in self._weight_ids:
                raise ValueError(f"duplicate weight_id {weight_id!r}")
            self._weight_ids.add(weight_id)
        bn_elements = elements(shape) if bn else 0
        node = Node(op, inputs, name, attrs, shapes, shape, weight, weight_id, params, bn_elements)
        self._nodes.append(node)
        self._shapes[name] = shape
        return name


def _pair(value: Size) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _pads(value: Size) -> tuple[int, ...]:
    pads = _pair(value)
    return pads * 2 if len(pads) == 2 else pads


def _pool_attrs(k: Size, stride: Size, padding: Size) -> Attrs:
    return (
        ("k", spatial_text(_pair(k))),
        ("s", spatial_text(_pair(stride))),
        ("p", pads_text(_pads(padding))),
    )
