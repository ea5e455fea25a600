"""The device profile: how to reach a chip, how to run on it, which tier it stands for.

A profile is a TOML file in ``device_profiles/``; its format is told in
docs/formats/device-profile.md and every field's text below is its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from factory.core.errors import InputError, nearest
from factory.core.reading import is_file, is_folder, read_toml
from factory.core.resources import find_resources
from factory.core.validation import validate
from factory.devices.adb_options import AdbOptions
from factory.devices.agent_options import AgentOptions
from factory.devices.browser_options import PROVIDERS as BROWSER_PROVIDERS
from factory.devices.browser_options import RUNTIME as BROWSER_RUNTIME
from factory.devices.browser_options import BrowserOptions
from factory.devices.local_options import LocalOptions
from factory.devices.ray_options import RayOptions
from factory.devices.simulated_options import SimulatedOptions

ID_PATTERN = r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$"
MOST_OF_ID = 80  # characters: it is a part of the names of files
OptionValue = str | int | float | bool
RUNTIMES = ("onnxruntime", BROWSER_RUNTIME)
ONLY_A_TABLE = "table"  # transport of a chip that is known from an imported table only
DTYPE_OF_PRECISION = {"fp32": "f32", "int8": "i8"}


class DeviceProfile(pydantic.BaseModel):
    """One chip and one way of running networks on it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = pydantic.Field(default=1, description="Version of this format.")
    id: str = pydantic.Field(
        pattern=ID_PATTERN,
        max_length=MOST_OF_ID,
        description="Name of the device, the same as the file's name without .toml.",
    )
    chip: str = pydantic.Field(
        default="local",
        min_length=1,
        description='"local" for this machine, else the name of the chip.',
    )
    transport: str = pydantic.Field(default="local", description="How the chip is reached.")
    runtime: str = pydantic.Field(default="onnxruntime", description="What runs there.")
    execution_provider: str = pydantic.Field(
        default="CPUExecutionProvider", min_length=1, description="ONNX Runtime execution provider."
    )
    provider_options: dict[str, OptionValue] = pydantic.Field(
        default_factory=dict, description="Options handed to the execution provider."
    )
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] | Literal["all"] = pydantic.Field(
        default="all", description='Number of intra-op threads, or "all" for every core allowed.'
    )
    precision: Literal["fp32", "int8"] = pydantic.Field(
        default="fp32", description="Which kernels and models are used: float or static int8 (QDQ)."
    )
    tier: str = pydantic.Field(
        default="", description="The product tier that this chip stands for."
    )
    pin: bool = pydantic.Field(
        default=True, description="Pin the runtime to its cores where possible."
    )
    timeout_s: float = pydantic.Field(
        default=60.0, gt=0, le=3600, description="Silence after which a measurement counts as hung."
    )
    notes: str = pydantic.Field(default="", description="Anything a person should know.")
    local: LocalOptions | None = pydantic.Field(
        default=None, description="Where the local transport's runtime comes from."
    )
    agent: AgentOptions | None = pydantic.Field(
        default=None, description='Where the device agent listens (transport "agent").'
    )
    adb: AdbOptions | None = pydantic.Field(
        default=None, description='Which Android phone, and its runner (transport "adb").'
    )
    ray: RayOptions | None = pydantic.Field(
        default=None, description='Which node of a Ray cluster (transport "ray").'
    )
    browser: BrowserOptions | None = pydantic.Field(
        default=None, description="Options of the browser transport."
    )
    simulated: SimulatedOptions | None = pydantic.Field(
        default=None, description='A chip without silicon (transport "simulated").'
    )

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> DeviceProfile:
        if self.transport != ONLY_A_TABLE and self.runtime not in RUNTIMES:
            raise ValueError(
                f"runtime {self.runtime!r} cannot be measured, only {' and '.join(RUNTIMES)}; with "
                f'transport = "{ONLY_A_TABLE}" (an imported table) it may be any'
            )
        in_browser = self.transport == "browser"
        if self.transport == ONLY_A_TABLE:
            if self.chip == "local":
                raise ValueError(f'transport "{ONLY_A_TABLE}" needs the name of the chip')
        elif in_browser != (self.runtime == BROWSER_RUNTIME):
            raise ValueError(
                f'runtime "{BROWSER_RUNTIME}" and transport "browser" belong together: '
                "times in a browser are not those of a native runtime"
            )
        if self.browser is not None and not in_browser:
            raise ValueError('[browser] needs transport = "browser"')
        if self.local is not None and self.transport != "local":
            raise ValueError('[local] needs transport = "local"')
        if self.simulated is not None:
            if self.transport != "simulated":
                raise ValueError('[simulated] needs transport = "simulated"')
            if self.chip == "local":
                raise ValueError("[simulated] needs the name of the chip")
            if self.simulated.peak_gmacs_per_s(self.precision) is None:
                raise ValueError(
                    f"[simulated] needs {self.precision}_gmacs_per_s, since precision is "
                    f'"{self.precision}"'
                )
        if in_browser and self.execution_provider not in BROWSER_PROVIDERS:
            known = ", ".join(BROWSER_PROVIDERS)
            raise ValueError(f"in a browser execution_provider is one of {known}")
        if in_browser and self.chip == "local":
            raise ValueError('in a browser chip is "any" or what the page calls its device')
        return self

    @property
    def chip_name(self) -> str:
        """The chip as its latency tables name it: other figures of a datasheet, another chip."""
        return f"{self.chip} ({self.simulated})" if self.simulated else self.chip

    @property
    def dtype(self) -> str:
        """Data type of the kernels that run at this precision: "f32" or "i8"."""
        return DTYPE_OF_PRECISION[self.precision]


def list_profiles() -> dict[str, Path]:
    """Device id -> file of every known profile; the user's own win over the packaged ones."""
    return find_resources("device_profiles", ".toml")


def load_profile(id_or_path: str | Path) -> DeviceProfile:
    """The profile of that id, or from that file; InputError in one sentence otherwise."""
    path = _find(id_or_path)
    data = read_toml(path, "device profile")
    profile = validate(DeviceProfile, data, where=f"device profile {path}")
    if profile.id != path.stem:
        raise InputError(
            f"the id {profile.id!r} differs from the file's name",
            where=f"device profile {path}",
            why="tables and reports are found by id",
            fix=f"rename the file to {profile.id}.toml or set id = {path.stem!r}",
        )
    return profile


def with_patience(profile: DeviceProfile, most_s: float) -> DeviceProfile:
    """The same device, waited for ``most_s`` at most where it is away, hot or busy."""
    changes = {}
    for name, options in (("agent", profile.agent), ("adb", profile.adb)):
        if options is not None:
            waits = [
                key for key in type(options).model_fields if key.endswith(("patience_s", "wait_s"))
            ]
            shorter = {key: min(getattr(options, key), most_s) for key in waits}
            changes[name] = options.model_copy(update=shorter)
    return profile.model_copy(update=changes)


def _find(id_or_path: str | Path) -> Path:
    known = list_profiles()
    name = str(id_or_path)
    if name in known:
        return known[name]
    path = Path(id_or_path)
    if is_file(path):
        return path
    if is_folder(path):
        raise InputError(f"device profile {path} is a folder", fix="name a TOML file")
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise InputError(
            f"device profile {path} does not exist",
            fix=f"check the path or name a known device ({nearest(path.stem, known)})",
        )
    raise InputError(
        f"unknown device {name!r}",
        fix=f"{nearest(name, known)}; your own goes into device_profiles/{name}.toml",
    )
