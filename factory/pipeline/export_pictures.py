"""Pictures for a model of somebody else: from folders of them, or made up.

A folder with one sub-folder a class (``--data``) gives the pictures that calibrate, choose and
judge, with the model's own outputs as labels, and batches to fine-tune on. Any folder of pictures
(``--calibration``) gives those that calibrate and compare; nobody needs to know what they show.
All are prepared as the model wants them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from factory.deployment.fine_tuning import Trainable
    from factory.deployment.gate_contract import GateData
    from factory.deployment.metadata import Preprocessing
    from factory.deployment.run_here import Samples

CALIBRATION_IMAGES = 256
SELECTION_IMAGES = 256
MADE_UP_IMAGES = 16
MAX_BYTES = 384 << 20  # of calibration pictures in memory
SMALLEST_PX = 8  # of the side of a picture


@dataclass(frozen=True)
class PictureInput:
    """An input that takes pictures.

    Attributes:
        batch: pictures in one run.
        size: height and width.
        pixels: whether it takes bytes, as a camera gives them.
    """

    name: str
    batch: int
    channels: int
    size: tuple[int, int]
    layout: Literal["NCHW", "NHWC"]
    pixels: bool

    @property
    def bytes(self) -> int:
        """Of one prepared picture in 32 bits."""
        return 4 * self.channels * math.prod(self.size)


def picture_input(value: onnx.ValueInfoProto) -> PictureInput | None:
    """What the input takes, where it is pictures: one or three channels, first or last."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    # FLOAT, UINT8, FLOAT16, DOUBLE of TensorProto
    if len(dims) != 4 or tensor.elem_type not in (1, 2, 10, 11):
        return None
    last = dims[1] not in (1, 3) and dims[3] in (1, 3)
    batch, channels, *size = (dims[0], dims[3], *dims[1:3]) if last else dims
    if channels not in (1, 3) or min(size) < SMALLEST_PX:
        return None
    layout: Literal["NCHW", "NHWC"] = "NHWC" if last else "NCHW"
    height, width = size
    return PictureInput(value.name, batch, channels, (height, width), layout, tensor.elem_type == 2)


def outputs_of_folders(
    folders: Sequence[str], model_names: Sequence[str], root: Path, outputs: int
) -> np.ndarray:
    """For each folder, in alphabetical order, the output of the model that has its name, or -1.

    ``outputs``: how many the model has; 0 where nobody knows.

    Where the model names no class, or none as a folder, the folders are its outputs in order.
    """
    if set(folders) & set(model_names):
        places = {name: place for place, name in enumerate(model_names)}
        return np.array([places.get(name, -1) for name in folders])
    if outputs and len(folders) != outputs:
        raise InputError(
            f"the model has {outputs} outputs but {root} has {len(folders)} classes",
            why="none of its folders has the name of a class of the model",
            fix="name the folders as the model's classes (--labels FILE names those), or give the "
            "pictures with --calibration, which needs no classes",
        )
    return np.arange(len(folders))


def trainable_on(
    network: nn.Module,
    root: Path,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    seed: int,
    outputs: np.ndarray,
    progress: Progress,
) -> Trainable | str:
    """The network with batches of the folder's training pictures, augmented and prepared.

    ``outputs``: the model's output of each folder, see :func:`outputs_of_folders`. A sentence
    where it cannot be trained on them.
    """
    if size[0] != size[1]:
        return "training pictures are square, and the model's are not"
    if min(outputs) < 0:
        return "some folders are no class of the model"
    import torch

    from factory.data.config import DataConfig
    from factory.data.datasets import load_data
    from factory.data.loader import BatchStream
    from factory.deployment.fine_tuning import BATCH_SIZE, Trainable

    config = {"kind": "image_folder", "root": str(root), "image_size": size[0]}
    data = load_data(DataConfig.model_validate(config), seed, progress)
    stream = BatchStream(len(data.train), BATCH_SIZE, seed)
    right = torch.from_numpy(outputs)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        raw, labels = data.train[stream.indices(step)]
        raw = data.augmentation(raw, seed=seed, step=step)
        return torch.from_numpy(normalised(raw.numpy(), preprocessing)), right[labels]

    return Trainable(network, batch, seed)


def made_up_pictures(taken: PictureInput, seed: int) -> GateData:
    """Smooth random pictures, normalised: enough to run a model, not to know its ranges."""
    from factory.deployment.gate_contract import GateData

    rng = np.random.default_rng([seed, 17])
    (height, width), channels = taken.size, taken.channels
    coarse = rng.standard_normal((MADE_UP_IMAGES, channels, -(-height // 8), -(-width // 8)))
    images = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    images = images + 0.3 * rng.standard_normal(images.shape)
    if taken.pixels:
        images = np.clip(128 + 50 * images, 0, 255).astype(np.uint8)
    else:
        images = images.astype(np.float32)
    if taken.layout == "NHWC":
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    half = MADE_UP_IMAGES // 2
    return GateData(images[:half], images[half:], images[half:], name="made-up pictures")


@dataclass(frozen=True)
class FolderPictures:
    """Pictures of an image folder, prepared, with the model's outputs as labels.

    Attributes:
        class_names: the folders, in alphabetical order.
        outputs: the model's output of each, -1 for none.
    """

    data: GateData
    class_names: tuple[str, ...]
    outputs: np.ndarray
    notes: tuple[str, ...] = ()


def folder_pictures(
    root: Path,
    taken: PictureInput,
    preprocessing: Preprocessing,
    seed: int,
    progress: Progress,
    model_names: Sequence[str],
    outputs: int,
) -> FolderPictures:
    """The pictures of an image folder whose sub-folders are classes of the model."""
    from factory.data.config import folder_config
    from factory.data.folder_listing import list_image_folder
    from factory.deployment.gate_contract import GateData

    listing = list_image_folder(folder_config(str(root)))
    places = outputs_of_folders(listing.class_names, model_names, root, outputs)
    train, test = (
        [(path, places[label]) for path, label in files if places[label] >= 0]
        for files in (listing.train, listing.test)
    )
    if not train or not test:
        raise InputError(f"{root} holds too few pictures of the model's classes")
    calibration, selection = split_for_gate(len(train), taken.bytes, seed)

    def prepared(files: Sequence[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray]:
        images = read_prepared([path for path, _ in files], preprocessing, progress)
        return images, np.array([label for _, label in files])

    chosen, chosen_labels = prepared([train[i] for i in selection])
    judged, labels = prepared(test)
    data = GateData(
        calibration=prepared([train[i] for i in calibration])[0],
        selection_images=chosen,
        selection_labels=chosen_labels,
        test_images=judged,
        test_labels=labels,
        name=f"{root.name}, {len(test)} test pictures",
    )
    odd = [n for n, place in zip(listing.class_names, places, strict=True) if place < 0]
    notes: tuple[str, ...] = ()
    if odd:
        notes = (
            f"{len(odd)} of {len(places)} folders of {root} are no class of the model and are left "
            f"out: {', '.join(odd[:3])}" + (", ..." if len(odd) > 3 else ""),
        )
    return FolderPictures(data, listing.class_names, places, notes)


def plain_pictures(
    root: Path, taken: PictureInput, preprocessing: Preprocessing, seed: int, progress: Progress
) -> GateData:
    """Pictures of any folder: half of them calibrate, the other half compares."""
    from factory.data.folder_listing import list_pictures
    from factory.deployment.gate_contract import GateData

    paths = list_pictures(root)
    calibration, compared = split_for_gate(len(paths), taken.bytes, seed, half=True)
    second = read_prepared([paths[i] for i in compared], preprocessing, progress)
    return GateData(
        calibration=read_prepared([paths[i] for i in calibration], preprocessing, progress),
        selection_images=second,
        test_images=second,
        name=f"{root.name}, {len(compared)} pictures without labels",
    )


def npz_samples(path: Path, model: onnx.ModelProto, where: str) -> Samples:
    """Values of every input of ``model`` from an .npz file, [N, *shape of the input] each.

    An array has the input's shape, several of them along its first axis, or one axis more.
    """
    from factory.graph.model_inputs import read_arrays

    arrays = read_arrays(path)
    found = {}
    for value in model.graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.name not in arrays:
            raise InputError(
                f"{path} holds no array {value.name!r}",
                why=f"an input of {where}; there are {', '.join(map(repr, arrays)) or 'none'}",
            )
        array = arrays[value.name]
        several = array.ndim == len(shape) > 0 and array.shape[1:] == shape[1:]
        if array.shape == shape:
            found[value.name] = array[None]
        elif array.ndim == len(shape) + 1 and array.shape[1:] == shape:
            found[value.name] = array
        elif several and shape[0] and array.shape[0] % shape[0] == 0:
            found[value.name] = array.reshape(-1, *shape)
        else:
            raise InputError(
                f"the array {value.name!r} of {path} has the shape {list(array.shape)}",
                why=f"the input of {where} is {list(shape)}",
                fix="give one or more values of that shape along the first axis",
            )
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(
            f"the arrays of {path} hold different numbers of values",
            why=", ".join(f"{name}: {number}" for name, number in counts.items()),
        )
    return found


def halves(samples: Samples, name: str) -> GateData:
    """One half calibrates, the other compares; one value does both."""
    from factory.deployment.gate_contract import GateData
    from factory.deployment.run_here import count, part

    number = count(samples)
    first, second = slice(-(-number // 2)), slice(number // 2, None)
    if number > 1:
        second = slice(-(-number // 2), None)
    compared = part(samples, second)
    told = f"{name}, {count(compared)} compared" if number > 1 else f"{name}, one value"
    return GateData(part(samples, first), compared, compared, name=told)


def folder_test_pictures(
    root: Path,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    model_names: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Test pictures of an image folder, prepared, and the model's outputs that are right."""
    height, width = preprocessing.size
    taken = PictureInput("", 1, min(shape), (height, width), preprocessing.layout, False)
    outputs = len(model_names)
    found = folder_pictures(root, taken, preprocessing, 0, SILENT, model_names, outputs).data
    assert found.test_labels is not None
    assert isinstance(found.test_images, np.ndarray)
    return found.test_images, found.test_labels


def read_prepared(
    paths: Sequence[Path], preprocessing: Preprocessing, progress: Progress
) -> np.ndarray:
    """float32 [N, *one picture] as the model takes them."""
    from factory.data.pictures import decode_pictures

    pixels = decode_pictures(paths, preprocessing.size, progress)
    return normalised(pixels.numpy(), preprocessing)


def normalised(images_uint8_NCHW: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """float32 as the preprocessing says, in its layout, of RGB pictures of the right size."""
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
    x = (x * np.float32(preprocessing.scale) - mean) / std
    if preprocessing.layout == "NHWC":
        x = x.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x, np.float32)


def split_for_gate(
    count: int, image_bytes: int, seed: int, *, half: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of pictures for calibration and for choosing, disjoint where possible.

    ``half``: as many for each; otherwise calibration takes what it wants.
    """
    affordable = max(4, MAX_BYTES // max(image_bytes, 1) // 2)
    wanted = min(CALIBRATION_IMAGES, affordable, -(-count // 2) if half else count)
    order = np.random.default_rng([seed, 13]).permutation(count)
    calibration = order[:wanted]
    selection = order[wanted : wanted + min(SELECTION_IMAGES, affordable)]
    return np.sort(calibration), np.sort(selection if len(selection) else calibration)
