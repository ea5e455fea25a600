"""inspect: what a genotype, a named network, an ONNX file or a folder of pictures is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, nearest
from factory.core.progress import SILENT, Progress
from factory.core.reading import exists, is_file
from factory.data.config import folder_config
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.pipeline.shapes import network_spec, parse_shape
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import PUBLISHED, find_genotype
from factory.spaces.mobile_blocks import lower
from factory.spaces.named_networks import NAMED, named_network

if TYPE_CHECKING:
    from factory.graph.opgraph import OpGraph

SCHEMA_VERSION = 1


def inspect(
    subject: str | Path,
    *,
    channels: int = 36,
    layers: int = 20,
    input: str | None = None,
    stem: str = "cifar",
    classes: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Parameters, MACs, memory and kernels of a genotype or a named network, or of an ONNX file.

    Of a folder of pictures: its classes, counts and sizes, and every picture that is left out or
    cannot be read.

    Args:
        subject: a published genotype's name, a genotype JSON file, the name of a network
            ("mobilenet_v2"), an ONNX file or a folder of pictures.
        channels: channels C of the first cells; for genotypes only, as layers and stem are.
        layers: number of cells.
        input: shape of one image; "3x32x32", of a named network what it was made for.
        stem: "cifar" or "imagenet".
        classes: outputs of the classifier; 10, with the imagenet stem 1000, as of named networks.
        progress: where progress is reported.
    """
    name = str(subject)
    if name not in PUBLISHED and Path(name).is_dir():
        from factory.data.survey import survey_folder

        survey = survey_folder(folder_config(name), progress)
        answer = {"schema_version": SCHEMA_VERSION, "name": name, "kind": "image_folder"}
        return {**answer, "data": survey.as_dict()}
    if _is_onnx(name):
        graph = _onnx_graph(name)
        return _describe(name, "onnx", graph)
    if name in NAMED:
        return _named(name, input, classes or 1000)
    spec = network_spec(channels, layers, input or "3x32x32", stem, classes)
    if name not in PUBLISHED and not exists(name) and not name.endswith(".json"):
        raise InputError(
            f"unknown genotype or network {name!r}",
            why="it is no published genotype, no named network and no file",
            fix=nearest(name, [*PUBLISHED, *NAMED]),
        )
    genotype = find_genotype(name)
    answer = _describe(name, "genotype", CellSpace(spec).lower(genotype))
    answer["genotype"] = genotype.to_dict()
    answer["size"] = {
        "channels": channels,
        "layers": layers,
        "input": list(spec.input_shape),
        "stem": stem,
        "classes": spec.num_classes,
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
    """An existing file that is not JSON, or a name that ends in .onnx."""
    path = Path(name)
    if path.suffix == ".onnx":
        return True
    return name not in PUBLISHED and is_file(path) and path.suffix != ".json"


def _onnx_graph(name: str) -> OpGraph:
    from factory.graph.onnx_import import from_onnx, load_onnx

    return from_onnx(load_onnx(name, weights=False))


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
    }
