"""What a supernet is made from and called with, whatever its space.

``supernet(pictures, mixing, dropout)`` gives logits; ``mixing`` has one :class:`Mixing` for every
matrix of the space's relaxed choice. Legend: E rows (edges), O columns (operators), A activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factory.spaces.base import NETWORK, SearchSpace


@dataclass(frozen=True)
class SupernetOptions:
    """How a supernet is made.

    Attributes:
        seed: where its weights come from.
        layers: its depth, where the space has cells; None: that of the space's size.
        partial_channels: K: one K-th of the channels goes through the candidates.
        candidates: per matrix [E, O], the columns that exist; None: all.
        activations: candidates of a factorised edge; empty: edges are not factorised.
        single: only some candidates run in a step, or dropout is used.
    """

    seed: int = 0
    layers: int | None = None
    partial_channels: int = 1
    candidates: Mapping[str, Tensor] | None = None
    activations: Sequence[str] = ()
    single: bool = False


@dataclass(frozen=True)
class Mixing:
    """Weights of one matrix of the choice.

    Attributes:
        alpha_EO: of the columns of a row.
        beta_E: of the rows.
        active_EO: which columns run; one that does not has weight zero. None: all.
        gamma_EA: of the activations of an edge; None: a ReLU.
    """

    alpha_EO: Tensor
    beta_E: Tensor
    active_EO: Tensor | None = None
    gamma_EA: Tensor | None = None


@dataclass(frozen=True)
class SkipDropout:
    """Dropout of the stride-1 skips: its probability, and the seed of this step's masks."""

    probability: float
    seed: int


class VariableSupernet(nn.Module):
    """A module that is called with pictures and, by variable, the weights of its values.

    Args:
        space: a space whose relaxed choice is one matrix with a row for every variable.
        module: ``module(pictures, {variable: weights of its values})`` gives logits.
    """

    def __init__(self, space: SearchSpace, module: nn.Module) -> None:
        super().__init__()
        self.names = {v.name: len(v.values) for v in space.variables}
        self.module = module

    def forward(
        self, x: Tensor, mixing: Mapping[str, Mixing], dropout: SkipDropout | None = None
    ) -> Tensor:
        """Logits."""
        alpha_VO = mixing[NETWORK].alpha_EO
        pairs = enumerate(self.names.items())
        logits: Tensor = self.module(x, {name: alpha_VO[i, :size] for i, (name, size) in pairs})
        return logits


@torch.no_grad()
def fixed_statistics_off(module: nn.Module) -> None:
    """BatchNorms by their batch alone: the loss of a supernet is a function of its weights."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats = False
            part.running_mean = part.running_var = part.num_batches_tracked = None
