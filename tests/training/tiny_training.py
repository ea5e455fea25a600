"""A tiny network and data set, and a program that trains it (started and killed by a test)."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked

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


class _DeadlyTask:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, n: int = 1, note: str = "") -> None:
        """Take some time, so that checkpoints are due; after the last step end this process."""
        time.sleep(0.01)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyProgress(SilentProgress):
    """Notes every start in a file; a run is killed after ``steps``, 0: never."""

    def __init__(self, marker: Path, steps: int) -> None:
        self.marker, self.steps = marker, steps

    def task(self, label: str, total: int | None, done: int = 0):  # type: ignore[no-untyped-def]
        """A task of so many steps."""
        import contextlib

        with self.marker.open("a") as stream:
            stream.write(f"start {done}\n")
        return contextlib.nullcontext(_DeadlyTask(self.steps))


def train(out_dir: Path, checkpoint_s: float, steps: int) -> None:
    """One process's part of the training."""
    config = CONFIG.model_copy(update={"checkpoint_s": checkpoint_s})
    progress = DeadlyProgress(out_dir.parent / f"{out_dir.name}.log", steps)
    train_network(TinyNetwork(), tiny_data(), config, out_dir, progress, seed=3)


if __name__ == "__main__":
    import torch._dynamo  # every optimiser would load it again

    torch.set_num_threads(1)
    folder, *steps = sys.argv[1:]
    print(forked.exit_code(train, Path(folder, "straight"), 1000.0, 0))
    for number in steps:
        print(forked.exit_code(train, Path(folder, "killed"), 0.02, int(number)))
