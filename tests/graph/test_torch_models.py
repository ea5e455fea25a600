"""Networks written by torch's exporters arrive as the kernels one expects."""

import pytest

from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx, to_onnx
from factory.graph.onnx_import import from_onnx, load_onnx
from factory.graph.opgraph import GraphBuilder

torch = pytest.importorskip("torch")


class Block(torch.nn.Module):
    """Relu-DWConv-PWConv-BN, a skip, an average pool, GAP, linear."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        s = self.stem_bn(self.stem(x))
        y = self.bn(self.pointwise(self.depthwise(torch.relu(s)))) + s
        z = torch.cat([y, self.pool(s)], 1)
        return self.linear(self.gap(z).flatten(1))


def expected():
    b = GraphBuilder()
    s = b.conv(b.input("x", (1, 3, 12, 12)), 8, 3, padding=1)
    y = b.conv(b.relu(s), 8, 3, padding=2, dilation=2, groups=8, bn=False)
    y = b.add(b.conv(y, 8, 1), s)
    return b.finish([b.linear(b.global_avg_pool(b.concat([y, b.avg_pool(s, 3, 1, 1)])), 10)])


def test_a_block_from_the_dynamo_exporter(tmp_path):
    torch.manual_seed(0)
    net, x = Block().eval(), torch.zeros(1, 3, 12, 12)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    got = kernel_counts(canonicalise(from_onnx(load_onnx(tmp_path / "net.onnx"))))
    assert got == kernel_counts(canonicalise(expected()))


def mobilenet_v2():
    from torchvision.models.mobilenetv2 import MobileNetV2

    return MobileNetV2(inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]])


def mobilenet_v3():
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [
        (16, 3, 16, 16, True, "RE", 2),
        (16, 3, 72, 24, False, "RE", 2),
        (24, 5, 96, 40, True, "HS", 2),
        (40, 5, 240, 40, True, "HS", 1),
    ]
    return MobileNetV3([InvertedResidualConfig(*block, 1, 1.0) for block in blocks], 1024)


def squeezenet():
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(weights=None)


def shufflenet_v2():
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    return ShuffleNetV2([2, 1, 2], [24, 116, 232, 464, 1024])


def efficientnet():
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 1)]
    return EfficientNet([MBConvConfig(*block) for block in blocks], dropout=0.2)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [mobilenet_v2, mobilenet_v3, squeezenet, shufflenet_v2, efficientnet]
)
def test_mobile_networks(tmp_path, make):
    """torchvision's networks with every kind of block they have, but not all its repetitions."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    net = make().eval()
    x = torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(x)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    raw = from_onnx(load_onnx(tmp_path / "net.onnx"))
    assert count(raw).macs == flops.get_total_flops() // 2
    canonical = canonicalise(raw)
    kernels = kernel_counts(canonical)
    assert kernel_counts(canonicalise(from_onnx(to_onnx(canonical)))) == kernels
    for kernel in kernels:
        assert Kernel.parse(str(kernel)) == kernel
        kernel_to_onnx(kernel)
        kernel_to_onnx(kernel.with_dtype("i8"))
