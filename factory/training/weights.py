"""Weights of a safetensors file into a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from safetensors import SafetensorError

from factory.core.errors import InputError
from factory.core.reading import is_file

if TYPE_CHECKING:
    from torch import nn


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Fill ``network`` with the tensors of ``path``; InputError where they do not fit.

    A safetensors file holds tensors only. The versions that torch's modules keep beside their
    state are those of ``network``: torchvision's MNASNet refuses a state without one.
    """
    if not is_file(path):
        raise InputError(f"weights {path} do not exist", fix="check the path")
    state = network.state_dict()
    state.clear()
    try:
        state.update(safetensors.torch.load_file(path))
        network.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        # what torch lists, and what a file of another kind makes of the reader
        raise InputError(f"the weights {path} do not fit the network", why=str(error)) from None
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"the weights {path} hold numbers that are none",
                why=f"{name!r} has NaN or infinity",
                fix="train again, or take other weights",
            )
