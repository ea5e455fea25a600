"""How far two models' answers lie apart: signal to noise, same class, accuracy lost and won."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LARGEST_DB = 120.0


@dataclass(frozen=True)
class Agreement:
    """A model's outputs beside those of its fp32 reference, over the same pictures.

    Attributes:
        images: how many.
        signal_db: 10 log10(sum of squares of the reference / sum of squares of the difference).
        max_relative_difference: largest difference over the largest logit of that picture.
        same_class: share of pictures with the same winner, 0..1.
        accuracy, accuracy_fp32: shares of 1; None without labels.
        lost, won: pictures that became wrong, and right; None without labels.
    """

    images: int
    signal_db: float
    max_relative_difference: float
    same_class: float
    accuracy: float | None = None
    accuracy_fp32: float | None = None
    lost: int | None = None
    won: int | None = None

    @property
    def drop_points(self) -> float | None:
        """What the model lost against fp32, percentage points; None without labels."""
        if self.accuracy is None or self.accuracy_fp32 is None:
            return None
        return 100 * (self.accuracy_fp32 - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "drop_points": self.drop_points}


def compare(
    outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray | None = None
) -> Agreement:
    """Compare [N, values] outputs; an output that is not finite counts as infinitely far."""
    ours, theirs = np.asarray(outputs, np.float64), np.asarray(reference, np.float64)
    broken = not np.isfinite(ours).all()
    difference = np.nan_to_num(ours - theirs, nan=0.0, posinf=0.0, neginf=0.0)
    noise = float(np.square(difference).sum())
    signal = float(np.square(theirs).sum())
    if broken:
        decibels = -LARGEST_DB
    elif noise <= signal * 10 ** (-LARGEST_DB / 10):
        decibels = LARGEST_DB
    else:
        decibels = float(10 * np.log10(max(signal, 1e-300) / noise))
    scale = np.maximum(np.abs(theirs).max(axis=1), 1e-6)
    largest = np.nan_to_num(np.abs(ours - theirs), nan=1e9, posinf=1e9).max(axis=1) / scale
    mine, reference_class = np.nan_to_num(ours, nan=-1e9).argmax(axis=1), theirs.argmax(axis=1)
    found = Agreement(
        images=len(theirs),
        signal_db=decibels,
        max_relative_difference=float(largest.max()),
        same_class=float(np.mean(mine == reference_class)),
    )
    if labels is None:
        return found
    labels = np.asarray(labels).reshape(-1)
    right, was_right = mine == labels, reference_class == labels
    return Agreement(
        **{
            **asdict(found),
            "accuracy": float(np.mean(right)),
            "accuracy_fp32": float(np.mean(was_right)),
            "lost": int(np.sum(was_right & ~right)),
            "won": int(np.sum(right & ~was_right)),
        }
    )
