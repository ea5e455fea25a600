"""The `[adb]` table of a device profile: which phone, and what runs the models there."""

from __future__ import annotations

import pydantic


class AdbOptions(pydantic.BaseModel):
    """How an Android phone is reached and measured."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    serial: str = pydantic.Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$",
        description="Serial number as `adb devices` shows it; empty: the only phone.",
    )
    runner: str = pydantic.Field(
        default="",
        description="Program for the phone: factory_runner or onnxruntime_perf_test, as a path "
        "here; empty: $FACTORY_ANDROID_RUNNER.",
    )
    libraries: list[str] = pydantic.Field(
        default_factory=list,
        description="Files that go beside the runner, such as libonnxruntime.so.",
    )
    runtime_version: str = pydantic.Field(
        default="", description="Version of ONNX Runtime, where the runner cannot tell it."
    )
    folder: str = pydantic.Field(
        default="/data/local/tmp",
        pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$",
        description="Folder on the phone in which files may be run.",
    )
    patience_s: float = pydantic.Field(
        default=120.0, ge=0, le=86400, description="How long a phone that is gone is waited for."
    )
    max_temperature_c: float = pydantic.Field(
        default=45.0, description="Hotter than this (battery) is waited for."
    )
    longest_wait_s: float = pydantic.Field(
        default=120.0, ge=0, description="Then it is measured all the same."
    )
    memory_mb: int = pydantic.Field(
        default=1024, ge=16, description="Memory that a model may take there."
    )
