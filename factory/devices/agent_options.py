"""The `[agent]` table of a device profile: where the device agent listens."""

from __future__ import annotations

import pydantic


class AgentOptions(pydantic.BaseModel):
    """How the device agent of a chip is reached; its token is kept apart (agent_token.py)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str = pydantic.Field(
        pattern=r"^https?://[^/?#@\s]+/?$", description="Address of the agent, http://host:port."
    )
    ca_file: str = pydantic.Field(
        default="", description="PEM file with the certificate to trust (HTTPS with an own one)."
    )
    patience_s: float = pydantic.Field(
        default=120.0, ge=0, le=86400, description="How long a lost agent is waited for."
    )
    busy_patience_s: float = pydantic.Field(
        default=600.0, ge=0, le=86400, description="How long another one's measurement is awaited."
    )
