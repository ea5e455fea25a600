"""The learning rate: a linear rise, then a cosine to zero (SGDR, arXiv 1608.03983, no restarts)."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, warmup_steps: int, lr: float) -> float:
    """Rate of step ``step``: lr (s+1)/w in the rise, then lr (1 + cos(pi p)) / 2, p in [0, 1)."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    position = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return lr * (1 + math.cos(math.pi * position)) / 2
