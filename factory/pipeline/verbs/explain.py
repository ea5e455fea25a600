"""explain: which nodes of a model an accelerator takes, which it refuses and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.targets.qnn import check_soc
from factory.devices.base import open_device
from factory.devices.local import LocalDevice
from factory.devices.placement import compile_context, cosine, place
from factory.devices.profile import DeviceProfile, load_profile
from factory.graph.model_inputs import AskedInputs, ModelInputs
from factory.verification.model_file import read_model

SCHEMA_VERSION = 1


def explain(
    model: str | Path,
    device: str | Path,
    *,
    numerics: bool = True,
    socs: Sequence[str] = (),
    out: str | Path | None = None,
    input: str | Sequence[str] | None = None,
    inputs: str | Path | None = None,
) -> dict[str, Any]:
    """Where the nodes of an ONNX file would run on a device of this machine.

    Args:
        model: path of an ONNX file.
        device: a device's id or the path of its profile; its transport must be local.
        numerics: also compare the outputs with the CPU provider's.
        socs: SoC numbers (provider option soc_model) to compile the model for, one file each.
        out: folder of the compiled files; beside the model by default.
        input: shapes of inputs with free dimensions, "NAME=1x3x224x224".
        inputs: an .npz file with the values of all inputs.
    """
    path, profile = Path(model), load_profile(device)
    if profile.transport != "local":
        raise InputError(
            f"device {profile.id!r} is reached by transport {profile.transport!r}",
            why="only a runtime on this machine can be asked where it puts nodes",
            fix="name a local device, or read the providers of its measurements",
        )
    found = read_model(path, AskedInputs.of(input, inputs))
    notes = list(found.notes)
    with open_device(profile) as opened:
        if not isinstance(opened, LocalDevice):
            raise TypeError("a local profile opened another kind of device")
        placement = place(opened, found.content)
        if placement.failure and found.fault is not None:
            raise found.fault
        similar = None
        if numerics and placement.taken and not placement.failure:
            similar = _similar(opened, found.content, found.inputs, notes)
        notes += opened.describe()["notes"]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": str(path),
        "device": profile.id,
        "cosine_to_cpu": similar,
        "notes": notes,
        **placement.to_dict(),
        "contexts": [_context(profile, found.content, path, soc, out) for soc in socs],
    }


def _similar(
    device: LocalDevice, content: bytes, inputs: ModelInputs | None, notes: list[str]
) -> float | None:
    """Cosine of the outputs to those of the CPU; None, and a note, where it cannot be told."""
    if inputs is None:
        return None
    try:
        return round(cosine(device, content, inputs), 6)
    except InputError as error:
        notes.append(f"the outputs were not compared: {error}")
        return None


def _context(
    profile: DeviceProfile, model: bytes, path: Path, soc: str, out: str | Path | None
) -> dict[str, Any]:
    """Compile for one SoC; a failure is an entry with its reason."""
    check_soc(soc)
    options = {**profile.provider_options, "soc_model": soc}
    with LocalDevice(profile.model_copy(update={"provider_options": options})) as opened:
        try:
            content = compile_context(opened, model)
        except InputError as error:
            return {"soc": soc, "error": str(error)}
    folder = Path(out) if out is not None else path.parent
    target = folder / f"{path.stem}.soc{soc}.onnx"
    write_atomic_bytes(target, content)
    return {"soc": soc, "path": str(target), "bytes": len(content)}
