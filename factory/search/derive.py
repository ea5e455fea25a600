"""From soft parameters to a network: the strongest, and the strongest within all limits.

One :class:`Derivation` serves every space. Small spaces are enumerated: all networks are looked at.
Large ones are descended: a cost is multilinear in the choice, so with all but one block of
variables fixed all options of that block have exact costs at once.

Strength is the sum of the log probabilities of what is chosen, in the cell space softmax(alpha) x
softmax(beta) (PC-DARTS, arXiv 1907.05737). Skip limit of P-DARTS (arXiv 1904.12760): the weakest
skip is struck out and the network derived again until at most M are left.

``repair`` maximises the strength under all limits. In a large space, Lagrangian coordinate ascent
over a range of multipliers proposes networks, then single blocks and pairs of blocks are exchanged
while the result stays within the limits. A term's ``least`` is one more limit, from below: a
network that leaves more of its budget unused is replaced by the strongest one that does not; where
the other limits rule that out, it stays as it is. Budgets go before the skip limit. Deterministic.
Legend: E rows, O columns, M networks, K options of a block.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from factory.core.errors import BudgetError
from factory.search.costs import Choice, CostModel, CostTerm, blocks_of
from factory.spaces.base import SearchSpace
from factory.spaces.expectation import buildable_choices

Scores = dict[str, np.ndarray]  # per matrix of the choice [E, O], log strengths
Objective = Callable[[np.ndarray], np.ndarray]  # costs [T, ...] -> value [...], smaller is better
TIGHTER = 8  # lower limits that an approximated cost is tried with
OPTIONS = 12  # of a block that are tried with exact costs


def derivation_of(space: SearchSpace[Any]) -> Derivation:
    """How networks of a space are derived; made once."""
    return _made(space)


@lru_cache(maxsize=16)
def _made(space: SearchSpace[Any]) -> Derivation:
    enumerated = space.enumerated and not space.interactions
    return Enumerated(space) if enumerated else Descended(space)


class Derivation(abc.ABC):
    """Networks of a space from parameters, under limits."""

    def __init__(self, space: SearchSpace[Any]) -> None:
        self.space = space

    @abc.abstractmethod
    def repair(
        self, scores: Scores, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Any, bool]:
        """The strongest network found within all limits, and whether it is another one.

        Raises BudgetError when no network is within the limits.
        """

    @abc.abstractmethod
    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> dict[str, float]:
        """Smallest value of every limited cost; BudgetError when the limits cannot be met.

        A skip limit that cannot be held together with the budgets is no error (the budgets win).
        """

    @abc.abstractmethod
    def smallest(self, term: CostTerm) -> tuple[float, Any]:
        """Smallest value of one cost over the space, and a network that has it."""

    @abc.abstractmethod
    def largest(self, term: CostTerm) -> float:
        """Largest value of one cost over the space."""

    def scores(self, values: Mapping[str, Any]) -> Scores:
        """Log strengths of architecture parameters ({"alpha": ..., "beta": ...} by matrix)."""
        found: Scores = {}
        for matrix in self.space.matrices:
            a = np.asarray(values["alpha"][matrix.name], dtype=np.float64)
            log_p = a - _logsumexp(a, axis=1)
            if matrix.kept is not None:
                b = np.asarray(values["beta"][matrix.name], dtype=np.float64)
                log_b = np.empty_like(b)
                for node in dict.fromkeys(matrix.nodes):
                    rows = np.flatnonzero(np.array(matrix.nodes) == node)
                    log_b[rows] = b[rows] - _logsumexp(b[rows], axis=0)
                log_p = log_p + log_b[:, None]
            found[matrix.name] = log_p
        return found

    def discretise(self, scores: Scores, max_skips: int | None = None) -> Any:
        """The strongest network, whatever it costs."""
        return self.repair(scores, [], max_skips)[0]

    def strength(self, scores: Scores, architecture: Any) -> float:
        """Sum of the log strengths of what is chosen."""
        q = self.space.one_hot(architecture)
        return float(sum(scores[name][q[name] > 0].sum() for name in q))

    def costs(self, terms: Sequence[CostTerm], architecture: Any) -> dict[str, float]:
        """Exact costs of a network by the name of the term."""
        q = self.space.one_hot(architecture)
        return {
            term.name: term.value(q) if term.exact is None else term.exact(architecture)
            for term in terms
        }

    def front(
        self,
        scores: Scores,
        terms: Sequence[CostTerm],
        count: int,
        max_skips: int | None = None,
    ) -> list[dict[str, Any]]:
        """The strongest network under each of ``count`` budgets of the first term.

        Budgets are spaced evenly in their logarithm, from the smallest that the space can meet to
        what the network derived without budgets costs; all other limits hold for every network.
        Networks that another one equals or beats in both cost and strength are left out. Each
        entry: "limit", "costs" by term, "strength", "genotype".
        """
        if not terms or count < 1:
            return []
        term, others = terms[0], list(terms[1:])
        free = self.costs([term], self.discretise(scores, max_skips))[term.name]
        smallest = self.smallest(term)[0] * 1.001
        found: list[dict[str, Any]] = []
        for limit in np.geomspace(smallest, max(smallest, free), count):
            try:
                network, _ = self.repair(
                    scores, [term.with_limit(float(limit)), *others], max_skips
                )
            except BudgetError:
                continue
            found.append(
                {
                    "limit": float(limit),
                    "costs": self.costs(terms, network),
                    "strength": self.strength(scores, network),
                    "genotype": self.space.to_dict(network),
                }
            )
        front: list[dict[str, Any]] = []
        for entry in sorted(found, key=lambda e: (e["costs"][term.name], -e["strength"])):
            if not front or entry["strength"] > front[-1]["strength"]:
                front.append(entry)
        return front


class Enumerated(Derivation):
    """A small space: exact, all networks are looked at."""

    def __init__(self, space: SearchSpace[Any]) -> None:
        super().__init__(space)
        blocks, choices_MV = blocks_of(space), buildable_choices(space)
        self._choices_MV = choices_MV
        columns = [blocks.entries[i][choices] for i, choices in enumerate(choices_MV.T)]
        self._entries_ME = np.concatenate(columns, axis=1)
        self._skips_M = blocks.skips[self._entries_ME].sum(1)

    def _network(self, index: int) -> Any:
        return self.space.from_choices(self._choices_MV[index].tolist())

    def _costs(self, term: CostTerm) -> np.ndarray:
        """[M]: the term's cost of every network."""
        assert term.presence.disjoint
        constant, coefficients_M = term.presence.weighted(term.weights, term.constant)
        return np.asarray(constant + coefficients_M, dtype=np.float64)

    def _inside(self, terms: Sequence[CostTerm]) -> np.ndarray:
        """[M]: networks within all limits."""
        inside = np.ones(len(self._choices_MV), dtype=bool)
        for term in terms:
            if term.limit is not None:
                inside &= self._costs(term) <= term.limit * (1 + 1e-12)
        return inside

    def repair(
        self, scores: Scores, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Any, bool]:
        """The strongest of all."""
        strength_M = blocks_of(self.space).flat_scores(scores)[self._entries_ME].sum(1)
        few_M = self._skips_M <= (np.inf if max_skips is None else max_skips)
        free = int(np.argmax(np.where(few_M, strength_M, -np.inf)))
        inside_M = self._inside(terms)
        if not inside_M.any():
            raise _no_network([t for t in terms if t.limit is not None])
        allowed_M = inside_M & few_M if (inside_M & few_M).any() else inside_M
        used_M = allowed_M.copy()
        for term in terms:
            if term.least is not None:
                used_M &= self._costs(term) >= term.least
        allowed_M = used_M if used_M.any() else allowed_M
        best = int(np.argmax(np.where(allowed_M, strength_M, -np.inf)))
        return self._network(best), best != free

    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> dict[str, float]:
        """Exact."""
        limited = [term for term in terms if term.limit is not None]
        smallest = {term.name: self.smallest(term)[0] for term in limited}
        check_each(limited, smallest, where)
        if limited and not self._inside(limited).any():
            ratios_TM = np.stack([self._costs(t) / float(t.limit or 1.0) for t in limited])
            nearest = int(np.argmin(ratios_TM.max(0)))
            costs = [float(self._costs(t)[nearest]) for t in limited]
            raise _not_at_once(limited, costs, float(ratios_TM[:, nearest].max()), where)
        return smallest

    def smallest(self, term: CostTerm) -> tuple[float, Any]:
        """Exact."""
        costs_M = self._costs(term)
        return float(costs_M.min()), self._network(int(costs_M.argmin()))

    def largest(self, term: CostTerm) -> float:
        """Exact."""
        return float(self._costs(term).max())


class Descended(Derivation):
    """A large space: block by block, from several starts."""

    def __init__(self, space: SearchSpace[Any]) -> None:
        super().__init__(space)
        self.blocks = blocks_of(space)
        self._restricted = type(space).buildable is not SearchSpace.buildable

    # ---- smallest and largest costs

    def starts(self) -> list[Choice]:
        """One value everywhere, counted from the first or from the last one of each variable."""
        sizes, found = self.space.cardinalities, dict[Choice, None]()
        for value, last in itertools.product(range(max(sizes)), (False, True)):
            counted = [min(value, size - 1) for size in sizes]
            for block in self.space.blocks:
                first, size = block[0], sizes[block[0]]
                if len(block) > 1:  # what the others of the block belong to: either end
                    counted[first] = size - 1 if last else 0
                elif last:
                    counted[first] = size - 1 - counted[first]
            architecture = self.space.from_choices(counted)
            if self.space.buildable(architecture):
                found[self.blocks.choice_of(architecture)] = None
        return list(found)

    def _options(self, block: int, choice: Choice) -> np.ndarray:
        """[K]: options of a block that can be built, the rest as in ``choice``."""
        count = len(self.blocks.options[block])
        if not self._restricted:
            return np.ones(count, dtype=bool)
        trials = ((*choice[:block], k, *choice[block + 1 :]) for k in range(count))
        return np.array([self.space.buildable(self.blocks.architecture(t)) for t in trials])

    def descend(
        self, model: CostModel, objective: Objective, choice: Choice
    ) -> tuple[float, Choice]:
        """Coordinate descent over blocks until nothing improves."""
        best = float(objective(model.costs(choice)))
        improved = True
        while improved:
            improved = False
            for block in range(len(choice)):
                values = np.asarray(objective(model.block_table(block, choice)), dtype=np.float64)
                values = np.where(self._options(block, choice), values, np.inf)
                k = int(np.argmin(values))
                if values[k] < best - 1e-12 * max(1.0, abs(best)):
                    best, improved = float(values[k]), True
                    choice = _with(choice, block, k)
        return best, choice

    def minimise(self, model: CostModel, objective: Objective) -> tuple[float, Choice]:
        """The smallest value found from all starts."""
        results = [self.descend(model, objective, start) for start in self.starts()]
        return min(results, key=lambda result: result[0])

    def smallest(self, term: CostTerm) -> tuple[float, Any]:
        """Near exact."""
        value, choice = self.minimise(CostModel(self.space, [term]), lambda costs: costs[0])
        return value, self.blocks.architecture(choice)

    def largest(self, term: CostTerm) -> float:
        """Near exact."""
        return -self.minimise(CostModel(self.space, [term]), lambda costs: -costs[0])[0]

    def nearest_to_limits(self, model: CostModel) -> tuple[float, Choice]:
        """The choice with the smallest worst ratio of cost to limit, and that ratio."""
        limits = model.limits

        def ratios(costs: np.ndarray) -> np.ndarray:
            return costs / limits.reshape(-1, *[1] * (costs.ndim - 1))

        def worst(costs: np.ndarray) -> np.ndarray:
            r = ratios(costs)
            return np.asarray(r.max(0) + 1e-6 * r.sum(0))

        candidates = [self.minimise(model, worst)[1]]
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            weights = np.linspace(1 - share, share, len(limits)) if len(limits) > 1 else np.ones(1)
            blend = self.minimise(model, lambda c, w=weights: np.tensordot(w, ratios(c), 1))[1]  # type: ignore[misc]
            candidates.append(self.descend(model, worst, blend)[1])
        values = [(float(ratios(model.costs(c)).max()), c) for c in candidates]
        return min(values, key=lambda value: value[0])

    # ---- can the budgets be met at all?

    def check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None = None, where: str = ""
    ) -> dict[str, float]:
        """Of factorised edges with one activation on all."""
        candidates = uniform_activations(self.space, terms)
        if not candidates:
            return self._check_feasible(terms, max_skips, where)
        found, refused = [], []
        for activations in candidates:
            given = given_activations(self.space, terms, activations)
            try:
                found.append(self._check_feasible(given, max_skips, where))
            except BudgetError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        return {name: min(smallest[name] for smallest in found) for name in found[0]}

    def _check_feasible(
        self, terms: Sequence[CostTerm], max_skips: int | None, where: str
    ) -> dict[str, float]:
        limited = [term for term in terms if term.limit is not None]
        smallest = {term.name: self._smallest(term) for term in limited}
        check_each(limited, smallest, where)
        if any(term.exact is not None for term in limited):
            self._check_exact(limited, max_skips, where)
            limited = [term for term in limited if term.exact is None]
        if len(limited) > 1:
            model = CostModel(self.space, limited)
            ratio, choice = self.nearest_to_limits(model)
            if ratio > 1:
                raise _not_at_once(limited, model.costs(choice).tolist(), ratio, where)
        return smallest

    def _smallest(self, term: CostTerm) -> float:
        """Of an approximated cost: the least exact one of its pool and of the approximation's."""
        value, network = self.smallest(term)
        if term.exact is None:
            return value
        return min(term.exact(other) for other in (network, *term.pool[:1]))

    def _check_exact(self, limited: Sequence[CostTerm], max_skips: int | None, where: str) -> None:
        """BudgetError unless some network is exactly within all limits."""
        flat = {matrix.name: np.zeros(matrix.shape) for matrix in self.space.matrices}
        try:
            self.repair(flat, limited, max_skips)
        except BudgetError as error:
            raise BudgetError(error.what, where=where, fix=error.fix) from None

    # ---- the strongest network

    def discretise(self, scores: Scores, max_skips: int | None = None) -> Any:
        """The strongest option of every block."""
        return self.blocks.architecture(self._strongest(scores, max_skips))

    def _strongest(self, scores: Scores, max_skips: int | None = None) -> Choice:
        allowed = self.blocks.flat_scores(scores).copy()
        while True:
            tables = [allowed[entries].sum(1) for entries in self.blocks.entries]
            choice = tuple(int(np.argmax(table)) for table in tables)
            chosen = [e[k] for e, k in zip(self.blocks.entries, choice, strict=True)]
            skips = [i for i in np.concatenate(chosen).tolist() if self.blocks.skips[i]]
            if max_skips is None or len(skips) <= max_skips:
                break
            allowed[min(skips, key=lambda i: (allowed[i], i))] = -np.inf
        if self._restricted and not self.space.buildable(self.blocks.architecture(choice)):
            start = max(self.starts(), key=lambda c: _total(tables, c))
            choice = self._exchange(CostModel(self.space, []), tables, start)
        return choice

    def repair(
        self, scores: Scores, terms: Sequence[CostTerm], max_skips: int | None = None
    ) -> tuple[Any, bool]:
        """See the module's text.

        A cost that is only approximated in the search (``CostTerm.exact``) is checked exactly:
        while it is over its limit the approximation gets a lower one; at last the term's pool is
        looked at.
        """
        checked = [t for t in terms if t.limit is not None and t.exact is not None]
        current, changed = list(terms), False
        for _ in range(TIGHTER if checked else 1):
            try:
                choice, repaired = self._repair(scores, current, max_skips)
            except BudgetError:
                if not checked:
                    raise
                break
            network = self.blocks.architecture(choice)
            over = {t.name for t in checked if not _exactly_inside(t, network)}
            if not over:
                return network, repaired or changed
            changed = True
            approximate = CostModel(self.space, current).costs(choice)
            current = [
                t.with_limit(min(float(t.limit or 0), float(v)) * 0.99) if t.name in over else t
                for t, v in zip(current, approximate, strict=False)
            ]
        return self._from_pool(scores, terms, checked), True

    def _from_pool(
        self, scores: Scores, terms: Sequence[CostTerm], checked: Sequence[CostTerm]
    ) -> Any:
        """The strongest of the pools within all limits, improved block by block."""
        tables = self._tables(scores)
        rest = CostModel(self.space, [t for t in terms if t.exact is None])

        def inside(choice: Choice) -> bool:
            return bool(rest.feasible(rest.costs(choice))) and all(
                _exactly_inside(t, self.blocks.architecture(choice)) for t in checked
            )

        choices = [self.blocks.choice_of(network) for t in checked for network in t.pool]
        found = [choice for choice in choices if inside(choice)]
        if not found:
            raise _no_network([t for t in terms if t.limit is not None])
        best = max(found, key=lambda choice: _total(tables, choice))
        for block, table in enumerate(tables):
            for k in np.argsort(-table, kind="stable")[:OPTIONS].tolist():
                if table[k] <= table[best[block]]:
                    break
                if inside(_with(best, block, k)):
                    best = _with(best, block, k)
                    break
        return self.blocks.architecture(best)

    def _repair(
        self, scores: Scores, terms: Sequence[CostTerm], max_skips: int | None
    ) -> tuple[Choice, bool]:
        limited = [term for term in terms if term.limit is not None]
        derived = self._strongest(scores, max_skips)
        if not limited:
            return derived, False
        model = CostModel(self.space, limited)
        costs = model.costs(derived)
        inside = bool(model.feasible(costs))
        if inside and all(c >= (t.least or 0.0) for t, c in zip(limited, costs, strict=True)):
            return derived, False
        with_floor = [(term, self.largest(term)) for term in limited if term.least is not None]
        floors = [term.floor(most) for term, most in with_floor if most > (term.least or 0.0)]
        for extra in _fewer(floors):
            if inside and not extra:
                return derived, False
            for skips in dict.fromkeys((max_skips, None)):
                if skips is None and extra:
                    continue  # the skip limit comes before a budget that is used up
                model = CostModel(self.space, [*limited, *extra], skips)
                found = self._search(model, scores, derived, len(extra))
                if found is not None:
                    return found, True
        raise _no_network(limited)

    def _tables(self, scores: Scores) -> list[np.ndarray]:
        """Per block the strength of every option, [K]."""
        flat = self.blocks.flat_scores(scores)
        return [flat[entries].sum(1) for entries in self.blocks.entries]

    def _search(
        self, model: CostModel, scores: Scores, derived: Choice, floors: int = 0
    ) -> Choice | None:
        """``floors``: how many of the model's terms, after those with a limit, are floors."""
        tables = self._tables(scores)
        ratio, smallest = self.nearest_to_limits(model)
        if ratio > 1 and not bool(model.feasible(model.costs(smallest))):
            return None
        pool = [smallest]
        is_floor = np.arange(len(model.limits)) >= len(model.terms) - floors
        is_floor[len(model.terms) :] = False  # the skip limit
        for pushed in (~is_floor, is_floor)[: 1 + (floors > 0)]:
            choice = derived
            for multiplier in np.geomspace(1e-3, 1e3, 37):
                choice = self._penalised(model, tables, choice, float(multiplier) * pushed)
                if bool(model.feasible(model.costs(choice))):
                    pool.append(choice)
        ranked = sorted(set(pool), key=lambda c: (-_total(tables, c), c))
        improved = [self._exchange(model, tables, c) for c in ranked[:3]]
        return min(improved, key=lambda c: (-_total(tables, c), c))

    def _penalised(
        self,
        model: CostModel,
        tables: Sequence[np.ndarray],
        choice: Choice,
        multipliers_T: np.ndarray,
    ) -> Choice:
        """Coordinate ascent of strength - sum of multiplier * cost / limit."""
        for _ in range(6):
            before = choice
            for block, table in enumerate(tables):
                costs = model.block_table(block, choice)
                value = table - np.tensordot(multipliers_T / model.limits, costs, 1)
                value = np.where(self._options(block, choice), value, -np.inf)
                choice = _with(choice, block, int(np.argmax(value)))
            if choice == before:
                break
        return choice

    def _best_feasible(
        self, model: CostModel, tables: Sequence[np.ndarray], block: int, choice: Choice
    ) -> tuple[float, int]:
        inside = model.feasible(model.block_table(block, choice)) & self._options(block, choice)
        value = np.where(inside, tables[block], -np.inf)
        k = int(np.argmax(value))
        return float(value[k]), k

    def _exchange(self, model: CostModel, tables: Sequence[np.ndarray], choice: Choice) -> Choice:
        """Exchange blocks, then pairs of blocks, while the strength rises within the limits."""
        for _ in range(8):
            before = _total(tables, choice)
            for block, table in enumerate(tables):
                value, k = self._best_feasible(model, tables, block, choice)
                if value > table[choice[block]] + 1e-12:
                    choice = _with(choice, block, k)
            for first in range(len(tables)):
                choice = self._exchange_pair(model, tables, first, choice)
            if _total(tables, choice) <= before + 1e-12:
                break
        return choice

    def _exchange_pair(
        self, model: CostModel, tables: Sequence[np.ndarray], first: int, choice: Choice
    ) -> Choice:
        best, best_total = choice, _total(tables, choice)
        for k in np.argsort(-tables[first], kind="stable")[:24].tolist():
            trial = _with(choice, first, k)
            rest = _total(tables, trial)
            for second, table in enumerate(tables):
                without = rest - table[trial[second]]
                if second == first or without + table.max() <= best_total + 1e-12:
                    continue
                value, option = self._best_feasible(model, tables, second, trial)
                if without + value > best_total + 1e-12:
                    best, best_total = _with(trial, second, option), without + value
        return best


def _with(choice: Choice, block: int, option: int) -> Choice:
    return (*choice[:block], option, *choice[block + 1 :])


def _total(tables: Sequence[np.ndarray], choice: Choice) -> float:
    return float(sum(table[k] for table, k in zip(tables, choice, strict=True)))


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis=axis, keepdims=True)
    return np.asarray(top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True)))


def _exactly_inside(term: CostTerm, network: Any) -> bool:
    assert term.exact is not None
    assert term.limit is not None
    return term.exact(network) <= term.limit * (1 + 1e-12)


def _fewer(floors: Sequence[CostTerm]) -> list[list[CostTerm]]:
    """All floors, then each alone, then none."""
    alone = [[floor] for floor in floors] if len(floors) > 1 else []
    return [list(floors), *alone, []] if floors else [[]]


# ---- what cannot be met


def _no_network(limited: Sequence[CostTerm]) -> BudgetError:
    return BudgetError(
        "no network in this space meets the budgets "
        + ", ".join(f"{t.name} {t.text(float(t.limit or 0))}" for t in limited),
        fix="raise the budgets, or lower the channels or layers of the space",
    )


def _not_at_once(
    limited: Sequence[CostTerm], costs: Sequence[float], ratio: float, where: str
) -> BudgetError:
    needs = " and ".join(t.text(c) for t, c in zip(limited, costs, strict=True))
    budgets = " and ".join(t.text(float(t.limit or 0)) for t in limited)
    return BudgetError(
        f"no network in this space meets all budgets at once: the nearest needs {needs}, "
        f"the budgets are {budgets}",
        where=where,
        fix=f"raise the budgets by {100 * (ratio - 1):.0f} %, "
        "or lower the channels or layers of the space",
    )


def check_each(limited: Sequence[CostTerm], smallest: Mapping[str, float], where: str) -> None:
    """BudgetError for the first limit that is below the smallest value of its cost."""
    for term in limited:
        assert term.limit is not None
        if smallest[term.name] > term.limit:
            need = term.text(smallest[term.name])
            on = f" on {term.device}" if term.device else ""
            raise BudgetError(
                f"the smallest network in this space needs {need}{on}, "
                f"the budget is {term.text(term.limit)}",
                where=where,
                fix=f"raise the budget of {term.name} above {need}, "
                "or lower the channels or layers of the space",
            )


# ---- activations of factorised edges (cell space)


def strongest_activations(
    values: Mapping[str, Any], names: Sequence[str]
) -> dict[str, list[str]] | None:
    """Per matrix the strongest activation of each edge [E]; None where edges have none."""
    if "gamma" not in values:
        return None
    return {
        name: [names[int(np.argmax(weights_A))] for weights_A in gamma_EA]
        for name, gamma_EA in values["gamma"].items()
    }


def given_activations(
    space: SearchSpace[Any],
    terms: Sequence[CostTerm],
    activations: Mapping[str, Sequence[str]] | None,
) -> list[CostTerm]:
    """Costs of operators alone where the activation of every edge is known (per matrix [E])."""
    if activations is None:
        return list(terms)
    found = []
    for term in terms:
        names, exact = term.presence.activations, term.exact
        if names:
            chosen = {n: np.array([names.index(a) for a in activations[n]]) for n in activations}
            term = dataclasses.replace(term, presence=term.presence.given(chosen))
        if exact is not None:
            term = dataclasses.replace(term, exact=_with_first(space, exact, activations))
        found.append(term)
    return found


def _with_first(
    space: SearchSpace[Any],
    exact: Callable[[Any], float],
    activations: Mapping[str, Sequence[str]],
) -> Callable[[Any], float]:
    return lambda architecture: exact(space.with_activations(architecture, activations))


def uniform_activations(
    space: SearchSpace[Any], terms: Sequence[CostTerm]
) -> list[dict[str, list[str]]]:
    """One activation on all edges, for every candidate of the terms; empty without candidates."""
    names = next((t.presence.activations for t in terms if t.presence.activations), ())
    return [{m.name: [name] * len(m.rows) for m in space.matrices} for name in names]
