import pytest

from factory.graph.counts import count
from factory.graph.opgraph import GraphBuilder


def test_by_hand():
    b = GraphBuilder()
    x = b.input("x", (1, 3, 8, 8))
    y = b.conv(x, 4, 3, padding=1)  # 4*27 weights, gamma and beta 8
    z = b.conv(b.relu(y), 4, 3, padding=1, groups=4, bn=False, bias=True)  # 36 + 4
    graph = b.finish([b.linear(b.global_avg_pool(b.relu(z)), 10)])
    counts = count(graph)
    assert counts.params == 4 * 27 + 8 + 36 + 4 + 4 * 10 + 10
    assert counts.macs == 64 * 4 * 27 + 64 * 4 * 9 + 40
    assert counts.macs_darts_paper == counts.macs + 2 * 256 + 256 + 256


def test_peak_memory():
    b = GraphBuilder()
    x = b.input("x", (1, 2, 4, 4))  # 128 bytes
    wide = b.conv(x, 8, 1)  # 512 bytes
    graph = b.finish([b.add(b.conv(wide, 2, 1), x)])
    # x is read last: x + wide + narrow are live together
    assert count(graph).peak_memory_bytes == 128 + 512 + 128
    chain = GraphBuilder()
    x = chain.input("x", (1, 2, 4, 4))
    graph = chain.finish([chain.conv(chain.conv(x, 8, 1), 2, 1)])
    assert count(graph).peak_memory_bytes == 512 + 128


def test_dead_operators_take_no_memory():
    b = GraphBuilder()
    x = b.input("x", (1, 2, 4, 4))
    b.conv(x, 100, 1)
    assert count(b.finish([b.relu(x)])).peak_memory_bytes == 256


def test_macs_agree_with_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        torch.nn.Conv2d(8, 16, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    ).eval()
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", (1, 3, 15, 15)), 8, 3, stride=2, padding=1))
    x = b.conv(x, 8, 5, padding=4, dilation=2, groups=8, bn=False, bias=True)
    x = b.conv(x, 16, 1, bn=False, bias=True)
    counts = count(b.finish([b.linear(b.global_avg_pool(x), 10)]))
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.zeros(1, 3, 15, 15))
    assert counts.macs == flops.get_total_flops() // 2
    assert counts.params == sum(p.numel() for p in net.parameters())
