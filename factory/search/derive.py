"""From soft parameters to a genotype: the usual discretisation, and the nearest one in budget.

Discretisation of PC-DARTS (arXiv 1907.05737): strength of (edge, operator) = softmax(alpha) x
softmax(beta); per node the two edges with the largest non-none strength, each with its best
operator. Skip limit of P-DARTS (arXiv 1904.12760): the weakest skip of the normal cell is struck
out and the cell derived again until at most M are left.

``repair`` maximises the sum of log strengths of the 16 chosen pairs under all limits: Lagrangian
coordinate ascent over a range of multipliers proposes genotypes, then single nodes and pairs of
nodes are exchanged while the result stays within the limits. A term's ``least`` is one more limit,
from below: a network that leaves more of its budget unused is replaced by the most probable one
that does not; where the other limits rule that out, it stays as it is. Deterministic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from factory.core.errors import BudgetError
from factory.search.costs import (
    FORBIDDEN,
    N_OPS,
    OP_COLUMNS,
    PLACES,
    SKIP_SLOT,
    Choice,
    CostModel,
    CostTerm,
    Place,
    choice_of,
    genotype_of,
    node_edges,
)
from factory.search.feasibility import largest_cost, nearest_to_limits
from factory.spaces.cell_space import EDGES
from factory.spaces.genotype import CELL_TYPES, NODES, Genotype

Scores = dict[str, np.ndarray]  # per cell type [E, selectable operators], log strengths


def log_scores(alpha: Mapping[str, np.ndarray], beta: Mapping[str, np.ndarray]) -> Scores:
    """log(softmax(alpha) x softmax(beta over the edges of a node)) of the selectable operators."""
    scores: Scores = {}
    for name in CELL_TYPES:
        a = np.asarray(alpha[name], dtype=np.float64)
        b = np.asarray(beta[name], dtype=np.float64)
        log_p = a - _logsumexp(a, axis=1)
        log_b = np.empty_like(b)
        for node in NODES:
            edges = node_edges(node)
            log_b[edges] = b[edges] - _logsumexp(b[edges], axis=0)
        scores[name] = (log_p + log_b[:, None])[:, OP_COLUMNS]
    return scores


def with_activations(genotype: Genotype, activations: Mapping[str, Sequence[str]]) -> Genotype:
    """The genotype with the activation of each of its edges (per cell type [E])."""
    normal, reduce = (
        tuple(
            activations[name][EDGES.index((NODES[i // 2], source))]
            for i, (_, source) in enumerate(genotype.cell(name))
        )
        for name in CELL_TYPES
    )
    return dataclasses.replace(genotype, normal_activations=normal, reduce_activations=reduce)


def strongest_activations(
    values: Mapping[str, Any], names: Sequence[str]
) -> dict[str, list[str]] | None:
    """Per cell type the strongest activation of each edge [E]; None where edges have none."""
    if "gamma" not in values:
        return None
    return {
        cell_type: [names[int(np.argmax(weights_A))] for weights_A in gamma_EA]
        for cell_type, gamma_EA in values["gamma"].items()
    }


def given_activations(
    terms: Sequence[CostTerm], activations: Mapping[str, Sequence[str]] | None
) -> list[CostTerm]:
    """Costs of operators alone where the activation of every edge is known (per cell type [E])."""
    if activations is None:
        return list(terms)
    found = []
    for term in terms:
        names, exact = term.presence.activations, term.exact
        if names:
            chosen = {n: np.array([names.index(a) for a in activations[n]]) for n in activations}
            term = dataclasses.replace(term, presence=term.presence.given(chosen))
        if exact is not None:
            term = dataclasses.replace(term, exact=_with_activations_first(exact, activations))
        found.append(term)
    return found


def _with_activations_first(
    exact: Callable[[Genotype], float], activations: Mapping[str, Sequence[str]]
) -> Callable[[Genotype], float]:
    return lambda genotype: exact(with_activations(genotype, activations))


def uniform_activations(terms: Sequence[CostTerm]) -> list[dict[str, list[str]]]:
    """One activation on all edges, for every candidate of the terms; empty without candidates."""
    names = next((t.presence.activations for t in terms if t.presence.activations), ())
    return [{cell_type: [name] * len(EDGES) for cell_type in CELL_TYPES} for name in names]


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis=axis, keepdims=True)
    return np.asarray(top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True)))


def discretise(scores: Scores, max_skips: int | None = None) -> Genotype:
    """The strongest genotype, regardless of budgets."""
    return genotype_of(_strongest(scores, max_skips))


def _strongest(scores: Scores, max_skips: int | None = None) -> Choice:
    choice: Choice = {}
    for name in CELL_TYPES:
        allowed = scores[name].copy()
        choice.update(_strongest_cell(name, allowed))
        while max_skips is not None and name == "normal":
            skips = [
                (
                    allowed[node_edges(node)[slot // N_OPS], SKIP_SLOT],
                    node_edges(node)[slot // N_OPS],
                )
                for node in NODES
                for slot in choice[name, node]
                if slot % N_OPS == SKIP_SLOT
            ]
            if len(skips) <= max_skips:
                break
            allowed[min(skips)[1], SKIP_SLOT] = -np.inf
            choice.update(_strongest_cell(name, allowed))
    return choice


def _strongest_cell(name: str, scores_EO: np.ndarray) -> Choice:
    choice: Choice = {}
    for node in NODES:
        rows = scores_EO[node_edges(node)]
        best = rows.max(1)
        kept = sorted(np.argsort(-best, kind="stable")[:2].tolist())
        a, b = (int(s * N_OPS + np.argmax(rows[s])) for s in kept)
        choice[name, node] = (a, b)
    return choice


def repair(
    scores: Scores, terms: Sequence[CostTerm], max_skips: int | None = None
) -> tuple[Genotype, bool]:
    """The most probable genotype found within all limits; and whether it had to be changed.

    A cost that is only approximated in the search (``CostTerm.exact``) is checked exactly: while
    it is over its limit the approximation gets a lower one; at last the term's pool is looked at.
    Raises BudgetError when no genotype is within the limits.
    """
    checked = [t for t in terms if t.limit is not None and t.exact is not None]
    current, changed = list(terms), False
    for _ in range(TIGHTER if checked else 1):
        try:
            genotype, repaired = _repair(scores, current, max_skips)
        except BudgetError:
            if not checked:
                raise
            break
        over = {t.name for t in checked if not _exactly_inside(t, genotype)}
        if not over:
            return genotype, repaired or changed
        changed = True
        approximate = CostModel(current).costs(choice_of(genotype))
        current = [
            t.with_limit(min(float(t.limit or 0), float(v)) * 0.99) if t.name in over else t
            for t, v in zip(current, approximate, strict=False)
        ]
    return _from_pool(scores, terms, checked), True


TIGHTER = 8  # lower limits that an approximated cost is tried with


def _exactly_inside(term: CostTerm, genotype: Genotype) -> bool:
    assert term.exact is not None
    assert term.limit is not None
    return term.exact(genotype) <= term.limit * (1 + 1e-12)


def _from_pool(scores: Scores, terms: Sequence[CostTerm], checked: Sequence[CostTerm]) -> Genotype:
    """The most probable of the pools within all limits, improved node by node."""
    model, tables = CostModel(terms), _tables(scores)

    def inside(choice: Choice) -> bool:
        return bool(model_of_rest.feasible(model_of_rest.costs(choice))) and all(
            _exactly_inside(t, genotype_of(choice)) for t in checked
        )

    rest = [t for t in terms if t.exact is None]
    model_of_rest = CostModel(rest)
    choices = [choice_of(genotype) for t in checked for genotype in t.pool]
    found = [choice for choice in choices if inside(choice)]
    if not found:
        raise _no_network([t for t in model.terms if t.limit is not None])
    best = max(found, key=lambda choice: _total(tables, choice))
    for place in PLACES:
        order = np.argsort(-tables[place], axis=None, kind="stable")[:OPTIONS]
        for k in order:
            a, b = (int(i) for i in np.unravel_index(int(k), tables[place].shape))
            trial = {**best, place: (a, b)}
            if tables[place][a, b] <= tables[place][best[place]]:
                break
            if inside(trial):
                best = trial
                break
    return genotype_of(best)


OPTIONS = 12  # of a node that are tried with exact costs


def _no_network(limited: Sequence[CostTerm]) -> BudgetError:
    return BudgetError(
        "no network in this space meets the budgets "
        + ", ".join(f"{t.name} {t.text(float(t.limit or 0))}" for t in limited),
        fix="raise the budgets, or lower the channels or layers of the space",
    )


def _repair(
    scores: Scores, terms: Sequence[CostTerm], max_skips: int | None
) -> tuple[Genotype, bool]:
    limited = [term for term in terms if term.limit is not None]
    derived = _strongest(scores, max_skips)
    if not limited:
        return genotype_of(derived), False
    costs = CostModel(limited).costs(derived)
    inside = bool(CostModel(limited).feasible(costs))
    if inside and all(c >= (t.least or 0.0) for t, c in zip(limited, costs, strict=True)):
        return genotype_of(derived), False
    with_floor = [(term, largest_cost(term)) for term in limited if term.least is not None]
    floors = [term.floor(most) for term, most in with_floor if most > (term.least or 0.0)]
    for extra in _fewer(floors):
        if inside and not extra:
            return genotype_of(derived), False
        for skips in dict.fromkeys((max_skips, None)):
            if skips is None and extra:
                continue  # the skip limit comes before a budget that is used up
            found = _search(CostModel([*limited, *extra], skips), scores, derived, len(extra))
            if found is not None:
                return genotype_of(found), True
    raise _no_network(limited)


def _fewer(floors: Sequence[CostTerm]) -> list[list[CostTerm]]:
    """All floors, then each alone, then none."""
    alone = [[floor] for floor in floors] if len(floors) > 1 else []
    return [list(floors), *alone, []] if floors else [[]]


def _tables(scores: Scores) -> dict[Place, np.ndarray]:
    """Per place the score of every pair of slots, -inf where it is no option."""
    tables = {}
    for name, node in PLACES:
        flat = scores[name][node_edges(node)].reshape(-1)
        table = flat[:, None] + flat[None, :]
        tables[name, node] = np.where(FORBIDDEN[node], -np.inf, table)
    return tables


def _search(model: CostModel, scores: Scores, derived: Choice, floors: int = 0) -> Choice | None:
    """``floors``: how many of the model's terms, after those with a limit, are floors."""
    tables = _tables(scores)
    ratio, smallest = nearest_to_limits(model)
    if ratio > 1 and not bool(model.feasible(model.costs(smallest))):
        return None
    pool = [smallest]
    is_floor = np.arange(len(model.limits)) >= len(model.terms) - floors
    is_floor[len(model.terms) :] = False  # the skip limit
    for pushed in (~is_floor, is_floor)[: 1 + (floors > 0)]:
        choice = derived
        for multiplier in np.geomspace(1e-3, 1e3, 37):
            choice = _penalised(model, tables, choice, float(multiplier) * pushed)
            if bool(model.feasible(model.costs(choice))):
                pool.append(choice)
    unique = {tuple(sorted(c.items())): c for c in pool}
    ranked = sorted(unique.values(), key=lambda c: (-_total(tables, c), sorted(c.items())))
    improved = [_exchange(model, tables, c) for c in ranked[:3]]
    return min(improved, key=lambda c: (-_total(tables, c), sorted(c.items())))


def _total(tables: Mapping[Place, np.ndarray], choice: Choice) -> float:
    return float(sum(tables[place][choice[place]] for place in PLACES))


def _penalised(
    model: CostModel, tables: Mapping[Place, np.ndarray], choice: Choice, multipliers_T: np.ndarray
) -> Choice:
    """Coordinate ascent of score - sum of multiplier * cost / limit."""
    choice = dict(choice)
    for _ in range(6):
        before = dict(choice)
        for place in PLACES:
            costs = model.node_table(place, choice)
            value = tables[place] - np.tensordot(multipliers_T / model.limits, costs, 1)
            a, b = np.unravel_index(int(np.argmax(value)), value.shape)
            choice[place] = (int(a), int(b))
        if choice == before:
            break
    return choice


def _best_feasible(
    model: CostModel, tables: Mapping[Place, np.ndarray], place: Place, choice: Choice
) -> tuple[float, tuple[int, int]]:
    inside = model.feasible(model.node_table(place, choice))
    value = np.where(inside, tables[place], -np.inf)
    a, b = np.unravel_index(int(np.argmax(value)), value.shape)
    return float(value[a, b]), (int(a), int(b))


def _exchange(model: CostModel, tables: Mapping[Place, np.ndarray], choice: Choice) -> Choice:
    """Exchange nodes, then pairs of nodes, while the score rises within the limits."""
    choice = dict(choice)
    for _ in range(8):
        before = _total(tables, choice)
        for place in PLACES:
            value, slots = _best_feasible(model, tables, place, choice)
            if value > tables[place][choice[place]] + 1e-12:
                choice[place] = slots
        for first in PLACES:
            choice = _exchange_pair(model, tables, first, choice)
        if _total(tables, choice) <= before + 1e-12:
            break
    return choice


def _exchange_pair(
    model: CostModel, tables: Mapping[Place, np.ndarray], first: Place, choice: Choice
) -> Choice:
    table = tables[first]
    order = np.argsort(-table, axis=None, kind="stable")[:24]
    options = [tuple(int(i) for i in np.unravel_index(int(k), table.shape)) for k in order]
    best, best_total = choice, _total(tables, choice)
    for a, b in options:
        if not np.isfinite(table[a, b]):
            continue
        trial = {**choice, first: (a, b)}
        rest = _total(tables, trial)
        for second in PLACES:
            if (
                second == first
                or rest - tables[second][trial[second]] + tables[second].max() <= best_total + 1e-12
            ):
                continue
            value, slots = _best_feasible(model, tables, second, trial)
            total = rest - tables[second][trial[second]] + value
            if total > best_total + 1e-12:
                best, best_total = {**trial, second: slots}, total
    return best


__all__ = ["Scores", "discretise", "log_scores", "repair"]
