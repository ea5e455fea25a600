"""The progressive schedule: deeper supernets with fewer candidates, stage by stage.

P-DARTS (arXiv 1904.12760). Every stage has its own supernet and architecture parameters; an edge
keeps the operators with the largest softmax of the stage before. Dropout on the stride-1 skips
starts at p0 and decays: with E epochs in a stage, w of them weights only,
p = p0 (E - e - 1) / E for e < w, then p0 exp(-0.2 (e - w)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from factory.search.config import SearchConfig
from factory.search.schedule import Schedule, Stage, cosine

DROPOUT_DECAY = 0.2


def progressive(cfg: SearchConfig, pass_steps: int) -> Schedule:
    """``epochs`` and ``warmup_epochs`` are those of one stage."""
    per_epoch = cfg.steps_per_epoch or pass_steps
    length, warm = cfg.epochs * per_epoch, cfg.warmup_epochs * per_epoch
    shapes = zip(cfg.stage_layers, cfg.stage_candidates, cfg.skip_dropout, strict=True)
    stages = tuple(
        Stage(i * length, i * length + warm, (i + 1) * length, layers, kept, dropout)
        for i, (layers, kept, dropout) in enumerate(shapes)
    )
    rise = cfg.lr_warmup_epochs * per_epoch

    def inside(step: int) -> int:
        return step - min(step // length, len(stages) - 1) * length

    def weight_lr(step: int) -> float:
        within = inside(step)
        if within < rise:
            return cfg.weight_lr * (within + 1) / rise
        return cosine(cfg, min(1.0, within / length))

    def skip_dropout(step: int) -> float:
        stage = stages[min(step // length, len(stages) - 1)]
        return dropout_at(stage.skip_dropout, inside(step) // per_epoch, cfg)

    return Schedule(per_epoch, stages, weight_lr, skip_dropout)


def dropout_at(p0: float, epoch: int, cfg: SearchConfig) -> float:
    """Dropout on skips in an epoch of its stage."""
    if epoch < cfg.warmup_epochs:
        return p0 * (cfg.epochs - epoch - 1) / cfg.epochs
    return p0 * math.exp(-DROPOUT_DECAY * (epoch - cfg.warmup_epochs))


def strongest(alpha: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Per cell type [E, O]: the ``keep`` operators of an edge with the largest alpha.

    ``alpha`` is -inf where an operator is out already; of equal ones the first is kept.
    """
    found = {}
    for name, alpha_EO in alpha.items():
        order = torch.argsort(-alpha_EO.detach().cpu(), dim=1, stable=True)
        kept = torch.zeros_like(order, dtype=torch.bool)
        found[name] = kept.scatter(1, order[:, :keep], True)
    return found
