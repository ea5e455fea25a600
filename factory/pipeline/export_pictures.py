"""Pictures for a model of somebody else: from a folder of them, or made up.

An image folder (one sub-folder a class) gives the pictures that calibrate, choose and judge,
prepared as the model wants them, with the model's own outputs as labels; and batches to fine-tune
on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from factory.data.image_data import ImageData
    from factory.deployment.fine_tuning import Trainable
    from factory.deployment.gate_contract import GateData
    from factory.deployment.metadata import Preprocessing

CALIBRATION_IMAGES = 256
SELECTION_IMAGES = 256
MADE_UP_IMAGES = 16
MAX_BYTES = 384 << 20  # of calibration pictures in memory


def outputs_of_folders(
    folders: Sequence[str], model_names: Sequence[str], root: Path
) -> np.ndarray:
    """For each folder, in alphabetical order, the output of the model that has its name.

    Where the model names no class, or none as a folder, the folders are its outputs in order.
    """
    if not set(folders) & set(model_names):
        return np.arange(len(folders))
    odd = sorted(set(folders) ^ set(model_names))
    if odd:
        raise InputError(
            f"the folders of {root} are not the model's classes",
            why=f"{odd[0]!r} is only " + ("a folder" if odd[0] in folders else "in the model"),
            fix="name one folder as each class of the model",
        )
    return np.array([list(model_names).index(name) for name in folders])


def trainable_on(
    network: nn.Module,
    data: ImageData,
    preprocessing: Preprocessing,
    seed: int,
    outputs: np.ndarray,
) -> Trainable:
    """The network with batches of the folder's training pictures, augmented and prepared.

    ``outputs``: the model's output of each folder, see :func:`outputs_of_folders`.
    """
    import torch

    from factory.data.loader import BatchStream
    from factory.deployment.fine_tuning import BATCH_SIZE, Trainable

    stream = BatchStream(len(data.train), BATCH_SIZE, seed)
    right = torch.from_numpy(outputs)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        raw, labels = data.train[stream.indices(step)]
        raw = data.augmentation(raw, seed=seed, step=step)
        return torch.from_numpy(normalised(raw.numpy(), preprocessing)), right[labels]

    return Trainable(network, batch, seed)


def made_up_pictures(shape: tuple[int, int, int], seed: int) -> GateData:
    """Smooth random pictures, normalised: enough to run a model, not to judge it."""
    from factory.deployment.gate_contract import GateData

    rng = np.random.default_rng([seed, 17])
    channels, height, width = shape
    coarse = rng.standard_normal((MADE_UP_IMAGES, channels, -(-height // 8), -(-width // 8)))
    images = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    images = images + 0.3 * rng.standard_normal(images.shape)
    images = images.astype(np.float32)
    half = MADE_UP_IMAGES // 2
    return GateData(images[:half], images[half:], images[half:], name="made-up pictures")


def folder_pictures(
    root: Path,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    seed: int,
    progress: Progress,
    model_names: Sequence[str] = (),
) -> tuple[GateData, ImageData, np.ndarray]:
    """The pictures of an image folder, prepared as the model wants them, and as they are.

    The prepared ones have the model's outputs as labels, the others the folders; last, the output
    of each folder.
    """
    from factory.data.config import DataConfig
    from factory.data.datasets import load_data
    from factory.deployment.gate_contract import GateData

    if shape[1] != shape[2]:
        raise InputError("pictures of a folder are square", why=f"the model takes {shape}")
    config = DataConfig.model_validate(
        {"kind": "image_folder", "root": str(root), "image_size": shape[1]}
    )
    data = load_data(config, seed, progress)
    outputs = outputs_of_folders(data.class_names, model_names, root)
    calibration, selection = split_for_gate(len(data.train), math.prod(shape) * 4, seed)

    def prepared(split: Any, index: Any) -> np.ndarray:
        images, _ = split[index]
        return normalised(images.numpy(), preprocessing)

    import torch

    def pick(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows)

    test = slice(None)
    pictures = GateData(
        calibration=prepared(data.train, pick(calibration)),
        selection_images=prepared(data.train, pick(selection)),
        selection_labels=outputs[data.train.labels[pick(selection)].numpy()],
        test_images=prepared(data.test, test),
        test_labels=outputs[data.test.labels.numpy()],
        name=f"{root.name}, {len(data.test)} test pictures",
    )
    return pictures, data, outputs


def folder_test_pictures(
    root: Path,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    model_names: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Test pictures of an image folder, prepared, and the model's outputs that are right."""
    pictures, _, _ = folder_pictures(root, shape, preprocessing, 0, SILENT, model_names)
    assert pictures.test_labels is not None
    assert isinstance(pictures.test_images, np.ndarray)
    return pictures.test_images, pictures.test_labels


def normalised(images_uint8_NCHW: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """float32 NCHW as the preprocessing says, of RGB pictures of the right size."""
    x = images_uint8_NCHW.astype(np.float32)
    if preprocessing.colour == "BGR":
        x = x[:, ::-1]
    elif preprocessing.colour == "grey":
        weights = np.asarray((0.299, 0.587, 0.114), np.float32).reshape(1, 3, 1, 1)
        x = np.rint((x * weights).sum(axis=1, keepdims=True))
    mean, std = (
        np.asarray(v, np.float32).reshape(1, -1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    return np.ascontiguousarray((x * np.float32(preprocessing.scale) - mean) / std, np.float32)


def split_for_gate(count: int, image_bytes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training pictures for calibration and for choosing, disjoint where possible."""
    affordable = max(4, MAX_BYTES // max(image_bytes, 1) // 2)
    wanted = min(CALIBRATION_IMAGES, affordable, count)
    order = np.random.default_rng([seed, 13]).permutation(count)
    calibration = order[:wanted]
    selection = order[wanted : wanted + min(SELECTION_IMAGES, affordable)]
    return np.sort(calibration), np.sort(selection if len(selection) else calibration)
