"""What pictures to learn from: the `[data]` section of a recipe (no torch here)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DataKind = Literal["digits", "cifar10", "image_folder"]
DEFAULT_IMAGE_SIZE = 32
RESIZED_CROP_MIN_SIZE = 96  # pictures at least this large get random resized crops


class DataConfig(BaseModel):
    """Data set, picture size and the augmentation of its training pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: DataKind = Field(
        "digits",
        description="digits (scikit-learn), cifar10 (torchvision) or image_folder (your own).",
    )
    root: str = Field(
        "data",
        min_length=1,
        description="Folder of the data; ~ is the home folder, relative to the working folder.",
    )
    image_size: int = Field(
        DEFAULT_IMAGE_SIZE, ge=8, le=1024, description="Pictures become squares of this side (px)."
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share held out for testing where an image_folder has no val or test folder.",
    )
    max_train: int | None = Field(
        None, ge=2, description="Use only so many training pictures, the same share of each class."
    )
    max_test: int | None = Field(
        None, ge=1, description="Use only so many test pictures, the same share of each class."
    )
    crop: Literal["auto", "shift", "resized", "none"] = Field(
        "auto",
        description="Training crops: shift by some pixels, or a random resized crop; "
        f"auto: resized for image_folder from {RESIZED_CROP_MIN_SIZE} px on, else shift.",
    )
    shift_px: int | None = Field(
        None,
        ge=0,
        le=128,
        description="Largest shift of a training picture; default an eighth of the side, "
        "a sixteenth for digits.",
    )
    flip: bool | None = Field(
        None, description="Mirror half of the training pictures; default yes, no for digits."
    )
    policy: Literal["none", "rand_augment", "trivial_augment"] = Field(
        "none",
        description="Further augmentation by torchvision.transforms.v2, picture by picture (slow).",
    )
    memory_limit_mb: int = Field(
        2048,
        ge=1,
        description="An image_folder larger than this once decoded is decoded batch by batch.",
    )

    @model_validator(mode="after")
    def _shift_fits(self) -> DataConfig:
        if self.shift_px is not None and self.shift_px >= self.image_size:
            raise ValueError(
                f"shift_px = {self.shift_px} must be below image_size = {self.image_size}"
            )
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every picture."""
        return (3, self.image_size, self.image_size)

    @property
    def root_path(self) -> Path:
        """``root`` with ~ expanded; relative paths start at the working folder."""
        return Path(self.root).expanduser()

    @property
    def effective_crop(self) -> str:
        """``crop`` with "auto" decided."""
        if self.crop != "auto":
            return self.crop
        large = self.kind == "image_folder" and self.image_size >= RESIZED_CROP_MIN_SIZE
        return "resized" if large else "shift"

    @property
    def effective_shift_px(self) -> int:
        """``shift_px`` with its default: 4 px at 32 px, 2 px for digits."""
        if self.effective_crop != "shift":
            return 0
        if self.shift_px is not None:
            return self.shift_px
        return self.image_size // (16 if self.kind == "digits" else 8)

    @property
    def effective_flip(self) -> bool:
        """``flip`` with its default."""
        return self.kind != "digits" if self.flip is None else self.flip


def folder_config(root: str) -> DataConfig:
    """A folder of pictures with every default."""
    return DataConfig.model_validate({"kind": "image_folder", "root": root})
