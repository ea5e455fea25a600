"""How much of a graph a phone's accelerator takes: ONNX Runtime Mobile's own usability checker."""

from __future__ import annotations

from pathlib import Path

from factory.deployment.quiet import silenced
from factory.deployment.targets.base import Check


def partition_check(path: Path, provider: str) -> Check:
    """Nodes that ``provider`` ("NNAPI" or "CoreML MLProgram") takes, and in how many pieces.

    The checker looks at operator types; the caveats of single operators it can only list.
    """
    try:
        return _checked(path, provider)
    except Exception as error:
        return Check(f"{provider} usability", False, f"checker: {' '.join(str(error).split())}")


def _checked(path: Path, provider: str) -> Check:
    from onnxruntime.tools.mobile_helpers import usability_checker as mobile
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo

    with silenced():
        model = ModelProtoWithShapeInfo(path).model_with_shape_info
        if provider == "NNAPI":
            found = mobile.check_nnapi_partitions(model, True)
        else:
            found = mobile.check_coreml_partitions(model, True, "coreml_supported_mlprogram_ops.md")
    suitability = found.suitability().name
    detail = (
        f"{found.num_supported_nodes} of {found.num_nodes} nodes in {found.num_partitions} "
        f"pieces; the checker says {suitability}"
    )
    if found.unsupported_ops:
        detail += "; not taken: " + ", ".join(sorted(found.unsupported_ops))
    return Check(f"{provider} usability", suitability != "NO", detail)
