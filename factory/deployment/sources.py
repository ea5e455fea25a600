"""What a model comes from where it is an ONNX file.

It becomes one clean fp32 ``ModelProto``: fixed shapes, batch 1, one picture in, a current operator
set, every node named. Torch networks come from :mod:`factory.deployment.torch_functions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from factory.core.errors import InputError
from factory.core.guard import guarded
from factory.deployment.agreement import compare
from factory.deployment.quiet import silenced
from factory.deployment.run_here import run_model
from factory.graph.onnx_load import (
    LARGEST_BYTES,
    examine_model,
    file_bytes,
    foreign_errors,
    open_unchecked,
    weight_files_bytes,
)

OLDEST_OPSET = 17
MOST_VALUES = 2**24  # of a picture: calibration holds hundreds of them
OLDEST_IR = 4  # from here on weights need not be inputs
MIN_SIGNAL_DB = 80.0
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_file(path: Path, image_shape: tuple[int, int, int] | None = None) -> onnx.ModelProto:
    """The clean model of an ONNX file, made and run in the guarded child.

    A dynamic batch becomes 1; other dynamic sizes are taken from ``image_shape``.

    Raises:
        InputError: not an ONNX file, quantised already, sizes that stay unknown, or a network that
            computes no numbers.
    """
    size = file_bytes(path) + weight_files_bytes(path)
    if size > LARGEST_BYTES:
        raise InputError(
            f"the weights of {path} take {size / 1e9:.1f} GB",
            why="the files that are made hold 2 GB at most",
            fix="`factory inspect`, `predict` and `verify` take such a model",
        )
    content = guarded(
        "factory.deployment.sources:cleaned_file",
        f"model {path}",
        size,
        path=str(path.absolute()),
        where=str(path),
        image_shape=image_shape,
    )
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


def cleaned_file(path: str, where: str, image_shape: Sequence[int] | None) -> bytes:
    """The work of :func:`from_file`; the model's bytes."""
    model = _fixed(open_unchecked(Path(path), where), where, image_shape)
    if any(node.op_type in ("DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise InputError(
            f"{where} is quantised already",
            why="targets are made from the fp32 model",
            fix="give the fp32 file, or check this one with `factory verify`",
        )
    input_shape(model, where)
    examine_model(model, where)
    clean = _cleaned(_newer(model), model, where)
    with foreign_errors(f"the cleaned model of {where} cannot be written"):
        content: bytes = clean.SerializeToString()
    return content


def input_shape(model: onnx.ModelProto, where: str) -> tuple[int, int, int]:
    """Channels, height and width of the one picture that the model takes; InputError otherwise."""
    dims = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    if len(model.graph.input) != 1 or len(dims) != 4 or dims[0] != 1:
        raise InputError(
            f"{where} does not take one picture [1,C,H,W]",
            why=f"{len(model.graph.input)} inputs, the first of shape {dims}",
            fix="only such models can be exported; `factory verify` measures any",
        )
    if math.prod(dims) > MOST_VALUES:
        raise InputError(
            f"{where} takes a picture of {'x'.join(map(str, dims[1:]))} values",
            why=f"at most {MOST_VALUES:,} are exported",
            fix="export the network for a smaller picture",
        )
    return dims[1], dims[2], dims[3]


def _fixed(
    model: onnx.ModelProto, where: str, image_shape: Sequence[int] | None
) -> onnx.ModelProto:
    """``model`` with fixed input shapes and without weights among its inputs."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes

    weights = {w.name for w in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if not inputs:
        raise InputError(f"the graph of {where} has no input", fix="export it again")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    for value in model.graph.input[:1]:
        dims = list(value.type.tensor_type.shape.dim)
        shape = [max(d.dim_value, 0) for d in dims]
        if len(shape) != 4 or all(size > 0 for size in shape):
            continue
        wanted = (1, *image_shape) if image_shape else (1, 0, 0, 0)
        merged = [size or want for size, want in zip(shape, wanted, strict=True)]
        if 0 in merged:
            raise InputError(
                f"input {value.name!r} of {where} has no fixed size",
                why="a latency belongs to fixed shapes",
                fix="give it with --input, for example --input 3x224x224",
            )
        for dim, size in zip(dims, merged, strict=True):
            dim.dim_value = size  # in the place of a name
        del model.graph.value_info[:]
        for made in model.graph.output:  # what follows from the old sizes
            for dim in made.type.tensor_type.shape.dim:
                if dim.dim_value < 1:
                    dim.Clear()
    with silenced(), foreign_errors(f"{where} is not a valid ONNX model"):
        fix_output_shapes(model)
    return model


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an operator set that quantisation per channel and the passes know."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= OLDEST_OPSET:
        return model
    with foreign_errors(
        f"the model's operator set {version} cannot be brought to {OLDEST_OPSET}",
        fix=f"export it again with opset {OLDEST_OPSET} or newer",
    ):
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)


def _cleaned(model: onnx.ModelProto, original: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model after all passes, its outputs compared with those of the file."""
    import onnx_ir as ir

    from factory.deployment.passes import clean_model

    props = {p.key: p.value for p in model.metadata_props}
    with silenced(), foreign_errors(f"the graph of {where} could not be cleaned"):
        clean = clean_model(ir.from_proto(model))
    onnx.helper.set_model_props(clean, props)
    dims = [d.dim_value for d in clean.graph.input[0].type.tensor_type.shape.dim]
    probe = np.random.default_rng(0).standard_normal((2, *dims[1:]), dtype=np.float32)
    theirs = run_model(original.SerializeToString(), probe)
    if not np.isfinite(theirs).all():
        raise _no_numbers(original, where)
    found = compare(run_model(clean.SerializeToString(), probe), theirs)
    if found.signal_db < MIN_SIGNAL_DB:
        raise InputError(
            f"cleaning changed what {where} computes",
            why=f"{found.signal_db:.0f} dB of signal to noise, {MIN_SIGNAL_DB:.0f} are asked for",
            fix="please report this model",
        )
    return clean


def _no_numbers(model: onnx.ModelProto, where: str) -> InputError:
    """The network computes NaN or infinity; the weight that holds some is named."""
    why = "all of its weights are finite: an operator makes it, such as Log of what is negative"
    for weight in model.graph.initializer:
        if weight.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            odd = int(np.sum(~np.isfinite(onnx.numpy_helper.to_array(weight))))
            if odd:
                why = f"{odd} values of its weight {weight.name!r} are NaN or infinite"
                break
    return InputError(
        f"{where} computes NaN or infinity for a picture of random pixels",
        why=why,
        fix="train it again (a smaller learning rate, clipped gradients) or export it again",
    )
