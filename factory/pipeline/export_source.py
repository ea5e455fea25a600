"""What `export` works on: the fp32 file of a tier, an ONNX file or a torch function, and inputs.

Inputs for calibration and judgement are the tier's own data set, pictures with classes
(``--data``), pictures without (``--calibration FOLDER``) or values of every input
(``--calibration FILE.npz``). Without any, `export` makes values up and notes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, unknown_name
from factory.core.files import write_atomic_bytes
from factory.core.progress import SILENT, Progress
from factory.core.reading import is_file, is_folder, read_names
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs
from factory.pipeline.export_pictures import (
    MADE_UP_IMAGES,
    PictureInput,
    folder_pictures,
    halves,
    made_up_pictures,
    npz_samples,
    picture_input,
    plain_pictures,
    trainable_on,
)
from factory.pipeline.shapes import parse_shape

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from factory.deployment.fine_tuning import Trainable
    from factory.deployment.gate_contract import GateData
    from factory.deployment.metadata import Preprocessing

DEFAULT_INPUT = "3x224x224"


@dataclass
class ExportSource:
    """One model ready for the targets.

    Attributes:
        fp32: the clean fp32 file with its metadata.
        preprocessing: None where nobody said how a picture becomes the input.
        judged: whether the pictures have labels.
        notes: what a person should know.
        trainable: the torch network and its training pictures, where both are there.
        not_trainable: why they are not.
    """

    name: str
    kind: str
    fp32: Path
    data: GateData
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]
    notes: list[str]
    trainable: Trainable | None = None
    not_trainable: str = ""

    @property
    def judged(self) -> bool:
        """Whether an accuracy can be measured."""
        return self.data.test_labels is not None


@dataclass(frozen=True)
class Asked:
    """What the user says about the model's inputs, outputs and pictures; see :func:`export`."""

    inputs: AskedInputs = NOTHING_ASKED
    data: Path | None = None
    calibration: Path | None = None
    labels: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    colour: str | None = None


def open_source(
    model: str | Path,
    folder: Path,
    asked: Asked,
    *,
    tier: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ExportSource:
    """The fp32 file of ``model``, written into ``folder``, and its pictures.

    Raises:
        InputError: the model is none of the three, or an option does not fit it.
    """
    from factory.deployment.torch_functions import FunctionCall, is_module_function

    path = Path(model)
    if is_folder(path):
        return _tier_source(path, folder, tier, progress)
    if tier is not None:
        raise InputError(
            f"--tier needs a run folder, and {model} is none",
            fix="give the folder of a build, or leave --tier out",
        )
    from factory.deployment.export import build_onnx
    from factory.deployment.sources import from_file
    from factory.deployment.torch_functions import network_of

    network = None
    if is_file(path) or path.suffix == ".onnx":
        proto, assumed = from_file(path, asked.inputs)
        name, kind = path.stem, "onnx"
    elif is_module_function(str(model)):
        shape, assumed = _torch_shape(asked.inputs), []
        file = Path(weights) if weights is not None else None
        network = network_of(str(model), seed=seed, weights=file)
        proto = build_onnx(network, shape)
        name, kind = FunctionCall.parse(str(model)).name, "function"
    else:
        raise InputError(
            f"{model} is no ONNX file, no run folder and no module:function",
            fix="give for example model.onnx, runs/demo --tier NAME, or "
            "torchvision.models:mobilenet_v3_small",
        )
    source = _foreign_source(proto, name, kind, str(model), folder, asked, seed, progress, network)
    source.notes[:0] = assumed
    return source


def _torch_shape(asked: AskedInputs) -> tuple[int, int, int]:
    """Channels, height and width of the picture that a torch network is given."""
    if asked.file or len(asked.shapes) > 1:
        raise InputError(
            "a module:function takes one picture",
            fix="give its shape with --input 3x224x224, or export it to ONNX by hand",
        )
    text = (asked.shapes or (DEFAULT_INPUT,))[0]
    return parse_shape(text.removeprefix("1x") if text.count("x") == 3 else text)


def _tier_source(run: Path, folder: Path, tier: str | None, progress: Progress) -> ExportSource:
    """A trained tier of a run folder."""
    from factory.deployment.export import export_onnx
    from factory.pipeline.context import open_run
    from factory.pipeline.stages import deploy, train

    ctx = open_run(run, progress)
    names = [entry.name for entry in ctx.recipe.tiers]
    if tier is None:
        raise InputError(
            f"{run} has {len(names)} tiers", fix="name one with --tier: " + ", ".join(names)
        )
    if tier not in names:
        raise unknown_name("tier", tier, names, where=str(run))
    section = ctx.recipe.tier(tier)
    if not (ctx.folder.stage("train") / tier / "weights.safetensors").is_file():
        raise InputError(
            f"tier {tier!r} is not trained yet",
            where=str(run),
            fix="run `factory build` with its recipe until it is",
        )
    metadata = deploy.model_metadata(ctx, section)
    fp32 = folder / "fp32.onnx"
    export_onnx(train.load_network(ctx, section), ctx.data.image_shape, fp32, metadata)
    trainable = deploy.trainable(ctx, section)
    return ExportSource(
        name=tier,
        kind="tier",
        fp32=fp32,
        data=deploy.gate_data(ctx),
        preprocessing=metadata.preprocessing,
        class_names=metadata.class_names,
        notes=[],
        trainable=trainable,
    )


def _foreign_source(
    proto: onnx.ModelProto,
    name: str,
    kind: str,
    origin: str,
    folder: Path,
    asked: Asked,
    seed: int,
    progress: Progress,
    network: nn.Module | None,
) -> ExportSource:
    import json

    import onnx

    from factory.deployment.export import check_parity
    from factory.deployment.sources import check_numbers, made_up_samples

    known = {p.key: p.value for p in proto.metadata_props}
    inputs = list(proto.graph.input)
    taken = picture_input(inputs[0]) if len(inputs) == 1 else None
    preprocessing = None
    if taken is not None:
        preprocessing = _preprocessing(known, taken, origin, network, asked)
    classes = _classes(proto)
    names = told = _label_names(asked.labels, known, classes)
    notes: list[str] = []
    trainable: Trainable | None = None
    not_trainable = "an ONNX file has no torch network" if network is None else "no pictures"
    values = asked.calibration if _is_values(asked.calibration) else None
    flat = None if values is not None else asked.calibration
    if kind == "onnx" and values is None and asked.inputs == NOTHING_ASKED:
        _check_clear(proto, origin)
    if (asked.data or flat) is not None:
        if taken is None or taken.batch != 1:
            given = ", ".join(f"{v.name!r} {_dims(v)}" for v in inputs[:3])
            raise InputError(
                f"{origin} does not take one picture",
                why=f"its inputs are {given}",
                fix="give the values of its inputs with --calibration FILE.npz",
            )
        if preprocessing is None:
            raise InputError(
                "the model does not say how a picture becomes its input",
                fix="give --mean and --std (of pixels in 0..1; with --scale 1 of pixels in 0..255)",
            )
    if asked.data is not None:
        assert taken is not None
        assert preprocessing is not None
        found = folder_pictures(asked.data, taken, preprocessing, seed, progress, told, classes)
        pictures = found.data
        notes += found.notes
        names = told or found.class_names
        if network is not None:
            trained = trainable_on(
                network, asked.data, taken.size, preprocessing, seed, found.outputs, progress
            )
            if isinstance(trained, str):
                not_trainable = trained
            else:
                trainable, not_trainable = trained, ""
        if told and not set(told) & set(found.class_names):
            notes.append(
                f"no folder of {asked.data} is named as a class of the model: they count in "
                "alphabetical order as its outputs"
            )
        if flat is not None:
            plain = plain_pictures(flat, taken, preprocessing, seed, progress)
            pictures = replace(pictures, calibration=plain.calibration)
        elif values is not None:
            pictures = replace(pictures, calibration=npz_samples(values, proto, origin))
    elif flat is not None:
        assert taken is not None
        assert preprocessing is not None
        pictures = plain_pictures(flat, taken, preprocessing, seed, progress)
    elif values is not None or asked.inputs.file:
        samples = npz_samples(values or Path(asked.inputs.file), proto, origin)
        pictures = halves(samples, f"{(values or Path(asked.inputs.file)).name}")
    else:
        if taken is not None and taken.batch == 1:
            pictures = made_up_pictures(taken, seed)
        else:
            samples = made_up_samples(proto, origin, MADE_UP_IMAGES, seed)
            pictures = halves(samples, "made-up values")
        notes.append(
            f"int8 ranges come from {pictures.name} and no accuracy is measured; give "
            "--calibration FOLDER or FILE.npz, or --data FOLDER with one sub-folder a class"
        )
    props = dict(known)
    if names:
        props["class_names"] = json.dumps(list(names), ensure_ascii=False)
    elif taken is not None:
        notes.append("the file names no classes; give --labels FILE with one name a line")
    if preprocessing is not None:
        props["preprocessing"] = preprocessing.model_dump_json()
    props |= {"precision": "fp32", "origin": origin}
    props.setdefault("task", "image_classification")
    onnx.helper.set_model_props(proto, props)
    check_numbers(proto, pictures.test_images, origin)
    if network is not None:
        check_parity(network, proto, pictures.calibration)
    fp32 = folder / "fp32.onnx"
    write_atomic_bytes(fp32, proto.SerializeToString(deterministic=True))
    return ExportSource(
        name,
        kind,
        fp32,
        pictures,
        preprocessing,
        tuple(names),
        notes,
        trainable=trainable,
        not_trainable=not_trainable,
    )


def _is_values(path: Path | None) -> bool:
    return path is not None and path.suffix == ".npz"


def _check_clear(proto: onnx.ModelProto, origin: str) -> None:
    """A trained network for one picture at a time needs no word; any other picture network does."""
    inputs = list(proto.graph.input)
    taken = [one for value in inputs if (one := picture_input(value)) is not None]
    if not taken or not proto.graph.initializer:
        return
    shapes = " ".join(f"--input {v.name}={'x'.join(map(str, _dims(v)))}" for v in inputs)
    if len(inputs) > 1:
        why = f"it takes {', '.join(repr(v.name) for v in inputs)}"
    elif taken[0].batch > 1:
        why = f"it takes a batch of {taken[0].batch}"
    else:
        return
    raise InputError(
        f"{origin} does not take one picture",
        why=f"{why}, and what an app feeds it with is not known",
        fix="give values of its inputs with --calibration FILE.npz or --inputs FILE.npz, or accept "
        f"made-up ones with {shapes}",
    )


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _classes(proto: onnx.ModelProto) -> int:
    """Values of the first output for one picture; 0 where it is no list of classes."""
    dims = _dims(proto.graph.output[0])
    return math.prod(dims[1:]) if len(dims) > 1 else 0


def _preprocessing(
    known: dict[str, str],
    taken: PictureInput,
    origin: str,
    network: nn.Module | None,
    asked: Asked,
) -> Preprocessing | None:
    """From the options, else from the file, else the network's own, else bytes as they are."""
    from factory.core.validation import validate
    from factory.deployment.metadata import Preprocessing, parse_props
    from factory.deployment.sources import IMAGENET_MEAN, IMAGENET_STD

    channels, mean, std = taken.channels, asked.mean, asked.std
    if (mean is None) != (std is None):
        raise InputError("--mean and --std belong together", fix="give both")
    if asked.scale is not None and asked.scale <= 0:
        raise InputError(f"--scale {asked.scale} is not above zero")
    if asked.colour not in (None, "RGB", "BGR") or (asked.colour and channels == 1):
        raise InputError(
            f"--colour {asked.colour} does not fit {channels} channels", fix="RGB or BGR, for three"
        )
    said = parse_props(known).get("preprocessing")
    values: dict[str, Any] = dict(said) if isinstance(said, dict) else {}
    config = getattr(network, "pretrained_cfg", None)  # timm's
    if mean is not None and std is not None:
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise InputError(
                f"--mean and --std need {channels} numbers each, those of --std above zero"
            )
        values |= {"mean": mean, "std": std}
        values.setdefault("fit", "cover")
    elif not values and isinstance(config, dict) and {"mean", "std"} <= set(config):
        values = {"mean": config["mean"], "std": config["std"], "fit": "cover"}
    elif not values and origin.startswith("torchvision.") and channels == 3:
        values = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "fit": "cover"}
    elif not values and taken.pixels:
        values = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "scale": 1.0, "fit": "cover"}
    if not values:
        return None
    values["size"] = taken.size
    values.setdefault("colour", "grey" if channels == 1 else "RGB")
    values.setdefault("layout", taken.layout)
    values |= {} if asked.scale is None else {"scale": asked.scale}
    values |= {} if asked.colour is None else {"colour": asked.colour}
    found = validate(Preprocessing, values, where=f"the metadata of {origin}")
    if len(found.mean) != channels or len(found.std) != channels or found.layout != taken.layout:
        raise InputError(
            f"the preprocessing in the metadata of {origin} is that of another input",
            why=f"{len(found.mean)} channels, {found.layout}; the model takes {channels}, "
            f"{taken.layout}",
            fix="give --mean and --std, and correct the metadata",
        )
    return found


def _label_names(labels: str | Path | None, known: dict[str, str], classes: int) -> tuple[str, ...]:
    from factory.deployment.metadata import parse_props

    if labels is None:
        said = parse_props(known).get("class_names")
        return tuple(str(n) for n in said) if isinstance(said, list) else ()
    path = Path(labels)
    names = tuple(read_names(path, "labels"))
    if len(names) != classes:
        raise InputError(
            f"{path} has {len(names)} labels but the model has {classes} outputs",
            fix="write one name a line, in the order of the outputs",
        )
    return names
