"""export: any model as the files that its chips run, quantised, checked and compared with fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, unknown_name
from factory.core.files import write_atomic_bytes, write_json
from factory.core.progress import SILENT, Progress
from factory.core.reading import exists, is_folder
from factory.core.temporary import TemporaryFolder

if TYPE_CHECKING:
    from factory.deployment.gate_contract import GateConfig
    from factory.deployment.targets import Target
    from factory.devices.profile import DeviceProfile
    from factory.pipeline.export_source import ExportSource

SCHEMA_VERSION = 1
PRECISIONS = ("fp32", "fp16", "int8")
TRAIL_SUFFIX = ".export.json"


def export(
    model: str | Path,
    *,
    tier: str | None = None,
    target: Sequence[str] = (),
    device: str | Path | None = None,
    out: str | Path | None = None,
    precision: str | None = None,
    input: str | Sequence[str] | None = None,
    inputs: str | Path | None = None,
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    labels: str | Path | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    scale: float | None = None,
    colour: str | None = None,
    weights: str | Path | None = None,
    arguments: Sequence[str] = (),
    camera: str | None = None,
    socs: Sequence[str] = (),
    max_drop_points: float = 1.0,
    finetune_steps: int = 300,
    measure_passes: bool = True,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Export ``model`` in every form asked for.

    Args:
        model: an ONNX file, ``module:function`` of a torch network, or a run folder with ``tier``.
        tier: name of the tier of a run.
        target: names of targets, or "all"; by default the one that suits the device.
        device: the chip it is for; passes are then measured on it where it can be reached.
        out: the file to write, or for several targets the folder.
        precision: shorthand for the CPU's target of that precision.
        input: shapes where the model does not fix them, "3x224x224" or "NAME=1x3x224x224".
        inputs: .npz file with a value for each input, which also gives the shapes.
        data: folder of pictures, one sub-folder a class, to calibrate and judge with.
        calibration: folder of pictures of anything, or .npz file with values of every input, to
            find ranges and to compare with.
        labels: text file with one class name a line.
        mean, std: per channel, of pixels after ``scale``.
        scale: factor on pixels of 0..255; 1/255 by default.
        colour: order of the channels, RGB (by default) or BGR.
        weights: safetensors file for a network given as module:function.
        arguments: "name=value" texts with which that function is called; or they stand in the text
            itself, ``timm:create_model('resnet18', pretrained=False)``.
        camera: "480x640": put the preprocessing into the graph, for such pictures (height x width).
        socs: SoC models that qnn-context is compiled for, one file each; one for 43 by default.
        max_drop_points: accuracy that int8 may lose.
        finetune_steps: of quantisation-aware training where nothing else helps; 0: none.
        measure_passes: measure optional passes on the device.
        seed: of random weights and of the choice of pictures.
        dry_run: only check and say what would be written.
        progress: where progress is reported.

    Returns:
        ``ok`` is False when a target was refused or failed; ``targets`` tells each one.
    """
    from factory.deployment.gate_contract import GateConfig
    from factory.deployment.make import Maker, make_targets

    if arguments:
        model = called_with(str(model), arguments)
    profile = _profile(model, tier, device)
    wanted = _per_soc(_targets(target, precision, profile), socs)
    path, folder, stem = _places(out, wanted, tier or _name(model))
    size = _camera(camera)
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "path": str(path or folder),
        "model": str(model),
        "tier": tier,
        "device": None if profile is None else profile.id,
        "precision": wanted[0].precision,
    }
    if dry_run:
        _check_tier(model, tier)
        return {**answer, "targets": [{"target": t.name} for t in wanted], "dry_run": True}
    config = GateConfig(
        max_drop_points=max_drop_points,
        reduce_range=_reduced(profile),
        finetune_steps=finetune_steps,
    )
    with TemporaryFolder("export") as scratch:
        from factory.graph.model_inputs import AskedInputs
        from factory.pipeline.export_source import Asked, open_source

        asked = Asked(
            inputs=AskedInputs.of(input, inputs),
            data=None if data is None else Path(data),
            calibration=None if calibration is None else Path(calibration),
            labels=None if labels is None else Path(labels),
            mean=mean,
            std=std,
            scale=scale,
            colour=colour,
        )
        source = open_source(
            model, scratch, asked, tier=tier, weights=weights, seed=seed, progress=progress
        )
        passes = None
        if profile is not None and device is not None and measure_passes:
            passes = _measured_passes(source, profile, config, progress)
        with Maker(
            source.fp32,
            source.data,
            config,
            preprocessing=source.preprocessing,
            camera=size,
            progress=progress,
            trainable=source.trainable,
            not_trainable=source.not_trainable,
        ) as maker:
            if path is not None:
                made = [maker.make(wanted[0], path)]
            else:
                made = make_targets(maker, wanted, folder, stem)
    named = set() if "all" in target else {t.name for t in wanted}
    lacking = [m for m in made if m.status == "missing" and m.target.name in named]
    if lacking:
        raise InputError(
            f"target {lacking[0].target.name!r} cannot be made here", why=lacking[0].reason
        )
    answer |= {
        "kind": source.kind,
        "class_names": list(source.class_names),
        "data": source.data.name,
        "judged": source.judged,
        "notes": source.notes,
        "passes": passes,
        "targets": [m.to_dict() for m in made],
        "ok": all(m.status in ("ok", "missing") for m in made),
    }
    if path is not None and made[0].ok:
        from factory.deployment.manifest import describe_file

        manifest = describe_file(path, made[0].target.precision)
        answer["manifest"] = manifest.model_dump(mode="json")
    trail = path.with_name(path.name + TRAIL_SUFFIX) if path else folder / f"{stem}{TRAIL_SUFFIX}"
    write_json(trail, answer)
    return {**answer, "trail": str(trail)}


def _profile(
    model: str | Path, tier: str | None, device: str | Path | None
) -> DeviceProfile | None:
    """The device asked for, else that of the tier."""
    from factory.devices.profile import load_profile

    if device is not None:
        return load_profile(device)
    if tier is not None and is_folder(model):
        from factory.pipeline.context import open_run

        ctx = open_run(model)
        if tier in [entry.name for entry in ctx.recipe.tiers]:
            return ctx.device(ctx.recipe.tier(tier))
    return None


def _check_tier(model: str | Path, tier: str | None) -> None:
    """For a dry run: the faults of a run folder, without loading anything."""
    if tier is None and not is_folder(model):
        return
    from factory.pipeline.context import open_run

    ctx = open_run(model)
    names = [entry.name for entry in ctx.recipe.tiers]
    if tier not in names:
        raise unknown_name("tier", str(tier), names, where=str(model))


def _targets(
    names: Sequence[str], precision: str | None, profile: DeviceProfile | None
) -> list[Target]:
    from factory.deployment.targets import all_targets, default_target, find_target

    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if "all" in names:
        return all_targets()
    if names:
        return [find_target(name) for name in dict.fromkeys(names)]
    if precision is not None:
        return [default_target("CPUExecutionProvider", precision)]
    if profile is not None:
        return [default_target(profile.execution_provider, profile.precision)]
    return [find_target("onnx-fp32")]


def _per_soc(wanted: list[Target], socs: Sequence[str]) -> list[Target]:
    """``wanted`` with one compiled target for each SoC asked for."""
    from factory.deployment.targets.qnn import QnnContext

    if not socs:
        return wanted
    if not any(isinstance(target, QnnContext) for target in wanted):
        raise InputError(
            "--soc is about the target qnn-context only", fix="add --target qnn-context"
        )
    found: list[Target] = []
    for target in wanted:
        if isinstance(target, QnnContext):
            found += [target.for_soc(number) for number in dict.fromkeys(socs)]
        else:
            found.append(target)
    return found


def _places(
    out: str | Path | None, wanted: Sequence[Target], stem: str
) -> tuple[Path | None, Path, str]:
    """(the one file, or None), the folder, and the stem of the files' names."""
    if out is None:
        if len(wanted) == 1:
            return Path(f"model{wanted[0].suffix}"), Path(), stem
        return None, Path("exported"), stem
    path = Path(out)
    if path.suffix in (".onnx", ".ort"):
        if len(wanted) > 1:
            raise InputError(
                f"{len(wanted)} targets do not fit into the one file {path}",
                fix="name a folder with --out",
            )
        return path, path.parent, stem
    return None, path, stem


def called_with(model: str, arguments: Sequence[str]) -> str:
    """``model``, a function of a module, with further arguments."""
    from factory.deployment.torch_functions import FunctionCall, is_module_function

    if not is_module_function(model):
        raise InputError(f"--arg is for a module:function, {model} is none", fix="leave --arg out")
    return str(FunctionCall.parse(model).with_arguments(arguments))


def _name(model: str | Path) -> str:
    from factory.deployment.torch_functions import FunctionCall, is_module_function

    text = str(model)
    if is_module_function(text) and not exists(text):
        return FunctionCall.parse(text).name
    return Path(text).stem


def _camera(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() and 0 < int(p) <= 10_000 for p in parts):
        raise InputError(
            f"camera {text!r} is not HEIGHTxWIDTH", fix="write for example --camera 480x640"
        )
    return int(parts[0]), int(parts[1])


def _reduced(profile: DeviceProfile | None) -> bool:
    from factory.deployment.chip_flags import wants_reduced_range

    return wants_reduced_range(profile is None or profile.chip == "local")


def _measured_passes(
    source: ExportSource, profile: DeviceProfile, config: GateConfig, progress: Progress
) -> dict[str, Any]:
    """Try the optional passes on the chip and keep in the fp32 file what helps there."""
    import onnx

    from factory.deployment.quantise import QuantiseConfig, Quantiser
    from factory.deployment.run_here import part
    from factory.deployment.selection import Prepare, select_passes
    from factory.deployment.targets import default_target
    from factory.devices.base import open_device

    told: dict[str, Any] = {"device": profile.id, "trials": []}
    model = onnx.load(source.fp32)
    prepare: Prepare = onnx.ModelProto.SerializeToString
    if profile.precision == "int8":
        flavour = default_target(profile.execution_provider, "int8").flavour
        assert flavour is not None
        quantise = QuantiseConfig(reduce_range=config.reduce_range)

        def quantised(proto: onnx.ModelProto) -> bytes:
            few = part(source.data.calibration, slice(16))
            return Quantiser(proto, few, quantise, flavour).model("minmax").SerializeToString()

        prepare = quantised
    try:
        with open_device(profile) as device:
            model, trials = select_passes(model, device, prepare=prepare, progress=progress)
            told["simulated"] = bool(device.describe().get("simulated"))
    except InputError as error:
        return {**told, "reason": f"no pass was measured: {error}"}
    told["trials"] = [trial.to_dict() for trial in trials]
    kept = [trial.name for trial in trials if trial.status == "kept"]
    if kept:
        props = {p.key: p.value for p in model.metadata_props}
        onnx.helper.set_model_props(model, props | {"passes": " ".join(kept)})
        write_atomic_bytes(source.fp32, model.SerializeToString(deterministic=True))
    return told
