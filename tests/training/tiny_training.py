"""A tiny network and data set, and a program that trains it (started and killed by a test)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from factory.core.progress import SilentProgress
from factory.data.augment import Augmentation
from factory.data.image_data import ImageData, ImageSplit
from factory.training.config import TrainConfig
from factory.training.loop import train_network


class TinyNetwork(nn.Module):
    """Convolution, BatchNorm, drop path (random numbers in forward) and an auxiliary head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
            )
            self.head, self.auxiliary = nn.Linear(8, 2), nn.Linear(8, 2)
        self.drop_path_prob = 0.0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.features(x)
        if not self.training:
            return self.head(x.mean((2, 3)))
        mask = torch.rand(len(x), 1, 1, 1) >= self.drop_path_prob
        x = (x * mask / (1 - self.drop_path_prob)).mean((2, 3))
        return self.head(x), self.auxiliary(x)


def tiny_data(n: int = 64) -> ImageData:
    """Two classes: bright pictures and dark ones."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    noise = torch.randint(0, 100, (n, 3, 8, 8), generator=generator)
    images = (noise + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    split = ImageSplit(images, labels)
    return ImageData(
        name="tiny",
        train=split,
        test=split.subset(torch.arange(16)),
        class_names=("dark", "bright"),
        mean=(0.4, 0.4, 0.4),
        std=(0.25, 0.25, 0.25),
        image_shape=(3, 8, 8),
        augmentation=Augmentation(shift_px=1, flip=True),
    )


CONFIG = TrainConfig(
    epochs=6, batch_size=8, lr=0.05, drop_path=0.3, cutout=2, device="cpu", checkpoint_s=0.0
)


class _SlowTask:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def advance(self, n: int = 1, note: str = "") -> None:
        """Say how far the run is, and leave the test time to kill it."""
        with self.marker.open("a") as stream:
            stream.write("step\n")
        time.sleep(0.05)


class SlowProgress(SilentProgress):
    """Notes every step in a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def task(self, label: str, total: int | None, done: int = 0):  # type: ignore[no-untyped-def]
        """A slow task."""
        import contextlib

        with self.marker.open("a") as stream:
            stream.write(f"start {done}\n")
        return contextlib.nullcontext(_SlowTask(self.marker))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out_dir, checkpoint_s = Path(sys.argv[1]), float(sys.argv[2])
    config = CONFIG.model_copy(update={"checkpoint_s": checkpoint_s})
    progress = SlowProgress(out_dir.parent / f"{out_dir.name}.log")
    train_network(TinyNetwork(), tiny_data(), config, out_dir, progress, seed=3)
