"""Batches: which pictures at which step, as a pure function, so that resuming needs one number.

``BatchStream`` says the indices; ``Batches`` turns them into normalised, augmented pictures.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import torch
from torch import Tensor

from factory.core.errors import InputError
from factory.data.augment import Augmentation, derived_seed
from factory.data.image_data import ImageData, ImageSplit


class BatchStream:
    """An endless stream of index batches; each is a pure function of (seed, epoch, step).

    Every epoch is a fresh permutation; what does not fill a batch at its end is left out (other
    pictures each time). A split smaller than a batch gives one batch of all of it.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1 or batch_size < 1:
            raise InputError(f"cannot take batches of {batch_size} from {n} pictures")
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed
        self.step = 0
        self._cached: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the pictures."""
        return self.n // self.batch_size

    def indices(self, step: int) -> Tensor:
        """Indices of global step ``step`` (0, 1, ... over all epochs), int64 on the CPU."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, 0))
            self._cached = (epoch, torch.randperm(self.n, generator=generator))
        return self._cached[1][place * self.batch_size : (place + 1) * self.batch_size]

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        batch = self.indices(self.step)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"step": self.step, "n": self.n, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken; another stream's state is refused."""
        own = self.state_dict()
        for key in ("n", "batch_size", "seed"):
            if state[key] != own[key]:
                raise InputError(
                    f"the checkpoint's {key} is {state[key]}, this run's is {own[key]}",
                    fix="resume with the settings it was started with, or start in a new folder",
                )
        self.step = int(state["step"])


class Batches:
    """Normalised float pictures and labels on ``device`` for every step of a stream.

    A batch of one picture holds it twice, each augmented on its own: batch normalisation needs
    two values a channel where the map is one pixel.

    In-memory splits should lie on ``device`` already (``split.to(device)``). Files decoded when
    asked for are decoded one batch ahead, in the background.
    """

    def __init__(
        self,
        data: ImageData,
        split: ImageSplit,
        stream: BatchStream,
        *,
        augmentation: Augmentation | None = None,
        device: torch.device | None = None,
        channels_last: bool = False,
    ) -> None:
        self.data, self.split, self.stream = data, split, stream
        self.augmentation = augmentation
        self.device = device or torch.device("cpu")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._ahead: tuple[int, concurrent.futures.Future[tuple[Tensor, Tensor]]] | None = None
        self._pool = (
            None
            if split.in_memory
            else concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="decode-ahead")
        )

    def get(self, step: int) -> tuple[Tensor, Tensor]:
        """(x float [N,C,H,W], labels int64 [N]) of global step ``step``."""
        raw, labels = self._raw(step)
        raw = raw.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        if self.augmentation is not None:
            raw = self.augmentation(raw, seed=self.stream.seed, step=step)
        return self.data.normalise(raw).contiguous(memory_format=self.memory_format), labels

    def _raw(self, step: int) -> tuple[Tensor, Tensor]:
        if self._pool is None:
            return self.split[self._indices(step)]
        if self._ahead is not None and self._ahead[0] == step:
            batch = self._ahead[1].result()
        else:
            batch = self.split[self._indices(step)]
        following = self._indices(step + 1)
        self._ahead = (step + 1, self._pool.submit(self.split.__getitem__, following))
        return batch

    def _indices(self, step: int) -> Tensor:
        index = self.stream.indices(step)
        return index.repeat(2) if len(index) == 1 else index

    def close(self) -> None:
        """Stop decoding ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
