from __future__ import annotations

import pytest
import search_tiny as tiny
import torch

from factory.search.relaxation import ArchParameters
from factory.search.sampling import gumbel_hard, gumbel_noise, gumbel_soft
from factory.spaces.cell_space import OPS
from factory.spaces.edge_supernet import EdgeSupernet

ALL = torch.ones(14, 8, dtype=torch.bool)


def test_noise_is_a_function_of_seed_and_step():
    shape = torch.Size([14, 8])
    assert torch.equal(gumbel_noise(shape, 1, 2, 0), gumbel_noise(shape, 1, 2, 0))
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(gumbel_noise(shape, 1, 2, 0), gumbel_noise(shape, *other))


def test_hard_samples_follow_the_softmax_whatever_the_temperature():
    alpha = torch.randn(14, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.zeros(14, 8, dtype=torch.float64)
    for step in range(3000):
        counts += gumbel_hard(0, step, 0, 10.0)(alpha, 0, ALL)[1].double()
    torch.testing.assert_close(counts / 3000, alpha.softmax(1), atol=0.04, rtol=0)


def test_hard_weight_is_one_with_the_gradient_of_the_soft_weight():
    alpha = torch.randn(14, 8, dtype=torch.float64, requires_grad=True)
    hard, active = gumbel_hard(0, 3, 1, 2.0)(alpha, 1, ALL)
    soft = gumbel_soft(0, 3, 1, 2.0)(alpha, 1, ALL)[0]
    assert torch.equal(active.sum(1), torch.ones(14, dtype=torch.long))
    torch.testing.assert_close(hard.detach(), active.double())
    one = torch.autograd.grad(hard.sum(), alpha)[0]
    other = torch.autograd.grad(soft[active].sum(), alpha)[0]
    torch.testing.assert_close(one, other)


def test_struck_out_candidates_are_never_drawn():
    kept = torch.zeros(14, 8, dtype=torch.bool)
    kept[:, 2:4] = True
    arch = ArchParameters(tiny.target(), 0, False, {"normal": kept, "reduce": kept})
    for step in range(50):
        mixing = arch.mixing(sample=gumbel_hard(0, step, 0, 1.0))
        assert not bool((mixing["normal"].active_EO & ~kept).any())
        assert bool(torch.isfinite(mixing["normal"].alpha_EO).all())


def test_only_the_sampled_operator_runs(monkeypatch):
    from factory.spaces import edge_supernet as module

    calls: list[int] = []
    plain = module.fast_ops.depthwise

    def counted(*args):
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(module.fast_ops, "depthwise", counted)
    net = EdgeSupernet(tiny.SPEC, 1, seed=0)
    arch = ArchParameters(tiny.target(), 0, False)
    mixing = arch.mixing(sample=gumbel_hard(0, 0, 0, 1.0))
    net(torch.randn(2, 3, 8, 8), mixing)
    blocks = {"sep_conv_3x3": 2, "sep_conv_5x5": 2, "dil_conv_3x3": 1, "dil_conv_5x5": 1}
    wanted = sum(
        blocks.get(OPS[o], 0)
        for cell in net.cells
        for o in mixing[cell.plan.cell_type].active_EO.nonzero()[:, 1].tolist()
    )
    assert len(calls) == wanted


def test_soft_samples_sharpen_with_the_temperature():
    alpha = torch.zeros(14, 8)
    warm = gumbel_soft(0, 0, 0, 10.0)(alpha, 0, ALL)[0].max(1).values.mean()
    cold = gumbel_soft(0, 0, 0, 0.1)(alpha, 0, ALL)[0].max(1).values.mean()
    assert warm < 0.3 < 0.8 < cold
    assert float(gumbel_soft(0, 0, 0, 1.0)(alpha, 0, ALL)[0].sum()) == pytest.approx(14.0)
