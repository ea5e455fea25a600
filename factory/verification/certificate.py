"""The certificate: what was measured of one file on one chip, in a form that can be checked again.

docs/formats/certificate.md describes every field. ``seal`` is the SHA-256 of everything else, so
that an edited figure shows; it is a checksum, not a signature.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.files import sha256_bytes, write_json
from factory.core.reading import read_json
from factory.core.validation import validate

SCHEMA_VERSION = 1
VALID_DAYS = 180
DATE = "%Y-%m-%dT%H:%M:%SZ"


class Part(BaseModel):
    """Base of the certificate's parts: unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelPart(Part):
    """The file."""

    file: str = Field(description="file name")
    sha256: str
    size_bytes: int = Field(ge=0)
    target: str = Field(description="form of the file, or empty")
    precision: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    class_names: list[str] = Field(description="in the order of the outputs")
    preprocessing: dict[str, Any] | None = None
    macs: int | None = None
    macs_convention: str = "multiply-adds of convolutions and matrix products"
    params: int | None = None


class ChipPart(Part):
    """Where it was measured."""

    device_id: str
    profile_sha256: str = Field(description="of the device profile's content")
    fingerprint: dict[str, Any] = Field(description="chip, runtime and execution provider")
    flags: list[str] = Field(description="instruction-set flags that matter for inference")
    int8: str = Field(description="what they mean for int8 arithmetic")
    reduced_range: bool = Field(description="whether this chip wants int8 weights of 7 bits")
    simulated: bool
    pinned: bool = False
    notes: list[str] = Field(default_factory=list)


class LatencyPart(Part):
    """Median, p10 and p90 over rounds, each with its 95 % interval from the bootstrap."""

    rounds: int = Field(ge=1)
    runs: int = Field(ge=1)
    median_ms: float
    median_interval_ms: tuple[float, float]
    p10_ms: float
    p10_interval_ms: tuple[float, float]
    p90_ms: float
    p90_interval_ms: tuple[float, float]
    min_ms: float
    spread_percent: float
    cold_start_ms: float | None = Field(
        default=None, description="session and first run, new process"
    )
    first_run_ms: float | None = None
    session_ms: float | None = None
    sustained: dict[str, Any] | None = Field(
        default=None, description="seconds, runs, median of the first and the last third, drift"
    )


class AccuracyPart(Part):
    """Top-1 accuracy with Wilson's 95 % interval."""

    value: float
    interval: tuple[float, float]
    correct: int
    images: int
    data: str
    fp32: float | None = None
    drop_points: float | None = None


class LimitPart(Part):
    """One budget: a cost of the network, the most that was allowed, and what is left of it."""

    name: str = Field(description="latency_ms, macs, params or peak_memory_mb; the unit is in it")
    device_id: str = Field(default="", description="the chip, for a latency")
    limit: float = Field(gt=0)
    value: float | None = Field(description="measured latency or exact count; null: not measured")
    margin_percent: float | None = Field(description="share of the limit left; negative when over")
    holds: bool

    @classmethod
    def of(cls, name: str, value: float | None, limit: float, device_id: str = "") -> LimitPart:
        """The part of a cost and its limit; one that is not measured does not hold."""
        return cls(
            name=name,
            device_id=device_id,
            limit=limit,
            value=value,
            margin_percent=None if value is None else 100.0 * (1.0 - value / limit),
            holds=value is not None and value <= limit * (1 + 1e-12),
        )


class BudgetPart(Part):
    """What was asked for, and what came of it."""

    max_latency_ms: float | None = None
    max_macs: float | None = None
    min_accuracy: float | None = None
    verdict: Literal["holds", "over budget", "measured", "failed"]
    margin_percent: float | None = None
    interval_holds: bool | None = Field(
        default=None, description="whether the upper end of the median's interval holds too"
    )
    reasons: list[str] = Field(default_factory=list)
    limits: list[LimitPart] = Field(
        default_factory=list, description="every budget of costs, the latency on this chip first"
    )


class ProbePart(Part):
    """Outputs for a fixed random input, so that a re-check can compare without any data set."""

    seed: int
    inputs: str = Field(description="how the input follows from the seed")
    outputs: list[float] = Field(description="the first values of the first output")
    tolerance: float = Field(description="largest relative difference that passes")


class Certificate(Part):
    """Everything."""

    schema_version: Literal[1] = 1
    issued: str
    expires: str
    model: ModelPart
    chip: ChipPart
    placement: dict[str, int] = Field(description="execution provider -> number of nodes")
    latency: LatencyPart | None = None
    peak_memory_bytes: int | None = Field(default=None, description="of a process that runs it")
    memory_note: str = ""
    accuracy: AccuracyPart | None = None
    accuracy_note: str = Field(default="", description="why there is none")
    budget: BudgetPart
    probe: ProbePart | None = None
    unmeasured: str = Field(default="", description="why no latency is certified, or empty")
    provenance: dict[str, Any] = Field(default_factory=dict)
    seal: str = ""

    def content_digest(self) -> str:
        """SHA-256 over everything but the seal, in a canonical form."""
        value = self.model_dump(mode="json", exclude={"seal"})
        if not self.budget.limits:  # certificates of before limits were listed keep their seal
            del value["budget"]["limits"]
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return sha256_bytes(text.encode())

    def sealed(self) -> Certificate:
        """The same with its seal."""
        return self.model_copy(update={"seal": self.content_digest()})

    @property
    def seal_holds(self) -> bool:
        """Whether nothing was edited since it was written."""
        return self.seal == self.content_digest()

    def save(self, path: Path | str) -> None:
        """Write as JSON, sealed, atomically."""
        write_json(path, self.sealed().model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path | str) -> Certificate:
        """Read a certificate; InputError when it is none."""
        value = read_json(path, "certificate")
        if isinstance(value, dict) and value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"certificate {path} has schema version {value.get('schema_version')!r}",
                why=f"this factory reads version {SCHEMA_VERSION}",
                fix="issue it again with this factory",
            )
        return validate(cls, value, where=f"certificate {path}")


def expiry(issued: str, days: int = VALID_DAYS) -> str:
    """The date ``days`` after ``issued``."""
    date = datetime.datetime.strptime(issued, DATE).replace(tzinfo=datetime.UTC)
    return (date + datetime.timedelta(days=days)).strftime(DATE)
