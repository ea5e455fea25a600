"""Factorised edges: the costs of a search know what an activation costs."""

from __future__ import annotations

import numpy as np
import pytest
import search_tiny as tiny
import torch

from factory.core.errors import BudgetError
from factory.search.architectures import Ended, TierBudget, _result
from factory.search.budget import Budgets
from factory.search.costs import CostTerm, macs_term
from factory.search.derive import given_activations, strongest_activations
from factory.search.relaxation import ArchParameters, choice_of_values
from factory.spaces.genotype import CELL_TYPES

ACTS = ("relu", "tanh")
EXTRA_MS = 0.05  # of every tanh, alone or folded into a convolution


def weights_ms(kernels) -> np.ndarray:
    slow = ["tanh" in str(kernel).lower() for kernel in kernels]
    return np.array([0.01 + k.macs / 2e8 for k in kernels]) + EXTRA_MS * np.array(slow)


def term(limit=None, space=None, activations=ACTS) -> CostTerm:
    presence = (space or tiny.target()).presence(activations=activations)
    return CostTerm("latency_ms", presence, weights_ms(presence.kernels), 0.1, limit)


def latency_ms(genotype) -> float:
    kernels = tiny.target().kernels(genotype)
    return 0.1 + float(weights_ms(kernels) @ np.array(list(kernels.values()), float))


def test_the_gradient_leads_away_from_the_slow_activation():
    arch = ArchParameters(tiny.target(), 0, True, None, len(ACTS))
    plain = macs_term(tiny.target().presence())  # does not tell activations apart
    budgets = Budgets([term(), plain], 0.3, 1.0)
    q = arch.marginals()
    assert q["normal"].shape == (14, 8 * 2)
    budgets.costs[0](q).backward()
    for name in CELL_TYPES:
        gradient_EA = arch.gamma[name].grad
        assert (gradient_EA[:, 1] > 0).all()
        torch.testing.assert_close(gradient_EA.sum(1), torch.zeros(14))
    summed = {name: value.reshape(14, 8, 2).sum(2) for name, value in q.items()}
    expected = budgets.expected(q)
    assert expected["macs"] == pytest.approx(Budgets([plain], 0.3, 1.0).expected(summed)["macs"])
    values = arch.values()
    from_values = budgets.expected(choice_of_values(tiny.target(), values))
    assert from_values["latency_ms"] == pytest.approx(expected["latency_ms"])


def test_the_derived_network_costs_what_its_kernels_cost():
    arch = ArchParameters(tiny.target(), 4, True, None, len(ACTS))
    values = arch.values()
    activations = strongest_activations(values, ACTS)
    assert {name for names in activations.values() for name in names} == set(ACTS)
    given = given_activations(tiny.target(), [term()], activations)
    genotype = tiny.DERIVATION.discretise(tiny.DERIVATION.scores(values))
    named = tiny.target().with_activations(genotype, activations)
    assert named.activations("normal") != genotype.activations("normal")
    found = tiny.DERIVATION.costs(given, genotype)["latency_ms"]
    assert found == pytest.approx(latency_ms(named))
    assert found > latency_ms(genotype)


def test_feasible_is_what_some_activation_makes_feasible():
    relu = tiny.DERIVATION.check_feasible([term(1e3, activations=())])["latency_ms"]
    assert tiny.DERIVATION.check_feasible([term(1e3)])["latency_ms"] == pytest.approx(relu)
    with pytest.raises(BudgetError, match="smallest network in this space needs"):
        tiny.DERIVATION.check_feasible([term(0.9 * relu)], where="here")


@pytest.mark.parametrize("share", [1.02, 10.0])
def test_a_network_keeps_the_budget_by_its_own_kernels(share, tmp_path):
    values = ArchParameters(tiny.target(), 0, True, None, len(ACTS)).values()
    for name in CELL_TYPES:
        values["gamma"][name] = [[0.0, 1.0]] * 14  # a tanh on every edge
    smallest = tiny.DERIVATION.check_feasible([term(1e3)])
    limit = share * smallest["latency_ms"]
    cfg = tiny.tiny_config(relaxation="factorised", activations=ACTS)
    ended = Ended(values, {"latency_ms": 0.0}, None, 1)
    tier = TierBudget("a", [term(limit)])
    found = _result(tiny.target(), tier, ended, cfg, tmp_path, smallest, 0)
    assert found.predicted["latency_ms"] == pytest.approx(latency_ms(found.genotype))
    assert found.predicted["latency_ms"] <= limit
    assert found.repaired == (share < 2)
    assert "tanh" in found.discretised.activations("normal")
