"""Settings of the architecture search; the text of a field is its help.

A preset (factory/search/presets.py) fills in every field not given. A choice on an axis that
differs from the preset's replaces the preset's settings of that axis, so that any row can be
written from any preset. This module imports no torch, so that recipes can be checked without it.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from factory.core.errors import InputError, nearest
from factory.search.axes import ACTIVATIONS
from factory.search.presets import PRESETS, SHORT_SUFFIX, preset_names, preset_values, shortened
from factory.spaces.base import SearchSpace

__all__ = ["PRESETS", "SearchConfig", "check_row"]

DEFAULT_PRESET = "pc-darts-cifar"

# axis -> settings that belong to it: a preset's are dropped when the axis is chosen otherwise
_OF_AXIS: dict[str, tuple[str, ...]] = {
    "relaxation": ("partial_channels", "activations"),
    "sampling": ("temperature_start", "temperature_end"),
    "gradient": ("amended_eta",),
    "schedule": (
        "epochs",
        "warmup_epochs",
        "stage_layers",
        "stage_candidates",
        "skip_dropout",
        "arch_grad_clip",
    ),
    "latency_cost": ("module_samples", "module_file"),
}
# (axis, choice) -> what then fills in the settings not given
_WITH_CHOICE: dict[tuple[str, str], dict[str, Any]] = {
    ("relaxation", "full"): {"partial_channels": 1},
    ("relaxation", "factorised"): {
        "partial_channels": 1,
        "activations": ("relu", "hard_swish", "tanh"),
    },
    ("schedule", "progressive"): {
        key: PRESETS["p-darts"].values[key] for key in _OF_AXIS["schedule"]
    },
}
# setting -> the choice without which it does nothing
_ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "activations": ("relaxation", ("factorised",)),
    "temperature_start": ("sampling", ("gumbel_soft", "gumbel_hard")),
    "temperature_end": ("sampling", ("gumbel_soft", "gumbel_hard")),
    "amended_eta": ("gradient", ("amended",)),
    "stage_layers": ("schedule", ("progressive",)),
    "stage_candidates": ("schedule", ("progressive",)),
    "skip_dropout": ("schedule", ("progressive",)),
    "module_samples": ("latency_cost", ("module",)),
    "module_file": ("latency_cost", ("module",)),
}


class SearchConfig(BaseModel):
    """How the architecture is searched: one choice on every axis, and their settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = Field(
        DEFAULT_PRESET,
        description="a published method (factory search --list), which fills in every field "
        "not given; NAME-short is the same row scaled down to minutes on a CPU",
    )
    relaxation: Literal["partial_channel", "full", "factorised"] = Field(
        "partial_channel",
        description="partial_channel: PC-DARTS; full: DARTS; factorised: Scalable-DARTS",
    )
    sampling: Literal["softmax", "gumbel_soft", "gumbel_hard"] = Field(
        "softmax",
        description="gumbel_soft: SNAS; gumbel_hard: GDAS, only the sampled operator runs",
    )
    gradient: Literal["first_order", "second_order", "amended"] = Field(
        "first_order", description="estimate of the architecture's gradient"
    )
    schedule: Literal["single_stage", "progressive"] = Field(
        "single_stage",
        description="weights-only warm-up, then both in turn; progressive: P-DARTS",
    )
    latency_cost: Literal["additive", "module", "none"] = Field(
        "additive", description="how latency enters the gradient; module: LA-DARTS"
    )
    channels: int = Field(16, ge=2, le=512, description="channels of the supernet; even")
    layers: int = Field(8, ge=3, le=50, description="cells of the supernet (single_stage)")
    partial_channels: int = Field(
        4, ge=1, le=16, description="K: one K-th of the channels goes through the candidates"
    )
    activations: tuple[str, ...] = Field(
        ("relu",), min_length=1, max_length=8, description="candidates of a factorised edge"
    )
    temperature_start: float = Field(10.0, gt=0, le=100, description="of the Gumbel samples")
    temperature_end: float = Field(0.1, gt=0, le=100, description="its value in the last step")
    amended_eta: float = Field(
        0.1, ge=0, le=10, description="weight of the amended term; 0 is first order"
    )
    stage_layers: tuple[int, ...] = Field(
        (5, 11, 17), max_length=8, description="cells of the supernet in each stage (progressive)"
    )
    stage_candidates: tuple[int, ...] = Field(
        (8, 5, 3), max_length=8, description="candidates kept an edge in each stage (progressive)"
    )
    skip_dropout: tuple[float, ...] = Field(
        (0.0, 0.4, 0.7), max_length=8, description="dropout on skips at the start of each stage"
    )
    batch_size: int = Field(256, ge=2, le=65536, description="pictures in a step of either half")
    epochs: int = Field(
        50, ge=1, le=10_000, description="passes over the half for the weights (of each stage)"
    )
    warmup_epochs: int = Field(
        15, ge=0, le=10_000, description="first epochs (of each stage), weights only"
    )
    steps_per_epoch: int | None = Field(
        None, ge=1, le=1_000_000, description="steps of an epoch instead of one whole pass"
    )
    weight_fraction: float = Field(
        0.5, gt=0, lt=1, description="share of the training pictures that trains the weights"
    )
    weight_lr: float = Field(0.1, gt=0, le=10, description="learning rate of the weights")
    weight_lr_min: float = Field(0.0, ge=0, le=10, description="its end under the cosine schedule")
    lr_warmup_epochs: float = Field(0.0, ge=0, description="linear rise of the learning rate")
    weight_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the weights")
    weight_decay: float = Field(3e-4, ge=0, le=1, description="weight decay of the weights")
    grad_clip: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    arch_lr: float = Field(6e-4, gt=0, le=1, description="learning rate of the architecture (Adam)")
    arch_betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's betas")
    arch_weight_decay: float = Field(1e-3, ge=0, le=1, description="architecture weight decay")
    arch_grad_clip: float | None = Field(
        None, gt=0, description="largest norm of the architecture's task gradient (P-DARTS: 5)"
    )
    beta_decay: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="beta-DARTS: weight of mean logsumexp(alpha) at the end, rising from 0",
    )
    module_samples: int = Field(
        4000, ge=100, le=200_000, description="architectures the latency module learns from"
    )
    module_file: str = Field(
        "",
        description="a latency module fitted on measured networks (docs/few-shot.md), in place of "
        "one that learns from the predictor",
    )
    multiplier_lr: float = Field(
        0.3, gt=0, le=100, description="step of the budgets' multipliers (dual ascent)"
    )
    multiplier_max: float = Field(10.0, gt=0, description="largest multiplier")
    max_skips: int | None = Field(
        2, ge=0, le=8, description="most skip connections in the normal cell (P-DARTS)"
    )
    stop: Literal["collapse", "off"] = Field(
        "collapse", description="collapse: end early when the cells turn into skip connections"
    )
    stop_patience: int = Field(
        3, ge=1, le=1000, description="epochs in a row that must show a collapse"
    )
    hessian_every: int | None = Field(
        None, ge=1, description="epochs between two estimates of the largest Hessian eigenvalue"
    )
    front: int = Field(
        0, ge=0, le=100, description="networks derived over the range of the first budget's cost"
    )
    seeds: int = Field(
        1, ge=1, le=100, description="searches from different seeds; the best of each tier is taken"
    )
    tensorboard: bool = Field(False, description="live curves for TensorBoard beside the history")
    augment: bool = Field(True, description="augment the pictures as in training")
    device: str = Field("auto", description="auto, cpu or cuda")
    checkpoint_seconds: float = Field(20.0, ge=0, description="seconds between two checkpoints")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints, whatever the time"
    )

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in preset_names():
            raise ValueError(f"unknown preset; {nearest(value, preset_names())}")
        return value

    @field_validator("activations")
    @classmethod
    def _known_activations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ACTIVATIONS:
                raise ValueError(f"unknown activation {name!r}; {nearest(name, ACTIVATIONS)}")
        if len(set(value)) != len(value):
            raise ValueError("an activation is listed twice")
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        return filled_in(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        reason = self._inconsistency()
        if reason is not None:
            raise ValueError(reason)
        return self

    def _inconsistency(self) -> str | None:
        """The first thing that does not fit together, as a sentence; None when all does."""
        if self.channels % self.partial_channels:
            return (
                f"channels = {self.channels} is not a multiple of "
                f"partial_channels = {self.partial_channels}"
            )
        if self.channels % 2:
            return f"channels = {self.channels} must be even"
        if self.warmup_epochs >= self.epochs:
            return (
                f"warmup_epochs = {self.warmup_epochs} leaves none of the {self.epochs} epochs "
                "for the architecture"
            )
        if self.weight_lr_min > self.weight_lr:
            return "weight_lr_min is larger than weight_lr"
        return self._unfit_row()

    def _unfit_row(self) -> str | None:
        if self.relaxation == "full" and self.partial_channels != 1:
            return "relaxation = 'full' uses all channels: set partial_channels = 1"
        if self.relaxation == "factorised" and len(self.activations) < 2:
            return "relaxation = 'factorised' needs two activations or more; one is 'full'"
        if self.temperature_end > self.temperature_start:
            return "temperature_end is larger than temperature_start"
        for field, (axis, choices) in _ONLY_WITH.items():
            if getattr(self, axis) not in choices and getattr(self, field) != _default(field):
                wanted = " or ".join(repr(choice) for choice in choices)
                chosen = f"{axis} = {getattr(self, axis)!r}"
                return f"{field} does nothing with {chosen}, only with {wanted}"
        return self._unfit_stages() if self.schedule == "progressive" else None

    def _unfit_stages(self) -> str | None:
        count, kept = len(self.stage_layers), self.stage_candidates
        if not count or count != len(kept) or count != len(self.skip_dropout):
            return "stage_layers, stage_candidates and skip_dropout must have one entry a stage"
        if any(not 3 <= layers <= 50 for layers in self.stage_layers):
            return "stage_layers must lie between 3 and 50"
        falling = all(a > b for a, b in itertools.pairwise(kept))
        if kept[-1] < 2 or not falling:
            return (
                f"stage_candidates = {list(kept)} must fall to at least 2, so that an operator "
                "other than none is left"
            )
        if any(not 0 <= p < 1 for p in self.skip_dropout):
            return "skip_dropout must lie in [0, 1)"
        return None


def check_row(space: SearchSpace[Any], cfg: SearchConfig) -> None:
    """InputError where a row of choices does not run on a space."""
    where = "[search] of the recipe"
    if type(space).supernet is SearchSpace.supernet:
        raise InputError(
            f"the space {space.KIND!r} has no supernet",
            where="[space] of the recipe",
            fix="search it with `factory search --strategy evolution`",
        )
    for axis, choices in space.UNSUPPORTED.items():
        chosen = getattr(cfg, axis)
        if chosen in choices:
            raise InputError(
                f"{axis} = {chosen!r} does not run on {space.KIND}",
                where=where,
                why=choices[chosen],
                fix=f"choose another {axis} or preset, or [space] kind = 'cell'",
            )
    columns = max(len(matrix.columns) for matrix in space.matrices)
    if cfg.schedule == "progressive" and cfg.stage_candidates[0] > columns:
        raise InputError(
            f"stage_candidates = {list(cfg.stage_candidates)} is more than there are",
            where=where,
            why=f"{space.KIND} has {columns} candidates",
        )


def _default(field: str) -> Any:
    return SearchConfig.model_fields[field].default


def filled_in(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with what their preset and their choices say about the settings not given."""
    name = values.get("preset", DEFAULT_PRESET)
    if name not in preset_names():
        return values
    base = preset_values(name)
    for axis, fields in _OF_AXIS.items():
        chosen = values.get(axis)
        if not isinstance(chosen, str) or chosen == base.get(axis, _default(axis)):
            continue
        base = {key: value for key, value in base.items() if key not in fields}
        defaults = _WITH_CHOICE.get((axis, chosen), {})
        if axis == "schedule" and name.endswith(SHORT_SUFFIX.removeprefix("-")):
            long = {"epochs": 50, "warmup_epochs": 15, **defaults, "schedule": chosen}
            scaled = shortened(long)
            defaults = {key: scaled[key] for key in fields if key in scaled}
        base |= defaults
    return {**base, **values}
