"""Target int8-xnnpack: QDQ as XNNPACK's int8 kernels want it: s8 activations, s8 weights a channel.

XNNPACK pairs signed activations with per-channel weights (its qs8-qc8w kernels); its unsigned
kernels take one scale a tensor only.
"""

from __future__ import annotations

from factory.deployment.flavours import Flavour
from factory.deployment.passes.hard_swish_split import split_hard_swish
from factory.deployment.targets.base import Target

TARGETS = (
    Target(
        name="int8-xnnpack",
        summary="static int8 (QDQ), signed, for XNNPACK on ARM (Android and iOS builds)",
        precision="int8",
        serves=(("XnnpackExecutionProvider", "int8"),),
        flavour=Flavour(activation="s8"),
        rewrites=(split_hard_swish,),
        timing_here="no Linux build of ONNX Runtime has XNNPACK: run here on the CPU kernels",
    ),
)
