"""Several processes of one search, started by torchrun: every rank takes a share of each batch.

Gradients towards weights and architecture are averaged over the ranks, so that all hold the same
network and the same architecture after every step; BatchNorm uses the statistics of a rank's own
share, as torch's distributed data parallel does. Rank 0 writes the files. (The loop asks autograd
for gradients directly, so they are averaged here and not by the hooks of DistributedDataParallel.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """This rank's part of a batch."""
        if self.size == 1:
            return batch
        x, labels = batch
        part = x[self.rank :: self.size].contiguous(memory_format=torch.channels_last)
        return part, labels[self.rank :: self.size]

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Mean over the ranks, in one message; the tensors of this rank stay as they are."""
        if self.size == 1:
            return list(tensors)
        joined = torch.cat([t.detach().reshape(-1).to(torch.float32) for t in tensors])
        dist.all_reduce(joined)
        joined /= self.size
        parts = joined.split([t.numel() for t in tensors])
        return [p.view(t.shape).to(t.dtype) for p, t in zip(parts, tensors, strict=True)]

    def average_floats(self, values: Sequence[float]) -> list[float]:
        """Mean of plain numbers over the ranks."""
        if self.size == 1:
            return list(values)
        return [float(t) for t in self.average([torch.tensor(v) for v in values])]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def join(device: torch.device) -> World:
    """The world that torchrun's variables describe; one process without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size())
