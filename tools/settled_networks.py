"""Networks of torchvision and timm with random weights and settled activations, for benchmarks.

    factory export tools.settled_networks:mobilenet_v2 --target all --out bench/mobilenet_v2

Freshly made, torchvision's MobileNets and MNASNet answer with logits near 1e-9: their running
statistics are those of unit variance, and the signal dies layer by layer. Here every batch
normalisation takes the statistics of 16 made-up pictures in one forward pass, so that activations
are of the order of one and a comparison with fp32 means something. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

NETWORKS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "resnet18",
    "regnet_y_400mf",
)
TIMM_NETWORKS = (
    "mobilenetv4_conv_small",
    "ghostnetv2_100",
    "repvit_m0_9",
    "convnext_atto",
    "fastvit_t8",
    "edgenext_xx_small",
)
"""Of the package timm, which is no dependency: it is looked for on PYTHONPATH."""
PICTURES, SIDE_PX = 16, 224


def settled(name: str) -> nn.Module:
    """The network in eval mode, its statistics from one pass over random pictures."""
    network: nn.Module
    if name in TIMM_NETWORKS:
        import timm

        network = timm.create_model(name, pretrained=False)
    else:
        from torchvision import models

        network = getattr(models, name)()
    settle(network, (3, SIDE_PX, SIDE_PX))
    return network


@torch.no_grad()
def settle(network: nn.Module, image_shape: tuple[int, int, int], seed: int = 0) -> None:
    """Give every batch normalisation the statistics of PICTURES pictures like the export's own."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = image_shape
    coarse = torch.randn(PICTURES, channels, -(-height // 8), -(-width // 8), generator=generator)
    pictures = nn.functional.interpolate(coarse, (height, width), mode="nearest")
    pictures += 0.3 * torch.randn(pictures.shape, generator=generator)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the passes, of which there is one
            module.train()
    network(pictures)
    network.eval()


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Each network as a function without arguments."""
    if name not in NETWORKS + TIMM_NETWORKS:
        raise AttributeError(f"no network {name!r} here")
    return partial(settled, name)
