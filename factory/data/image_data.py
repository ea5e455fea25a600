"""Pictures in memory: a split (pictures + labels) and a whole data set with its normalisation.

Pictures are uint8 NCHW until a batch is used: a quarter of the memory, and augmentation is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from factory.core.errors import InputError
from factory.data.augment import Augmentation, derived_seed

STATISTICS_SAMPLE = 2000  # pictures that mean and standard deviation are computed from
MIN_STD = 1e-3


class PictureStore(Protocol):
    """uint8 pictures that can be indexed: a tensor, or files decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ImageSplit:
    """Pictures (uint8 [N,C,H,W], or a lazy store of them) and their labels (int64 [N])."""

    images: Tensor | PictureStore
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """uint8 pictures and labels at ``index`` (a tensor of indices, or a slice)."""
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        index = index.to(self.labels.device)
        return self.images[index], self.labels[index]

    @property
    def in_memory(self) -> bool:
        """Whether the pictures are one tensor."""
        return isinstance(self.images, Tensor)

    def subset(self, index: Tensor) -> ImageSplit:
        """The pictures at ``index``, as a split of its own."""
        if isinstance(self.images, Tensor):
            return ImageSplit(self.images[index], self.labels[index])
        return ImageSplit(StoreSubset(self.images, index), self.labels[index])

    def to(self, device: torch.device) -> ImageSplit:
        """The split on ``device``; pictures decoded when asked for stay where they are."""
        if not isinstance(self.images, Tensor):
            return self
        return ImageSplit(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class StoreSubset:
    """Some of the pictures of a lazy store."""

    store: PictureStore
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.store[self.index[index]]


@dataclass(frozen=True)
class ImageData:
    """A data set ready for search and training.

    Attributes:
        train, test: the splits.
        class_names: in label order.
        mean, std: per channel, of the training pictures scaled to 0..1.
        image_shape: (channels, height, width).
        augmentation: for training pictures; cutout is added by whoever trains.
        notes: what a person should know of the data, such as files that are left out.
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]
    augmentation: Augmentation
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """Plain values for a person: pictures of each class in both parts, and the notes."""
        counts = {
            part: torch.bincount(split.labels.cpu(), minlength=self.num_classes).tolist()
            for part, split in (("train", self.train), ("test", self.test))
        }
        return {
            "name": self.name,
            **{part: dict(zip(self.class_names, n, strict=True)) for part, n in counts.items()},
            "notes": list(self.notes),
        }

    def normalise(self, x_uint8_NCHW: Tensor) -> Tensor:
        """float32 NCHW: (pixel / 255 - mean) / std, per channel, as one multiply-add."""
        scale, offset = self._affine(x_uint8_NCHW.device)
        return torch.addcmul(offset, x_uint8_NCHW.float(), scale)

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        std = torch.tensor(self.std, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        return 1 / (255 * std), -mean / std

    def split(self, fraction: float, seed: int) -> tuple[ImageSplit, ImageSplit]:
        """The training pictures in two parts, stratified: (fraction, the rest).

        The search trains weights on the first and the architecture on the second.
        """
        if not 0 < fraction < 1:
            raise InputError(f"split fraction must be between 0 and 1, not {fraction}")
        first, second = stratified_split(self.train.labels, fraction, seed)
        if not len(first) or not len(second):
            raise InputError(
                f"{len(self.train)} training pictures are too few to split in two",
                where=f"data set {self.name}",
                fix="add pictures or raise data.max_train",
            )
        return self.train.subset(first), self.train.subset(second)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of two disjoint parts with the same share of each class.

    The first part has exactly round(fraction x n) pictures, handed out to the classes by largest
    remainder.
    """
    counts = torch.bincount(labels)
    quota = _largest_remainder(counts.numpy() * fraction, round(fraction * len(labels)))
    generator = torch.Generator().manual_seed(derived_seed(seed, 3))
    first, second = [], []
    for label, take in enumerate(quota):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        first.append(members[:take])
        second.append(members[take:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def _largest_remainder(shares: np.ndarray, total: int) -> list[int]:
    whole = np.floor(shares).astype(int)
    missing = total - int(whole.sum())
    order = np.argsort(-(shares - whole), kind="stable")
    whole[order[: max(missing, 0)]] += 1
    return [int(n) for n in whole]


def limited(split: ImageSplit, limit: int | None, seed: int) -> ImageSplit:
    """At most ``limit`` pictures of a split, stratified."""
    if limit is None or limit >= len(split):
        return split
    return split.subset(stratified_split(split.labels, limit / len(split), seed)[0])


def channel_statistics(split: ImageSplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels scaled to 0..1.

    From all pictures in memory, else from a fixed sample of :data:`STATISTICS_SAMPLE`.
    """
    if isinstance(split.images, Tensor):
        chunks: Sequence[Tensor] = split.images.split(256)
    else:
        count = min(STATISTICS_SAMPLE, len(split))
        sample = torch.linspace(0, len(split) - 1, count).long()
        chunks = _decoded_chunks(split.images, sample)
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    pixels = 0
    for chunk in chunks:
        values = chunk.to(torch.float32) / 255
        total += values.sum((0, 2, 3)).double()
        squares += values.square().sum((0, 2, 3)).double()
        pixels += values.numel() // values.shape[1]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=MIN_STD**2).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def _decoded_chunks(store: PictureStore, index: Tensor) -> list[Tensor]:
    return [store[part] for part in index.split(64)]
