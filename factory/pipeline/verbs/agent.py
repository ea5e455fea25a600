"""agent: the device agent as one file for another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.reading import is_folder
from factory.devices.agent_bundle import agent_program

SCHEMA_VERSION = 1


def agent(*, write: str | Path) -> dict[str, Any]:
    """Write device_agent.py: one file that needs Python, numpy and onnxruntime only."""
    path = Path(write)
    if is_folder(path):
        path = path / "device_agent.py"
    try:
        write_atomic_text(path, agent_program())
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"cannot write {path}", why=str(error.strerror)) from None
    return {"schema_version": SCHEMA_VERSION, "path": str(path)}
