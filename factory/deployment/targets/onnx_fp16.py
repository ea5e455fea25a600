"""Target onnx-fp16: weights and arithmetic in 16-bit floats, inputs and outputs kept in 32.

For GPUs and NPUs. A CPU computes most operators by casting to 32 bits and back, so that a time
measured on one says nothing; the file is loaded and compared there, never sold as faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from factory.core.files import write_atomic_bytes
from factory.deployment.targets.base import Target, convert_or_tell, with_precision


@dataclass(frozen=True)
class Fp16(Target):
    """onnxruntime's float16 converter."""

    def write(self, source: Path, out: Path) -> list[Path]:
        """Convert; values beyond the range of 16 bits are clipped by the converter."""

        def convert() -> None:
            import onnx_ir as ir
            from onnx_ir.passes.common import TopologicalSortPass
            from onnxruntime.transformers.float16 import convert_float_to_float16

            model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
            ordered = ir.from_proto(model)
            TopologicalSortPass()(ordered)  # the converter puts its casts last
            model = ir.to_proto(ordered)
            del model.graph.value_info[:]
            model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
            with_precision(model, "fp16", self.name)
            write_atomic_bytes(out, model.SerializeToString(deterministic=True))

        convert_or_tell("the conversion to 16-bit floats", convert)
        return [out]


TARGETS = (
    Fp16(
        name="onnx-fp16",
        summary="ONNX, 16-bit floats inside, 32-bit inputs and outputs; for GPUs and NPUs",
        precision="fp16",
        serves=(("CoreMLExecutionProvider", "fp16"), ("CUDAExecutionProvider", "fp16")),
        timing_here="a CPU computes 16-bit floats by casting: only loading and parity are checked",
    ),
)
