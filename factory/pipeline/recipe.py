"""The recipe: what a run is made of, as one TOML file; each room's own config class is a section.

docs/formats/recipe.md describes every key. The recipe knows nothing about how a stage works: it
composes the rooms' classes, checks what only it can check (the budget forms, unique names) and
gives every stage the part it depends on.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from factory.data.config import DataConfig
from factory.pipeline.recipe_limits import MAX_LATENCY_MS_LIMIT, MAX_MACS_LIMIT
from factory.search.config import SearchConfig
from factory.spaces.config import SpaceSettings, space_settings
from factory.training.config import TrainConfig

SCHEMA_VERSION = 1
NO_LATENCY = "no-latency"  # the same search without a latency term, for comparison
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Section(BaseModel):
    """Base of the recipe's own sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_name(name: str, kind: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{kind} name {name!r} must be letters, digits, '.', '_' or '-' "
            "(it becomes a folder name)"
        )
    return name


class RunSection(Section):
    """`[recipe]`: what the run is called and where its random numbers start."""

    name: str = Field(description="Name of the run; the default run folder is runs/<name>.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random choice.")
    description: str = Field("", description="One line for the report.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _check_name(value, "recipe")


class ProfileSection(Section):
    """`[profile]`: how much is measured on each chip."""

    effort: Literal["quick", "full"] = Field(
        "quick", description="quick: about 0.2 s a kernel; full: several times that."
    )
    networks: int = Field(
        16, ge=4, le=1000, description="Random networks of the space measured on each chip."
    )
    pool: int = Field(
        256, ge=16, le=100_000, description="Random networks the measured ones are chosen from."
    )
    known_devices: list[str] = Field(
        default_factory=list,
        description="Devices with latency tables: a chip is then adapted from them by measuring "
        "`networks` networks and no kernel.",
    )


class BudgetSection(Section):
    """`[budget]`: how strictly the budgets are kept."""

    safety: float = Field(
        0.95, gt=0.5, le=1.0, description="The search aims at this share of each latency budget."
    )
    least_used: float = Field(
        0.96,
        ge=0,
        le=0.99,
        description="A network uses at least this share of what the search aims at, where one "
        "that does is within the other limits.",
    )
    finalist_rounds: int = Field(
        2, ge=0, le=10, description="New searches for a finalist measured over budget."
    )
    verify_rounds: int = Field(
        1, ge=0, le=10, description="New rounds for a trained model measured over budget."
    )
    extra_epochs: int = Field(
        1, ge=0, le=1000, description="Epochs that such a search goes on for; 0: only re-derive."
    )
    max_parity_difference: float = Field(
        1e-3, gt=0, le=0.1, description="Largest relative difference between PyTorch and ONNX."
    )
    max_int8_drop_points: float = Field(
        1.0, ge=0, le=100, description="Accuracy that int8 may lose against fp32, in points."
    )
    baseline: bool = Field(
        True, description=f"Also search {NO_LATENCY!r}: the same search without a latency term."
    )


class LatencyBudget(Section):
    """A chip and its latency budget, stated in one of two ways."""

    device: str = Field(min_length=1, description="Device id or the path of a device profile.")
    max_latency_ms: float | None = Field(
        None, gt=0, le=MAX_LATENCY_MS_LIMIT, description="Latency budget in milliseconds."
    )
    latency_percentile: float | None = Field(
        None,
        gt=0,
        lt=100,
        description="Latency budget as the percentile of random networks' predicted latency.",
    )

    @model_validator(mode="after")
    def _one_latency_budget(self) -> Self:
        if (self.max_latency_ms is None) == (self.latency_percentile is None):
            raise ValueError(
                f"{self._called()} needs exactly one latency budget: "
                "either max_latency_ms or latency_percentile"
            )
        return self

    def _called(self) -> str:
        raise NotImplementedError


class AlsoSection(LatencyBudget):
    """`[[tiers.also]]`: another chip on which the same model must keep a latency budget."""

    def _called(self) -> str:
        return f"also {self.device!r}"


class TierSection(LatencyBudget):
    """`[[tiers]]`: one chip, its budget, and so one model."""

    name: str = Field(description="Name of the tier; it becomes a folder name.")
    max_macs: float | None = Field(
        None, ge=1, le=MAX_MACS_LIMIT, description="Budget of multiply-adds (MACs)."
    )
    max_params: float | None = Field(
        None, ge=1, le=1e12, description="Budget of trainable parameters."
    )
    max_peak_memory_mb: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Budget of peak activation memory in MB (1e6 bytes), the largest sum of live "
        "tensors when the network runs operator by operator.",
    )
    also: tuple[AlsoSection, ...] = Field(
        (), max_length=20, description="More chips whose latency budgets the model must keep."
    )
    min_accuracy: float | None = Field(
        None, gt=0, le=1, description="The verdict fails below this test accuracy (0 to 1)."
    )
    channels: int | None = Field(None, ge=2, le=512, description="Overrides space.channels.")
    layers: int | None = Field(None, ge=3, le=50, description="Overrides space.layers.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value == NO_LATENCY:
            raise ValueError(f"tier name {NO_LATENCY!r} is taken by the search without latency")
        return _check_name(value, "tier")

    def _called(self) -> str:
        return f"tier {self.name!r}"


class Recipe(Section):
    """A whole run."""

    recipe: RunSection
    data: DataConfig
    space: Annotated[SerializeAsAny[SpaceSettings], BeforeValidator(space_settings)]
    profile: ProfileSection = Field(default_factory=ProfileSection)  # type: ignore[arg-type]
    search: SearchConfig
    training: TrainConfig
    budget: BudgetSection = Field(default_factory=BudgetSection)  # type: ignore[arg-type]
    tiers: Annotated[list[TierSection], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _unique_tiers(self) -> Recipe:
        seen: set[str] = set()
        for tier in self.tiers:
            if tier.name.lower() in seen:
                raise ValueError(f"two tiers are called {tier.name!r}")
            seen.add(tier.name.lower())
        return self

    @model_validator(mode="after")
    def _tier_sizes(self) -> Recipe:
        for tier in self.tiers:
            self.tier_space(tier)
        return self

    def tier_space(self, tier: TierSection) -> SpaceSettings:
        """The space at the tier's size: `[space]` with the tier's own channels and layers."""
        values = self.space.sized(tier.channels, tier.layers)
        return type(self.space).model_validate(values)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.recipe.name

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.recipe.seed

    def tier(self, name: str) -> TierSection:
        """The tier called ``name``."""
        return next(tier for tier in self.tiers if tier.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, every default filled in."""
        return self.model_dump(mode="json")
