"""Target onnx-fp32: the clean ONNX file itself, which every build of ONNX Runtime takes."""

from __future__ import annotations

from factory.deployment.targets.base import CPU, Target

TARGETS = (
    Target(
        name="onnx-fp32",
        summary="plain ONNX, 32-bit floats",
        precision="fp32",
        serves=((CPU, "fp32"), ("OpenVINOExecutionProvider", "fp32")),
    ),
)
