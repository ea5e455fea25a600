from __future__ import annotations

import numpy as np
import pytest
import search_tiny as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.latency.differentiable import ExpectedCost
from factory.search.relaxation import ArchParameters, inclusion, marginals
from factory.spaces.cell_space import EDGES, MATRICES, OPS
from factory.spaces.genotype import NODES


def _parameters(one_hot, strength):
    """alpha, beta whose choice tends to a one-hot one."""
    alpha = torch.from_numpy(one_hot * strength)
    beta = torch.from_numpy(one_hot.sum(1) * strength)
    return alpha, beta


@pytest.mark.parametrize("strength", [50.0, 800.0, 1e5])
def test_marginals_are_exact_at_one_hot_and_so_is_the_cost(strength):
    space, term = tiny.target(), tiny.latency_term()
    cost = ExpectedCost(term.weights, term.constant, term.presence)
    for seed in range(5):
        genotype = space.random(np.random.default_rng(seed))
        hot = space.one_hot(genotype)
        q = {name: marginals(*_parameters(hot[name], strength), MATRICES[0]) for name in hot}
        for name in hot:
            torch.testing.assert_close(q[name], torch.from_numpy(hot[name]), atol=1e-9, rtol=0)
        assert float(cost(q).detach()) == pytest.approx(term.value(hot), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=2, max_size=5))
def test_inclusion_sums_to_two_and_has_finite_gradients(logits):
    log_b = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    pi = inclusion(log_b)
    assert float(pi.detach().sum()) == pytest.approx(2.0, abs=1e-9)
    assert bool((pi >= -1e-12).all())
    assert bool((pi <= 1 + 1e-9).all())
    (grad,) = torch.autograd.grad(pi[0], log_b)
    assert bool(torch.isfinite(grad).all())


def test_inclusion_is_that_of_two_draws_without_replacement():
    b = np.array([0.5, 0.3, 0.15, 0.05])
    pi = inclusion(torch.from_numpy(np.log(b))).numpy()
    wanted = b + [sum(b[f] * b[e] / (1 - b[f]) for f in range(4) if f != e) for e in range(4)]
    np.testing.assert_allclose(pi, wanted)


def test_none_never_has_mass_and_gradients_reach_every_parameter():
    arch = ArchParameters(tiny.target(), seed=1)
    q = arch.marginals()
    for name in q:
        assert float(q[name].detach()[:, OPS.index("none")].abs().sum()) == 0.0
        for node in NODES:
            edges = [e for e, (n, _) in enumerate(EDGES) if n == node]
            assert float(q[name].detach()[edges].sum()) == pytest.approx(2.0)
    term = tiny.latency_term()
    value = ExpectedCost(term.weights, term.constant, term.presence)(q)
    for grad in torch.autograd.grad(value, arch.trainable()):
        assert bool(torch.isfinite(grad).all())
        assert float(grad.detach().abs().sum()) > 0


def test_without_edge_normalisation_edges_weigh_one():
    arch = ArchParameters(tiny.target(), seed=1, edge_normalisation=False)
    assert len(arch.trainable()) == 2
    assert torch.equal(arch.mixing()["normal"].beta_E, torch.ones(14))
