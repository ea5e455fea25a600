"""Weights of a safetensors file into a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

if TYPE_CHECKING:
    from torch import nn


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Fill ``network`` with the tensors of ``path``; where they do not fit, torch raises.

    A safetensors file holds tensors only. The versions that torch's modules keep beside their
    state are those of ``network``: torchvision's MNASNet refuses a state without one.
    """
    state = network.state_dict()
    state.clear()
    state.update(safetensors.torch.load_file(path))
    network.load_state_dict(state)
