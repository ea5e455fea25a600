"""Train four torchvision networks on the flower photos, so that what int8 costs can be measured.

    python tools/bench_flowers.py --photos flower_photos --out bench/flowers
    python tools/bench_deploy.py targets --flowers bench/flowers --photos flower_photos \\
        --networks --out bench/deploy

``--photos`` holds train/ and val/ with one folder a class. Training starts from random weights with
the project's own loop: first at 64 pixels, which costs a quarter, then at 128. The recipe is short,
a quarter of an hour for all four on one core; accuracies are well above chance, not the best ones.
Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from factory.cli.progress import shown_progress
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.data.image_data import ImageData
from factory.training.config import TrainConfig
from factory.training.loop import train_network

CLASSES = 5
SMALL_PX, FULL_PX = 64, 128


def mobilenet_v3_small() -> nn.Module:
    """torchvision's network for the five flowers, random weights."""
    return models.mobilenet_v3_small(num_classes=CLASSES)


def shufflenet_v2_x1_0() -> nn.Module:
    """torchvision's network for the five flowers, random weights."""
    return models.shufflenet_v2_x1_0(num_classes=CLASSES)


def shufflenet_v2_x0_5() -> nn.Module:
    """torchvision's network for the five flowers, random weights."""
    return models.shufflenet_v2_x0_5(num_classes=CLASSES)


def mnasnet0_5() -> nn.Module:
    """torchvision's network for the five flowers, random weights.

    Its batch normalisations average over thousands of steps; this training has some hundred.
    """
    network = models.mnasnet0_5(num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network


# network -> maker, largest learning rate, epochs at 64 and at 128 pixels
NETWORKS = {
    "mobilenet_v3_small": (mobilenet_v3_small, 0.05, 6, 2),
    "shufflenet_v2_x1_0": (shufflenet_v2_x1_0, 0.05, 6, 2),
    "shufflenet_v2_x0_5": (shufflenet_v2_x0_5, 0.05, 6, 2),
    "mnasnet0_5": (mnasnet0_5, 0.05, 5, 2),
}


def main() -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded: dict[int, ImageData] = {}  # decoded once for all networks
    for name in options.networks:
        make, lr, small_epochs, full_epochs = NETWORKS[name]
        folder = options.out / name
        if (folder / "flowers.json").exists():
            print(name, read_json(folder / "flowers.json")["test_accuracy"], flush=True)
            continue
        torch.manual_seed(options.seed)
        network = make()
        seconds = 0.0
        for pixels, epochs, rate, out in (
            (SMALL_PX, small_epochs, lr, folder / "small"),
            (FULL_PX, full_epochs, lr / 2, folder),
        ):
            recipe = TrainConfig(
                epochs=epochs,
                batch_size=32,
                lr=rate,
                weight_decay=1e-4,
                warmup_epochs=1.0,
                ema_decay=0.99,
                eval_every=3,
                checkpoint_s=30.0,
                auxiliary_weight=0.0,
                drop_path=0.0,
            )
            if pixels not in loaded:
                data = DataConfig(
                    kind="image_folder", root=str(options.photos), image_size=pixels, crop="resized"
                )
                loaded[pixels] = load_data(data, options.seed)
            pictures = loaded[pixels]
            with shown_progress(False) as progress:
                result = train_network(
                    network,
                    pictures,
                    recipe,
                    out,
                    progress,
                    options.seed,
                    label=f"{name} at {pixels} px",
                )
            network.requires_grad_(True)
            seconds += result.seconds
        write_json(
            folder / "flowers.json",
            {
                "test_accuracy": result.test_accuracy,
                "seconds": seconds,
                "pixels": FULL_PX,
                "mean": pictures.mean,
                "std": pictures.std,
            },
        )
        print(name, result.test_accuracy, f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
