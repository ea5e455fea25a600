"""Cost terms of a search (latency on a chip, MACs, ...) and their exact values on networks.

A cost is constant + weights @ n(q) with the expected kernel counts n(q) of a presence matrix, a sum
of multilinear polynomials in q. :class:`CostModel` evaluates all terms on one-hot choices, and for
one block of a space's variables all of its options at once, with everything else fixed.
Legend: T terms, M monomials, K options of a block, n entries of q that an option sets.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.units import format_macs, format_ms
from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.spaces.base import ChoiceMatrix, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

    from factory.search.config import SearchConfig

Cost = Callable[[Mapping[str, Any]], "Tensor"]  # q per matrix -> expected cost, differentiable
Choice = tuple[int, ...]  # the option of every block


@dataclass(frozen=True, eq=False)
class CostTerm:
    """One cost of the network that will ship, as a function of the choice.

    Args:
        name: key in histories and results ("latency_ms", "macs").
        presence: expected kernel counts of the *target* network.
        weights: cost of one execution of each kernel of ``presence``.
        constant: cost that does not depend on the choice.
        limit: the budget; None: observed only.
        least: how much of it a network should use where the space has one that does.
        unit: "ms" or "macs" or any text that follows a number.
        device: the chip, for messages.
        exact: the cost of an architecture where ``presence`` only approximates it.
        pool: architectures to fall back on there, by rising exact cost.
    """

    name: str
    presence: PresenceMatrix
    weights: np.ndarray
    constant: float = 0.0
    limit: float | None = None
    unit: str = "ms"
    device: str = ""
    least: float | None = None
    exact: Callable[[Any], float] | None = None
    pool: tuple[Any, ...] = ()

    def with_limit(self, limit: float | None, least: float | None = None) -> CostTerm:
        """The same cost under another budget."""
        return dataclasses.replace(self, limit=limit, least=least)

    def floor(self, largest: float) -> CostTerm:
        """``least`` as a limit: how far the cost is below ``largest``, the most that it can be."""
        assert self.least is not None
        return dataclasses.replace(
            self,
            name=f"{self.name} left",
            weights=-self.weights,
            constant=largest - self.constant,
            limit=largest - self.least,
            least=None,
            exact=None,
        )

    def value(self, q: Mapping[str, np.ndarray]) -> float:
        """The cost at a one-hot choice q (per matrix [E, O])."""
        constant, coefficients_M = self.presence.weighted(self.weights, self.constant)
        return constant + float(coefficients_M @ self.presence.evaluate_monomials(q))

    def text(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "ms":
            return format_ms(value)
        if self.unit == "params":
            return f"{value:,.0f} parameters"
        return format_macs(value) if self.unit == "macs" else f"{value:.4g} {self.unit}"


def exact_cost(term: CostTerm) -> Cost:
    """The expected cost at q, differentiable, exact where q is one-hot."""
    from factory.latency.differentiable import ExpectedCost

    return ExpectedCost(term.weights, term.constant, term.presence)


def additive(term: CostTerm, space: SearchSpace[Any], cfg: SearchConfig, seed: int) -> Cost:
    """The expected cost as it is, exact at a one-hot choice."""
    return exact_cost(term)


def no_cost(term: CostTerm, space: SearchSpace[Any], cfg: SearchConfig, seed: int) -> None:
    """The cost stays out of the gradient."""


def parameters_term(
    presence: PresenceMatrix, limit: float | None = None, name: str = "params"
) -> CostTerm:
    """Trainable parameters of the target network as a cost.

    Weights of every convolution and linear layer, two for every channel that is normalised (all
    convolutions but the depthwise ones), the classifier's bias.
    """
    weights = np.array([_parameters(kernel) for kernel in presence.kernels], dtype=np.float64)
    return CostTerm(name, presence, weights, 0.0, limit, "params")


def _parameters(kernel: Kernel) -> int:
    if kernel.weight is None:
        return 0
    count, outputs = math.prod(kernel.weight), kernel.weight[0]
    if kernel.op == "Conv":
        depthwise = kernel.weight[1] == 1 and kernel.attr("g") == str(outputs)
        return count + (0 if depthwise else 2 * outputs)
    return count + outputs


def macs_term(presence: PresenceMatrix, limit: float | None = None, name: str = "macs") -> CostTerm:
    """Multiply-adds of the target network as a cost."""
    weights = np.array([kernel.macs for kernel in presence.kernels], dtype=np.float64)
    return CostTerm(name, presence, weights, 0.0, limit, "macs")


class Blocks:
    """The blocks of a space's variables, and the options of each as flat entries of q.

    All matrices of the choice lie one after the other in one row of numbers.
    """

    def __init__(self, space: SearchSpace[Any]) -> None:
        self.space = space
        self.offsets: dict[str, int] = {}
        self.size = 0
        for matrix in space.matrices:
            self.offsets[matrix.name] = self.size
            self.size += matrix.shape[0] * matrix.shape[1]
        self.columns = {matrix.name: matrix.shape[1] for matrix in space.matrices}
        self.options: list[list[tuple[int, ...]]] = []
        self.entries: list[np.ndarray] = []  # [K, n] flat entries of every option
        for number, block in enumerate(space.blocks):
            options = list(itertools.product(*(range(space.cardinalities[i]) for i in block)))
            self.options.append(options)
            self.entries.append(
                np.array(
                    [[self._flat(*e) for e in space.entries(number, option)] for option in options]
                )
            )
        self._index = [{o: k for k, o in enumerate(options)} for options in self.options]
        self.skips = np.zeros(self.size, dtype=bool)
        for matrix in space.matrices:
            if matrix.skip is not None and matrix.skips_limited:
                self.skips |= self.flat_mask(matrix.name, _column(matrix, matrix.skip))

    def _flat(self, name: str, row: int, column: int) -> int:
        return self.offsets[name] + row * self.columns[name] + column

    def flat_mask(self, name: str, mask_EO: np.ndarray) -> np.ndarray:
        """A mask of one matrix among the entries of all."""
        flat = np.zeros(self.size, dtype=bool)
        flat[self.offsets[name] : self.offsets[name] + mask_EO.size] = mask_EO.reshape(-1)
        return flat

    def flat_scores(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores of all matrices in one row."""
        return np.concatenate([scores[matrix.name].reshape(-1) for matrix in self.space.matrices])

    def choice_of(self, architecture: Any) -> Choice:
        """The option of every block."""
        own = self.space.choices(architecture)
        pairs = zip(self._index, self.space.blocks, strict=True)
        return tuple(index[tuple(own[i] for i in block)] for index, block in pairs)

    def architecture(self, choice: Choice) -> Any:
        """The inverse of :meth:`choice_of`."""
        values = [0] * len(self.space.cardinalities)
        for block, options, k in zip(self.space.blocks, self.options, choice, strict=True):
            for i, value in zip(block, options[k], strict=True):
                values[i] = value
        return self.space.from_choices(values)


def _column(matrix: ChoiceMatrix, column: int) -> np.ndarray:
    mask_EO = np.zeros(matrix.shape, dtype=bool)
    mask_EO[:, column] = True
    return mask_EO


@lru_cache(maxsize=16)
def blocks_of(space: SearchSpace[Any]) -> Blocks:
    """The blocks of a space, made once."""
    return Blocks(space)


class CostModel:
    """Exact values of several cost terms on one-hot choices.

    ``max_skips`` adds the number of skip connections, where the space counts them, as one more
    term, so that all limits are treated alike.
    """

    def __init__(
        self, space: SearchSpace[Any], terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> None:
        self.blocks, self.terms = blocks_of(space), list(terms)
        limits = [np.inf if term.limit is None else term.limit for term in terms]
        if not self.blocks.skips.any():
            max_skips = None
        count = len(limits) + (max_skips is not None)
        self.base: np.ndarray = np.zeros(count)
        masks: dict[bytes, int] = {}
        rows: list[np.ndarray] = []
        entries: list[tuple[int, int, float]] = []

        def add(t: int, value: float, mask: np.ndarray) -> None:
            m = masks.setdefault(mask.tobytes(), len(rows))
            if m == len(rows):
                rows.append(mask)
            entries.append((t, m, value))

        for t, term in enumerate(terms):
            self.base[t], coefficients = term.presence.weighted(term.weights, term.constant)
            for (name, mask), value in zip(term.presence.monomials, coefficients, strict=True):
                if value != 0.0:
                    add(t, float(value), self.blocks.flat_mask(name, np.asarray(mask)))
        if max_skips is not None:
            limits.append(max_skips + 0.5)
            places = np.flatnonzero(self.blocks.skips)
            self.base[-1] = len(places)
            for i in places:
                add(count - 1, -1.0, np.arange(self.blocks.size) == i)
        self.limits = np.array(limits, dtype=np.float64)
        self._coefficients_TM = np.zeros((count, len(rows)))
        for t, m, value in entries:
            self._coefficients_TM[t, m] += value
        absent_MF: np.ndarray = ~np.array(rows, dtype=bool).reshape(len(rows), self.blocks.size)
        # [M, K] of every block: 1 where the option sets nothing of the mask
        self._factors: list[np.ndarray] = [
            np.asarray(absent_MF[:, chosen].all(2), dtype=np.float64)
            for chosen in self.blocks.entries
        ]

    def costs(self, choice: Choice) -> np.ndarray:
        """All terms at a choice, [T]."""
        return self.base + self._coefficients_TM @ self._product(choice)

    def _product(self, choice: Choice, without: int | None = None) -> np.ndarray:
        product: np.ndarray = np.ones(self._coefficients_TM.shape[1])
        for number, (factor_MK, k) in enumerate(zip(self._factors, choice, strict=True)):
            if number != without:
                product = product * factor_MK[:, k]
        return product

    def block_table(self, block: int, choice: Choice) -> np.ndarray:
        """All terms for every option of one block, the rest as in ``choice``: [T, K]."""
        weights_TM = self._coefficients_TM * self._product(choice, without=block)
        used = weights_TM.any(axis=0)

        return self.base[:, None] + weights_TM[:, used] @ self._factors[block][used]

    def feasible(self, costs: np.ndarray) -> np.ndarray:
        """Whether [T, ...] costs are within all limits."""
        limits = (self.limits * (1 + 1e-12)).reshape(-1, *[1] * (costs.ndim - 1))
        return np.asarray((costs <= limits).all(0))
