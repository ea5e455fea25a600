"""Settings of the search space in a recipe; the text of a field is its help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from factory.core.registry import Registry
from factory.spaces.base import SearchSpace
from factory.spaces.cell_space import CellSpace
from factory.spaces.nas_bench_201_space import STAGES, NasBench201Space, Spec201
from factory.spaces.network_spec import NetworkSpec

Spec = NetworkSpec | Spec201
SpaceFactory = Callable[["SpaceConfig", tuple[int, int, int], int], SearchSpace[Any]]
SPACES: Registry[SpaceFactory] = Registry("search space")


class SpaceConfig(BaseModel):
    """Which networks may be built: the space and the size of the networks that ship."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cell", "nas_bench_201"] = Field(
        "cell",
        description="the search space; cell: two DARTS cells; nas_bench_201: one cell of six edges "
        "and five operators, in three stages",
    )
    channels: int = Field(
        16, ge=2, le=512, description="channels of the first cells; even; reductions double them"
    )
    layers: int = Field(
        8,
        ge=3,
        le=50,
        description="number of cells; two of them are reduction cells, or in nas_bench_201 a "
        "third of them in each stage (15 in the benchmark)",
    )
    stem: Literal["cifar", "imagenet"] = Field(
        "cifar",
        description="cifar: one 3x3 convolution, full resolution; imagenet: three of stride 2, "
        "an eighth of the resolution",
    )
    stem_multiplier: int = Field(
        3, ge=1, le=8, description="the cifar stem has this many times the channels"
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> SpaceConfig:
        if self.kind == "nas_bench_201":
            if self.layers % 3:
                raise ValueError(
                    f"layers = {self.layers} is no multiple of 3, nas_bench_201 has three equal "
                    "stages"
                )
            if self.stem != "cifar":
                raise ValueError(f"nas_bench_201 has no {self.stem!r} stem, only 'cifar'")
        return self

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

    def space(self, input_shape: tuple[int, int, int], num_classes: int) -> SearchSpace[Any]:
        """The space of this kind and size for images of ``input_shape`` (C, H, W)."""
        return SPACES.get(self.kind)(self, input_shape, num_classes)

    def spec(self, input_shape: tuple[int, int, int], num_classes: int) -> Spec:
        """The size of the networks as the space of this kind writes it."""
        return self.space(input_shape, num_classes).spec


def space_of(spec: Spec) -> SearchSpace[Any]:
    """The space whose networks have this size."""
    return NasBench201Space(spec) if isinstance(spec, Spec201) else CellSpace(spec)


@SPACES.register(CellSpace.KIND)
def _cell(cfg: SpaceConfig, input_shape: tuple[int, int, int], classes: int) -> CellSpace:
    return CellSpace(cfg.network_spec(input_shape, classes))


@SPACES.register(NasBench201Space.KIND)
def _nas_bench_201(
    cfg: SpaceConfig, input_shape: tuple[int, int, int], classes: int
) -> NasBench201Space:
    return NasBench201Space(Spec201(cfg.channels, cfg.layers // STAGES, input_shape, classes))
