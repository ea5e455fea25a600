"""Settings of the architecture search; the text of a field is its help.

Presets hold the published hyper-parameters; every field can be overridden in the recipe. This
module imports no torch, so that recipes can be checked without it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# PC-DARTS (arXiv 1907.05737), section 4.2 and the authors' code; 4.3 for ImageNet
PC_DARTS_CIFAR: dict[str, Any] = {
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
PC_DARTS_IMAGENET: dict[str, Any] = {
    **PC_DARTS_CIFAR,
    "batch_size": 1024,
    "weight_lr": 0.5,
    "warmup_epochs": 35,
    "arch_lr": 6e-3,
    "lr_warmup_epochs": 5,
}
# DARTS (arXiv 1806.09055), first order
DARTS_CIFAR: dict[str, Any] = {
    **PC_DARTS_CIFAR,
    "relaxation": "full",
    "partial_channels": 1,
    "batch_size": 64,
    "warmup_epochs": 0,
    "weight_lr": 0.025,
    "weight_lr_min": 0.001,
    "arch_lr": 3e-4,
}
# For a CPU and minutes: few steps, so the architecture moves in larger ones
SHORT: dict[str, Any] = {
    **PC_DARTS_CIFAR,
    "channels": 16,
    "layers": 5,
    "batch_size": 64,
    "epochs": 12,
    "warmup_epochs": 3,
    "arch_lr": 0.03,
}
PRESETS: dict[str, dict[str, Any]] = {
    "pc-darts-cifar": PC_DARTS_CIFAR,
    "pc-darts-imagenet": PC_DARTS_IMAGENET,
    "darts-cifar": DARTS_CIFAR,
    "short": SHORT,
}


class SearchConfig(BaseModel):
    """How the architecture is searched: relaxation, gradient, schedule and their settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["pc-darts-cifar", "pc-darts-imagenet", "darts-cifar", "short"] = Field(
        "pc-darts-cifar",
        description="published settings that fill in every field not given",
    )
    relaxation: Literal["partial_channel", "full"] = Field(
        "partial_channel", description="partial_channel: PC-DARTS; full: DARTS"
    )
    gradient: Literal["first_order"] = Field(
        "first_order", description="estimate of the architecture's gradient"
    )
    schedule: Literal["single_stage"] = Field(
        "single_stage", description="weights-only warm-up, then weights and architecture in turn"
    )
    channels: int = Field(16, ge=2, le=512, description="channels of the supernet; even")
    layers: int = Field(8, ge=3, le=50, description="cells of the supernet")
    partial_channels: int = Field(
        4, ge=1, le=16, description="K: one K-th of the channels goes through the candidates"
    )
    batch_size: int = Field(256, ge=2, le=65536, description="pictures in a step of either half")
    epochs: int = Field(50, ge=1, le=10_000, description="passes over the half for the weights")
    warmup_epochs: int = Field(15, ge=0, le=10_000, description="first epochs, weights only")
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
    multiplier_lr: float = Field(
        0.3, gt=0, le=100, description="step of the budgets' multipliers (dual ascent)"
    )
    multiplier_max: float = Field(10.0, gt=0, description="largest multiplier")
    max_skips: int | None = Field(
        2, ge=0, le=8, description="most skip connections in the normal cell (P-DARTS)"
    )
    augment: bool = Field(True, description="augment the pictures as in training")
    device: str = Field("auto", description="auto, cpu or cuda")
    checkpoint_seconds: float = Field(20.0, ge=0, description="seconds between two checkpoints")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints, whatever the time"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            preset = PRESETS.get(values.get("preset", "pc-darts-cifar"), {})
            if values.get("relaxation") == "full":
                preset = {**preset, "partial_channels": 1}
            return {**preset, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.channels % self.partial_channels:
            raise ValueError(
                f"channels = {self.channels} is not a multiple of "
                f"partial_channels = {self.partial_channels}"
            )
        if self.channels % 2:
            raise ValueError(f"channels = {self.channels} must be even")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs} leaves none of the {self.epochs} epochs "
                "for the architecture"
            )
        if self.relaxation == "full" and self.partial_channels != 1:
            raise ValueError("relaxation = 'full' uses all channels: set partial_channels = 1")
        if self.weight_lr_min > self.weight_lr:
            raise ValueError("weight_lr_min is larger than weight_lr")
        return self
