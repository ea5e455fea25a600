"""Data sets: one loader function each; :func:`load_data` is what everybody calls.

The test pictures of a data set are the same for every seed, so that accuracies compare; only the
``max_train`` subset of digits and CIFAR-10 depends on it (a folder decodes only what is used).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.core.registry import Registry
from factory.data.augment import Augmentation
from factory.data.config import DataConfig
from factory.data.folder_listing import list_image_folder
from factory.data.image_data import (
    ImageData,
    ImageSplit,
    channel_statistics,
    limited,
    stratified_split,
)
from factory.data.pictures import LazyPictures, check_pictures, decode_pictures

DIGITS_TRAIN = 1437  # of 1,797
FIXED_SEED = 0  # of every test set
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Loaded = tuple[ImageSplit, ImageSplit, tuple[str, ...], tuple[str, ...]]  # classes, notes
LOADERS: Registry[Callable[[DataConfig, Progress], Loaded]] = Registry("data set")


def load_data(cfg: DataConfig, seed: int, progress: Progress = SILENT) -> ImageData:
    """The data set that ``cfg`` names, its statistics and its augmentation."""
    train, test, class_names, notes = LOADERS.get(cfg.kind, where="data.kind")(cfg, progress)
    train = limited(train, cfg.max_train, seed)
    test = limited(test, cfg.max_test, FIXED_SEED)
    missing = set(range(len(class_names))) - set(train.labels.tolist())
    if missing:
        raise InputError(
            f"data.max_train = {cfg.max_train} leaves no picture of {class_names[min(missing)]!r}",
            why=f"there are {len(class_names)} classes",
            fix="raise data.max_train",
        )
    mean, std = channel_statistics(train)
    return ImageData(
        name=cfg.kind,
        train=train,
        test=test,
        class_names=class_names,
        notes=notes,
        mean=mean,
        std=std,
        image_shape=cfg.image_shape,
        augmentation=Augmentation(
            shift_px=cfg.effective_shift_px,
            resized_crop=cfg.effective_crop == "resized",
            flip=cfg.effective_flip,
            policy=cfg.policy,
            fill=tuple(round(255 * value) for value in mean),
        ),
    )


def class_names(cfg: DataConfig) -> tuple[str, ...]:
    """The classes in label order, without decoding a picture; data that is not there is told."""
    if cfg.kind == "digits":
        return tuple(str(digit) for digit in range(10))
    if cfg.kind == "cifar10":
        root = _cifar10_root(cfg)
        if not (root / CIFAR10_FOLDER).is_dir():
            raise _cifar10_error(root)
        return CIFAR10_CLASSES
    return list_image_folder(cfg).class_names


@LOADERS.register("digits")
def _digits(cfg: DataConfig, progress: Progress) -> Loaded:
    """1,797 handwritten digits, 8x8 in 17 grey levels (they come with scikit-learn)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    grey = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32))[:, None] * (255 / 16)
    images = _resized(grey, cfg.image_size).expand(-1, 3, -1, -1).contiguous()
    everything = ImageSplit(images, torch.from_numpy(np.asarray(bunch.target)).long())
    first, second = stratified_split(everything.labels, DIGITS_TRAIN / len(grey), FIXED_SEED)
    return everything.subset(first), everything.subset(second), class_names(cfg), ()


@LOADERS.register("cifar10")
def _cifar10(cfg: DataConfig, progress: Progress) -> Loaded:
    """50,000 + 10,000 pictures of 32x32 (Krizhevsky 2009), never downloaded by us."""
    root = _cifar10_root(cfg)
    train = _cifar10_part(root, train=True, image_size=cfg.image_size)
    test = _cifar10_part(root, train=False, image_size=cfg.image_size)
    return train, test, CIFAR10_CLASSES, ()


def _cifar10_root(cfg: DataConfig) -> Path:
    root = cfg.root_path
    return root.parent if root.name == CIFAR10_FOLDER else root


def _cifar10_error(root: Path, why: str = "") -> InputError:
    folder = root.absolute() / CIFAR10_FOLDER
    command = (
        'python -c "from torchvision.datasets import CIFAR10; '
        f"CIFAR10('{root.as_posix()}', download=True)\""
    )
    there = folder.is_dir()
    return InputError(
        f"CIFAR-10 {'is damaged or incomplete' if there else 'is not there'}",
        where=f"{folder} (data.root = {root.as_posix()!r})",
        why=why if there else "",
        fix=f"fetch it with: {command}, or correct data.root",
    )


def _cifar10_part(root: Path, *, train: bool, image_size: int) -> ImageSplit:
    from torchvision.datasets import CIFAR10

    try:
        part = CIFAR10(str(root), train=train, download=False)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise _cifar10_error(root, str(error).splitlines()[0]) from None
    images = torch.from_numpy(np.asarray(part.data)).permute(0, 3, 1, 2).contiguous()
    if images.shape[-1] != image_size:
        images = torch.cat([_resized(chunk.float(), image_size) for chunk in images.split(1000)])
    return ImageSplit(images, torch.tensor(part.targets))


@LOADERS.register("image_folder")
def _image_folder(cfg: DataConfig, progress: Progress) -> Loaded:
    """The user's own pictures, in memory where they fit, else decoded batch by batch."""
    listing = list_image_folder(cfg)
    kept = [
        _limited_files(files, limit)
        for files, limit in ((listing.train, cfg.max_train), (listing.test, cfg.max_test))
    ]
    decoded_mb = sum(map(len, kept)) * 3 * cfg.image_size**2 / 2**20
    splits = []
    notes = tuple(listing.sentences())
    for line in notes:
        progress.message(f"{cfg.root}: {line}")
    for files, part in zip(kept, ("training", "test"), strict=True):
        paths = tuple(path for path, _ in files)
        images: Tensor | LazyPictures
        if decoded_mb <= cfg.memory_limit_mb:
            images = decode_pictures(paths, cfg.image_size, progress, f"decode {part} pictures")
        else:
            check_pictures(paths, progress, f"check {part} pictures")
            images = LazyPictures(paths, cfg.image_size)
        splits.append(ImageSplit(images, torch.tensor([label for _, label in files])))
    return splits[0], splits[1], listing.class_names, notes


def _limited_files(
    files: tuple[tuple[Path, int], ...], limit: int | None
) -> tuple[tuple[Path, int], ...]:
    """Decode only what will be used: the same stratified choice for every seed."""
    if limit is None or limit >= len(files):
        return files
    labels = torch.tensor([label for _, label in files])
    chosen, _ = stratified_split(labels, limit / len(files), FIXED_SEED)
    return tuple(files[place] for place in chosen.tolist())


def _resized(x_NCHW: Tensor, image_size: int) -> Tensor:
    """Bilinear, rounded to uint8."""
    sized = functional.interpolate(
        x_NCHW, (image_size, image_size), mode="bilinear", align_corners=False, antialias=True
    )
    return sized.round().clamp(0, 255).to(torch.uint8)
