"""Schedules of a search: which steps move the architecture, and the weights' learning rate.

Single stage (DARTS arXiv 1806.09055, PC-DARTS arXiv 1907.05737): a weights-only warm-up, then
architecture and weights in turn; the weights' learning rate falls with a cosine. A schedule is a
pure function of the step, so that resuming needs one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from factory.core.registry import Registry
from factory.search.config import SearchConfig


@dataclass(frozen=True)
class Schedule:
    """Steps of a search: [0, warmup_steps) weights only, [warmup_steps, total_steps) both."""

    steps_per_epoch: int
    warmup_steps: int
    total_steps: int
    weight_lr: Callable[[int], float]


SCHEDULES: Registry[Callable[[SearchConfig, int], Schedule]] = Registry("schedule")


@SCHEDULES.register("single_stage")
def single_stage(cfg: SearchConfig, pass_steps: int) -> Schedule:
    """``pass_steps``: steps of one pass over the half that trains the weights."""
    per_epoch = cfg.steps_per_epoch or pass_steps
    total = cfg.epochs * per_epoch
    rise = cfg.lr_warmup_epochs * per_epoch

    def weight_lr(step: int) -> float:
        if step < rise:
            return cfg.weight_lr * (step + 1) / rise
        share = min(1.0, step / total)
        return cfg.weight_lr_min + 0.5 * (cfg.weight_lr - cfg.weight_lr_min) * (
            1 + math.cos(math.pi * share)
        )

    return Schedule(per_epoch, cfg.warmup_epochs * per_epoch, total, weight_lr)
