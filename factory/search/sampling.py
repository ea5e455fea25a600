"""Sampling of an edge's operator: the Gumbel-softmax of SNAS and GDAS; noise by (seed, step) alone.

With g ~ Gumbel(0, 1) and a temperature t, p = softmax((log softmax(alpha) + g) / t); argmax p is a
draw from softmax(alpha). Soft (SNAS, arXiv 1812.09926): p are the weights. Hard (GDAS, arXiv
1910.04465): only the operator o = argmax p runs, with the weight 1 - stop(p_o) + p_o, so that the
forward pass is one operator and the gradient that of the soft weight.
Legend: E edges, O operators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factory.data.augment import derived_seed
from factory.search.relaxation import Sampler

STREAM = 15  # of random numbers


def gumbel_noise(shape: torch.Size, seed: int, step: int, part: int) -> Tensor:
    """Gumbel(0, 1) as a pure function of the three numbers, drawn on the CPU."""
    generator = torch.Generator().manual_seed(derived_seed(seed, STREAM, step, part))
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))


def no_sampling(seed: int, step: int, use: int, temperature: float) -> Sampler | None:
    """The softmax itself."""
    return None


def gumbel_soft(seed: int, step: int, use: int, temperature: float) -> Sampler | None:
    """All operators of an edge, weighted by one Gumbel-softmax sample."""

    def sample(alpha_EO: Tensor, part: int, candidates_EO: Tensor) -> tuple[Tensor, Tensor]:
        return _soft(alpha_EO, part, seed, step, use, temperature), candidates_EO

    return sample


def gumbel_hard(seed: int, step: int, use: int, temperature: float) -> Sampler | None:
    """One operator an edge, straight-through."""

    def sample(alpha_EO: Tensor, part: int, candidates_EO: Tensor) -> tuple[Tensor, Tensor]:
        p_EO = _soft(alpha_EO, part, seed, step, use, temperature)
        hot_EO = torch.zeros_like(p_EO).scatter(1, p_EO.detach().argmax(1, keepdim=True), 1.0)
        return hot_EO * (1.0 - p_EO.detach() + p_EO), hot_EO > 0

    return sample


def _soft(
    alpha_EO: Tensor, part: int, seed: int, step: int, use: int, temperature: float
) -> Tensor:
    """``use`` separates the samples of the architecture's step from those of the weights'."""
    noise = gumbel_noise(alpha_EO.shape, seed, step, 2 * use + part)
    noise = noise.to(alpha_EO.device, alpha_EO.dtype)
    return torch.softmax((torch.log_softmax(alpha_EO, 1) + noise) / temperature, 1)
