"""The activations of activations.py as torch functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from factory.core.registry import Registry

FUNCTIONS: Registry[Callable[[Tensor], Tensor]] = Registry("activation")
FUNCTIONS.add("relu", F.relu)
FUNCTIONS.add("leaky_relu", lambda x: F.leaky_relu(x, 0.1))
FUNCTIONS.add("relu6", F.relu6)
FUNCTIONS.add("hard_swish", F.hardswish)
FUNCTIONS.add("silu", F.silu)
FUNCTIONS.add("tanh", torch.tanh)
