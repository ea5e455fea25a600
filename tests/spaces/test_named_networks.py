"""Named networks: published sizes, weights of other libraries, one description for two forms."""

import pytest
import torch
import torchvision

from factory.core.errors import InputError
from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.graph.onnx_import import from_onnx
from factory.spaces.mobile_blocks import Bottleneck, Conv, Head, MobileNetwork, Squeeze, lower
from factory.spaces.mobile_network import TorchMobileNetwork
from factory.spaces.named_networks import NAMED, named_network

# Parameters and MACs of timm's and torchvision's networks with 1,000 classes.
PUBLISHED = [
    ("mobilenetv4_conv_small", 224, 3_774_024, 186_005_568),
    ("mobilenetv4_conv_small", 256, 3_774_024, 242_178_048),
    ("mobilenetv4_conv_small_050", 224, 2_238_952, 64_741_408),
    ("mobilenetv4_conv_medium", 224, 9_715_512, 827_649_984),
    ("mobilenetv4_conv_medium", 184, 9_715_512, 594_095_040),
    ("mobilenet_v2", 224, 3_504_872, 300_774_272),
    ("mobilenet_v3_large", 224, 5_483_032, 216_589_760),
    ("mobilenet_v3_small", 224, 2_542_856, 56_510_400),
    ("mnasnet1_0", 224, 4_383_312, 314_415_872),
    ("efficientnet_lite0", 224, 4_652_008, 385_187_552),
    ("fbnetc_100", 224, 5_572_200, 384_960_160),
    ("efficientnet_b0", 224, 5_288_548, 385_814_752),
]


@pytest.mark.parametrize(("name", "side", "params", "macs"), PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name, side, params, macs):
    counts = count(lower(named_network(name), (3, side, side), 1000))
    assert (counts.params, counts.macs) == (params, macs)


def test_every_named_network_is_held_to_its_figures():
    assert {row[0] for row in PUBLISHED} == set(NAMED)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenetv4_conv_small_050"])
def test_the_graph_has_the_kernels_of_the_exported_torch_network(name):
    network = named_network(name)
    torch_network = TorchMobileNetwork(network, 10).initialise(0).eval()
    exported = from_onnx(build_onnx(torch_network, (3, 64, 64)))
    ours = lower(network, (3, 64, 64), 10)
    assert kernel_counts(canonicalise(exported)) == kernel_counts(canonicalise(ours))
    assert sum(p.numel() for p in torch_network.parameters()) == count(ours).params


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_weights_of_torchvision_give_its_outputs(name):
    generator = torch.Generator().manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    ours = TorchMobileNetwork(named_network(name), 1000).eval()
    ours.load_published(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-6)


def test_a_classifier_of_other_classes_keeps_its_own_weights():
    weights = TorchMobileNetwork(named_network("mobilenet_v3_small"), 1000).initialise(1)
    ours = TorchMobileNetwork(named_network("mobilenet_v3_small"), 7).initialise(2)
    before = ours.head[-1].weight.clone()
    ours.load_published(weights.state_dict())
    assert torch.equal(ours.head[-1].weight, before)
    assert torch.equal(ours.blocks[0].layers[0].weight, weights.blocks[0].layers[0].weight)


def test_weights_of_another_network_are_refused():
    ours = TorchMobileNetwork(named_network("mobilenetv4_conv_small_050"), 10)
    larger = TorchMobileNetwork(named_network("mobilenetv4_conv_small"), 10)
    with pytest.raises(InputError, match="do not fit mobilenetv4_conv_small_050"):
        ours.load_published(larger.state_dict())
    other = TorchMobileNetwork(named_network("mobilenet_v2"), 10)
    with pytest.raises(InputError, match="they hold"):
        ours.load_published(other.state_dict())


def test_the_stride_sits_on_the_middle_depthwise_convolution_where_there_is_one():
    both = list(Bottleneck(16, 32, start=3, middle=5, stride=2).layers(8))
    assert [(layer.kernel, layer.stride) for layer in both] == [(3, 1), (1, 1), (5, 2), (1, 1)]
    first = list(Bottleneck(16, 32, start=3, middle=0, stride=2).layers(8))
    assert [(layer.kernel, layer.stride) for layer in first] == [(3, 2), (1, 1), (1, 1)]


def test_a_block_of_all_parts_is_one_network_in_both_forms():
    block = Bottleneck(8, 24, start=5, middle=3, squeeze=Squeeze(4), activation="hardswish")
    network = MobileNetwork("all-parts", (Conv(8, 3, 2), block), Head(16, hidden=12))
    exported = build_onnx(TorchMobileNetwork(network, 5).initialise(0).eval(), (3, 16, 16))
    ours = canonicalise(lower(network, (3, 16, 16), 5))
    assert kernel_counts(canonicalise(from_onnx(exported))) == kernel_counts(ours)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="mobilenet_v2"):
        named_network("mobilenet_v22")
