"""Expected kernel counts of a search space: a multilinear polynomial in the choice q.

A space has cell types ("normal", "reduce"); q[type] is an array [E, O] (edges x candidate
operators) whose entry q[e, o] is the probability that edge e is in the network and carries
operator o. How often each canonical kernel is executed is, in expectation over independent edges,

    n(q) = constant + coefficients @ m(q),    m_i(q) = prod_e (1 - sum_o mask_i[e, o] q[e, o]).

A monomial m_i is the probability that *nothing* of its mask was chosen, so what is shared between
edges (one ReLU for all convolutions that read a state, one pool for all edges that want it) is
exact: "at least one" is 1 - m_i. At a one-hot q the counts are the integers of the derived
network: supernet and derived network are one function.
Legend: E edges, O operators, K kernels, M monomials, B leading batch dimensions of q.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from factory.graph.kernel import Kernel

PIECE = 1024
Monomial = tuple[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class PresenceMatrix:
    """Expected counts of ``kernels`` as a function of q (see the module's text).

    Args:
        kernels: the K kernels, in the order of the rows.
        constant: [K], counts that do not depend on the choice.
        monomials: M pairs (cell type, mask_EO of bool).
        coefficients: [K, M].
        activations: candidates A of factorised edges; the columns of q are then operator x
            activation, [E, O * A], operators first.
        disjoint: every monomial is the probability of one whole network, and expectations are
            over these networks alone: constant + coefficients @ m(q) / sum m(q).
    """

    kernels: tuple[Kernel, ...]
    constant: np.ndarray
    monomials: list[Monomial]
    coefficients: np.ndarray
    activations: tuple[str, ...] = ()
    disjoint: bool = False

    def __post_init__(self) -> None:
        k, m = len(self.kernels), len(self.monomials)
        if self.constant.shape != (k,) or self.coefficients.shape != (k, m):
            raise ValueError(
                f"presence of {k} kernels and {m} monomials needs constant [{k}] and coefficients "
                f"[{k}, {m}], not {self.constant.shape} and {self.coefficients.shape}"
            )

    def cell_types(self) -> list[str]:
        """Names of the cell types that q must have, in order of first use."""
        return list(dict.fromkeys(cell_type for cell_type, _ in self.monomials))

    def masks(self, cell_type: str) -> tuple[np.ndarray, np.ndarray]:
        """(index_M of the monomials of ``cell_type``, their masks_MEO as float64)."""
        return self._masks[cell_type]

    @cached_property
    def _masks(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        stacked = {}
        for cell_type in self.cell_types():
            index = [i for i, (name, _) in enumerate(self.monomials) if name == cell_type]
            masks = np.stack([self.monomials[i][1] for i in index]).astype(np.float64)
            stacked[cell_type] = (np.array(index, dtype=np.int64), masks)
        return stacked

    def evaluate_monomials(self, q: Mapping[str, np.ndarray]) -> np.ndarray:
        """m(q), [B, M]; every array of ``q`` is [B, E, O] with the same (or no) B."""
        batch = np.broadcast_shapes(*(np.shape(q[name])[:-2] for name in self.cell_types()))
        values_BM = np.ones((*batch, len(self.monomials)))
        for name in self.cell_types():
            index_M, masks_MEO = self.masks(name)
            q_BEO = np.asarray(q[name])
            if _is_one_hot(q_BEO):  # nothing of the mask was chosen: one product of matrices
                flat = q_BEO.reshape(*q_BEO.shape[:-2], -1).astype(np.float32)
                masks = masks_MEO.reshape(len(index_M), -1).astype(np.float32)
                values_BM[..., index_M] = flat @ masks.T < 0.5
            else:
                absent = 1.0 - np.einsum("meo,...eo->...me", masks_MEO, q_BEO.astype(float))
                values_BM[..., index_M] = np.prod(absent, axis=-1)
        return values_BM

    def scores(
        self, q: Mapping[str, np.ndarray], weights: np.ndarray, constant: float = 0.0
    ) -> np.ndarray:
        """constant + weights @ n(q) of each q, [B]: whole populations at once."""
        base, values_M = self.weighted(weights, constant)
        batches = {np.shape(q[name])[:-2] for name in self.cell_types()}
        if len(batches) != 1 or len(batch := batches.pop()) != 1:
            return np.asarray(base + self.evaluate_monomials(q) @ values_M)
        parts = [  # pieces that stay in the cache
            self.evaluate_monomials({name: q[name][i : i + PIECE] for name in q}) @ values_M
            for i in range(0, batch[0], PIECE)
        ]
        return np.asarray(base + np.concatenate(parts)) if parts else np.zeros(0)

    def counts(self, q: Mapping[str, np.ndarray]) -> np.ndarray:
        """Expected counts, [B, K]: [K] for a single q."""
        return self.constant + self.evaluate_monomials(q) @ self.coefficients.T

    def counter(self, q: Mapping[str, np.ndarray], *, tolerance: float = 1e-9) -> Counter[Kernel]:
        """The counts at a single q without the zeros; integers where q is one-hot."""
        found: Counter[Kernel] = Counter()
        for kernel, count in zip(self.kernels, self.counts(q).tolist(), strict=True):
            if abs(count) > tolerance:
                whole = round(count)
                found[kernel] = whole if abs(count - whole) <= tolerance else count
        return found

    def given(self, chosen: Mapping[str, np.ndarray]) -> PresenceMatrix:
        """The same where every edge's activation is known: per cell type its index, [E]."""
        monomials = []
        for name, mask in self.monomials:
            mask_EOA = mask.reshape(len(mask), -1, len(self.activations))
            monomials.append((name, mask_EOA[np.arange(len(mask)), :, chosen[name]]))
        return dataclasses.replace(self, monomials=monomials, activations=())

    def weighted(self, weights: np.ndarray, constant: float = 0.0) -> tuple[float, np.ndarray]:
        """Reduce to one cost: (c, v_M) with c + v @ m(q) = constant + weights @ n(q).

        ``weights`` [K] are costs per execution of each kernel (milliseconds, MACs), so that a
        step of a search evaluates M products and not K counts.
        """
        weights = np.asarray(weights, dtype=np.float64)
        return constant + float(weights @ self.constant), weights @ self.coefficients


def _is_one_hot(q_BEO: np.ndarray) -> bool:
    """Whether every edge carries exactly one operator or none."""
    binary = bool(np.all((q_BEO == 0) | (q_BEO == 1)))
    return binary and bool(np.all(q_BEO.sum(axis=-1) <= 1))
