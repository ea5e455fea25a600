"""The largest eigenvalue of the architecture's Hessian, by power iteration on request.

d2 L_val / d alpha2 at the current weights: its largest eigenvalue rises before a DARTS search
collapses (R-DARTS, arXiv 1909.09656). Products with the Hessian are central differences of the
first-order gradient; an iteration costs two gradients.
"""

from __future__ import annotations

import torch

from factory.search.gradient import Batch, BilevelProblem, central_difference, gradients, norm

ITERATIONS = 12
RADIUS = 1e-2
TOLERANCE = 1e-3


def largest_eigenvalue(problem: BilevelProblem, batch: Batch, seed: int = 0) -> float:
    """The eigenvalue of largest magnitude, with its sign; the start vector comes from ``seed``."""
    arch = list(problem.arch_parameters)
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in arch]

    def gradient() -> list[torch.Tensor]:
        return gradients(problem.loss(batch), arch)

    value = 0.0
    for _ in range(ITERATIONS):
        length = norm(vector)
        if length == 0.0:
            return 0.0
        vector = [v / length for v in vector]
        product = central_difference(gradient, arch, vector, RADIUS)
        before = value
        value = sum(float((v * p).double().sum()) for v, p in zip(vector, product, strict=True))
        if abs(value - before) <= TOLERANCE * abs(value):
            break
        vector = product
    return value
