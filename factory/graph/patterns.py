"""Groups of operators that every ONNX Runtime runs as one: written out in a file, one kernel here.

- a normalisation over the last axis (mean, difference, square, mean, root, quotient, scale, shift):
  LayerNormalization;
- x * (1 + erf(x / sqrt 2)) / 2 in any order of its factors: Gelu;
- a factor before or after a product of matrices: part of the product;
- a constant factor or summand of each channel after a convolution: part of its weights.

The constants' values are not looked at: only shapes decide the time. Integer operators stay as they
are: ONNX Runtime runs each of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from factory.graph.opgraph import Node, OpGraph
from factory.graph.shapes import elements


def fuse_patterns(graph: OpGraph) -> OpGraph:
    """``graph`` with each group as one operator, at the place of its last one."""
    return _Fuser(graph).fused()


class _Fuser:
    """Finds groups; every tensor within one has no other reader."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.makers = {node.output: node for node in graph.nodes}
        self.uses: Counter[str] = Counter(graph.outputs)
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            self.uses.update(node.inputs)
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)
        self.gone: set[str] = set()
        self.made: dict[str, Node] = {}  # output of a group's last operator -> what it becomes
        self.same: dict[str, str] = {}  # tensor that a factor makes -> what it reads

    def fused(self) -> OpGraph:
        for node in self.graph.nodes:
            if node.op == "Erf":
                self._gelu(node)
            elif node.op == "Sqrt":
                self._layer_norm(node)
        kept = []
        for node in self.graph.nodes:
            if node.output in self.made:
                kept.append(self.made[node.output])
            elif node.output not in self.gone:
                kept.append(node)
        kept = self._into_weights(kept)
        for node in kept:
            if node.op == "MatMul":
                self._factors(node)
        if not (self.gone or self.made or self.same):
            return self.graph
        nodes = [
            replace(node, inputs=tuple(self.same.get(name, name) for name in node.inputs))
            for node in kept
            if node.output not in self.same
        ]
        outputs = [self.same.get(name, name) for name in self.graph.outputs]
        return replace(self.graph, nodes=nodes, outputs=outputs)

    def _only_reader(self, node: Node | None) -> Node | None:
        if node is None or self.uses[node.output] != 1:
            return None
        found = self.readers.get(node.output, [])
        return found[0] if len(found) == 1 else None

    def _takes(self, group: list[Node], node: Node) -> None:
        self.gone |= {one.output for one in group}
        self.made[group[-1].output] = node

    def _gelu(self, erf: Node) -> None:
        inner = self.makers.get(erf.inputs[0])
        plus = self._only_reader(erf)
        if not _factor(inner) or plus is None or plus.op != "Add" or not _number(plus):
            return
        assert inner is not None
        x = inner.inputs[0]
        if self.uses[inner.output] != 1:
            return
        group, last = [inner, erf, plus], plus
        missing = {"x", "half"}
        while missing:
            follower = self._only_reader(last)
            if follower is None or follower.op not in ("Mul", "Div"):
                return
            if _number(follower):
                missing -= {"half"}
            else:
                other = next((name for name in follower.inputs if name != last.output), "")
                halved = self.makers.get(other)
                if other == x:
                    missing -= {"x"}
                elif _factor(halved) and halved is not None and halved.inputs[0] == x:
                    if self.uses[other] != 1:
                        return
                    group.append(halved)
                    missing.clear()
                else:
                    return
            group.append(follower)
            last = follower
        self._takes(group, _alone(last, "Gelu", x, inner))

    def _layer_norm(self, root: Node) -> None:
        plus = self.makers.get(root.inputs[0])
        mean = self.makers.get(plus.inputs[0]) if plus is not None and _number(plus) else None
        square = self.makers.get(mean.inputs[0]) if _last_mean(mean) and mean else None
        if plus is None or mean is None or square is None or square.op not in ("Pow", "Mul"):
            return
        minus = self.makers.get(square.inputs[0])
        middle = self.makers.get(minus.inputs[1]) if minus and len(minus.inputs) == 2 else None
        if minus is None or minus.op != "Sub" or middle is None or not _last_mean(middle):
            return
        x = minus.inputs[0]
        over = self._only_reader(root)
        scale = self._only_reader(over) if over is not None and over.op == "Div" else None
        if middle.inputs[0] != x or scale is None or scale.op != "Mul" or not _vector(scale):
            return
        assert over is not None
        numerator = self.makers.get(over.inputs[0])
        again = (
            numerator is not None
            and numerator.op == "Sub"
            and numerator.inputs == minus.inputs
            and len(over.inputs) == 2
        )
        if not again or numerator is None:
            return
        group = [middle, minus, numerator, square, mean, plus, root, over, scale]
        shift = self._only_reader(scale)
        if shift is not None and shift.op == "Add" and _vector(shift):
            group.append(shift)
        last = group[-1]
        params = sum(one.params for one in group)
        made = _alone(last, "LayerNormalization", x, minus)
        self._takes(
            group,
            replace(made, weight=(made.out_shape[-1],), weight_id=scale.weight_id, params=params),
        )

    def _into_weights(self, nodes: list[Node]) -> list[Node]:
        """Convolutions with the constants behind them, in the place of the last of these."""
        convolutions: dict[str, Node] = {}
        kept: dict[str, Node] = {}
        for node in nodes:
            conv = convolutions.get(node.inputs[0]) if len(node.inputs) == 1 else None
            if conv is not None and self.uses[conv.output] == 1 and _of_channels(node):
                del kept[conv.output]
                self.gone.add(conv.output)
                node = replace(conv, output=node.output, params=conv.params + node.params)
            kept[node.output] = node
            if node.op == "Conv" and node.attr("act") == "none" and node.dtype == "f32":
                convolutions[node.output] = node
        return list(kept.values())

    def _factors(self, product: Node) -> None:
        """The factors before and after a product of matrices."""
        for name in product.inputs:
            before = self.makers.get(name)
            if before is None or not _factor(before) or self.uses[name] != 1:
                continue
            if before.output not in self.gone and before.out_shape == before.in_shapes[0]:
                self.same[name] = self.same.get(before.inputs[0], before.inputs[0])
        after = self._only_reader(product)
        if _factor(after) and after is not None and after.output not in self.gone:
            self.same[after.output] = product.output


def _number(node: Node | None) -> bool:
    """Whether the operator joins one activation with one constant number, in floats."""
    if node is None or len(node.inputs) != 1 or node.dtype != "f32":
        return False
    return node.weight is not None and elements(node.weight) == 1


def _factor(node: Node | None) -> bool:
    return node is not None and node.op in ("Mul", "Div") and _number(node)


def _of_channels(node: Node) -> bool:
    if node.op not in ("Mul", "Add") or node.weight is None or len(node.out_shape) != 4:
        return False
    channels = node.out_shape[1]
    same = node.out_shape == node.in_shapes[0]
    return same and node.weight in ((channels, 1, 1), (1, channels, 1, 1))


def _vector(node: Node) -> bool:
    return node.weight is not None and elements(node.weight) == node.out_shape[-1]


def _last_mean(node: Node | None) -> bool:
    if node is None or node.op != "ReduceMean":
        return False
    return node.attr("axes") == str(len(node.in_shapes[0]) - 1)


def _alone(last: Node, op: str, x: str, reader: Node) -> Node:
    """The operator ``op`` on what ``reader`` reads first, in the place of ``last``."""
    shape = reader.in_shapes[0]
    return Node(op, (x,), last.output, (), (shape,), last.out_shape, dtype=last.dtype)
