"""The differentiable cost is the numpy one, value and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factory.graph.kernel import Kernel
from factory.latency.differentiable import ExpectedCost, ExpectedLatency
from factory.latency.presence import PresenceMatrix


def _presence() -> PresenceMatrix:
    rng = np.random.default_rng(0)
    kernels = tuple(
        Kernel.parse(f"Conv(x=1x{c}x8x8,w={c}x{c}x1x1,s=1,p=0,d=1,g=1,act=none,dtype=f32)")
        for c in (2, 4, 8)
    )
    monomials = [
        (name, rng.random((14, 8)) < share)
        for name in ("normal", "reduce")
        for share in (0.05, 0.3, 1.0)
    ]
    return PresenceMatrix(kernels, np.ones(3), monomials, rng.normal(size=(3, 6)))


@pytest.fixture
def q():
    rng = np.random.default_rng(1)
    return {name: rng.dirichlet(np.ones(8), 14) for name in ("normal", "reduce")}


def test_equals_weighted_counts(q):
    presence, weights = _presence(), np.array([1.0, 0.0, 2.5])
    cost = ExpectedLatency(weights, 0.7, presence)
    expected = 0.7 + weights @ presence.counts(q)
    found = cost({name: torch.from_numpy(value) for name, value in q.items()})
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_gradient_is_the_difference_quotient_also_where_factors_are_zero():
    presence = _presence()
    cost = ExpectedCost([1.0, 2.0, 3.0], 0.0, presence)
    q = {name: torch.zeros(14, 8, dtype=torch.float64) for name in ("normal", "reduce")}
    for value in q.values():
        value[::3, 4] = 1.0
        value.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: cost({"normal": a, "reduce": b}), (q["normal"], q["reduce"])
    )


def test_float32_choices_are_computed_in_float64_and_bad_weights_refused(q):
    cost = ExpectedCost([1.0, 2.0, 3.0], 0.0, _presence())
    single = {name: torch.from_numpy(value).float() for name, value in q.items()}
    assert cost(single).dtype == torch.float64
    with pytest.raises(ValueError, match="weights"):
        ExpectedCost([1.0], 0.0, _presence())
