"""What `export` works on: the fp32 file of a tier, an ONNX file or a torch function, and pictures.

Pictures for calibration and judgement come from the tier's own data set or from ``--data FOLDER``
(one sub-folder a class). Without either they are made up, nothing is judged, and it is said so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factory.core.errors import InputError, unknown_name
from factory.core.files import write_atomic_bytes
from factory.core.progress import SILENT, Progress
from factory.core.reading import is_file, is_folder, read_names
from factory.pipeline.export_pictures import folder_pictures, made_up_pictures, trainable_on
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


def open_source(
    model: str | Path,
    folder: Path,
    *,
    tier: str | None = None,
    input: str | None = None,
    data: str | Path | None = None,
    labels: str | Path | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
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
        shape = parse_shape(input) if input else None
        proto, kind = from_file(path, shape), "onnx"
        name = path.stem
    elif is_module_function(str(model)):
        shape = parse_shape(input or DEFAULT_INPUT)
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
    return _foreign_source(
        proto, name, kind, str(model), folder, data, labels, mean, std, seed, progress, network
    )


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
    data: str | Path | None,
    labels: str | Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    seed: int,
    progress: Progress,
    network: nn.Module | None,
) -> ExportSource:
    import onnx

    from factory.deployment.sources import input_shape

    shape = input_shape(proto, origin)
    known = {p.key: p.value for p in proto.metadata_props}
    preprocessing = _preprocessing(known, shape, origin, mean, std)
    classes = _classes(proto)
    told = _label_names(labels, known, classes)
    notes: list[str] = []
    pictures = trainable = None
    not_trainable = "an ONNX file has no torch network" if network is None else "no pictures"
    if data is not None:
        if preprocessing is None:
            raise InputError(
                "the model does not say how a picture becomes its input",
                fix="give --mean and --std (of pixels scaled to 0..1)",
            )
        pictures, loaded, outputs = folder_pictures(
            Path(data), shape, preprocessing, seed, progress, told
        )
        names = loaded.class_names
        if len(names) != classes:
            raise InputError(
                f"the model has {classes} outputs but {data} has {len(names)} classes",
                fix="give the pictures it was trained for",
            )
        if network is not None:
            trainable = trainable_on(network, loaded, preprocessing, seed, outputs)
            not_trainable = ""
        if told and not set(told) & set(names):
            notes.append(
                f"no folder of {data} is named as a class of the model: they count in "
                "alphabetical order as its outputs"
            )
    else:
        names = ()
        pictures = made_up_pictures(shape, seed)
        notes.append(
            "no pictures were given: int8 ranges come from made-up ones and nothing is judged; "
            "give --data FOLDER with one sub-folder a class"
        )
    names = told or names
    props = dict(known)
    if names:
        import json

        props["class_names"] = json.dumps(list(names), ensure_ascii=False)
    else:
        notes.append("the file names no classes; give --labels FILE with one name a line")
    if preprocessing is not None:
        props["preprocessing"] = preprocessing.model_dump_json()
    props |= {"task": "image_classification", "precision": "fp32", "origin": origin}
    onnx.helper.set_model_props(proto, props)
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


def _classes(proto: onnx.ModelProto) -> int:
    dims = [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim]
    return math.prod(dims[1:]) if len(dims) > 1 else 0


def _preprocessing(
    known: dict[str, str],
    shape: tuple[int, int, int],
    origin: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Preprocessing | None:
    """From the options, else from the file, else torchvision's own for torchvision's networks."""
    from factory.core.validation import validate
    from factory.deployment.metadata import Preprocessing, parse_props
    from factory.deployment.sources import IMAGENET_MEAN, IMAGENET_STD

    size = (shape[1], shape[2])
    colour: Literal["grey", "RGB"] = "grey" if shape[0] == 1 else "RGB"
    if (mean is None) != (std is None):
        raise InputError("--mean and --std belong together", fix="give both")
    if mean is not None and std is not None:
        if len(mean) != shape[0] or len(std) != shape[0] or min(std) <= 0:
            raise InputError(
                f"--mean and --std need {shape[0]} numbers each, those of --std above zero"
            )
        return Preprocessing(mean=mean, std=std, size=size, colour=colour, fit="cover")
    said = parse_props(known).get("preprocessing")
    if isinstance(said, dict):
        return validate(Preprocessing, said, where=f"the metadata of {origin}")
    if origin.startswith("torchvision.") and shape[0] == 3:
        return Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, size=size, fit="cover")
    return None


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
