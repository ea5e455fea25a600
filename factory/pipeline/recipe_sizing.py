"""What `factory new --data` chooses for a folder of pictures, and how long a build then takes.

Sizes follow the pictures, the number of steps follows the time that is given: the largest candidate
is taken whose training fits, as timed on this machine with random pictures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factory.core.progress import Task
from factory.search.config import SearchConfig
from factory.spaces.config import SpaceConfig
from factory.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from factory.data.image_data import ImageData
    from factory.data.survey import Survey

TIERS = 2  # networks that the recipe asks for
SMALL_PX = 48  # pictures up to this side keep their size and get the stem of full resolution
WANTED_STEPS = 3000  # of one training, where the time allows
EPOCHS = (12, 60)  # fewest and most that are wanted
LEAST_EPOCHS = 4  # below, fewer pictures are used instead
SEARCH_EPOCHS, SEARCH_WARMUP = 8, 3
LEAST_SEARCH_STEPS = 8  # of an epoch of the search
SEARCH_SHARE = 0.4  # of the time for search and training
FIXED_S = 60.0  # reading the pictures apart: fitting, export, verification, report
KERNEL_S, NETWORK_S = 0.25, 1.0  # measuring one on a chip
NETWORKS = 16
NEXT_COSTS = 1.3  # times as much as a candidate, at least, does the next larger one take
TIMED_STEPS = 4
EVALUATION_COST = 0.35  # of a training step, for the same number of pictures


@dataclass(frozen=True)
class Sizes:
    """The choices that a recipe states.

    Attributes:
        steps_per_epoch: of the search; None: one pass over half of the pictures.
        max_train: how many training pictures are used; None: all.
    """

    image_size: int
    stem: str
    channels: int
    layers: int
    batch_size: int
    epochs: int
    steps_per_epoch: int | None = None
    max_train: int | None = None

    def space(self) -> SpaceConfig:
        """The `[space]` section."""
        return SpaceConfig.model_validate(
            {"channels": self.channels, "layers": self.layers, "stem": self.stem}
        )


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step: of a training, and of the search with and without the architecture."""

    training: float
    warmup: float
    search: float


@dataclass(frozen=True)
class Estimate:
    """Seconds that the parts of a build take on this machine."""

    profile: float
    search: float
    training: float
    other: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.profile + self.search + self.training + self.other

    def sentence(self) -> str:
        """For a person; honest to a factor of two."""
        parts = {
            "measuring the chip": self.profile,
            "searching": self.search,
            f"training {TIERS} networks": self.training,
            "the rest": self.other,
        }
        listed = ", ".join(f"{_minutes(s)} for {what}" for what, s in parts.items())
        return f"about {_minutes(self.total)} on this machine ({listed})"


def _minutes(seconds: float) -> str:
    count = round(seconds / 60)
    return "a minute" if count <= 1 else f"{count} minutes"


Timer = Callable[[Sizes, int], StepTimes]


def choose_sizes(
    survey: Survey, *, minutes: float, image_size: int | None = None, timer: Timer | None = None
) -> tuple[Sizes, Estimate]:
    """The largest candidate that fits into ``minutes``, and what a build of it takes.

    Args:
        survey: the folder.
        minutes: the time that a build should take.
        image_size: side of the pictures where it is given.
        timer: seconds of a step at given sizes for a number of classes; timed here by default.
    """
    timer = timer or time_steps
    classes, pictures = len(survey.listing.class_names), len(survey.listing.train)
    chosen: tuple[Sizes, Estimate] | None = None
    for sizes in _candidates(survey.side_px(50), pictures, image_size):
        steps = timer(sizes, classes)
        fitted = _fitted(sizes, steps, survey, 60 * minutes)
        found = fitted, estimate(fitted, steps, survey)
        fits = fitted.epochs == sizes.epochs and fitted.steps_per_epoch is None
        if chosen is None or fits:
            chosen = found
        if not fits or NEXT_COSTS * found[1].total > 60 * minutes:
            break
    assert chosen is not None
    return chosen


def _candidates(side_px: int, pictures: int, image_size: int | None) -> Iterator[Sizes]:
    """From small to large."""
    batch = next(size for size, least in _BATCHES if pictures >= least)
    epochs = wanted_epochs(pictures, batch)
    small = max(16, 4 * -(-side_px // 4))
    if (image_size or small) <= SMALL_PX:
        for channels in (8, 16):
            yield Sizes(image_size or small, "cifar", channels, 5, batch, epochs)
        return
    sides = [px for px in (64, 96, 128) if px <= 1.25 * side_px] or [64]
    for px in [image_size] if image_size else sides:
        yield Sizes(px, "imagenet", 16, 5, batch, epochs)


_BATCHES = ((64, 6000), (32, 600), (16, 150), (8, 0))  # pictures a step, from so many on


def wanted_epochs(pictures: int, batch_size: int) -> int:
    """As many as make WANTED_STEPS, within EPOCHS."""
    fewest, most = EPOCHS
    return min(max(round(WANTED_STEPS / _steps(pictures, batch_size)), fewest), most)


def _steps(pictures: int, batch_size: int) -> int:
    return max(1, pictures // batch_size)


def _fitted(sizes: Sizes, steps: StepTimes, survey: Survey, seconds: float) -> Sizes:
    """The sizes with as many steps as fit into the time."""
    pictures = len(survey.listing.train)
    free = max(seconds - _before(sizes, survey) - FIXED_S, 0.25 * seconds)
    of_a_step = SEARCH_WARMUP * steps.warmup + TIERS * (SEARCH_EPOCHS - SEARCH_WARMUP) * (
        steps.search
    )
    half = _steps(pictures // 2, sizes.batch_size)
    searched = max(int(SEARCH_SHARE * free / of_a_step), LEAST_SEARCH_STEPS)
    if searched < half:
        sizes = replace(sizes, steps_per_epoch=searched)
    free -= of_a_step * min(searched, half)
    epoch_s = TIERS * steps.training * _steps(pictures, sizes.batch_size) * 1.1
    epochs = int(free / epoch_s)
    if epochs < LEAST_EPOCHS:
        counts = survey.listing.counts(survey.listing.train)
        # A share of each class is taken: the smallest must keep a picture.
        fewest = max(20 * len(counts), -(-pictures // min(counts.values())))
        fits = int(pictures * free / (LEAST_EPOCHS * epoch_s))
        if max(fits, fewest) < pictures:
            sizes = replace(sizes, max_train=max(fits, fewest))
        epochs = LEAST_EPOCHS
    return replace(sizes, epochs=min(epochs, sizes.epochs))


def estimate(sizes: Sizes, steps: StepTimes, survey: Survey) -> Estimate:
    """What a build of these sizes takes."""
    pictures = min(len(survey.listing.train), sizes.max_train or len(survey.listing.train))
    half = sizes.steps_per_epoch or _steps(pictures // 2, sizes.batch_size)
    search_epochs = SEARCH_EPOCHS - SEARCH_WARMUP
    evaluations = min(sizes.epochs, 10) * EVALUATION_COST * steps.training
    training = steps.training * sizes.epochs * _steps(pictures, sizes.batch_size)
    training += evaluations * len(survey.listing.test) / sizes.batch_size
    return Estimate(
        profile=_profile_s(sizes, len(survey.listing.class_names)),
        search=half * (SEARCH_WARMUP * steps.warmup + TIERS * search_epochs * steps.search),
        training=TIERS * training,
        other=FIXED_S + len(survey.listing.files) * survey.decode_ms / 1000,
    )


def _before(sizes: Sizes, survey: Survey) -> float:
    decode_s = len(survey.listing.files) * survey.decode_ms / 1000
    return _profile_s(sizes, len(survey.listing.class_names)) + decode_s


def _profile_s(sizes: Sizes, classes: int) -> float:
    shape = (3, sizes.image_size, sizes.image_size)
    kernels = len(sizes.space().space(shape, classes).all_kernels("fp32"))
    return TIERS * (kernels * KERNEL_S + NETWORKS * NETWORK_S)


# ---- timing


class _Stopwatch:
    """A progress display that remembers when each step ended."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []

    @contextmanager
    def task(self, label: str, total: int | None, done: int = 0) -> Iterator[Task]:
        yield self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.ends_s.append(time.perf_counter())

    def message(self, text: str) -> None:
        return None

    def median_s(self, first: int, last: int) -> float:
        """Of the steps ``first`` to ``last`` - 1; step 0 cannot be timed."""
        return float(np.median(np.diff(self.ends_s)[first - 1 : last - 1]))


def time_steps(sizes: Sizes, classes: int) -> StepTimes:
    """Seconds of one step on this machine, with random pictures, by the loops that a build runs."""
    from factory.pipeline.stages.train import make_network
    from factory.search.bilevel import Bilevel
    from factory.search.costs import macs_term
    from factory.spaces.genotype import find_genotype
    from factory.training.loop import train_network

    data = _random_pictures(sizes, classes)
    space = sizes.space().space(data.image_shape, classes)
    training = TrainConfig.model_validate(
        {"epochs": 1, "warmup_epochs": 0, "batch_size": sizes.batch_size}
    )
    network = make_network(find_genotype("PC_DARTS_cifar"), space, training, 0)
    search = SearchConfig.model_validate(
        {
            "preset": "short",
            "channels": sizes.channels,
            "layers": sizes.layers,
            "batch_size": sizes.batch_size,
            "epochs": 2,
            "warmup_epochs": 1,
            "steps_per_epoch": TIMED_STEPS,
        }
    )
    with tempfile.TemporaryDirectory(prefix="factory-new-") as folder:
        trained, searched = _Stopwatch(), _Stopwatch()
        train_network(network, data, training, Path(folder) / "train", trained)
        bilevel = Bilevel(space, data, search, 0)
        budget = [macs_term(space.presence("fp32"), limit=1.0)]
        start: tuple[int, dict[str, Tensor], bytes] = (0, {}, b"")
        try:
            bilevel.run(2 * TIMED_STEPS, Path(folder), "time", "", budget, searched, start=start)
        finally:
            bilevel.close()
    # The last step of an epoch evaluates and saves too.
    return StepTimes(
        training=trained.median_s(1, 2 * TIMED_STEPS - 1),
        warmup=searched.median_s(1, TIMED_STEPS - 1),
        search=searched.median_s(TIMED_STEPS + 1, 2 * TIMED_STEPS - 1),
    )


def _random_pictures(sizes: Sizes, classes: int) -> ImageData:
    import torch

    from factory.data.augment import Augmentation
    from factory.data.image_data import ImageData, ImageSplit

    count = 2 * TIMED_STEPS * sizes.batch_size
    shape = (3, sizes.image_size, sizes.image_size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    split = ImageSplit(pixels, torch.arange(count) % classes)
    return ImageData(
        name="random pictures",
        train=split,
        test=split.subset(torch.arange(sizes.batch_size)),
        class_names=tuple(map(str, range(classes))),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_shape=shape,
        augmentation=Augmentation(shift_px=2, flip=True),
    )
