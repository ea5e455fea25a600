"""The best rates that a chip's table shows, and what they say about a kernel: the roofline's why.

Williams, Waterman, Patterson 2009: a kernel takes at least MACs / peak rate and bytes / bandwidth;
whichever is longer binds it. Peak rate and bandwidth are those that the best of the measured
kernels reach, not a datasheet's. Kernels shorter than LEAST_MS do not count: what the runtime folds
into a neighbour seems to move bytes for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from factory.graph.kernel import Kernel

LEAST_MS = 0.02
BEST = 0.98  # quantile that stands for the best, so that one lucky row does not
FEWEST = 5
COMPUTE, MEMORY, FIXED = "compute", "memory", "fixed cost"


@dataclass(frozen=True)
class Rates:
    """Best rates of a chip; 0 where no kernel tells.

    Attributes:
        macs_per_ms: of convolutions and matrix products.
        bytes_per_ms: inputs, weights and outputs.
        fixed_ms: what a kernel takes that does next to nothing.
    """

    macs_per_ms: float
    bytes_per_ms: float
    fixed_ms: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)

    def bounds_ms(self, kernel: Kernel) -> tuple[float, float]:
        """Least time for the kernel's MACs and for its bytes."""
        compute = kernel.macs / self.macs_per_ms if self.macs_per_ms else 0.0
        memory = moved(kernel) / self.bytes_per_ms if self.bytes_per_ms else 0.0
        return compute, memory

    def binding(self, kernel: Kernel, ms: float) -> tuple[str, float]:
        """What binds a kernel that takes ``ms``, and which share of the best rate it reaches."""
        compute, memory = self.bounds_ms(kernel)
        bound = max(compute, memory)
        share = min(bound / ms, 1.0) if ms > 0 else 1.0
        if ms <= 2 * self.fixed_ms and bound < 0.5 * ms:
            return FIXED, share
        return (COMPUTE if compute >= memory and kernel.macs else MEMORY), share


def moved(kernel: Kernel) -> int:
    """Bytes that the kernel reads and writes at least."""
    return kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes


def fit_rates(times: Mapping[Kernel, float], fixed_ms: float) -> Rates:
    """The best rates over measured kernels."""
    timed = {kernel: ms for kernel, ms in times.items() if ms > 0}
    long = {kernel: ms for kernel, ms in timed.items() if ms >= LEAST_MS}
    if len(long) < FEWEST:
        ordered = sorted(timed.items(), key=lambda item: -item[1])
        long = dict(ordered[: max(FEWEST, len(ordered) // 4)])
    macs = [kernel.macs / ms for kernel, ms in long.items() if kernel.macs]
    traffic = [moved(kernel) / ms for kernel, ms in long.items()]
    return Rates(
        macs_per_ms=float(np.quantile(macs, BEST)) if macs else 0.0,
        bytes_per_ms=float(np.quantile(traffic, BEST)) if traffic else 0.0,
        fixed_ms=fixed_ms,
    )
