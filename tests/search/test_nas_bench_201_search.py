"""Differentiable search on NAS-Bench-201: supernet, expectation, derivation, budgets, a run."""

from __future__ import annotations

import numpy as np
import pytest
import search_tiny as tiny
import torch

from factory.core.errors import BudgetError, InputError
from factory.search.architectures import TierBudget, search_architectures
from factory.search.config import SearchConfig, check_row
from factory.search.costs import CostTerm, exact_cost, macs_term
from factory.search.derive import derivation_of
from factory.search.peak_memory import peak_memory_term
from factory.search.relaxation import ArchParameters
from factory.search.result import SearchResult
from factory.spaces.expectation import buildable_choices
from factory.spaces.nas_bench_201 import EDGES, OPS, Cell201
from factory.spaces.nas_bench_201_network import CellModule, Network201
from factory.spaces.nas_bench_201_space import NasBench201Space, Spec201
from factory.spaces.nas_bench_201_supernet import CONVOLUTIONS, SuperCell201, Supernet201

SPEC = Spec201(4, 1, (3, 8, 8), 3)
DERIVED = derivation_of(NasBench201Space(SPEC))
DEEP = NasBench201Space(Spec201(4, 5, (3, 8, 8), 3))  # its memory is known once for all tests
CELL = Cell201.parse(
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|"
)


def costs_of_cells(term: CostTerm) -> np.ndarray:
    constant, coefficients = term.presence.weighted(term.weights, term.constant)
    return constant + coefficients


@pytest.fixture(scope="module")
def macs() -> CostTerm:
    return macs_term(NasBench201Space(SPEC).presence())


def _copy(net: Supernet201, derived: Network201) -> None:
    """The supernet's weights into the derived network."""
    derived.stem.load_state_dict(net.stem.state_dict(), strict=False)
    derived.last.load_state_dict(net.last.state_dict(), strict=False)
    derived.classifier.load_state_dict(net.classifier.state_dict())
    for ours, theirs in zip(net.layers, derived.layers, strict=True):
        if not isinstance(theirs, CellModule):
            theirs.load_state_dict(ours.state_dict(), strict=False)
            continue
        assert isinstance(ours, SuperCell201)
        for edge, operator in zip(theirs.edges, theirs.operators, strict=True):
            op = derived.cell.op(*edge)
            for (o, _), weights in zip(CONVOLUTIONS, ours.weights, strict=True):
                if op == OPS[o]:
                    operator[1].weight.data.copy_(weights[EDGES.index(edge)])


def test_one_hot_is_the_derived_network_with_all_operators_or_only_those_chosen() -> None:
    net = Supernet201(SPEC, 1, seed=1).double()
    derived = Network201(CELL, SPEC).double().train()
    _copy(net, derived)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = ArchParameters(NasBench201Space(SPEC), 0, False).double().derived_mixing(CELL)
    expected = derived(x)
    torch.testing.assert_close(net(x, mixing), expected)
    weights = mixing["cell"]
    everything = type(weights)(weights.alpha_EO, weights.beta_E, None)
    torch.testing.assert_close(net(x, {"cell": everything}), expected)


def test_the_expectation_is_over_connected_cells_and_exact_at_one_hot(macs: CostTerm) -> None:
    cost = exact_cost(macs)
    space = NasBench201Space(SPEC)
    hot = {"cell": torch.tensor(CELL.one_hot())}
    assert float(cost(hot)) == pytest.approx(space.counts(CELL).macs)
    assert DERIVED.costs([macs], CELL)["macs"] == space.counts(CELL).macs
    # all weight on none, and a little on one path: that path is the whole expectation
    q = torch.full((6, 5), 1e-9, dtype=torch.float64)
    q[:, OPS.index("none")] = 1.0
    path = EDGES.index((3, 0))
    q[path, OPS.index("nor_conv_3x3")] = 1e-3
    only = Cell201(tuple("nor_conv_3x3" if e == path else "none" for e in range(6)))
    assert float(cost({"cell": q})) == pytest.approx(space.counts(only).macs, rel=1e-4)
    uniform = {"cell": torch.full((6, 5), 0.2, dtype=torch.float64)}
    assert float(cost(uniform)) == pytest.approx(costs_of_cells(macs).mean())


def test_the_gradient_of_the_expectation_is_that_of_differences(macs: CostTerm) -> None:
    cost = exact_cost(macs)
    arch = ArchParameters(NasBench201Space(SPEC), 2, False).double()
    assert torch.autograd.gradcheck(
        lambda a: cost({"cell": torch.softmax(a, 1)}) / 1e6, (arch.alpha["cell"],)
    )


def test_what_is_derived_is_the_most_probable_cell_within_all_limits(macs: CostTerm) -> None:
    scores = np.log(np.random.default_rng(1).dirichlet(np.ones(5), 6))
    choices = buildable_choices(NasBench201Space(SPEC))
    cells = [Cell201.from_choices(c) for c in choices]
    strength = scores[np.arange(6), choices].sum(1)
    limit = float(np.median(costs_of_cells(macs)))
    memory = peak_memory_term(DEEP, None)
    tight = memory.with_limit(float(np.quantile(costs_of_cells(memory), 0.4)))
    found, repaired = DERIVED.repair({"cell": scores}, [macs.with_limit(limit), tight])
    inside = (costs_of_cells(macs) <= limit) & (costs_of_cells(tight) <= tight.limit)
    assert found == cells[int(np.argmax(np.where(inside, strength, -np.inf)))]
    assert repaired == (found != DERIVED.discretise({"cell": scores}))
    least = 0.9 * limit
    wide, _ = DERIVED.repair({"cell": scores}, [macs.with_limit(limit, least)])
    used = (costs_of_cells(macs) <= limit) & (costs_of_cells(macs) >= least)
    assert wide == cells[int(np.argmax(np.where(used, strength, -np.inf)))]
    with pytest.raises(BudgetError, match="the smallest network in this space needs"):
        DERIVED.check_feasible([macs.with_limit(1.0)])


def test_peak_memory_of_a_deep_network_is_that_of_a_shallow_one() -> None:
    term = peak_memory_term(DEEP, None)
    rng = np.random.default_rng(0)
    for cell in [CELL, *(DEEP.random(rng) for _ in range(6))]:
        found = DERIVED.costs([term], cell)["peak_memory_mb"]
        assert found == pytest.approx(DEEP.counts(cell).peak_memory_bytes / 1e6)


def _config(**changes: object) -> SearchConfig:
    return tiny.tiny_config(**{"layers": 3, "seeds": 1, **changes})


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"relaxation": "full", "partial_channels": 1, "gradient": "second_order"},
        {"sampling": "gumbel_hard", "gradient": "amended", "beta_decay": 1.0},
    ],
    ids=["pc", "darts2", "gdas"],
)
def test_rows_end_within_the_budget_and_repeat(row, macs, tmp_path) -> None:
    limit = float(np.quantile(costs_of_cells(macs), 0.3))
    tiers = [TierBudget("a", [macs.with_limit(limit)])]
    results = [
        search_architectures(
            NasBench201Space(SPEC), tiny.tiny_data(), tiers, _config(**row), tmp_path / name, seed=1
        )["a"]
        for name in ("first", "second")
    ]
    assert results[0].predicted["macs"] <= limit
    assert isinstance(results[0].genotype, Cell201)
    assert results[0].alphas == results[1].alphas
    assert SearchResult.load(tmp_path / "first/a").genotype == results[0].genotype
    assert set(results[0].skip_share_by_cell) == {"cell"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"latency_cost": "module"}, "latency_cost = 'module' does not run on nas_bench_201"),
        (
            {"relaxation": "factorised", "partial_channels": 1},
            "relaxation = 'factorised' does not run",
        ),
    ],
)
def test_rows_without_a_meaning_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_row(NasBench201Space(SPEC), _config(**row))
