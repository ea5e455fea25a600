"""Fusion rules: operators that cost nothing of their own as a runtime folds them into another.

Some execution providers show the graph that they run; of those that compile a partition into one
node only times can tell. A rule says that an operator of the kind ``second`` which alone reads what
an operator of the kind ``first`` makes is folded into it (nn-Meter, Zhang et al., MobiSys 2021,
tells such pairs by measuring). Rules are found on a device by profiling/fusion_tests.py; everything
that counts the kernels of a network for that device takes them from here, so that a table, a
prediction and a search agree.

Activations of convolutions are part of a canonical kernel and need no rule. What can be folded:
additions and products of two tensors of one shape, activations, and x * sigmoid(x) ("Silu"). A
convolution that has an activation already takes nothing more in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from factory.core.errors import InputError
from factory.graph.opgraph import Node, OpGraph

CONVOLUTIONS = ("conv_dense", "conv_pointwise", "conv_depthwise", "conv_grouped")
MERGES = ("Add", "Mul")
SILU = "Silu"
UNARY = ("Relu", "Clip", "HardSwish", "LeakyRelu", "Tanh", SILU)
FIRSTS = (*CONVOLUTIONS, "Add", "Concat")


@dataclass(frozen=True, order=True)
class FusionRule:
    """An operator ``second`` that reads a ``first`` is folded into it; as text "first+second".

    Attributes:
        first: kind of a convolution (:attr:`Kernel.kind`), or the name of an operator.
        second: name of an operator, or "Silu".
    """

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}+{self.second}"

    @classmethod
    def parse(cls, text: str) -> FusionRule:
        """The rule that prints as ``text``; InputError on a pair that is not in :data:`PAIRS`."""
        rule = cls(*text.split("+", 1)) if text.count("+") == 1 else None
        if rule not in PAIRS:
            raise InputError(
                f"{text!r} is not a fusion rule",
                fix=f"write it as first+second, like {PAIRS[0]}",
            )
        return rule


# The pairs that a device is tested for: what neither canonical kernels hold nor convolutions are.
PAIRS: tuple[FusionRule, ...] = tuple(
    FusionRule(first, second)
    for first in FIRSTS
    for second in (
        (*MERGES, "LeakyRelu", SILU)
        if first in CONVOLUTIONS
        else (*(MERGES if first == "Add" else ()), *UNARY)
    )
)
FusionRules = frozenset[FusionRule]
NO_RULES: FusionRules = frozenset()


def parse_rules(texts: Iterable[str]) -> FusionRules:
    """Rules from their texts."""
    return frozenset(FusionRule.parse(text) for text in texts)


def rule_texts(rules: Iterable[FusionRule]) -> list[str]:
    """Texts of rules, in order."""
    return [str(rule) for rule in sorted(rules)]


def folded(graph: OpGraph, rules: FusionRules) -> frozenset[str]:
    """Outputs of the operators of a canonical graph that ``rules`` fold into the one before."""
    if not rules:
        return frozenset()
    uses: Counter[str] = Counter(graph.outputs)
    for node in graph.nodes:
        uses.update(node.inputs)
    makers = {node.output: node for node in graph.nodes}
    found: set[str] = set()
    for node in graph.nodes:
        sigmoid = _sigmoid_of_silu(node, makers, uses)
        if sigmoid is not None:
            # Both read x: nobody else may.
            if _takes(makers.get(sigmoid.inputs[0]), node, SILU, rules, uses, readers=2):
                found |= {sigmoid.output, node.output}
        elif any(_takes(makers.get(x), node, node.op, rules, uses) for x in node.inputs):
            found.add(node.output)
    return frozenset(found)


def _takes(
    first: Node | None,
    second: Node,
    name: str,
    rules: FusionRules,
    uses: Counter[str],
    readers: int = 1,
) -> bool:
    """Whether ``first`` takes ``second``, which is called ``name``, in."""
    if first is None or first.attr("act", "none") != "none" or uses[first.output] != readers:
        return False
    operands = 2 if name in (*MERGES, SILU) else 1
    shapes = {*second.in_shapes, second.out_shape, first.out_shape}
    if len(second.in_shapes) != operands or len(shapes) != 1:
        return False
    kind = first.kernel().kind if first.op == "Conv" else first.op
    return FusionRule(kind, name) in rules


def _sigmoid_of_silu(node: Node, makers: dict[str, Node], uses: Counter[str]) -> Node | None:
    """The Sigmoid where ``node`` is the product of x * sigmoid(x)."""
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        maker = makers.get(other)
        if maker is not None and maker.op == "Sigmoid" and maker.inputs == (x,):
            return maker if uses[other] == 1 else None
    return None
