"""The checkpoint of a training run: one file, replaced atomically, read without pickle.

Its first line holds the SHA-256 of the rest: a file in which a single bit changed is refused.
It holds the next step and everything that step depends on; what a step does beside is a pure
function of (seed, step), so a resumed run ends with the same bits.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.core.reading import read_bytes
from factory.data.image_data import ImageData
from factory.training.config import TrainConfig

CHECKPOINT_VERSION = 2
LARGEST_MB = 64_000.0
# Settings that do not change the result: a run may be resumed with other values.
FREE_SETTINGS = {"checkpoint_s"}


def fingerprint(network: nn.Module, data: ImageData, cfg: TrainConfig, seed: int) -> str:
    """SHA-256 of what the result depends on: structure, data, settings, seed."""
    description = {
        "network": repr(network),
        "genotype": repr(getattr(network, "genotype", None)),
        "tensors": [[k, list(v.shape)] for k, v in network.state_dict().items()],
        "data": [data.name, len(data.train), len(data.test), *data.image_shape, *data.class_names],
        "mean_std": [*data.mean, *data.std],
        "augmentation": repr(data.augmentation),
        "settings": cfg.model_dump(mode="json", exclude=FREE_SETTINGS),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically; killed at any moment, the previous one is still there."""
    buffer = io.BytesIO()
    torch.save({"version": CHECKPOINT_VERSION, **state}, buffer)
    content = buffer.getvalue()
    write_atomic_bytes(path, _first_line(content) + content)


def _first_line(content: bytes) -> bytes:
    return f"factory training checkpoint {hashlib.sha256(content).hexdigest()}\n".encode()


def load_checkpoint(path: Path, expected_fingerprint: str) -> dict[str, Any] | None:
    """The checkpoint, None where there is none; one of other settings is refused."""
    if not path.exists():
        return None
    line, _, content = read_bytes(path, "checkpoint", most_mb=LARGEST_MB).partition(b"\n")
    if line + b"\n" != _first_line(content):
        raise InputError(
            f"the checkpoint {path} cannot be read",
            why="its content is not what was written, or an earlier version wrote it",
            fix="remove it to train from the start",
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    version = state["version"]
    if version != CHECKPOINT_VERSION:
        raise InputError(
            f"the checkpoint {path} has version {version}, this program reads {CHECKPOINT_VERSION}",
            fix="remove it to train from the start",
        )
    refuse_other_run(str(state["fingerprint"]), expected_fingerprint, path)
    return dict(state)


def refuse_other_run(found: str, expected: str, path: Path) -> None:
    """InputError where a file in the folder belongs to another network, data set or setting."""
    if found != expected:
        raise InputError(
            f"{path} belongs to a run with another network, data set, seed or training settings",
            fix="choose a new folder, or remove this one to train from the start",
        )
