"""The supernet of single edges: the batched one's mathematics, fewer candidates, activations."""

from __future__ import annotations

import pytest
import search_naive as naive
import torch

from factory.search.axes import ACTIVATIONS
from factory.search.relaxation import ArchParameters
from factory.spaces import edge_supernet as module
from factory.spaces.activation_functions import FUNCTIONS
from factory.spaces.cell_space import EDGES, OPS, CellSpace
from factory.spaces.cell_supernet import Supernet
from factory.spaces.edge_supernet import EdgeSupernet
from factory.spaces.genotype import CELL_TYPES, PC_DARTS_cifar
from factory.spaces.mixing import Mixing, SkipDropout
from factory.spaces.network_spec import NetworkSpec

SPACE = CellSpace(NetworkSpec(4, 3, "cifar", (3, 8, 8), 3))
ACTS = ("relu", "hard_swish", "tanh")


@torch.no_grad()
def copy_weights(net: Supernet, to: EdgeSupernet) -> None:
    """Give the supernet of single edges the batched one's weights."""
    to.stem.load_state_dict(net.stem.state_dict())
    to.classifier_weight.copy_(net.classifier_weight)
    to.classifier_bias.copy_(net.classifier_bias)
    for cell, other in zip(to.cells, net.cells, strict=True):
        for ours, theirs in (
            (cell.preprocess0, other.preprocess0),
            (cell.preprocess1, other.preprocess1),
        ):
            if ours.skip is None:
                ours.weight.copy_(theirs.weight)
            else:
                ours.skip.even.copy_(theirs.weight)
                ours.skip.odd.copy_(theirs.weight_odd)
        for e, edge in enumerate(cell.edges):
            weights = naive.edge_weights(other, e)
            for name, operator in edge.operators.items():
                if name == "skip_connect":
                    operator.even.copy_(weights["skip_even"])
                    if operator.odd is not None:
                        operator.odd.copy_(weights["skip_odd"])
                    continue
                kind, size = name[:3], name[-1]
                for i in range(len(operator.depthwise)):
                    key = f"dil{size}" if kind == "dil" else f"sep{size}_{i + 1}"
                    operator.depthwise[i].copy_(weights[key])
                    operator.pointwise[i].copy_(weights[f"{key}_p"])


def _mixing(seed=0, gammas=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {
        name: Mixing(
            draw(14, 8).softmax(1).requires_grad_(),
            draw(14).sigmoid(),
            None,
            draw(14, gammas).softmax(1) if gammas else None,
        )
        for name in CELL_TYPES
    }


@pytest.mark.parametrize(
    ("partial", "channels", "stem", "image"),
    [
        (1, 4, "cifar", (3, 7, 7)),  # an odd map, which the reference code cannot reduce
        (4, 8, "cifar", (3, 8, 8)),
        (2, 12, "cifar", (1, 9, 7)),
        (4, 8, "imagenet", (3, 32, 32)),
    ],
)
def test_equals_the_batched_supernet(partial, channels, stem, image):
    spec = NetworkSpec(channels, 3, stem, image, 5)
    batched = Supernet(spec, partial, seed=1).double()
    single = EdgeSupernet(spec, partial, seed=9).double()
    copy_weights(batched, single)
    x = torch.randn(4, *image, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mixing = _mixing()
    a, b = batched(x, mixing), single(x, mixing)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    alphas = [mixing[name].alpha_EO for name in CELL_TYPES]
    for one, other in zip(
        torch.autograd.grad(a.square().sum(), alphas),
        torch.autograd.grad(b.square().sum(), alphas),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def _subset(seed=3, keep=3):
    g = torch.Generator().manual_seed(seed)
    kept = torch.zeros(14, 8, dtype=torch.bool)
    for e in range(14):
        kept[e, torch.randperm(8, generator=g)[:keep]] = True
    return kept


def test_fewer_candidates_are_the_others_at_weight_zero():
    spec = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)
    kept = _subset()
    full = EdgeSupernet(spec, 1, seed=1).double()
    few = EdgeSupernet(spec, 1, seed=1, candidates=dict.fromkeys(CELL_TYPES, kept)).double()
    few.load_state_dict({k: v for k, v in full.state_dict().items() if k in few.state_dict()})
    assert len(list(few.parameters())) < len(list(full.parameters()))
    plain = _mixing()
    masked = {n: Mixing(m.alpha_EO * kept, m.beta_E, kept) for n, m in plain.items()}
    whole = {n: Mixing(m.alpha_EO * kept, m.beta_E) for n, m in plain.items()}
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(few(x, masked), full(x, whole))


def test_an_edge_with_one_activation_is_that_activation():
    spec = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)
    net = EdgeSupernet(spec, 2, seed=1, activations=ACTS).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = _mixing()
    only_relu = torch.zeros(14, 3, dtype=torch.float64)
    only_relu[:, 0] = 1
    hot = {n: Mixing(m.alpha_EO, m.beta_E, None, only_relu) for n, m in mixing.items()}
    torch.testing.assert_close(net(x, hot), net(x, mixing))


def test_factorised_expectation_is_the_full_product_where_the_operator_is_linear():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 7, 7, generator=g, dtype=torch.float64)
    cell = (
        EdgeSupernet(NetworkSpec(4, 3, "cifar", (3, 7, 7), 3), 1, 1, None, ACTS).double().cells[0]
    )
    mixing = _mixing(1, len(ACTS))["normal"]
    _, activated = cell._activation(5, module._Source(x), mixing)
    operator = cell.edges[5].operators["dil_conv_3x3"]

    def linear(y):  # the operator without its BatchNorm
        from factory.spaces import fast_ops

        return module.pointwise(
            fast_ops.depthwise(y, operator.depthwise[0], 1, 2), operator.pointwise[0]
        )

    product = sum(
        w * linear(FUNCTIONS.get(name)(x)) for w, name in zip(mixing.gamma_EA[5], ACTS, strict=True)
    )
    torch.testing.assert_close(linear(activated()), product)
    # with two blocks and BatchNorm it is not: the factorised form is an approximation there
    deep = cell.edges[5].operators["sep_conv_3x3"]
    mixed, _ = cell._activation(5, module._Source(x), mixing)
    factorised = deep(mixed(x), mixed)
    product = sum(
        w * deep(FUNCTIONS.get(name)(x), FUNCTIONS.get(name))
        for w, name in zip(mixing.gamma_EA[5], ACTS, strict=True)
    )
    assert not torch.allclose(factorised, product, rtol=1e-3)


def test_gradients_reach_alpha_beta_and_gamma():
    spec = NetworkSpec(4, 3, "cifar", (3, 7, 7), 3)
    arch = ArchParameters(SPACE, 0, True, None, len(ACTS))
    net = EdgeSupernet(spec, 2, 0, None, ACTS)
    out = net(torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0)), arch.mixing())
    for grad in torch.autograd.grad(out.square().sum(), arch.trainable()):
        assert bool(torch.isfinite(grad).all())
        assert float(grad.abs().sum()) > 0


def test_skip_dropout_is_a_function_of_its_seed_and_touches_skips_alone():
    spec = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)
    net = EdgeSupernet(spec, 1, seed=1)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixing = ArchParameters(SPACE, 0, False).mixing()
    first = net(x, mixing, SkipDropout(0.5, 7))
    assert torch.equal(first, net(x, mixing, SkipDropout(0.5, 7)))
    assert not torch.equal(first, net(x, mixing, SkipDropout(0.5, 8)))
    assert torch.equal(net(x, mixing, SkipDropout(0.0, 7)), net(x, mixing))
    kept = torch.ones(14, 8, dtype=torch.bool)
    kept[:, OPS.index("skip_connect")] = False
    without = ArchParameters(SPACE, 0, False, dict.fromkeys(CELL_TYPES, kept)).mixing()
    assert torch.equal(net(x, without, SkipDropout(0.5, 7)), net(x, without))


def test_derived_mixing_runs_only_the_genotypes_operators():
    arch = ArchParameters(SPACE, 3, True)
    mixing = arch.derived_mixing(PC_DARTS_cifar)
    for name in CELL_TYPES:
        assert int(mixing[name].active_EO.sum()) == 8
        for op, source in PC_DARTS_cifar.cell(name):
            assert any(
                mixing[name].alpha_EO[e, OPS.index(op)] == 1
                for e, (_, s) in enumerate(EDGES)
                if s == source
            )
        used = mixing[name].active_EO.any(1)
        assert float(mixing[name].beta_E[~used].sum()) == 0.0
        assert float(mixing[name].beta_E.sum()) == pytest.approx(4.0)  # one a node


def test_every_activation_has_a_text():
    assert list(ACTIVATIONS) == FUNCTIONS.names()
