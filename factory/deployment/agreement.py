"""How far two models' answers lie apart, output by output, and how far they may.

Signal to noise of an output, over all values of all samples:

    10 log10( sum of squares of the reference / sum of squares of the difference )

Its worst element is the largest difference over the largest value of that output. Outputs of
integers, truth values and texts are compared by the share of equal elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LARGEST_DB = 120.0
ENORMOUS = 1e9  # the share by which an element differs that is not finite
SAME = 1e-7  # differences below are those of rounding, whatever the signal
Outputs = Mapping[str, np.ndarray]
"""Name of an output -> its values, [samples, values]."""


@dataclass(frozen=True)
class Bound:
    """What an output must reach.

    Attributes:
        signal_db: least signal to noise of an output of floats.
        worst: largest difference of one element, as a share of the output's largest value.
        same: least share of equal elements of an output of anything else.
    """

    signal_db: float
    worst: float
    same: float


BOUNDS = {
    "fp32": Bound(signal_db=80.0, worst=1e-3, same=0.999),
    "torch": Bound(signal_db=60.0, worst=1e-2, same=0.999),
    "fp16": Bound(signal_db=40.0, worst=0.1, same=0.99),
    "int8": Bound(signal_db=10.0, worst=1.0, same=0.9),
}
"""By precision of the file; "torch": a fp32 file beside the torch network it was exported from."""


@dataclass(frozen=True)
class OutputAgreement:
    """One output beside its reference; ``signal_db`` is None where it holds no floats.

    Attributes:
        worst: largest difference of one element over the largest value of the output.
        same: share of equal elements.
    """

    name: str
    signal_db: float | None
    worst: float
    same: float

    def lacks(self, bound: Bound) -> str:
        """What misses ``bound``, in words; "" when it holds."""
        if self.signal_db is None:
            if self.same >= bound.same:
                return ""
            return f"{self.same:.1%} of its elements are equal, {bound.same:.1%} are asked for"
        if self.signal_db <= -LARGEST_DB:
            return "it holds values that are not finite (an overflow), or has another shape"
        if self.signal_db < bound.signal_db:
            return f"{self.signal_db:.1f} dB of signal to noise, {bound.signal_db:g} are asked for"
        if self.worst > bound.worst:
            return (
                f"an element differs by {self.worst:.1%} of the output's largest value, "
                f"{bound.worst:.1%} are allowed"
            )
        return ""


@dataclass(frozen=True)
class Agreement:
    """A model's outputs beside those of its reference, over the same samples.

    Attributes:
        images: how many samples.
        signal_db: of the output that is worst; LARGEST_DB where no output holds floats.
        max_relative_difference: largest difference of one element over the largest value of its
            output.
        same_class: share of samples whose largest value of the first output is at the same place.
        outputs: each output.
        accuracy, accuracy_fp32: of the first output, shares of 1; None without labels.
        lost, won: samples that became wrong, and right; None without labels.
    """

    images: int
    signal_db: float
    max_relative_difference: float
    same_class: float
    outputs: tuple[OutputAgreement, ...] = ()
    accuracy: float | None = None
    accuracy_fp32: float | None = None
    lost: int | None = None
    won: int | None = None

    @property
    def drop_points(self) -> float | None:
        """What the model lost against the reference, percentage points; None without labels."""
        if self.accuracy is None or self.accuracy_fp32 is None:
            return None
        return 100 * (self.accuracy_fp32 - self.accuracy)

    def lacks(self, bound: Bound) -> str:
        """The first output that misses ``bound`` and by what; "" when all hold."""
        for output in self.outputs:
            why = output.lacks(bound)
            if why:
                return f"output {output.name!r}: {why}" if output.name else why
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "drop_points": self.drop_points}


def compare(
    outputs: Outputs | np.ndarray, reference: Outputs | np.ndarray, labels: np.ndarray | None = None
) -> Agreement:
    """Compare the outputs of two models for the same samples.

    Args:
        outputs, reference: by name, or one array [samples, values]; outputs are paired by their
            order, because a converter may rename them.
        labels: right place of the largest value of the first output, [samples].
    """
    ours = {"": outputs} if isinstance(outputs, np.ndarray) else outputs
    theirs = {"": reference} if isinstance(reference, np.ndarray) else reference
    found = tuple(
        _one(name, mine, other)
        for (name, other), mine in zip(theirs.items(), ours.values(), strict=True)
    )
    first, first_reference = (next(iter(each.values())) for each in (ours, theirs))
    mine, reference_class = _largest(first), _largest(first_reference)
    decibels = [one.signal_db for one in found if one.signal_db is not None]
    agreement = Agreement(
        images=len(first_reference),
        signal_db=min(decibels, default=LARGEST_DB),
        max_relative_difference=max(one.worst for one in found),
        same_class=float(np.mean(mine == reference_class)),
        outputs=found,
    )
    if labels is None:
        return agreement
    labels = np.asarray(labels).reshape(-1)
    right, was_right = mine == labels, reference_class == labels
    return Agreement(
        **{
            **agreement.__dict__,
            "accuracy": float(np.mean(right)),
            "accuracy_fp32": float(np.mean(was_right)),
            "lost": int(np.sum(was_right & ~right)),
            "won": int(np.sum(right & ~was_right)),
        }
    )


def _one(name: str, mine: np.ndarray, other: np.ndarray) -> OutputAgreement:
    floats = np.issubdtype(other.dtype, np.floating) or np.issubdtype(
        other.dtype, np.complexfloating
    )
    if mine.shape != other.shape:
        return OutputAgreement(name, -LARGEST_DB if floats else None, ENORMOUS, 0.0)
    same = float(np.mean(mine == other)) if other.size else 1.0
    if not floats:
        return OutputAgreement(name, None, 1.0 - same, same)
    kind = np.complex128 if np.issubdtype(other.dtype, np.complexfloating) else np.float64
    ours, theirs = mine.astype(kind), other.astype(kind)
    odd = ~np.isfinite(theirs)
    alike = np.where(odd, (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), np.isfinite(ours))
    if not alike.all():
        return OutputAgreement(name, -LARGEST_DB, ENORMOUS, same)
    difference = np.abs(np.where(odd, 0, ours - np.where(odd, 0, theirs)))
    sizes = np.abs(np.where(odd, 0, theirs))
    largest = float(difference.max(initial=0.0))
    noise, signal = float(np.square(difference).sum()), float(np.square(sizes).sum())
    if largest <= SAME or noise <= signal * 10 ** (-LARGEST_DB / 10):
        decibels = LARGEST_DB
    else:
        decibels = max(float(10 * np.log10(max(signal, 1e-300) / noise)), 1.0 - LARGEST_DB)
    worst = 0.0 if largest <= SAME else largest / max(float(sizes.max()), SAME)
    return OutputAgreement(name, decibels, worst, same)


def _largest(values: np.ndarray) -> np.ndarray:
    """Place of the largest value of each sample; -1 where there are none or they have no order."""
    if values.ndim < 2 or values.shape[1] == 0 or values.dtype.kind not in "fiub":
        return np.full(len(values), -1)
    return np.asarray(np.nan_to_num(values.astype(np.float64), nan=-1e9).argmax(axis=1))
