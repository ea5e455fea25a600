"""inspect: what a genotype, an ONNX file or a folder of pictures is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, nearest
from factory.core.progress import SILENT, Progress
from factory.core.reading import exists, is_file, is_folder, path_errors
from factory.data.config import folder_config
from factory.graph.canonical import canonicalise, kernel_counts, opaque_counts
from factory.graph.counts import count
from factory.graph.model_inputs import AskedInputs
from factory.pipeline.shapes import network_spec
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import PUBLISHED, find_genotype, is_genotype_text

if TYPE_CHECKING:
    from factory.graph.opgraph import OpGraph

SCHEMA_VERSION = 1
DEFAULT_IMAGE = "3x32x32"
LONGEST_TEXT = 1 << 16  # of a genotype in Python's own form


def inspect(
    subject: str | Path,
    *,
    channels: int = 36,
    layers: int = 20,
    input: str | Sequence[str] | None = None,
    inputs: str | Path | None = None,
    stem: str = "cifar",
    classes: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Parameters, MACs, memory and kernels of a genotype at a size, or of an ONNX file.

    Of a folder of pictures: its classes, counts and sizes, and every picture that is left out or
    cannot be read.

    Args:
        subject: a published genotype's name, the text of a Genotype(...), a file of either form, an
            ONNX file or a folder of pictures; the size options are for genotypes only.
        channels: channels C of the first cells.
        layers: number of cells.
        input: shape of one image of a genotype, "3x32x32" by default; of an ONNX file the shapes
            of inputs with free dimensions, "NAME=1x3x224x224".
        inputs: an .npz file with the values of all inputs of an ONNX file.
        stem: "cifar" or "imagenet".
        classes: outputs of the classifier; 10, with the imagenet stem 1000.
        progress: where progress is reported.
    """
    name = str(subject)
    if name not in PUBLISHED and is_folder(name):
        from factory.data.survey import survey_folder

        survey = survey_folder(folder_config(name), progress)
        answer = {"schema_version": SCHEMA_VERSION, "name": name, "kind": "image_folder"}
        return {**answer, "data": survey.as_dict()}
    if _is_onnx(name):
        graph = _onnx_graph(name, AskedInputs.of(input, inputs))
        return _describe(name, "onnx", graph)
    image = _image_shape(input, inputs)
    spec = network_spec(channels, layers, image, stem, classes)
    written = is_genotype_text(name)
    if name not in PUBLISHED and not written and not exists(name) and not name.endswith(".json"):
        raise InputError(
            f"unknown genotype {name!r}",
            why="it is no published genotype and no file",
            fix=nearest(name, PUBLISHED),
        )
    genotype = find_genotype(name)
    label = "Genotype(...)" if written else name
    answer = _describe(label, "genotype", CellSpace(spec).lower(genotype))
    answer["genotype"] = genotype.to_dict()
    answer["size"] = {
        "channels": channels,
        "layers": layers,
        "input": list(spec.input_shape),
        "stem": stem,
        "classes": spec.num_classes,
    }
    return answer


def _is_onnx(name: str) -> bool:
    """An existing file that holds no genotype, or a name that ends in .onnx."""
    path = Path(name)
    if path.suffix == ".onnx":
        return True
    if name in PUBLISHED or not is_file(path) or path.suffix == ".json":
        return False
    with path_errors(path, "genotype file"), open(path, "rb") as stream:
        return not is_genotype_text(stream.read(LONGEST_TEXT).decode(errors="replace"))


def _image_shape(input: str | Sequence[str] | None, inputs: str | Path | None) -> str:
    """The one shape that a genotype takes."""
    texts = AskedInputs.of(input).shapes or (DEFAULT_IMAGE,)
    if len(texts) > 1 or inputs is not None:
        raise InputError(
            "a genotype has one input, a picture", fix=f"give --input {DEFAULT_IMAGE} once"
        )
    return texts[0]


def _onnx_graph(name: str, asked: AskedInputs) -> OpGraph:
    from factory.graph.onnx_import import read_graph

    return read_graph(name, asked)


def _describe(name: str, kind: str, graph: OpGraph) -> dict[str, Any]:
    counts = count(graph)
    kernels = kernel_counts(canonicalise(graph))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "kind": kind,
        "params": counts.params,
        "macs": counts.macs,
        "macs_convention": "multiply-adds of conv + linear",
        "macs_darts_paper": counts.macs_darts_paper,
        "peak_memory_bytes": counts.peak_memory_bytes,
        "kernels": sum(kernels.values()),
        "distinct_kernels": len(kernels),
        "inputs": {name: list(shape) for name, shape in graph.inputs.items()},
        "opaque": opaque_counts(kernels),
        "notes": list(graph.notes),
    }
