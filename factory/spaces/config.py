"""The known spaces, and the settings of each in a recipe; the text of a field is its help."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from factory.core.errors import nearest
from factory.core.registry import Registry
from factory.spaces.base import SearchSpace
from factory.spaces.cell_space import CellSpace
from factory.spaces.nas_bench_201_space import STAGES, NasBench201Space, Spec201
from factory.spaces.network_spec import NetworkSpec

Shape = tuple[int, int, int]  # channels, height and width of a picture


class SpaceSettings(BaseModel):
    """`[space]` of a recipe: which networks may be built. Every space has a class of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(description="the search space")

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SPACES:
            raise ValueError(f"unknown search space; {nearest(value, SPACES.names())}")
        return value

    def space(self, input_shape: Shape, num_classes: int) -> SearchSpace[Any]:
        """The space of this kind and size for images of ``input_shape`` (C, H, W)."""
        raise NotImplementedError

    def sized(self, channels: int | None, layers: int | None) -> dict[str, Any]:
        """The values at another size, where the space's size is stated so; None: as it is."""
        changes = {"channels": channels, "layers": layers}
        given = {
            key: value
            for key, value in changes.items()
            if value is not None and key in type(self).model_fields
        }
        return {**self.model_dump(), **given}


SPACES: Registry[tuple[type[SearchSpace[Any]], type[SpaceSettings]]] = Registry("search space")


class SpaceConfig(SpaceSettings):
    """Networks of stacked cells: the space and the size of the networks that ship."""

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
    def _fits_kind(self) -> Self:
        if self.kind == "nas_bench_201":
            if self.layers % STAGES:
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

    def network_spec(self, input_shape: Shape, num_classes: int) -> NetworkSpec:
        """The size of the networks of the cell space for images of ``input_shape``."""
        return NetworkSpec(
            channels=self.channels,
            layers=self.layers,
            stem=self.stem,
            input_shape=input_shape,
            num_classes=num_classes,
            stem_multiplier=self.stem_multiplier,
        )

    def space(self, input_shape: Shape, num_classes: int) -> SearchSpace[Any]:
        """The space of this kind and size for images of ``input_shape`` (C, H, W)."""
        if self.kind == CellSpace.KIND:
            return CellSpace(self.network_spec(input_shape, num_classes))
        per_stage = self.layers // STAGES
        return NasBench201Space(Spec201(self.channels, per_stage, input_shape, num_classes))


SPACES.add(CellSpace.KIND, (CellSpace, SpaceConfig))
SPACES.add(NasBench201Space.KIND, (NasBench201Space, SpaceConfig))


def space_settings(value: Any) -> Any:
    """The settings of a `[space]` section by its kind; a ValidationError names the known kinds."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", CellSpace.KIND)
    known = isinstance(kind, str) and kind in SPACES
    settings = SPACES.get(kind)[1] if known else SpaceSettings
    return settings.model_validate(value if known else {"kind": kind})


def read_architecture(value: Any, where: str) -> Any:
    """The architecture of a JSON value; the space is named in it, but for genotypes."""
    kind = value.get("space", CellSpace.KIND) if isinstance(value, dict) else CellSpace.KIND
    return SPACES.get(str(kind), where)[0].ARCHITECTURE.from_dict(value, where)
