"""Every parameter and buffer of a network from one seed."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def initialise_supernet(supernet: nn.Module, seed: int, features: int) -> None:
    """All parameters but those of BatchNorms uniform in +-1/sqrt(fan in), in their order.

    ``features`` is the fan in of vectors, the classifier's biases. Weights may be stacked: of a
    convolution the last three dimensions count, of a matrix the last one.
    """
    generator = torch.Generator().manual_seed(seed)
    normed = {
        id(parameter)
        for module in supernet.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    for parameter in supernet.parameters():
        if id(parameter) not in normed:
            shape = parameter.shape
            fan_in = math.prod(shape[-3:]) if len(shape) > 3 else shape[-1]
            bound = 1.0 / math.sqrt(fan_in if len(shape) > 1 else features)
            parameter.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Weights and biases of convolutions and linear layers uniform in +-1/sqrt(fan in).

    That is torch's default and that of the published recipes. The numbers are drawn on the CPU,
    so that they do not depend on where the network is.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    values = torch.empty(parameter.shape).uniform_(
                        -bound, bound, generator=generator
                    )
                    parameter.copy_(values)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
