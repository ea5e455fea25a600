"""verify: any ONNX file, measured on a chip and held against a latency budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.devices.base import open_device
from factory.devices.profile import DeviceProfile, load_profile
from factory.verification.model_file import read_model
from factory.verification.verify import verify_model

SCHEMA_VERSION = 1


def verify(
    model: str | Path, device: str | Path, *, max_latency_ms: float | None = None
) -> dict[str, Any]:
    """Measure ``model`` on ``device``; ``holds`` says whether the verdict is a pass.

    Raises:
        InputError: no such file or device, not an ONNX file, dynamic shapes, an absurd budget.
    """
    from factory.pipeline.recipe_limits import check_latency_budget

    check_latency_budget(max_latency_ms)
    profile = load_profile(device)
    read_model(model)  # a wrong file is told before the device is started
    usual_ms = _usual_reference_ms(profile)
    with open_device(profile) as opened:
        result = verify_model(
            model, opened, max_latency_ms=max_latency_ms, usual_reference_ms=usual_ms
        )
    answer = result.to_dict()
    answer["schema_version"] = SCHEMA_VERSION
    answer["device"] = profile.id
    answer["model"] = str(model)
    answer["holds"] = result.ok
    answer["reason"] = "; ".join(result.reasons)
    return answer


def _usual_reference_ms(profile: DeviceProfile) -> float | None:
    """From the chip's latency table, where there is one."""
    from factory.pipeline.tables import table_for
    from factory.profiling.reference import usual_reference_ms

    try:
        return usual_reference_ms(table_for(profile))
    except InputError:
        return None
