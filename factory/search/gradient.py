"""Estimates of the architecture's gradient; one function each, named in axes.py.

An estimate gets the supernet's loss as a function of (batch, architecture attached or not) and
returns the validation loss and d loss / d architecture. All evaluations of one step see the same
samples and dropout masks, so that differences of them mean something.
First order (DARTS, arXiv 1806.09055, with xi = 0): the gradient of the validation loss at the
current weights. Only gradients towards the architecture are computed, not those of the weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class EstimateSettings:
    """What the estimates beyond first order need to know.

    Attributes:
        weight_lr: xi, the weights' learning rate in this step.
        momentum, weight_decay: of the weights' optimizer.
        amended_eta: weight of the amended term.
    """

    weight_lr: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    amended_eta: float = 0.1


class BilevelProblem(Protocol):
    """What an estimate may ask for."""

    @property
    def arch_parameters(self) -> Sequence[Tensor]:
        """Parameters that the search moves."""

    @property
    def weight_parameters(self) -> Sequence[Tensor]:
        """Weights of the supernet."""

    @property
    def settings(self) -> EstimateSettings:
        """Settings of this step."""

    def weight_momenta(self) -> Sequence[Tensor | None]:
        """The momentum buffer of every weight; None before its first step."""

    def loss(self, batch: Batch, *, detach_arch: bool = False) -> Tensor:
        """Cross-entropy of the supernet on a batch."""


Estimate = Callable[[BilevelProblem, Batch, Batch], tuple[Tensor, list[Tensor]]]


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d parameters; zero for what did not run (operators that were not sampled)."""
    return list(torch.autograd.grad(loss, list(parameters), materialize_grads=True))


def first_order(
    problem: BilevelProblem, validation: Batch, training: Batch
) -> tuple[Tensor, list[Tensor]]:
    """Validation loss and its gradient at the current weights; ``training`` is not used."""
    loss = problem.loss(validation)
    return loss.detach(), gradients(loss, problem.arch_parameters)


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all of them together."""
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors))


@contextlib.contextmanager
def moved(parameters: Sequence[Tensor], by: Sequence[Tensor], factor: float) -> Iterator[None]:
    """``parameters + factor * by`` inside, exactly the old values afterwards."""
    with torch.no_grad():
        kept = [p.detach().clone() for p in parameters]
        for parameter, step in zip(parameters, by, strict=True):
            parameter.add_(step, alpha=factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)


def central_difference(
    gradient: Callable[[], Sequence[Tensor]],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    radius: float,
) -> list[Tensor]:
    """(d gradient / d parameters) . direction from two evaluations ``radius`` away (in norm)."""
    length = norm(direction)
    if length == 0.0:
        return [torch.zeros_like(g) for g in gradient()]
    with moved(parameters, direction, radius / length):
        plus = gradient()
    with moved(parameters, direction, -radius / length):
        minus = gradient()
    return [(a - b) * (length / (2 * radius)) for a, b in zip(plus, minus, strict=True)]
