"""Roofline: a bound and a fallback made of three numbers read from the table's own rows.

Williams, Waterman, Patterson 2009: time >= max(MACs / peak rate, bytes / bandwidth). As an
estimate we take the sum instead of the maximum (work and traffic do not overlap), which is linear
in its three coefficients and can be fitted by least squares with none of them negative:

    ms(kernel) = start_ms + macs * ms_per_mac + bytes * ms_per_byte
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.least_squares import solve_nonnegative

LEAST_OF_ALL = 0.1  # of what a MAC or a byte takes on the whole, in any family
PULL = 0.03  # of a family's rates to those of all kernels
LEAST_MS = 0.02  # shorter kernels tell no rate: of some a neighbour is charged with most
BEST = 0.02  # quantile that stands for the best, so that one lucky row does not
FEWEST = 5
FLOOR_MARGIN = 1.5  # the floor allows kernels this much faster than the best that were measured


def work(kernels: Sequence[Kernel]) -> np.ndarray:
    """Columns: 1, MACs, bytes moved."""
    rows = [
        (1.0, float(k.macs), float(k.input_bytes + k.weight_bytes + k.output_bytes))
        for k in kernels
    ]
    return np.asarray(rows, dtype=float).reshape(len(kernels), 3)


@dataclass(frozen=True)
class Roofline:
    """The three coefficients of the estimate and the two best rates of the floor."""

    start_ms: float
    ms_per_mac: float
    ms_per_byte: float
    best_ms_per_mac: float
    best_ms_per_byte: float

    @classmethod
    def fit(cls, kernels: Sequence[Kernel], ms: np.ndarray) -> Roofline:
        """Non-negative least squares on relative errors; needs at least one row."""
        columns = work(kernels)
        unit = np.maximum(columns.mean(axis=0), 1e-12)
        scaled = columns / unit / ms[:, None]
        ridge = 1e-6 * np.eye(3)
        coefficients = (
            solve_nonnegative(scaled.T @ scaled + ridge, scaled.T @ np.ones(len(ms))) / unit
        )
        if not np.any(columns @ coefficients > 0):
            coefficients = np.array([float(np.median(ms)), 0.0, 0.0])
        long = ms >= LEAST_MS
        if long.sum() < FEWEST:
            long = ms >= np.sort(ms)[-min(FEWEST, len(ms))]
        macs, moved = columns[:, 1], columns[:, 2]
        busy = long & (macs > 0)
        return cls(
            start_ms=float(coefficients[0]),
            ms_per_mac=float(coefficients[1]),
            ms_per_byte=float(coefficients[2]),
            best_ms_per_mac=float(np.quantile(ms[busy] / macs[busy], BEST)) if busy.any() else 0.0,
            best_ms_per_byte=float(np.quantile(ms[long] / np.maximum(moved[long], 1.0), BEST)),
        )

    def of_family(self, kernels: Sequence[Kernel], ms: np.ndarray) -> Roofline:
        """The rates of some kernels, near these where few kernels tell of them; the same floor.

        No MAC and no byte is ever free: beyond the sizes that were measured time goes on to grow.
        """
        columns = work(kernels)
        here = np.array([self.start_ms, self.ms_per_mac, self.ms_per_byte])
        unit = np.maximum(columns.mean(axis=0), 1e-12)
        scaled = columns / unit / ms[:, None]
        scale = np.maximum(np.sqrt((scaled**2).mean(axis=0)), 1e-12)
        scaled = scaled / scale
        pull = PULL + 1.0 / len(ms)
        gram = scaled.T @ scaled / len(ms) + pull * np.eye(3)
        prior = np.minimum(here * unit * scale, 1.0)
        found = solve_nonnegative(gram, scaled.mean(axis=0) + pull * prior) / scale / unit
        start, per_mac, per_byte = np.maximum(found, LEAST_OF_ALL * here).tolist()
        return replace(self, start_ms=start, ms_per_mac=per_mac, ms_per_byte=per_byte)

    def estimate(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """Estimated ms of each kernel, always above zero."""
        coefficients = np.array([self.start_ms, self.ms_per_mac, self.ms_per_byte])
        return np.maximum(work(kernels) @ coefficients, 1e-6)

    def floor(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """The least ms that the best measured rates (and a margin) allow for each kernel."""
        columns = work(kernels)
        bound = np.maximum(
            columns[:, 1] * self.best_ms_per_mac, columns[:, 2] * self.best_ms_per_byte
        )
        return np.asarray(bound / FLOOR_MARGIN)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)
