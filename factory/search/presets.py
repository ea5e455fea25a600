"""Presets: published methods as rows of choices with their hyper-parameters (no torch here).

Sources: DARTS arXiv 1806.09055, P-DARTS 1904.12760, PC-DARTS 1907.05737, Stabilized-DARTS
1910.11831, LA-DARTS 2001.06392, Scalable-DARTS 1912.13256, GDAS 1910.04465, SNAS 1812.09926,
beta-DARTS 2203.01665. Where a paper builds on another method and states nothing else, the settings
are those of that method; the preset's text says so. ``NAME-short`` is every preset scaled down by
:func:`shortened`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHORT_SUFFIX = "-short"
SHORT_EPOCHS = 12
SHORT_STAGE_EPOCHS = 4
SHORT_STAGE_LAYERS = (5, 6, 8)


@dataclass(frozen=True)
class Preset:
    """A named row: where it comes from, and the settings it fills in."""

    text: str
    values: Mapping[str, Any]


# PC-DARTS, section 4.2 and the authors' code; 4.3 for ImageNet
_PC_DARTS: dict[str, Any] = {
    "relaxation": "partial_channel",
    "channels": 16,
    "layers": 8,
    "partial_channels": 4,
    "batch_size": 256,
    "epochs": 50,
    "warmup_epochs": 15,
    "weight_lr": 0.1,
    "weight_lr_min": 0.0,
    "weight_momentum": 0.9,
    "weight_decay": 3e-4,
    "grad_clip": 5.0,
    "arch_lr": 6e-4,
    "arch_betas": (0.5, 0.999),
    "arch_weight_decay": 1e-3,
}
_PC_DARTS_IMAGENET = {
    **_PC_DARTS,
    "batch_size": 1024,
    "weight_lr": 0.5,
    "warmup_epochs": 35,
    "arch_lr": 6e-3,
    "lr_warmup_epochs": 5,
}
_DARTS = {
    **_PC_DARTS,
    "relaxation": "full",
    "partial_channels": 1,
    "batch_size": 64,
    "warmup_epochs": 0,
    "weight_lr": 0.025,
    "weight_lr_min": 0.001,
    "arch_lr": 3e-4,
    "max_skips": None,
}
_DARTS_LIMITED = {k: v for k, v in _DARTS.items() if k != "max_skips"}
# P-DARTS, section 4.1 and the authors' code; epochs and warm-up are those of one stage
_P_DARTS = {
    **_DARTS,
    "schedule": "progressive",
    "batch_size": 96,
    "epochs": 25,
    "warmup_epochs": 10,
    "weight_lr_min": 0.0,
    "arch_lr": 6e-4,
    "arch_grad_clip": 5.0,
    "stage_layers": (5, 11, 17),
    "stage_candidates": (8, 5, 3),
    "skip_dropout": (0.0, 0.4, 0.7),
    "max_skips": 2,
}

PRESETS: dict[str, Preset] = {
    "darts": Preset("DARTS, first order, CIFAR-10; no skip limit", _DARTS),
    "darts-2nd": Preset(
        "DARTS, second order (unrolled step), CIFAR-10; no skip limit",
        {**_DARTS, "gradient": "second_order"},
    ),
    "p-darts": Preset("P-DARTS, CIFAR-10: three stages, skip dropout, skip limit 2", _P_DARTS),
    "p-darts-cifar100": Preset(
        "P-DARTS with its skip dropout for CIFAR-100", {**_P_DARTS, "skip_dropout": (0.1, 0.2, 0.3)}
    ),
    "pc-darts": Preset("PC-DARTS, CIFAR-10 (K = 4); with the skip limit of P-DARTS", _PC_DARTS),
    "pc-darts-cifar": Preset("the same as pc-darts", _PC_DARTS),
    "pc-darts-imagenet": Preset("PC-DARTS, ImageNet; with the skip limit", _PC_DARTS_IMAGENET),
    "stabilized-darts": Preset(
        "Stabilized-DARTS: amended gradient, eta = 0.1; the rest as DARTS",
        {**_DARTS, "gradient": "amended", "amended_eta": 0.1},
    ),
    "la-darts": Preset(
        "LA-DARTS: network-level latency module in the gradient, the rest as PC-DARTS; "
        "a budget with a learned multiplier instead of a fixed lambda",
        {**_PC_DARTS, "latency_cost": "module"},
    ),
    "scalable-darts": Preset(
        "Scalable-DARTS: operators x activations factorised; the rest as DARTS",
        {**_DARTS, "relaxation": "factorised", "activations": ("relu", "hard_swish", "tanh")},
    ),
    "gdas": Preset(
        "GDAS: one sampled operator an edge, temperature 10 to 0.1; the rest as DARTS",
        {**_DARTS, "sampling": "gumbel_hard", "temperature_start": 10.0, "temperature_end": 0.1},
    ),
    "snas": Preset(
        "SNAS: soft Gumbel samples, temperature falling; the rest as DARTS",
        {**_DARTS, "sampling": "gumbel_soft", "temperature_start": 1.0, "temperature_end": 0.03},
    ),
    "beta-darts": Preset(
        "beta-DARTS: DARTS with the regulariser in place of weight decay on alpha",
        {**_DARTS, "beta_decay": 50.0, "arch_weight_decay": 0.0},
    ),
    "darts-cifar": Preset("DARTS, first order, with the skip limit of P-DARTS", _DARTS_LIMITED),
    "short": Preset("pc-darts scaled down: minutes on a CPU", _PC_DARTS),
}


def preset_values(name: str) -> dict[str, Any]:
    """The settings of a preset or of its short form; KeyError for an unknown name."""
    if name == "short":
        return shortened(PRESETS[name].values)
    if name.endswith(SHORT_SUFFIX):
        return shortened(PRESETS[name.removesuffix(SHORT_SUFFIX)].values)
    return dict(PRESETS[name].values)


def preset_names() -> list[str]:
    """All names that ``search.preset`` takes."""
    return [*PRESETS, *(f"{name}{SHORT_SUFFIX}" for name in PRESETS if name != "short")]


def shortened(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row scaled down to minutes on a CPU: fewer epochs and cells, a faster architecture.

    The axes and the shares (warm-up of the epochs, rise of the learning rate) stay; as there are
    some hundred steps in place of thousands, the architecture moves in larger ones.
    """
    short = dict(values)
    progressive = values.get("schedule") == "progressive"
    epochs = SHORT_STAGE_EPOCHS if progressive else SHORT_EPOCHS
    scale = epochs / values.get("epochs", 50)
    short |= {
        "layers": 5,
        "batch_size": 64,
        "epochs": epochs,
        "warmup_epochs": int(scale * values.get("warmup_epochs", 0)),
        "lr_warmup_epochs": scale * values.get("lr_warmup_epochs", 0.0),
        "weight_lr": min(values.get("weight_lr", 0.1), 0.1),
        "arch_lr": 0.03,
    }
    if progressive:
        short["stage_layers"] = SHORT_STAGE_LAYERS
    return short
