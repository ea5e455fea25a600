"""Settings of the search space in a recipe; the text of a field is its help."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from factory.spaces.network_spec import NetworkSpec


class SpaceConfig(BaseModel):
    """Which networks may be built: the space and the size of the networks that ship."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cell"] = Field("cell", description="the search space; cell: two DARTS cells")
    channels: int = Field(
        16, ge=2, le=512, description="channels of the first cells; even; reductions double them"
    )
    layers: int = Field(
        8, ge=3, le=50, description="number of cells; two of them are reduction cells"
    )
    stem: Literal["cifar", "imagenet"] = Field(
        "cifar",
        description="cifar: one 3x3 convolution, full resolution; imagenet: three of stride 2, "
        "an eighth of the resolution",
    )
    stem_multiplier: int = Field(
        3, ge=1, le=8, description="the cifar stem has this many times the channels"
    )

    @field_validator("channels")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("channels must be even, the factorised reduction halves them")
        return value

    def network_spec(self, input_shape: tuple[int, int, int], num_classes: int) -> NetworkSpec:
        """The size of the networks for images of ``input_shape`` (C, H, W)."""
        return NetworkSpec(
            channels=self.channels,
            layers=self.layers,
            stem=self.stem,
            input_shape=input_shape,
            num_classes=num_classes,
            stem_multiplier=self.stem_multiplier,
        )
