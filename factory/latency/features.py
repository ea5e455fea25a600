"""Features of a kernel that its running time depends on, for the regressors.

Amounts of work and traffic enter as logarithms, because times are fitted in log space: a kernel
with twice the work should cost a constant more. Categories (operator, fused activation) are one
column each and are listed in a :class:`FeatureSpace`, so that a saved predictor keeps its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel

AMOUNTS = ("macs", "input_bytes", "weight_bytes", "output_bytes", "output_elements")
SHAPES = ("channels_in", "channels_out", "pixels_out", "window", "group_width")
FLAGS = ("stride", "dilation", "n_inputs", "intensity", "in_mod_8", "out_mod_8", "out_mod_16")
N_NUMERIC = len(AMOUNTS) + len(SHAPES) + len(FLAGS)


def _first_int(text: str, default: int) -> int:
    """Largest integer of an attribute text such as '2', '1x2' or '1x1x0x0'."""
    numbers = [int(part) for part in text.split("x") if part.lstrip("-").isdigit()]
    return max(numbers) if numbers else default


def _elements(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if len(shape) else 1


def numeric_features(kernel: Kernel) -> list[float]:
    """The numeric columns of one kernel, in the order AMOUNTS + SHAPES + FLAGS."""
    x = kernel.inputs[0] if kernel.inputs else (1,)
    out = kernel.output_shape
    channels_in = x[1] if len(x) > 1 else 1
    channels_out = out[1] if len(out) > 1 else 1
    pixels_out = _elements(out[2:])
    if kernel.weight is not None and len(kernel.weight) > 2:
        window = _elements(kernel.weight[2:])
        group_width = kernel.weight[1]
    else:
        window = _first_int(kernel.attr("k", "1"), 1) ** 2
        group_width = channels_in
    traffic = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
    macs = kernel.macs
    amounts = [
        macs,
        kernel.input_bytes,
        kernel.weight_bytes,
        kernel.output_bytes,
        _elements(out),
    ]
    shapes = [channels_in, channels_out, pixels_out, window, group_width]
    return [
        *np.log1p(np.asarray(amounts, dtype=float)).tolist(),
        *np.log1p(np.asarray(shapes, dtype=float)).tolist(),
        float(np.log(max(1, _first_int(kernel.attr("s", "1"), 1)))),
        float(np.log(max(1, _first_int(kernel.attr("d", "1"), 1)))),
        float(len(kernel.inputs)),
        float(np.log1p(macs / max(1, traffic))),
        float(channels_in % 8 != 0),
        float(channels_out % 8 != 0),
        float(channels_out % 16 != 0),
    ]


@dataclass(frozen=True)
class FeatureSpace:
    """The columns of one regressor: the numeric ones, then one per known operator, activation."""

    operators: tuple[str, ...]
    activations: tuple[str, ...]

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> FeatureSpace:
        """The categories that occur in ``kernels``."""
        return cls(
            tuple(sorted({k.op for k in kernels})),
            tuple(sorted({k.attr("act", "none") for k in kernels})),
        )

    @property
    def width(self) -> int:
        """Number of columns."""
        return N_NUMERIC + len(self.operators) + len(self.activations)

    def matrix(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """One row a kernel; an unknown category is all zeros in its columns."""
        rows = []
        for kernel in kernels:
            activation = kernel.attr("act", "none")
            rows.append(
                numeric_features(kernel)
                + [float(kernel.op == name) for name in self.operators]
                + [float(activation == name) for name in self.activations]
            )
        return np.asarray(rows, dtype=float).reshape(len(kernels), self.width)

    def knows(self, kernel: Kernel) -> bool:
        """True when the kernel's operator was among those fitted."""
        return kernel.op in self.operators

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {"operators": list(self.operators), "activations": list(self.activations)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> FeatureSpace:
        """The inverse of :meth:`to_dict`."""
        return cls(tuple(value["operators"]), tuple(value["activations"]))
