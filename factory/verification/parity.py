"""Parity: does the deployed file compute what was trained, and classify as well?

Arrays are numpy; a reference may be any callable from images to outputs, a torch module included
(its tensors are recognised by their methods, torch is not imported here).

Relative difference of an image i with outputs a_i (device) and b_i (reference):

    d_i = max_j |a_ij - b_ij| / max(max_j |b_ij|, EPS),     largest = max_i d_i

so that a logit near zero does not blow the measure up, and an image whose logits are all small is
still held to its own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.devices.base import Device

FP32_THRESHOLD = 1e-3
EPS = 1e-6

Reference = np.ndarray | Callable[[Any], Any]


@dataclass(frozen=True)
class Parity:
    """How far the outputs lie apart; ``holds`` compares with ``threshold``."""

    max_relative_difference: float
    threshold: float
    images: int
    worst_image: int
    same_class: float

    @property
    def holds(self) -> bool:
        """True when the largest relative difference is within the threshold."""
        return self.max_relative_difference <= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Int8Drop:
    """Accuracies (shares of 1) and what quantisation cost, in percentage points."""

    accuracy: float
    accuracy_fp32: float
    accuracy_drop_points: float
    same_class: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def prepare_images(
    images: np.ndarray, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> np.ndarray:
    """NCHW images as a model takes them: float32; uint8 is scaled to 0..1, then (x - mean) / std.

    float images are taken as prepared unless ``mean`` and ``std`` are given.
    """
    if images.ndim != 4 or not len(images):
        raise InputError(
            f"images of shape {images.shape}", fix="give at least one image, as N x C x H x W"
        )
    x = images.astype(np.float32)
    if images.dtype == np.uint8:
        x = x / np.float32(255)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        center = np.asarray(mean, dtype=np.float32).reshape(shape)
        scale = np.asarray(std, dtype=np.float32).reshape(shape)
        x = ((x - center) / scale).astype(np.float32)
    return np.ascontiguousarray(x, dtype=np.float32)


def _numpy(value: Any) -> np.ndarray:
    """A numpy array from an array or a tensor."""
    for method in ("detach", "cpu", "numpy"):
        if not isinstance(value, np.ndarray) and hasattr(value, method):
            value = getattr(value, method)()
    return np.asarray(value, dtype=np.float64)


def _flat(outputs: np.ndarray, images: int) -> np.ndarray:
    """Outputs as [images, values]."""
    if outputs.shape[0] != images:
        raise InputError(
            f"{outputs.shape[0]} outputs for {images} images", fix="give one output an image"
        )
    return outputs.reshape(images, -1)


def relative_differences(outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """d_i of each image (see the top of the file); infinite where an output is not finite."""
    ours = _flat(np.asarray(outputs, dtype=np.float64), len(reference))
    theirs = _flat(np.asarray(reference, dtype=np.float64), len(reference))
    if ours.shape != theirs.shape:
        raise InputError(
            f"outputs of shape {ours.shape[1:]} against a reference of shape {theirs.shape[1:]}",
            fix="compare models with the same output",
        )
    scale = np.maximum(np.abs(theirs).max(axis=1), EPS)
    difference = np.abs(ours - theirs).max(axis=1) / scale
    return np.where(np.isfinite(difference), difference, np.inf)


def check_parity(
    model: bytes,
    device: Device,
    images: np.ndarray,
    reference: Reference,
    *,
    threshold: float = FP32_THRESHOLD,
) -> Parity:
    """Compare an ONNX model on the device with a reference on the same prepared images.

    Args:
        model: the ONNX file's content.
        device: the chip, open.
        images: float32 NCHW, prepared.
        reference: outputs for these images, or a callable that computes them from the array.
        threshold: the largest relative difference that holds.
    """
    expected = _numpy(reference(images) if callable(reference) else reference)
    outputs = device.run_batch(model, images)
    differences = relative_differences(outputs, expected)
    ours, theirs = _flat(outputs, len(images)), _flat(expected, len(images))
    return Parity(
        max_relative_difference=float(differences.max()),
        threshold=threshold,
        images=len(images),
        worst_image=int(differences.argmax()),
        same_class=float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
    )


def classify(model: bytes, device: Device, images: np.ndarray) -> np.ndarray:
    """The class of each prepared image, computed on the device."""
    outputs = _flat(device.run_batch(model, images), len(images))
    return np.asarray(outputs.argmax(axis=1))


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose class is the labelled one, 0..1."""
    labels = np.asarray(labels).reshape(-1)
    if len(labels) != len(predicted) or not len(labels):
        raise InputError(
            f"{len(labels)} labels for {len(predicted)} images", fix="give one label an image"
        )
    return float(np.mean(np.asarray(predicted) == labels))


def measure_accuracy(model: bytes, device: Device, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy (0..1) of an ONNX model over prepared test images, through the device."""
    return accuracy(classify(model, device, images), labels)


def measure_int8_drop(
    model_int8: bytes, model_fp32: bytes, device: Device, images: np.ndarray, labels: np.ndarray
) -> Int8Drop:
    """Accuracy of an int8 model beside its fp32 twin, both through the device."""
    quantised = classify(model_int8, device, images)
    full = classify(model_fp32, device, images)
    after, before = accuracy(quantised, labels), accuracy(full, labels)
    return Int8Drop(
        accuracy=after,
        accuracy_fp32=before,
        accuracy_drop_points=100 * (before - after),
        same_class=float(np.mean(quantised == full)),
        images=len(images),
    )
