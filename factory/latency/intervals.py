"""Intervals: how far a prediction may be off, from errors on networks not seen in the fit.

Split conformal prediction (Lei et al., arXiv 1604.04173): with n held-out residuals r, each the
larger of measured and predicted over the smaller less 1, the interval from prediction / (1 + q)
to prediction * (1 + q), q the ceil(0.9 (n + 1))-th smallest r, covers 90 %. It never reaches 0.
Below nine networks that order statistic does not exist; the largest residual is then stretched.

Where the held-out networks' kernels came from regressors, a network may be more doubtful than
those were. The doubt of a network is the root of the sum of squares over families of (sum over its
unmeasured kernels of share * error of their regressor): errors of one regressor add up, those of
several are independent. Up to the doubt that 95 % of the held-out networks stay below, the width is
the same for all; beyond, it grows in proportion. (Residuals divided by the doubt, section 5.2 of
that paper, were worse: on 160 networks that no fit had seen 81 % covered, 67 % of the cells, where
this covers 88 and 87 %. Kernels that are known well say little about a network's residual.)
Elsewhere, kernels that nobody measured widen a common interval by their regressor's error in
proportion to their share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

COVERAGE = 0.9
USUAL = 0.95  # share of the held-out networks whose doubt is usual
ASSUMED_HALF_WIDTH = 0.3  # no network was measured; sums of kernels alone were 0.79-1.02 of it
LEAST_HALF_WIDTH = 0.02
ROOFLINE_ERROR = 1.0  # a kernel of a kind that was never measured
OUT_OF_RANGE_FACTOR = 2.0
# An 8-bit kernel of a form that was not measured, by a like one. With VNNI uint8 weights took 2-4
# times as long as int8 ones, int8 activations up to 22, ConvInteger up to 26 (measured).
OTHER_FORM_ERROR = 20.0
LIKE_KIND_ERROR = 0.7  # a kernel of a kind that was not measured, by the regressor of a like one


def residuals(measured_ms: np.ndarray, predicted_ms: np.ndarray) -> np.ndarray:
    """The larger of both over the smaller, less 1."""
    ratio = np.log(np.maximum(measured_ms, 1e-9) / np.maximum(predicted_ms, 1e-9))
    return np.asarray(np.expm1(np.abs(ratio)))


def half_width(relative_residuals: np.ndarray, noise: float = 0.0) -> float:
    """Half width of the interval as a share of the prediction.

    Args:
        relative_residuals: of held-out networks (:func:`residuals`).
        noise: repeat noise of the device as a share; no interval is narrower.
    """
    n = len(relative_residuals)
    least = max(LEAST_HALF_WIDTH, min(noise, ASSUMED_HALF_WIDTH))
    if n == 0:
        return max(ASSUMED_HALF_WIDTH, least)
    magnitude = np.sort(np.abs(relative_residuals))
    rank = math.ceil(COVERAGE * (n + 1))
    if rank <= n:
        return max(float(magnitude[rank - 1]), least)
    stretch = 1.0 + 2.0 / n
    return max(float(magnitude[-1]) * stretch, ASSUMED_HALF_WIDTH / n, least)


def doubt(shares: np.ndarray, kernel_errors: np.ndarray, families: Sequence[str]) -> float:
    """How unsure a network's time is: kernels of one family together, families independent."""
    together: dict[str, float] = {}
    for name, share, error in zip(families, shares, kernel_errors, strict=True):
        together[name] = together.get(name, 0.0) + float(share * error)
    return math.hypot(*together.values())


def usual_doubt(doubts: np.ndarray) -> float:
    """The doubt that 95 % of the held-out networks stay below; 0 without any."""
    return float(np.quantile(doubts, USUAL)) if len(doubts) else 0.0


def relative_doubt(one: float, usual: float) -> float:
    """By how much a network's interval is wider than that of a usual one: 1 up to that doubt."""
    return max(1.0, one / usual) if usual > 0 else 1.0


def widened(base: float, shares: np.ndarray, kernel_errors: np.ndarray) -> float:
    """The base half width together with the errors of unmeasured kernels.

    Errors of kernels add up (they share a regressor), and are independent of the base.
    """
    return float(math.hypot(base, float(np.sum(shares * kernel_errors))))
