"""Cost terms beyond additive latency: parameters, the latency module, several chips at once."""

from __future__ import annotations

import numpy as np
import pytest
import search_tiny as tiny
import torch

from factory.core.errors import InputError
from factory.latency.network_module import ModuleSettings, draw, fit_network_module
from factory.search.budget import Budgets
from factory.search.costs import parameters_term
from factory.search.latency_module import groups_of, module_cost, random_codes
from factory.search.relaxation import ArchParameters
from factory.spaces.cell_space import EDGES
from factory.spaces.genotype import CELL_TYPES, NODES

GROUPS = groups_of(tiny.target())


def test_parameters_are_those_of_the_derived_network():
    space = tiny.target()
    term = parameters_term(space.presence())
    rng = np.random.default_rng(0)
    for _ in range(8):
        genotype = space.random(rng)
        assert term.value(space.one_hot(genotype)) == space.counts(genotype).params


def test_several_limits_on_two_chips_hold_together():
    space = tiny.target()
    rng = np.random.default_rng(1)
    slow = tiny.CostTerm(
        "latency_ms@b",
        space.presence(),
        np.array([0.02 + k.macs / 1e9 for k in space.presence().kernels]),
        0.0,
        None,
        "ms",
        "chip-b",
    )
    terms = [tiny.latency_term(), slow, tiny.mac_term(), parameters_term(space.presence())]
    terms = [t.with_limit(1.15 * tiny.DERIVATION.smallest(t)[0]) for t in terms]
    alpha = {n: rng.normal(size=(14, 8)) for n in CELL_TYPES}
    beta = {n: rng.normal(size=14) for n in CELL_TYPES}
    scores = tiny.DERIVATION.scores({"alpha": alpha, "beta": beta})
    genotype, changed = tiny.DERIVATION.repair(scores, terms)
    assert changed
    for term in terms:
        assert term.value(space.one_hot(genotype)) <= term.limit * (1 + 1e-9)


def test_samples_are_valid_cells_with_the_expected_mean():
    arch = ArchParameters(tiny.target(), seed=2)
    with torch.no_grad():
        for p in arch.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    q = {name: value.detach() for name, value in arch.marginals().items()}
    generator = torch.Generator().manual_seed(0)
    for name in CELL_TYPES:
        codes = draw(q[name], GROUPS[name], 6000, generator)
        assert set(codes.unique().tolist()) == {0.0, 1.0}
        assert float(codes[:, :, 0].sum()) == 0.0  # none is never drawn
        for node in NODES:
            edges = [e for e, (n, _) in enumerate(EDGES) if n == node]
            assert bool((codes[:, edges].sum((1, 2)) == 2).all())
        torch.testing.assert_close(codes.mean(0), q[name].double(), atol=0.03, rtol=0)


def test_the_module_learns_the_latency_and_its_gradient_points_down():
    term = tiny.latency_term(0.8)
    cfg = tiny.tiny_config(latency_cost="module", module_samples=3000)
    cost = module_cost(term, tiny.target(), cfg, 0)
    assert cost.error.median_percent < 2
    q = random_codes(tiny.target(), 200, np.random.default_rng(9))
    wanted = np.array([term.value({n: q[n][i] for n in CELL_TYPES}) for i in range(200)])
    flat = np.concatenate([q[name].reshape(200, -1) for name in CELL_TYPES], 1)
    found = cost.network_ms(torch.as_tensor(flat)).numpy()
    assert np.median(np.abs(found / wanted - 1)) < 0.02
    arch = ArchParameters(tiny.target(), seed=0)
    cost.at(3)
    first = cost(arch.marginals())
    cost.at(3)
    assert torch.equal(first, cost(arch.marginals()))  # a function of the step
    exact = Budgets([term], 0.3, 1.0).expected(arch.marginals())["latency_ms"]
    assert float(first.detach()) == pytest.approx(exact, rel=0.1)
    optimizer = torch.optim.Adam(arch.trainable(), 0.1)
    for step in range(30):
        cost.at(step)
        optimizer.zero_grad()
        cost(arch.marginals()).backward()
        optimizer.step()
    assert Budgets([term], 0.3, 1.0).expected(arch.marginals())["latency_ms"] < 0.8 * exact


def test_a_module_fitted_on_measured_networks_takes_its_place(tmp_path):
    """A runtime on which kernels do not add up: the module says so, the additive model cannot."""
    term = tiny.latency_term(0.8)
    codes = random_codes(tiny.target(), 1500, np.random.default_rng(4))
    sums = np.array([term.value({n: codes[n][i] for n in CELL_TYPES}) for i in range(1500)])
    skips = sum(codes[n][:, :, 3].sum(1) for n in CELL_TYPES)
    measured = sums * np.where(skips >= 3, 1.5, 1.0)
    settings = ModuleSettings(steps=500)
    module = fit_network_module(codes, measured, groups=GROUPS, settings=settings)
    module.save(tmp_path / "module.safetensors")
    cfg = tiny.tiny_config(latency_cost="module", module_file=str(tmp_path / "module.safetensors"))
    cost = Budgets.of([term], tiny.target(), cfg, 0).costs[0]
    arch = ArchParameters(tiny.target(), seed=0)
    assert float(cost(arch.marginals()).detach()) == float(module(arch.marginals()).detach())
    for i in (0, 1, 2):
        q = {n: torch.as_tensor(codes[n][i]) for n in CELL_TYPES}
        assert float(cost(q)) == pytest.approx(measured[i], rel=0.15)
    alone = fit_network_module(codes, measured, settings=ModuleSettings(steps=1))
    alone.save(tmp_path / "alone.safetensors")
    small = fit_network_module(
        {"cell": codes["normal"]}, measured, settings=ModuleSettings(steps=1)
    )
    small.save(tmp_path / "small.safetensors")
    for name, message in {
        "alone": "does not know which edges enter a node",
        "small": "is of networks",
        "missing": "cannot be read",
    }.items():
        path = str(tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=message):
            module_cost(
                term, tiny.target(), tiny.tiny_config(latency_cost="module", module_file=path), 0
            )


def test_without_a_latency_cost_the_limit_is_only_observed():
    terms = [tiny.latency_term(0.8), tiny.mac_term(3e6)]
    budgets = Budgets.of(terms, tiny.target(), tiny.tiny_config(latency_cost="none"), 0)
    assert budgets.limited == ["macs"]
    assert set(budgets.expected(ArchParameters(tiny.target(), 0).marginals())) == {
        "latency_ms",
        "macs",
    }
