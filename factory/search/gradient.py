"""Estimates of the architecture's gradient; one function each, registered by name.

An estimate gets the supernet's loss as a function of (batch, architecture attached or not) and
returns the validation loss and d loss / d architecture.
First order (DARTS, arXiv 1806.09055, with xi = 0): the gradient of the validation loss at the
current weights. Only gradients towards the architecture are computed, not those of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from factory.core.registry import Registry

Batch = tuple[Tensor, Tensor]


class BilevelProblem(Protocol):
    """What an estimate may ask for."""

    @property
    def arch_parameters(self) -> Sequence[Tensor]:
        """Parameters that the search moves."""

    @property
    def weight_parameters(self) -> Sequence[Tensor]:
        """Weights of the supernet."""

    def loss(self, batch: Batch, *, detach_arch: bool = False) -> Tensor:
        """Cross-entropy of the supernet on a batch."""


Estimate = Callable[[BilevelProblem, Batch, Batch], tuple[Tensor, list[Tensor]]]
GRADIENTS: Registry[Estimate] = Registry("architecture gradient")


@GRADIENTS.register("first_order")
def first_order(
    problem: BilevelProblem, validation: Batch, training: Batch
) -> tuple[Tensor, list[Tensor]]:
    """Validation loss and its gradient at the current weights; ``training`` is not used."""
    loss = problem.loss(validation)
    grads = torch.autograd.grad(loss, list(problem.arch_parameters))
    return loss.detach(), list(grads)
