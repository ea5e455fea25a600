"""inspect: what a genotype, a named network, an ONNX file or a folder of pictures is made of."""

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
from factory.pipeline.shapes import cell_space, parse_shape
from factory.spaces.genotype import PUBLISHED, find_genotype, is_genotype_text
from factory.spaces.mobile_blocks import lower
from factory.spaces.named_networks import NAMED, named_network

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
    """Parameters, MACs, memory and kernels of a genotype or a named network, or of an ONNX file.

    Of a folder of pictures: its classes, counts and sizes, and every picture that is left out or
    cannot be read.

    Args:
        subject: a published genotype's name, the text of a Genotype(...), a file of either form,
            the name of a network ("mobilenet_v2"), an ONNX file or a folder of pictures.
        channels: channels C of the first cells; for genotypes only, as layers and stem are.
        layers: number of cells.
        input: shape of one image of a genotype, "3x32x32" by default, or of a named network, by
            default what it was made for; of an ONNX file the shapes of inputs with free
            dimensions, "NAME=1x3x224x224".
        inputs: an .npz file with the values of all inputs of an ONNX file.
        stem: "cifar" or "imagenet".
        classes: outputs of the classifier; 10, with the imagenet stem 1000, as of named networks.
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
    if name in NAMED:
        return _named(name, image, classes or 1000)
    space = cell_space(channels, layers, image or DEFAULT_IMAGE, stem, classes)
    written = is_genotype_text(name)
    if name not in PUBLISHED and not written and not exists(name) and not name.endswith(".json"):
        raise InputError(
            f"unknown genotype or network {name!r}",
            why="it is no published genotype, no named network and no file",
            fix=nearest(name, [*PUBLISHED, *NAMED]),
        )
    genotype = find_genotype(name)
    label = "Genotype(...)" if written else name
    answer = _describe(label, "genotype", space.lower(genotype))
    answer["genotype"] = genotype.to_dict()
    answer["size"] = {
        "channels": channels,
        "layers": layers,
        "input": list(space.spec.input_shape),
        "stem": stem,
        "classes": space.spec.num_classes,
    }
    return answer


def _named(name: str, input: str | None, classes: int) -> dict[str, Any]:
    """A network of the shelf at any input size."""
    network = named_network(name)
    shape = (3, network.side, network.side) if input is None else parse_shape(input)
    answer = _describe(name, "network", lower(network, shape, classes))
    answer["size"] = {"input": list(shape), "classes": classes}
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


def _image_shape(input: str | Sequence[str] | None, inputs: str | Path | None) -> str | None:
    """The one shape that a genotype or a named network takes; None: not given."""
    texts = AskedInputs.of(input).shapes
    if len(texts) > 1 or inputs is not None:
        raise InputError(
            "it has one input, a picture", fix=f"give --input once, for example {DEFAULT_IMAGE}"
        )
    return texts[0] if texts else None


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
