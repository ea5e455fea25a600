"""Target int8-cpu: QDQ for ONNX Runtime's own CPU kernels: u8 activations, s8 weights a channel."""

from __future__ import annotations

from factory.deployment.flavours import CPU_FLAVOUR
from factory.deployment.targets.base import CPU, Target

TARGETS = (
    Target(
        name="int8-cpu",
        summary="static int8 (QDQ) for ONNX Runtime's CPU kernels, also OpenVINO",
        precision="int8",
        serves=((CPU, "int8"), ("OpenVINOExecutionProvider", "int8")),
        flavour=CPU_FLAVOUR,
    ),
)
