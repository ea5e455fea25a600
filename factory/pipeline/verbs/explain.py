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
from factory.graph.model_inputs import ModelInputs, model_inputs
from factory.graph.onnx_load import parse_onnx

SCHEMA_VERSION = 1


def explain(
    model: str | Path,
    device: str | Path,
    *,
    numerics: bool = True,
    socs: Sequence[str] = (),
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Where the nodes of an ONNX file would run on a device of this machine.

    Args:
        model: path of an ONNX file.
        device: a device's id or the path of its profile; its transport must be local.
        numerics: also compare the outputs with the CPU provider's.
        socs: SoC numbers (provider option soc_model) to compile the model for, one file each.
        out: folder of the compiled files; beside the model by default.
    """
    path, profile = Path(model), load_profile(device)
    if profile.transport != "local":
        raise InputError(
            f"device {profile.id!r} is reached by transport {profile.transport!r}",
            why="only a runtime on this machine can be asked where it puts nodes",
            fix="name a local device, or read the providers of its measurements",
        )
    content, inputs = _read(path)
    with open_device(profile) as opened:
        if not isinstance(opened, LocalDevice):
            raise TypeError("a local profile opened another kind of device")
        placement = place(opened, content)
        similar = None
        if numerics and placement.taken and not placement.failure:
            similar = round(cosine(opened, content, inputs), 6)
        notes = opened.describe()["notes"]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": str(path),
        "device": profile.id,
        "cosine_to_cpu": similar,
        "notes": notes,
        **placement.to_dict(),
        "contexts": [_context(profile, content, path, soc, out) for soc in socs],
    }


def _read(path: Path) -> tuple[bytes, ModelInputs]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read model {path}", why=str(error.strerror), fix="check the path"
        ) from None
    if not content:
        raise InputError(f"model {path} is empty", fix="name an ONNX file")
    return content, model_inputs(parse_onnx(content, str(path)), str(path))


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
