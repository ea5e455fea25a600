"""Accuracy and loss of a network on pictures it has not seen."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn import functional

from factory.data.image_data import ImageData, ImageSplit
from factory.training.hardware import Hardware

EVALUATION_BATCH = 256


@torch.no_grad()
def evaluate(
    network: nn.Module,
    data: ImageData,
    split: ImageSplit | None = None,
    *,
    device: torch.device | None = None,
    channels_last: bool = False,
    hardware: Hardware | None = None,
    batch_size: int = EVALUATION_BATCH,
) -> tuple[float, float]:
    """(accuracy 0..1, mean cross entropy) on ``split``, by default the test pictures.

    ``hardware`` overrides ``device`` and ``channels_last``. The network's mode is restored.
    """
    split = data.test if split is None else split
    device = hardware.device if hardware else device or torch.device("cpu")
    channels_last = hardware.channels_last if hardware else channels_last
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    was_training = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float32, device=device)
    try:
        for start in range(0, len(split), batch_size):
            raw, labels = split[slice(start, start + batch_size)]
            x = data.normalise(raw.to(device)).contiguous(memory_format=memory_format)
            labels = labels.to(device)
            with hardware.autocast() if hardware else contextlib.nullcontext():
                output = network(x)
            logits = (output[0] if isinstance(output, tuple) else output).float()
            correct += (logits.argmax(1) == labels).sum()
            loss += functional.cross_entropy(logits, labels, reduction="sum")
    finally:
        network.train(was_training)
    return correct.item() / len(split), loss.item() / len(split)
