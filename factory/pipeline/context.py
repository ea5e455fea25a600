"""What every stage of a build is given: the recipe, the run folder, and lazily the rest."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.core.provenance import chip_fingerprint
from factory.core.validation import validate
from factory.data.config import DataConfig
from factory.devices.profile import DeviceProfile, load_profile
from factory.pipeline.recipe import NO_LATENCY, Recipe, TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.run_folder import RunFolder
from factory.spaces.base import SearchSpace
from factory.spaces.config import SpaceSettings

if TYPE_CHECKING:
    from factory.data.image_data import ImageData


def count_classes(data: DataConfig) -> int:
    """Number of classes of the recipe's data, without loading the pictures."""
    from factory.data.datasets import class_names

    return len(class_names(data))


class BuildContext:
    """One build: its recipe, its folder, its devices and spaces, and the data when asked for.

    Args:
        recipe: the checked recipe.
        folder: the run folder.
        progress: where long work reports.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: Progress = SILENT) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.devices: dict[str, DeviceProfile] = {}
        self._device_of: dict[str, str] = {}
        self._also_of: dict[str, list[str]] = {}
        for tier in recipe.tiers:
            ids = [self._add_device(tier, device).id for device in _named_devices(tier)]
            if len(set(ids)) != len(ids):
                raise InputError(
                    f"a chip is named twice in tier {tier.name!r}: {', '.join(ids)}",
                    fix="give every chip of a tier one latency budget",
                )
            precisions = {self.devices[name].precision for name in ids}
            if len(precisions) > 1:
                raise InputError(
                    f"the chips of tier {tier.name!r} run {' and '.join(sorted(precisions))}",
                    why="a tier ships one file, of one precision",
                    fix="make a tier of each precision",
                )
            self._device_of[tier.name], self._also_of[tier.name] = ids[0], ids[1:]
        self.space(None)  # an impossible size is told before anything is measured

    def _add_device(self, tier: TierSection, device: str) -> DeviceProfile:
        profile = load_profile(device)
        known = self.devices.setdefault(profile.id, profile)
        if known != profile:
            raise InputError(
                f"two different device profiles have the id {profile.id!r}",
                where=f"tier {tier.name!r}",
                fix="give one of them another id",
            )
        return profile

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.recipe.seed

    @cached_property
    def num_classes(self) -> int:
        """Number of classes of the data."""
        return count_classes(self.recipe.data)

    @cached_property
    def data(self) -> ImageData:
        """The pictures, loaded when first asked for."""
        from factory.data.datasets import load_data

        return load_data(self.recipe.data, self.seed, self.progress)

    def device(self, tier: TierSection) -> DeviceProfile:
        """The device profile of a tier."""
        return self.devices[self._device_of[tier.name]]

    def also(self, tier: TierSection) -> list[DeviceProfile]:
        """The other chips whose budgets a tier's model must keep, in the order of the recipe."""
        return [self.devices[name] for name in self._also_of[tier.name]]

    def space(self, tier: TierSection | None) -> SearchSpace[Any]:
        """The space at the size of a tier's network; at the recipe's own `[space]` for None."""
        space = self.recipe.space if tier is None else self.recipe.tier_space(tier)
        return self._space(space)

    def search_space(self) -> SearchSpace[Any]:
        """The space at the size of the network in which the search runs."""
        search, space = self.recipe.search, self.recipe.space
        values = space.sized(search.channels, search.layers)
        where = "the size of the search's network ([search] of the recipe)"
        return self._space(validate(type(space), values, where=where))

    def _space(self, settings: SpaceSettings) -> SearchSpace[Any]:
        return settings.space(self.recipe.data.image_shape, self.num_classes)

    @property
    def activations(self) -> tuple[str, ...]:
        """Candidates of factorised edges that the search's costs tell apart; empty: ReLUs."""
        search = self.recipe.search
        told = search.relaxation == "factorised" and search.latency_cost != "module"
        return search.activations if told else ()

    def spaces_on(self, device_id: str) -> list[SearchSpace[Any]]:
        """The space at the distinct network sizes that are deployed or compared on a device."""
        tiers = [
            tier
            for tier in self.recipe.tiers
            if device_id in (self._device_of[tier.name], *self._also_of[tier.name])
        ]
        spaces = [self.space(tier) for tier in tiers]
        if self.recipe.budget.baseline:
            spaces.append(self.space(None))
        return list(dict.fromkeys(spaces))

    def chip_identity(self, profile: DeviceProfile) -> str:
        """What makes measurements this device's: its profile and, if local, the chip."""
        chip = chip_fingerprint() if profile.chip == "local" else profile.chip
        return fingerprint({"profile": profile.model_dump(mode="json"), "chip": chip})

    def part(self, *sections: str) -> str:
        """Hash of sections of the recipe."""
        resolved = self.recipe.as_dict()
        return fingerprint({name: resolved[name] for name in sections})

    def size_hash(self, space: SearchSpace[Any]) -> str:
        """Hash of a network size."""
        return fingerprint(dataclasses.asdict(space.spec))

    def searched_names(self) -> list[str]:
        """Names of the architectures that are searched: the tiers, then the comparison."""
        names = [tier.name for tier in self.recipe.tiers]
        return [*names, NO_LATENCY] if self.recipe.budget.baseline else names


def _named_devices(tier: TierSection) -> list[str]:
    return [tier.device, *(other.device for other in tier.also)]


def default_out(recipe: Recipe) -> Path:
    """runs/<recipe name> in the working folder."""
    return Path("runs") / recipe.name


def open_run(run: str | Path, progress: Progress = SILENT) -> BuildContext:
    """The context of a run folder that a build left, from its own record."""
    folder = RunFolder(Path(run))
    record = folder.record()
    recipe = validate(Recipe, record["recipe"], where=str(folder.record_file))
    return BuildContext(recipe, folder, progress)
