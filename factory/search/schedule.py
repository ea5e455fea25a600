"""Schedules of a search: which steps move the architecture, the stages, what changes with time.

Single stage (DARTS arXiv 1806.09055, PC-DARTS arXiv 1907.05737): a weights-only warm-up, then
architecture and weights in turn; the weights' learning rate falls with a cosine. A schedule is a
pure function of the step, so that resuming needs one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from factory.search.config import SearchConfig


@dataclass(frozen=True)
class Stage:
    """Steps [start, end) in one supernet; [start, warm_until) move the weights only.

    Attributes:
        layers: cells of the supernet.
        candidates: operators kept an edge; None: all.
        skip_dropout: probability at its start.
    """

    start: int
    warm_until: int
    end: int
    layers: int
    candidates: int | None = None
    skip_dropout: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """The stages of a search and what depends on the step."""

    steps_per_epoch: int
    stages: tuple[Stage, ...]
    weight_lr: Callable[[int], float]
    skip_dropout: Callable[[int], float] = lambda step: 0.0

    @property
    def warmup_steps(self) -> int:
        """First steps of the first stage, weights only: shared by all tiers."""
        return self.stages[0].warm_until

    @property
    def total_steps(self) -> int:
        """Steps of the whole search."""
        return self.stages[-1].end

    def stage_of(self, step: int) -> int:
        """Index of the stage that ``step`` belongs to; the last one beyond the end."""
        found = (i for i, stage in enumerate(self.stages) if step < stage.end)
        return next(found, len(self.stages) - 1)

    def weights_only(self, step: int) -> bool:
        """Whether ``step`` leaves the architecture alone."""
        return step < self.stages[self.stage_of(step)].warm_until

    def share(self, step: int) -> float:
        """How much of the search is over, 0 to 1."""
        return min(1.0, step / max(1, self.total_steps - 1))


def single_stage(cfg: SearchConfig, pass_steps: int) -> Schedule:
    """``pass_steps``: steps of one pass over the half that trains the weights."""
    per_epoch = cfg.steps_per_epoch or pass_steps
    total = cfg.epochs * per_epoch
    rise = cfg.lr_warmup_epochs * per_epoch

    def weight_lr(step: int) -> float:
        if step < rise:
            return cfg.weight_lr * (step + 1) / rise
        return cosine(cfg, min(1.0, step / total))

    stage = Stage(0, cfg.warmup_epochs * per_epoch, total, cfg.layers)
    return Schedule(per_epoch, (stage,), weight_lr)


def cosine(cfg: SearchConfig, share: float) -> float:
    """The weights' learning rate after ``share`` of its time."""
    return cfg.weight_lr_min + 0.5 * (cfg.weight_lr - cfg.weight_lr_min) * (
        1 + math.cos(math.pi * share)
    )
