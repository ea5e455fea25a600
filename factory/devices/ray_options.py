"""The `[ray]` table of a device profile: which node of a Ray cluster measures."""

from __future__ import annotations

import pydantic


class RayOptions(pydantic.BaseModel):
    """A machine of a Ray cluster; the factory must be installed there too."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    address: str = pydantic.Field(
        default="auto", min_length=1, description='Address of the cluster, or "auto".'
    )
    node: str = pydantic.Field(
        default="", description="Id of the node, as Ray names it; empty: whichever is free."
    )
