"""A data set, costs and settings small enough for tests; also run as a program that is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked

from factory.data.augment import Augmentation
from factory.data.image_data import ImageData, ImageSplit
from factory.search.architectures import TierBudget, search_architectures
from factory.search.bilevel import Bilevel
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, macs_term
from factory.search.derive import derivation_of
from factory.spaces.cell_space import CellSpace
from factory.spaces.network_spec import NetworkSpec

SPEC = NetworkSpec(4, 3, "cifar", (3, 8, 8), 3)


def tiny_data(n: int = 96) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % 3
    for label in range(3):
        images[labels == label, label] += 100
    split = ImageSplit(images, labels)
    names = ("a", "b", "c")
    return ImageData("tiny", split, split, names, (0.4,) * 3, (0.2,) * 3, (3, 8, 8),
                     Augmentation(shift_px=1))  # fmt: skip


def target() -> CellSpace:
    return CellSpace(NetworkSpec(8, 5, "cifar", (3, 16, 16), 3))


def latency_term(limit: float | None = None) -> CostTerm:
    presence = target().presence()
    weights = np.array([0.01 + k.macs / 2e8 + k.output_bytes / 2e7 for k in presence.kernels])
    return CostTerm("latency_ms", presence, weights, 0.05, limit, "ms", "test-chip")


DERIVATION = derivation_of(CellSpace(SPEC))


def mac_term(limit: float | None = None) -> CostTerm:
    return macs_term(target().presence(), limit)


def tiny_config(**changes: object) -> SearchConfig:
    settings: dict = {
        "preset": "short",
        "channels": 4,
        "layers": 3,
        "partial_channels": 2,
        "batch_size": 16,
        "epochs": 4,
        "warmup_epochs": 1,
        "steps_per_epoch": 3,
        "weight_lr": 0.05,
        "device": "cpu",
    }
    return SearchConfig(**{**settings, **changes})


def run(out: Path, **changes: object):
    tiers = [TierBudget("a", [latency_term(0.75), mac_term(3e6)]), TierBudget("free")]
    return search_architectures(
        CellSpace(SPEC), tiny_data(), tiers, tiny_config(**changes), out, seed=3
    )


def killed_at(out: Path, number: int) -> None:
    """The search in a process that is killed when it begins its ``number``-th step; 0: never."""
    one_step, begun = Bilevel._one_step, []

    def counted(*arguments, **options):
        begun.append(number)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return one_step(*arguments, **options)

    Bilevel._one_step = counted
    run(out, checkpoint_steps=2)


if __name__ == "__main__":
    import torch._dynamo  # every optimiser would load it again

    torch.set_num_threads(1)
    folder, *numbers = sys.argv[1:]
    print(*(forked.exit_code(killed_at, Path(folder), int(n)) for n in numbers))
