"""devices: the known device profiles, reached when asked."""

from __future__ import annotations

from typing import Any

from factory.core.errors import FactoryError
from factory.devices.base import open_device
from factory.devices.profile import list_profiles, load_profile, with_patience

SCHEMA_VERSION = 1


def devices(*, check: bool = False) -> dict[str, Any]:
    """Every known profile; with ``check`` each device is reached and described.

    A profile that cannot be read, or a device that cannot be reached, is an entry with its
    ``error``.
    """
    entries = []
    for name, path in sorted(list_profiles().items()):
        entry: dict[str, Any] = {"id": name, "path": str(path)}
        try:
            profile = load_profile(path)
            entry.update(profile.model_dump(mode="json"))
            if check and profile.transport == "browser":
                entry["reached"] = "when its page is open"
            elif check:
                with open_device(with_patience(profile, 0.0)) as device:
                    entry["describe"] = device.describe()
                entry["reached"] = "yes"
        except FactoryError as error:
            entry["error"] = str(error)
        entries.append(entry)
    return {"schema_version": SCHEMA_VERSION, "devices": entries}
