from __future__ import annotations

import numpy as np
import pytest
import search_tiny as tiny

from factory.core.errors import BudgetError
from factory.search.costs import CostModel, blocks_of
from factory.spaces.genotype import CELL_TYPES, PC_DARTS_cifar

DERIVED = tiny.DERIVATION


def log_scores(alpha, beta):
    return DERIVED.scores({"alpha": alpha, "beta": beta})


def _scores(seed):
    rng = np.random.default_rng(seed)
    return log_scores(
        {n: rng.normal(size=(14, 8)) for n in CELL_TYPES},
        {n: rng.normal(size=14) for n in CELL_TYPES},
    )


def _total(scores, genotype):
    hot = tiny.target().one_hot(genotype)
    return sum(float(scores[n][hot[n] > 0].sum()) for n in CELL_TYPES)


def test_costs_of_the_model_are_those_of_the_space():
    space, terms = tiny.target(), [tiny.latency_term(), tiny.mac_term()]
    model = CostModel(space, terms, max_skips=2)
    rng, blocks = np.random.default_rng(0), blocks_of(space)
    for _ in range(5):
        genotype = space.random(rng)
        choice = blocks.choice_of(genotype)
        latency, macs, skips = model.costs(choice)
        assert latency == pytest.approx(terms[0].value(space.one_hot(genotype)))
        assert macs == pytest.approx(space.counts(genotype).macs)
        assert skips == sum(op == "skip_connect" for op, _ in genotype.normal)
        table = model.block_table(6, choice)
        np.testing.assert_allclose(table[:, choice[6]], model.costs(choice))
        assert blocks.architecture(choice) == space.canonical(genotype)


def test_smallest_cost_is_below_everything_sampled():
    space, term = tiny.target(), tiny.latency_term()
    smallest, genotype = DERIVED.smallest(term)
    assert term.value(space.one_hot(genotype)) == pytest.approx(smallest)
    rng = np.random.default_rng(1)
    assert smallest <= min(term.value(space.one_hot(space.random(rng))) for _ in range(200))
    for neighbour in space.neighbours(genotype):
        assert smallest <= term.value(space.one_hot(neighbour)) + 1e-12


def test_discretise_takes_the_strongest_of_what_published_cells_encode():
    hot = tiny.target().one_hot(PC_DARTS_cifar)
    alpha = {n: 5.0 * hot[n] for n in CELL_TYPES}
    found = DERIVED.discretise(log_scores(alpha, {n: 5.0 * hot[n].sum(1) for n in CELL_TYPES}))
    assert found == tiny.target().canonical(PC_DARTS_cifar)


def test_skip_limit_strikes_the_weakest_skips():
    alpha = {n: np.zeros((14, 8)) for n in CELL_TYPES}
    alpha["normal"][:, 3] = np.linspace(1, 3, 14)
    scores = log_scores(alpha, {n: np.zeros(14) for n in CELL_TYPES})
    assert sum(op == "skip_connect" for op, _ in DERIVED.discretise(scores).normal) == 8
    assert sum(op == "skip_connect" for op, _ in DERIVED.discretise(scores, 2).normal) == 2


@pytest.mark.parametrize("factor", [1.001, 1.1, 1.5])
def test_repair_is_within_limits_and_deterministic(factor):
    smallest = DERIVED.smallest(tiny.latency_term())[0]
    terms = [tiny.latency_term(smallest * factor), tiny.mac_term(3e6)]
    scores = _scores(7)
    genotype, changed = DERIVED.repair(scores, terms, 2)
    assert changed
    space = tiny.target()
    for term in terms:
        assert term.value(space.one_hot(genotype)) <= term.limit * (1 + 1e-9)
    assert DERIVED.repair(scores, terms, 2)[0] == genotype
    best = _total(scores, genotype)
    for other in space.neighbours(genotype):  # no single exchange is better
        skips = sum(op == "skip_connect" for op, _ in other.normal)
        inside = all(t.value(space.one_hot(other)) <= t.limit for t in terms)
        if inside and skips <= max(2, sum(op == "skip_connect" for op, _ in genotype.normal)):
            assert _total(scores, other) <= best + 1e-9


def test_repair_leaves_a_network_within_its_budget_alone():
    scores = _scores(3)
    genotype, changed = DERIVED.repair(scores, [tiny.latency_term(1e3)])
    assert not changed
    assert genotype == DERIVED.discretise(scores)


def _cheap_scores(seed):
    """Parameters that want pools and skips everywhere."""
    rng = np.random.default_rng(seed)
    alpha = {n: rng.normal(size=(14, 8)) for n in CELL_TYPES}
    for name in CELL_TYPES:
        alpha[name][:, 1:4] += 6.0
    return log_scores(alpha, {n: rng.normal(size=14) for n in CELL_TYPES})


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_what_is_left_of_a_budget_is_spent_on_the_likeliest_network(share):
    space, scores = tiny.target(), _cheap_scores(5)
    low, high = DERIVED.smallest(tiny.latency_term())[0], DERIVED.largest(tiny.latency_term())
    limit = low + share * (high - low)
    free, _ = DERIVED.repair(scores, [tiny.latency_term(limit)], 2)
    term = tiny.latency_term().with_limit(limit, 0.96 * limit)
    assert term.value(space.one_hot(free)) < term.least
    genotype, changed = DERIVED.repair(scores, [term], 2)
    assert changed
    assert term.least <= term.value(space.one_hot(genotype)) * (1 + 1e-9) <= limit * (1 + 1e-8)
    assert sum(op == "skip_connect" for op, _ in genotype.normal) <= 2
    best = _total(scores, genotype)
    for other in space.neighbours(genotype):  # no single exchange is better
        inside = term.least <= term.value(space.one_hot(other)) <= limit
        if inside and sum(op == "skip_connect" for op, _ in other.normal) <= 2:
            assert _total(scores, other) <= best + 1e-9


def test_a_budget_that_another_one_keeps_from_being_spent_is_left_unspent():
    scores = _scores(7)
    smallest = DERIVED.smallest(tiny.mac_term())[0]
    macs = tiny.mac_term(1.2 * smallest)
    expected = DERIVED.repair(scores, [tiny.latency_term(1e3), macs], 2)
    latency = tiny.latency_term().with_limit(1e3, 9e2)
    assert DERIVED.repair(scores, [latency, macs], 2) == expected
    both = DERIVED.repair(scores, [latency, macs.with_limit(macs.limit, 0.95 * macs.limit)], 2)[0]
    used = macs.value(tiny.target().one_hot(both)) / macs.limit
    assert 0.95 <= used <= 1


def test_impossible_budgets_say_what_is_possible():
    smallest = DERIVED.smallest(tiny.latency_term())[0]
    with pytest.raises(BudgetError) as error:
        DERIVED.check_feasible([tiny.latency_term(smallest * 0.9)], where="tier 't'")
    message = str(error.value)
    assert f"the smallest network in this space needs {smallest:.3g} ms on test-chip" in message
    assert "the budget is" in message
    assert "tier 't'" in message
    assert "lower the channels" in message
    assert DERIVED.check_feasible([tiny.latency_term(smallest * 1.01)])["latency_ms"] == smallest
