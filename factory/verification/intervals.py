"""Intervals: Wilson's for an accuracy, the bootstrap's for a latency.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927):
with k of n right and z the normal quantile,

    (p + z^2/2n  +-  z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n),   p = k/n

Bootstrap, Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979):
rounds are drawn with replacement, because runs within a round are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 2000


def wilson(correct: int, images: int, z: float = Z_95) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    if images <= 0 or not 0 <= correct <= images:
        raise ValueError(f"{correct} of {images} is no share")
    share = correct / images
    middle = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    low = 0.0 if correct == 0 else (middle - spread) / scale
    high = 1.0 if correct == images else (middle + spread) / scale
    return max(0.0, low), min(1.0, high)


def bootstrap_median(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the median over rounds; the value itself for one round."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("no rounds to draw from")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(array, size=(resamples, array.size), replace=True)
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
