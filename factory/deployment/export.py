"""Export: a torch network -> a clean fp32 ONNX file with fixed shapes and its metadata inside.

torch's current exporter (``dynamo=True``) is used without its own optimiser: that one merges
equal sub-expressions, so two equal Adds of a cell would become one and the file would no longer
hold the kernels that the search space promised. The passes of ``factory.deployment.passes`` do
the cleaning instead.
"""

from __future__ import annotations

import copy
import traceback
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.core.resources import user_home
from factory.deployment.agreement import BOUNDS, Agreement, compare
from factory.deployment.manifest import ModelManifest, describe_model
from factory.deployment.metadata import ModelMetadata
from factory.deployment.passes import clean_model
from factory.deployment.quiet import Captured, silenced
from factory.deployment.run_here import Samples, feeds, part, run_model

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
PRODUCER = "model-factory"
PARITY_SAMPLES = 4
LONGEST_REASON = 200


def export_onnx(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    path: Path | str,
    metadata: ModelMetadata,
    *,
    opset: int | None = None,
) -> ModelManifest:
    """Write ``network`` in evaluation mode as ONNX: ``image`` [1,C,H,W] -> ``logits`` [1,classes].

    Args:
        network: returns logits in evaluation mode; it is left as it was.
        image_shape: channels, height, width of one normalised picture.
        path: the file to write, atomically.
        metadata: class names, preprocessing and the like, kept inside the file.
        opset: ONNX operator set; the exporter's own choice where None.
    """
    model = build_onnx(network, image_shape, opset=opset)
    _check_classes(model, metadata)
    noise = np.random.default_rng(0).standard_normal((PARITY_SAMPLES, *image_shape), np.float32)
    check_parity(network, model, noise)
    onnx.helper.set_model_props(model, metadata.props("fp32"))
    write_atomic_bytes(path, model.SerializeToString(deterministic=True))
    return describe_model(path)


def build_onnx(
    network: nn.Module, image_shape: tuple[int, int, int], *, opset: int | None = None
) -> onnx.ModelProto:
    """:func:`export_onnx` without metadata and file: the cleaned, checked model."""
    twin = copy.deepcopy(network).to("cpu", torch.float32).eval()
    example = torch.zeros(1, *image_shape)
    with silenced() as said:
        try:
            program = torch.onnx.export(
                twin,
                (example,),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
            )
            if program is None:
                raise RuntimeError("the exporter returned nothing")
            model = clean_model(program.model)
        except Exception as error:
            shape = "x".join(str(d) for d in (1, *image_shape))
            report = user_home() / f"{type(network).__name__}.export-report.txt"
            write_atomic_bytes(report, _report(error, said).encode())
            raise InputError(
                f"the network {type(network).__name__} could not be exported to ONNX",
                why=_first_sentence(error),
                fix=f"check that it runs in eval() on an input of shape {shape}; the whole report "
                f"of torch is in {report}",
            ) from error
    model.producer_name = PRODUCER
    model.graph.name = type(network).__name__
    return model


def check_parity(network: nn.Module, model: onnx.ModelProto, samples: Samples) -> Agreement:
    """Every output of ``model`` beside that of the torch network that it was exported from.

    Args:
        network: in any mode; it runs in evaluation mode and is left as it was.
        model: what :func:`build_onnx` made of it.
        samples: pictures, or values for each input in the order of the network's arguments.

    Raises:
        InputError: an output misses the bound (:data:`factory.deployment.agreement.BOUNDS`).
    """
    samples = part(samples, slice(PARITY_SAMPLES))
    twin = copy.deepcopy(network).to("cpu", torch.float32).eval()
    ranks = [(v.name, len(v.type.tensor_type.shape.dim)) for v in model.graph.input]

    def run() -> list[np.ndarray]:
        rows = []
        for fed in feeds(samples, ranks):
            with silenced(), torch.no_grad():
                made = twin(*(torch.from_numpy(np.array(value)) for value in fed.values()))
            leaves = [one for one in tree_leaves(made) if isinstance(one, torch.Tensor)]
            rows.append([one.numpy().reshape(-1) for one in leaves])
        return [np.stack(column) for column in zip(*rows, strict=True)]

    wanted, again = run(), run()
    made = run_model(model.SerializeToString(), samples)
    name = type(network).__name__
    if len(made) != len(wanted):
        raise InputError(
            f"the network {name} returns {len(wanted)} tensors, its ONNX file {len(made)}",
            fix="return each tensor once, in a tuple",
        )
    found = compare(made, dict(zip(made, wanted, strict=True)))
    why = found.lacks(BOUNDS["torch"])
    if why:
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(wanted, again, strict=True))
        raise InputError(
            f"the ONNX file computes something else than the network {name}",
            why=f"{why} against torch"
            + ("" if same else "; two runs of the network itself differ: it draws random numbers"),
            fix="torch's exporter changed it, or the network does not run as it is written: "
            "rewrite the operator, or export it by hand and give the ONNX file",
        )
    return found


def _first_sentence(error: BaseException) -> str:
    """What the deepest error says first: the exporter wraps the reason in pages of advice."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:LONGEST_REASON]


def _report(error: BaseException, said: Captured) -> str:
    """All that torch says about it."""
    return "".join(traceback.format_exception(error)) + "\n" + said.stream.getvalue()


def _check_classes(model: onnx.ModelProto, metadata: ModelMetadata) -> None:
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if classes != len(metadata.class_names):
        raise InputError(
            f"the network has {classes} outputs but there are {len(metadata.class_names)} "
            "class names",
            fix="give one name per output, in the order of the logits",
        )
