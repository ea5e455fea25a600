"""Expected kernel counts of a space, derived from its declaration alone.

A small space is enumerated: one monomial for every network that can be built, the probability that
exactly it is drawn, prod_v q[v, value]; expectations are over these networks alone, so that the
mass of what cannot be built does not make the others look cheap.

A large space says which variables a kernel depends on together (``interactions``). With a reference
assignment r, the first value of every variable, any function of the assignment a is

    n(a) = sum over sets S of variables of d_S(a_S),
    d_S(a_S) = sum over T in S of (-1)^|S - T| n(a on T, r elsewhere),

the cut (anchored) decomposition of Rabitz and Alis, "General foundations of high-dimensional model
representations" (J. Math. Chem. 25, 1999). d_S is zero unless the variables of S interact, so the
sum over subsets of the declared groups is exact, and only the few values of a group are lowered.
Random assignments are compared when it is made. Legend: M monomials, K kernels, E rows, O columns.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np

from factory.graph.fusion import FusionRules
from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix
from factory.spaces.base import ENUMERATED, NETWORK, Choices, SearchSpace

CHECKED = 6  # random assignments that the interactions are checked on


@lru_cache(maxsize=16)
def expected_counts(
    space: SearchSpace[Any], dtype: str | None, fusion: FusionRules
) -> PresenceMatrix:
    """The polynomial of a space; takes a few seconds the first time."""
    if dtype is not None:
        plain = expected_counts(space, None, fusion)
        kernels = tuple(kernel.with_dtype(dtype) for kernel in plain.kernels)
        return dataclasses.replace(plain, kernels=kernels)
    if space.interactions:
        return _interacting(space, fusion)
    if not space.enumerated:
        raise ValueError(
            f"the space {space.KIND!r} has more than {ENUMERATED} assignments: "
            "it must declare `interactions`"
        )
    return _enumerated(space, fusion)


@lru_cache(maxsize=4)
def buildable_choices(space: SearchSpace[Any]) -> np.ndarray:
    """[M, V]: the choices of all networks of a small space, in the order of its monomials."""
    found = [c for c in space.assignments() if space.buildable(space.from_choices(c))]
    return np.array(found, dtype=np.int64)


def of_each_network(space: SearchSpace[Any]) -> list[tuple[str, np.ndarray]]:
    """One monomial for every network of a small space: the probability that it is drawn."""
    (matrix,) = space.matrices
    absent_MEO = np.ones((len(buildable_choices(space)), *matrix.shape), dtype=bool)
    for variable, column in enumerate(buildable_choices(space).T):
        absent_MEO[np.arange(len(column)), variable, column] = False
    return [(matrix.name, mask_EO) for mask_EO in absent_MEO]


def _enumerated(space: SearchSpace[Any], fusion: FusionRules) -> PresenceMatrix:
    networks = [space.from_choices(choices) for choices in buildable_choices(space).tolist()]
    # What a device folds depends on the order of additions, which equal networks do not share.
    forms = [space.live(a) if fusion else space.canonical(a) for a in networks]
    place = {form: i for i, form in enumerate(dict.fromkeys(forms))}
    rows: dict[Kernel, np.ndarray] = {}
    for form, i in place.items():
        for kernel, number in space.kernels(form, fusion=fusion).items():
            rows.setdefault(kernel, np.zeros(len(place)))[i] = number
    kernels = tuple(sorted(rows, key=str))
    of_form = np.stack([rows[kernel] for kernel in kernels])
    coefficients_KM = of_form[:, [place[form] for form in forms]]
    monomials = of_each_network(space)
    return PresenceMatrix(
        kernels, np.zeros(len(kernels)), monomials, coefficients_KM, disjoint=True
    )


def _interacting(space: SearchSpace[Any], fusion: FusionRules) -> PresenceMatrix:
    sizes, index = space.cardinalities, {v.name: i for i, v in enumerate(space.variables)}
    groups = [tuple(sorted(index[name] for name in group)) for group in space.interactions]
    groups += [(i,) for i in range(len(sizes))]
    sets = {
        part for group in groups for n in range(len(group) + 1)
        for part in itertools.combinations(group, n)
    }  # fmt: skip
    known: dict[Choices, Counter[Kernel]] = {}

    def counts(chosen: dict[int, int]) -> Counter[Kernel]:
        """Kernels where these variables have these values and all others their first."""
        choices = tuple(chosen.get(i, 0) for i in range(len(sizes)))
        if choices not in known:
            known[choices] = space.kernels(space.from_choices(choices), fusion=fusion)
        return known[choices]

    (matrix,) = space.matrices
    monomials: list[tuple[str, np.ndarray]] = []
    terms: list[Counter[Kernel]] = []
    for variables in sorted(sets, key=lambda part: (len(part), part)):
        for values in itertools.product(*(range(1, sizes[i]) for i in variables)):
            chosen, difference = dict(zip(variables, values, strict=True)), Counter[Kernel]()
            for n in range(len(variables) + 1):
                for part in itertools.combinations(variables, n):
                    sign = (-1) ** (len(variables) - n)
                    for kernel, number in counts({i: chosen[i] for i in part}).items():
                        difference[kernel] += sign * number
            if any(difference.values()):
                absent_EO = np.zeros(matrix.shape, dtype=bool)
                for variable, value in chosen.items():
                    absent_EO[variable, : sizes[variable]] = True
                    absent_EO[variable, value] = False
                monomials.append((NETWORK, absent_EO))
                terms.append(difference)
    constant = terms.pop(0)
    del monomials[0]
    kernels = tuple(sorted({k for c in known.values() for k in c}, key=str))
    presence = PresenceMatrix(
        kernels,
        np.array([constant[k] for k in kernels], dtype=float),
        monomials,
        np.array([[term[k] for term in terms] for k in kernels], dtype=float),
    )
    _check(space, presence, fusion)
    return presence


def _check(space: SearchSpace[Any], presence: PresenceMatrix, fusion: FusionRules) -> None:
    """Random networks run what the polynomial says."""
    rng = np.random.default_rng(0)
    for _ in range(CHECKED):
        architecture = space.random(rng)
        kernels = space.kernels(architecture, fusion=fusion)
        found = presence.counter(space.one_hot(architecture))
        differs = [k for k in kernels.keys() | found.keys() if kernels[k] != found[k]]
        if differs:
            raise ValueError(
                f"the interactions of the space {space.KIND!r} miss variables that the kernel "
                f"{differs[0]} depends on (seen in {architecture})"
            )
