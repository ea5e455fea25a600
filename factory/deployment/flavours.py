"""Flavours of int8: which number types, symmetry and granularity each runtime wants.

All are static QDQ files made by onnxruntime.quantization; they differ in the type of activations
(u8 or s8), in whether weights have one scale a channel, and in which operators are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Flavour:
    """How a QDQ file for one runtime is quantised.

    Attributes:
        activation: number type of activations; "none" leaves them in floats (weights only).
        weight: number type of weights.
        per_channel: one weight scale per output channel.
        activation_symmetric: zero point in the middle of the range.
        skip_ops: operator types left in floats because the runtime has no quantised kernel.
        keep_relu: leave Relu and Clip as nodes of their own, as runtimes that fuse them themselves
            want it.
        qnn: take the tensor overrides of the runtime's QNN configuration.
        extra: further options of onnxruntime.quantization.
    """

    activation: Literal["u8", "s8", "none"] = "u8"
    weight: Literal["u8", "s8"] = "s8"
    per_channel: bool = True
    activation_symmetric: bool = False
    skip_ops: tuple[str, ...] = ()
    keep_relu: bool = False
    qnn: bool = False
    extra: tuple[tuple[str, Any], ...] = field(default=())


CPU_FLAVOUR = Flavour()
