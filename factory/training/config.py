"""How a derived network is trained: the `[training]` section of a recipe (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Optimiser, schedule, regularisation and how to use the hardware."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(30, ge=1, le=100_000, description="Passes over the training pictures.")
    batch_size: int = Field(64, ge=1, le=65_536, description="Pictures a step.")
    lr: float = Field(0.05, gt=0, le=10, description="Largest learning rate (SGD, Nesterov).")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(3e-4, ge=0, le=1, description="Weight decay of SGD.")
    warmup_epochs: float = Field(
        1.0, ge=0, description="Epochs in which the learning rate rises; then it falls as a cosine."
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing.")
    auxiliary_weight: float = Field(
        0.4, ge=0, le=10, description="Weight of the auxiliary head's loss; 0: no such head."
    )
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="Drop-path probability reached in the last epoch."
    )
    cutout: int = Field(
        0, ge=0, le=1024, description="Side of the square cut out of training pictures (px)."
    )
    mixup: float = Field(
        0.0, ge=0, le=10, description="Alpha of mixup's Beta distribution; 0: no mixup."
    )
    grad_clip: float = Field(5.0, ge=0, description="Largest norm of the gradient; 0: no limit.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights that are shipped; 0: none."
    )
    eval_every: int = Field(1, ge=1, description="Test after every so many epochs and the last.")
    checkpoint_s: float = Field(
        60.0, ge=0, description="Save at the end of an epoch, and this often within a long one (s)."
    )
    device: str = Field("auto", description="auto: an accelerator where there is one; cpu; cuda.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic; auto: bf16 on CUDA devices that have it, else fp32."
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto", description="Memory layout; auto: channels last, the faster one on CPU and CUDA."
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile; auto: on CUDA for long runs without drop path."
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs} must not exceed epochs = {self.epochs}"
            )
        return self
