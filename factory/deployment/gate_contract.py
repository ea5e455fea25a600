"""What the accuracy gate (gate.py) takes and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field

from factory.deployment.agreement import Agreement
from factory.deployment.calibration import METHODS, Method
from factory.deployment.run_here import Samples

SCHEMA_VERSION = 1


class GateConfig(BaseModel):
    """What an int8 file may cost, and what is tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop_points: float = Field(
        default=1.0, ge=0, le=100, description="accuracy that int8 may lose, percentage points"
    )
    methods: tuple[Method, ...] = Field(
        default=METHODS, min_length=1, description="calibration methods that are tried"
    )
    percentile: float = Field(default=99.99, gt=50, le=100, description="for method percentile")
    reduce_range: bool = Field(default=False, description="7-bit weights, for x86 without VNNI")
    sensitivity_images: int = Field(
        default=32, ge=1, description="pictures on which an operator's sensitivity is measured"
    )
    max_float_share: float = Field(
        default=0.5, ge=0, le=1, description="share of the operators that may stay in floats"
    )
    finetune_steps: int = Field(
        default=300, ge=0, description="steps of quantisation-aware fine-tuning; 0: none"
    )


@dataclass(frozen=True)
class GateData:
    """Values for the model's inputs, such as prepared pictures; labels where known.

    ``test_images`` without ``test_labels`` (a network of random weights, say) are compared with
    fp32 by signal to noise alone: there is no accuracy to lose.
    """

    calibration: Samples
    selection_images: Samples
    test_images: Samples
    selection_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    name: str = ""


@dataclass
class GateResult:
    """The decision, with the trail.

    Attributes:
        verdict: "within the limit", "repaired", "fine-tuned" or "refused".
        model: the int8 model; None when refused.
        method: calibration method of the file.
        float_nodes: operators left in floats.
        test: the file beside fp32 on the test pictures; of the best attempt when refused.
        trail: every attempt, in order.
    """

    verdict: str
    model: onnx.ModelProto | None
    method: str
    float_nodes: tuple[str, ...]
    test: Agreement
    reason: str
    config: GateConfig
    data: str = ""
    trail: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the file may leave."""
        return self.model is not None

    def to_dict(self) -> dict[str, Any]:
        """The trail for the report: plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "reason": self.reason,
            "method": self.method,
            "float_nodes": list(self.float_nodes),
            "test": self.test.to_dict(),
            "data": self.data,
            "config": self.config.model_dump(mode="json"),
            "trail": self.trail,
        }
