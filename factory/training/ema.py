"""Averaged weights: exponential moving average of parameters and BatchNorm statistics.

"Acceleration of stochastic approximation by averaging" (Polyak and Juditsky 1992), in the
exponential form. Warm-up: decay_t = min(decay, (1 + t) / (10 + t)), so that a run of a few hundred
steps is not dominated by its first weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """A second network whose weights follow the first one's; it is the one that ships."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        own, followed = self.network.state_dict(), network.state_dict(keep_vars=True)
        floating = [name for name, value in own.items() if value.is_floating_point()]
        self._own: list[Tensor] = [own[name] for name in floating]
        self._followed: list[Tensor] = [followed[name] for name in floating]
        self._counters = [(own[n], followed[n]) for n in own if n not in set(floating)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step`` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        torch._foreach_lerp_(self._own, [t.detach() for t in self._followed], 1 - decay)
        for own, followed in self._counters:
            own.copy_(followed)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.network.load_state_dict(state)
