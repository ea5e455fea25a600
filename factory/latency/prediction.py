"""A prediction: milliseconds with an interval, the kernels it is made of, and what to doubt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from factory.graph.kernel import Kernel

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Part:
    """What one kernel contributes: ``ms`` is for all its ``count`` occurrences.

    Unpacks as ``kernel, count, ms, share, source = part``.
    """

    kernel: Kernel
    count: float
    ms: float
    share: float
    source: str

    def __iter__(self) -> Iterator[Any]:
        return iter((self.kernel, self.count, self.ms, self.share, self.source))


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of one network.

    Attributes:
        latency_ms: the prediction; constant_ms plus the parts.
        low_ms: lower end of the 90 % interval.
        high_ms: upper end of it.
        parts: kernels, the most expensive first.
        constant_ms: what does not depend on the kernels.
        warnings: what the interval was widened for, and which kernels to measure.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    parts: list[Part]
    constant_ms: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "latency_ms": self.latency_ms,
            "low_ms": self.low_ms,
            "high_ms": self.high_ms,
            "constant_ms": self.constant_ms,
            "kernels": [
                {
                    "kernel": str(part.kernel),
                    "count": part.count,
                    "predicted_ms": part.ms,
                    "share": part.share,
                    "source": part.source,
                }
                for part in self.parts
            ],
            "warnings": list(self.warnings),
        }
