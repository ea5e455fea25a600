"""Target int8-nnapi: QDQ for Android's NNAPI: u8 activations, s8 weights per channel (API 29).

NNAPI knows no HardSwish and no HardSigmoid: they are written with Add, Clip and Mul, so that the
graph is not cut into pieces. The checker of ONNX Runtime Mobile counts the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from factory.deployment.flavours import Flavour
from factory.deployment.passes.hard_swish_split import hard_swish_to_clip
from factory.deployment.targets.base import Check, Target, check_onnx
from factory.deployment.targets.mobile_checks import partition_check


@dataclass(frozen=True)
class Nnapi(Target):
    """QDQ, checked with the mobile usability checker."""

    def checks(self, path: Path) -> list[Check]:
        """Validity, and how much of the graph NNAPI takes."""
        return [check_onnx(path), partition_check(path, "NNAPI")]


TARGETS = (
    Nnapi(
        name="int8-nnapi",
        summary="static int8 (QDQ) for Android's NNAPI",
        precision="int8",
        serves=(("NnapiExecutionProvider", "int8"), ("NNAPIExecutionProvider", "int8")),
        flavour=Flavour(),
        rewrites=(hard_swish_to_clip,),
        timing_here="NNAPI is on Android only: run here on the CPU kernels",
    ),
)
