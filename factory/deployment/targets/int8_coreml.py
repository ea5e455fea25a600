"""Target int8-coreml: weights in int8, arithmetic in floats, for CoreML.

ONNX Runtime's CoreML provider has no QuantizeLinear or DequantizeLinear: a fully quantised graph
would run on the CPU. So only the weights are stored in 8 bits, one scale a channel; the app sets
``session.disable_quant_qdq = 1``, which unpacks them at load, and CoreML sees a graph of floats.
The file is a quarter of the size; the arithmetic is CoreML's own choice of 16 or 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from factory.core.temporary import TemporaryFolder
from factory.deployment.flavours import Flavour
from factory.deployment.passes.flatten_to_reshape import flatten_to_reshape
from factory.deployment.passes.hard_swish_split import split_hard_swish
from factory.deployment.targets.base import Check, Target, check_onnx
from factory.deployment.targets.mobile_checks import partition_check
from factory.graph.onnx_load import foreign_errors

UNPACK_AT_LOAD = ("session.disable_quant_qdq", "1")


@dataclass(frozen=True)
class CoreMl(Target):
    """Weights-only QDQ; the checks look at the graph after unpacking."""

    def checks(self, path: Path) -> list[Check]:
        """Validity; that loading leaves no quantised node; how much CoreML takes."""
        import onnxruntime as ort

        with TemporaryFolder("coreml") as folder:
            unpacked = folder / "unpacked.onnx"
            options = ort.SessionOptions()
            options.add_session_config_entry(*UNPACK_AT_LOAD)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(unpacked)
            options.log_severity_level = 3
            with foreign_errors("the quantised weights do not unpack"):
                ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            left = sum(
                node.op_type in ("QuantizeLinear", "DequantizeLinear")
                for node in onnx.load(unpacked).graph.node
            )
            return [
                check_onnx(path),
                Check("weights unpack at load", not left, f"{left} quantised nodes left"),
                partition_check(unpacked, "CoreML MLProgram"),
            ]


TARGETS = (
    CoreMl(
        name="int8-coreml",
        summary="int8 weights, float arithmetic, for CoreML (iOS and macOS)",
        precision="int8",
        serves=(("CoreMLExecutionProvider", "int8"),),
        flavour=Flavour(activation="none"),
        rewrites=(split_hard_swish, flatten_to_reshape),
        session=(UNPACK_AT_LOAD,),
        timing_here="CoreML is on Apple systems only: run here on the CPU kernels",
    ),
)
