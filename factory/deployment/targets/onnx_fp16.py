"""Target onnx-fp16: weights and arithmetic in 16-bit floats, inputs and outputs kept in 32.

Operators that lose too much in 16 bits stay in 32 (:mod:`factory.deployment.half_repair`).
For GPUs and NPUs. A CPU computes most operators by casting to 32 bits and back, so that a time
measured on one says nothing; the file is loaded and compared there, never sold as faster.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from factory.core.files import write_atomic_bytes
from factory.deployment.targets.base import Target, convert_or_tell, with_precision


@dataclass(frozen=True)
class Fp16(Target):
    """onnxruntime's float16 converter."""

    def write(self, source: Path, out: Path) -> list[Path]:
        """Convert; weights beyond the range of 16 bits are clipped by the converter."""

        def convert() -> None:
            model = with_precision(half_model(onnx.load(source)), "fp16", self.name)
            write_atomic_bytes(out, model.SerializeToString(deterministic=True))

        convert_or_tell("the conversion to 16-bit floats", convert)
        return [out]


def half_model(model: onnx.ModelProto, float_nodes: Collection[str] = ()) -> onnx.ModelProto:
    """``model``, which is used up, in 16-bit floats but for ``float_nodes``."""
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(float_nodes))
    ordered = ir.from_proto(half)
    TopologicalSortPass()(ordered)  # the converter puts its casts last
    _remove_detours(ordered)
    half = ir.to_proto(ordered)
    del half.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(half, strict_mode=True)


def _remove_detours(model: ir.Model) -> None:
    """From one 32-bit operator to the next: no way through 16 bits, which would round."""

    def casts(node: ir.Node | None, to: ir.DataType) -> bool:
        return node is not None and node.op_type == "Cast" and node.attributes["to"].value == to

    for node in list(model.graph):
        value = node.inputs[0] if node.inputs else None
        if value is None or not casts(node, ir.DataType.FLOAT):
            continue
        before = value.producer()
        if not casts(before, ir.DataType.FLOAT16) or node.outputs[0].is_graph_output():
            continue
        assert before is not None
        whole = before.inputs[0]
        assert whole is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], whole)
        model.graph.remove(node, safe=True)
        if not value.uses() and not value.is_graph_output():
            model.graph.remove(before, safe=True)


TARGETS = (
    Fp16(
        name="onnx-fp16",
        summary="ONNX, 16-bit floats inside, 32-bit inputs and outputs; for GPUs and NPUs",
        precision="fp16",
        serves=(("CoreMLExecutionProvider", "fp16"), ("CUDAExecutionProvider", "fp16")),
        timing_here="a CPU computes 16-bit floats by casting: only loading and parity are checked",
    ),
)
