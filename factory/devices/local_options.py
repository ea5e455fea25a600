"""`[local]` of a device profile: another Python for the runtime, a plug-in execution provider."""

from __future__ import annotations

import pydantic


class LocalOptions(pydantic.BaseModel):
    """Where the runtime of the local transport comes from, when not from the factory's Python."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    interpreter: str = pydantic.Field(
        default="",
        description="Python of an environment of its own, for a package that replaces onnxruntime; "
        "a relative path counts from the working folder or $FACTORY_HOME.",
    )
    provider_library: str = pydantic.Field(
        default="",
        description="A plug-in execution provider: its library's path, or the Python package that "
        "has get_library_path().",
    )
