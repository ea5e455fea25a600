"""`[browser]` of a device profile: how a page is served, who opens it, how long to wait for it."""

from __future__ import annotations

from typing import Literal

import pydantic

PROVIDERS = ("wasm", "webgpu", "webnn")
ANY_CHIP = "any"
RUNTIME = "ort-web"


class BrowserOptions(pydantic.BaseModel):
    """Options of the browser transport; they never change what is measured, but for warmup_ms."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    network: Literal["loopback", "lan"] = pydantic.Field(
        default="loopback",
        description='"loopback": this computer only (also over `adb reverse`); "lan": HTTPS for '
        "phones on the same network.",
    )
    port: int = pydantic.Field(
        default=8765, ge=0, le=65535, description="Port of the page; 0, or a taken one: any other."
    )
    launch: Literal["none", "window", "headless"] = pydantic.Field(
        default="none",
        description="Who opens the page: a person, this computer's usual browser, or a Chromium "
        "without a window.",
    )
    chromium: str = pydantic.Field(
        default="", description='Program for launch = "headless"; by default the one on the PATH.'
    )
    warmup_ms: float = pydantic.Field(
        default=400.0,
        ge=0,
        le=60_000,
        description="Shortest warm-up of a new model: browsers optimise WebAssembly late.",
    )
    patience_s: float = pydantic.Field(
        default=900.0,
        gt=0,
        le=86_400,
        description="How long to wait for the page: to be opened, or to come back.",
    )
