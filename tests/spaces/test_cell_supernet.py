"""The batched supernet computes what a plain per-edge one computes."""

from __future__ import annotations

import pytest
import search_naive as naive
import torch
import torch.nn.functional as F

from factory.search.relaxation import ArchParameters
from factory.spaces import cell_supernet as supernet_module
from factory.spaces import fast_ops as ops
from factory.spaces.cell_space import EDGES, CellSpace
from factory.spaces.cell_supernet import GROUPS, Supernet
from factory.spaces.mixing import Mixing
from factory.spaces.network_spec import NetworkSpec

SPACE = CellSpace(NetworkSpec(4, 3, "cifar", (3, 8, 8), 3))
CASES = [
    (1, 4, "cifar", (3, 8, 8)),
    (4, 8, "cifar", (3, 8, 8)),
    (2, 12, "cifar", (1, 9, 7)),  # odd maps, odd channels a half
    (2, 40, "cifar", (3, 4, 4)),  # many channels: grouped convolutions, index_select
    (4, 8, "imagenet", (3, 32, 32)),
]


def _architecture(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(14, 8, generator=generator, dtype=torch.float64).requires_grad_(),
            torch.randn(14, generator=generator, dtype=torch.float64).requires_grad_(),
        )
        for name in ("normal", "reduce")
    }


def _mixing(arch):
    return {name: Mixing(a.softmax(1), b.sigmoid()) for name, (a, b) in arch.items()}


@pytest.mark.parametrize("together", [0, 1 << 30, None], ids=["in turn", "stacked", "planes"])
@pytest.mark.parametrize(("partial", "channels", "stem", "image"), CASES)
def test_equals_the_naive_one_forward_and_gradients(
    partial, channels, stem, image, together, monkeypatch
):
    if together is None:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(supernet_module, "TOGETHER_UP_TO", together)
    monkeypatch.setattr(ops, "PLANES", together is None)
    monkeypatch.setattr(ops, "PLANES_FROM", 0)
    monkeypatch.setattr(ops, "SPLIT_FROM", 0)
    net = Supernet(NetworkSpec(channels, 4, stem, image, 5), partial, seed=1).double()
    arch = _architecture(0)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, *image, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 5, (4,), generator=generator)
    names = [n for n, _ in net.named_parameters()] + ["a0", "b0", "a1", "b1"]
    wanted = [*net.parameters(), *(p for pair in arch.values() for p in pair)]
    fast, plain = net(x, _mixing(arch)), naive.forward(net, x, _mixing(arch))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-10)
    fast_grads = torch.autograd.grad(F.cross_entropy(fast, y), wanted)
    plain_grads = torch.autograd.grad(F.cross_entropy(plain, y), wanted)
    for name, a, b in zip(names, fast_grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_float32_stays_close():
    net = Supernet(NetworkSpec(8, 3, "cifar", (3, 8, 8), 5), 4, seed=1)
    mixing = ArchParameters(SPACE, seed=0).mixing()
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x, mixing), naive.forward(net, x, mixing), rtol=1e-4, atol=1e-5)


def test_uniform_beta_without_partial_channels_is_the_full_relaxation_scaled():
    net = Supernet(NetworkSpec(4, 3, "cifar", (3, 8, 8), 3), 1, seed=4).double()
    cell = net.cells[0]
    alpha = torch.randn(14, 8, dtype=torch.float64).softmax(1)
    s = torch.randn(2, 12, 8, 8, dtype=torch.float64)
    edges = torch.tensor([float(node) for node, _ in EDGES], dtype=torch.float64)
    full = cell((s.relu(), s.relu()), (None, None), Mixing(alpha, torch.ones_like(edges)))
    scaled = cell((s.relu(), s.relu()), (None, None), Mixing(alpha, 1 / edges))
    node2, node2_scaled = full[:, :4], scaled[:, :4]
    torch.testing.assert_close(node2_scaled, node2 / 2)
    mixing = ArchParameters(SPACE, seed=0).mixing()["normal"]
    torch.testing.assert_close(
        mixing.beta_E, (1 / edges).float(), rtol=1e-2, atol=0
    )  # what edge normalisation starts from


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 9), (3, 2, 2, 2)])
def test_depthwise_equals_torch(size, dilation, stride, shape, monkeypatch):
    monkeypatch.setattr(ops, "SPLIT_FROM", 0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    w = torch.randn(shape[1], 1, size, size, generator=generator, dtype=torch.float64)
    w.requires_grad_()
    y = ops.depthwise(x.contiguous(memory_format=torch.channels_last), w, stride, dilation)
    z = F.conv2d(x, w, None, stride, dilation * (size - 1) // 2, dilation, shape[1])
    torch.testing.assert_close(y, z)
    g = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(y, (x, w), g), torch.autograd.grad(z, (x, w), g), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_batch_norm_and_weighted_sum_gradients():
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.batch_norm, (x, scale))
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = torch.rand(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, a, b: ops.weighted_sum([a, b], w), (w, a, b))


def test_groups_cover_every_edge_once_and_weights_depend_on_the_seed_alone():
    assert sorted(e for g in GROUPS for e in g.edges) == list(range(14))
    spec = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)
    torch.manual_seed(0)
    first = Supernet(spec, 2, seed=5).state_dict()
    torch.manual_seed(1)
    second = Supernet(spec, 2, seed=5).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def _loss_and_gradients(net, arch, x):
    mixing = _mixing(arch)
    loss = net(x, mixing).square().mean()
    return [loss, *torch.autograd.grad(loss, [*net.parameters(), *arch["normal"]])]


def test_compiled_loops_repeat_bit_for_bit_and_keep_two_graphs_apart(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(ops, "PLANES_FROM", 0)
    net = Supernet(NetworkSpec(4, 3, "cifar", (3, 8, 8), 5), 2, seed=1).double()
    arch = _architecture(0)
    x, other = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64).unbind(0)
    first, second = _loss_and_gradients(net, arch, x), _loss_and_gradients(net, arch, x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    early = net(x, _mixing(arch)).square().mean()
    late = net(other, _mixing(arch)).square().mean()  # before the first one's backward pass
    wanted = [*net.parameters(), *arch["normal"]]
    torch.autograd.grad(late, wanted)
    again = torch.autograd.grad(early, wanted)
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_same_result(threads, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(ops, "PLANES_FROM", 0)
    net = Supernet(NetworkSpec(4, 3, "cifar", (3, 8, 8), 5), 2, seed=1).double()
    arch = _architecture(0)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = _loss_and_gradients(net, arch, x)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(ops, "PLANES", False)
    for a, b in zip(found, _loss_and_gradients(net, arch, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


def test_a_weight_that_is_not_a_number_is_seen_in_the_loss(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(ops, "PLANES_FROM", 0)
    net = Supernet(NetworkSpec(4, 3, "cifar", (3, 8, 8), 5), 1, seed=1).double()
    with torch.no_grad():
        net.cells[0].groups[0].pointwise1[0, 0, 0] = torch.nan
    assert net(torch.randn(2, 3, 8, 8).double(), _mixing(_architecture(0))).isnan().all()
