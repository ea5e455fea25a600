"""Expected kernel counts of the NAS-Bench-201 space, given a soft choice q["cell"] [6, 5].

What a runtime executes depends on the whole cell (dead operators, ReLUs that fold into a
convolution or are shared), and there are few cells: the polynomial is written out over all of
them. One monomial is the probability of one connected cell, prod_e q[e, op_e], in the form of
latency/presence.py: with sum_o q[e, o] = 1 it is the probability that no edge carries another
operator. Cells without a path to the output count as nothing. Kernel counts are linear in the
number of cells per stage from two on, so that deep networks are not lowered in full.
Legend: M connected cells, K kernels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.spaces.nas_bench_201 import Cell201, all_cells, one_hot

if TYPE_CHECKING:
    from factory.spaces.nas_bench_201_space import Spec201

_DEEP = 3  # cells per stage above which counts are extrapolated


@lru_cache(maxsize=8)
def presence(spec: Spec201, dtype: str | None, fusion: FusionRules = NO_RULES) -> PresenceMatrix:
    """The exact polynomial of ``spec``; takes a few seconds the first time."""
    if dtype is not None:
        plain = presence(spec, None, fusion)
        kernels = tuple(kernel.with_dtype(dtype) for kernel in plain.kernels)
        return dataclasses.replace(plain, kernels=kernels)
    cells = [cell for cell in all_cells() if cell.connected]
    # The order of a node's additions, which isomorphic cells do not share, decides what is folded.
    forms = [cell.live() if fusion else cell.canonical() for cell in cells]
    place = {form: i for i, form in enumerate(dict.fromkeys(forms))}
    rows: dict[Kernel, np.ndarray] = {}
    for form, i in place.items():
        for kernel, number in _counts(spec, form, fusion).items():
            rows.setdefault(kernel, np.zeros(len(place)))[i] = number
    kernels = tuple(sorted(rows, key=str))
    of_form = np.stack([rows[kernel] for kernel in kernels])
    coefficients_KM = of_form[:, [place[form] for form in forms]]
    monomials = [("cell", mask == 0) for mask in one_hot(cells)]
    return PresenceMatrix(kernels, np.zeros(len(kernels)), monomials, coefficients_KM)


def _counts(spec: Spec201, cell: Cell201, fusion: FusionRules) -> Counter[Kernel]:
    from factory.spaces.nas_bench_201_space import NasBench201Space

    def at(cells_per_stage: int) -> Counter[Kernel]:
        sized = dataclasses.replace(spec, cells_per_stage=cells_per_stage)
        return NasBench201Space(sized).kernels(cell, fusion=fusion)

    if spec.cells_per_stage <= _DEEP:
        return at(spec.cells_per_stage)
    two, three = at(_DEEP - 1), at(_DEEP)
    more = spec.cells_per_stage - _DEEP
    return Counter({kernel: n + more * (n - two[kernel]) for kernel, n in three.items()})
