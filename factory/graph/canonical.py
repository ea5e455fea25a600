"""The canonicaliser: two descriptions of one network become one list of kernels.

A search space lowers a genotype to a raw :class:`OpGraph`; an ONNX file is read into another. Both
pass through :func:`canonicalise`, so that kernels are the join key of the whole factory:

1. what does not reach an output is removed;
2. operators that only rename or reshape are removed (Identity, Dropout, Flatten, Reshape to two
   axes or by axes of one element, ...), and weight-free operators of one input that compute the
   same are merged (one Relu for all edges that leave a node); convolutions, Add and Concat never;
3. groups of operators that every runtime runs as one become one (:mod:`factory.graph.patterns`);
4. an activation that is the only consumer of a Conv or Gemm, itself no graph output, becomes the
   ``act`` of that operator.

Every step keeps the order of the operators; the cost is linear in their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from factory.graph.as_quantised import as_quantised
from factory.graph.fusion import NO_RULES, FusionRules, folded
from factory.graph.kernel import Kernel
from factory.graph.opgraph import Node, OpGraph
from factory.graph.patterns import fuse_patterns
from factory.graph.shapes import Shape

FREE = frozenset({"Identity", "Flatten", "Dropout", "Squeeze", "Unsqueeze"})
IMPURE = frozenset(
    {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", "If", "Loop", "Scan"}
)
# ONNX Runtime gives each reader in floats a DequantizeLinear of its own.
NEVER_MERGED = IMPURE | {"DequantizeLinear"}
FUSING = frozenset({"Conv", "Gemm"})


def canonicalise(graph: OpGraph) -> OpGraph:
    """The canonical form of ``graph``; canonicalising twice changes nothing."""
    merged = _merge(_live(graph))
    return _fold_activations(fuse_patterns(merged))


def kernel_counts(
    graph: OpGraph, dtype: str | None = None, fusion: FusionRules = NO_RULES
) -> Counter[Kernel]:
    """How often each kernel occurs in a canonical graph.

    ``dtype`` "i8": of a graph in floats once it is quantised. What the rules of a device fold into
    the operator before it is no kernel.
    """
    counts: Counter[Kernel] = Counter()
    gone = folded(graph, fusion)
    if dtype == "i8":
        graph = as_quantised(graph)
    for node in graph.nodes:
        if node.output in gone:
            continue
        counts[node.kernel()] += 1
    return counts


def opaque_counts(kernels: Mapping[Kernel, int]) -> dict[str, int]:
    """How often each operator of which nothing is known occurs, by name."""
    counts: Counter[str] = Counter()
    for kernel, number in kernels.items():
        counts[kernel.op] += number if kernel.opaque else 0
    return {name: number for name, number in sorted(counts.items()) if number}


def is_quantised(counts: Mapping[Kernel, int]) -> bool:
    """Whether a network holds integer operators or changes between integers and floats."""
    return any(kernel.dtype != "f32" or kernel.kind == "quantise" for kernel in counts)


def activation_name(node: Node) -> str | None:
    """Value of ``act`` that stands for the activation ``node``, None where it cannot fold."""
    if len(node.inputs) != 1 or node.weight is not None:
        return None
    if node.op == "Clip":
        low, high = node.attr("min"), node.attr("max")
        if low == "0" and not high:
            return "relu"
        if not low or not high:
            return None
        return f"clip{high}" if low == "0" else f"clip{low}_{high}"
    if node.op == "HardSigmoid" and node.attrs:
        return None
    return _ACTIVATIONS.get(node.op)


_ACTIVATIONS = {
    "Relu": "relu",
    "HardSwish": "hswish",
    "HardSigmoid": "hsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}


def _live(graph: OpGraph) -> OpGraph:
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update((*node.inputs, *node.made))
    return replace(graph, nodes=kept[::-1])


def _is_free(node: Node) -> bool:
    if len(node.inputs) != 1 or node.weight is not None or node.more_outputs:
        return False
    if node.op in FREE:
        return True
    if node.op == "Reshape":
        return len(node.out_shape) <= 2 or _without_ones(node.out_shape) == _without_ones(
            node.in_shapes[0]
        )
    if node.op == "Cast":
        return node.attr("noop") == "1"
    if node.op in ("Slice", "Pad", "Expand", "Concat", "Transpose"):
        return node.out_shape == node.in_shapes[0] and node.op != "Transpose"
    return False


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size > 1)


def _merge(graph: OpGraph) -> OpGraph:
    same: dict[str, str] = {}  # removed tensor -> the tensor that stands for it
    seen: dict[tuple[object, ...], str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if any(name in same for name in node.inputs):
            node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        if _is_free(node):
            same[node.output] = node.inputs[0]
            continue
        if (
            len(node.inputs) == 1
            and node.weight is None
            and not node.more_outputs
            and node.op not in NEVER_MERGED
        ):
            key = (node.op, node.inputs, node.attrs, node.in_shapes, node.out_shape, node.dtype)
            first = seen.setdefault(key, node.output)
            if first != node.output:
                same[node.output] = first
                continue
        kept.append(node)
    outputs = [same.get(name, name) for name in graph.outputs]
    return replace(graph, nodes=kept, outputs=outputs)


def _fold_activations(graph: OpGraph) -> OpGraph:
    uses: Counter[str] = Counter(graph.outputs)
    for node in graph.nodes:
        uses.update(node.inputs)
    places: dict[str, int] = {}  # tensor -> index of the Conv or Gemm that makes it
    kept: list[Node | None] = []
    for node in graph.nodes:
        place = places.get(node.inputs[0]) if node.inputs else None
        act = None if place is None else activation_name(node)
        if place is not None and act is not None and uses[node.inputs[0]] == 1:
            producer = kept[place]
            assert producer is not None
            attrs = tuple((name, act if name == "act" else value) for name, value in producer.attrs)
            # The fused operator stands where its activation stood, under that output's name.
            kept[place] = None
            kept.append(replace(producer, attrs=attrs, output=node.output))
            continue
        if node.op in FUSING and node.attr("act") == "none":
            places[node.output] = len(kept)
        kept.append(node)
    return replace(graph, nodes=[node for node in kept if node is not None])
