"""What a model comes from: any ONNX file, or a function that returns a torch network.

Both become one clean fp32 ``ModelProto``: fixed shapes, batch 1, one picture in, a current operator
set, every node named. Our own trained tiers come from :mod:`factory.deployment.export` directly.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from factory.core.errors import InputError, nearest
from factory.core.reading import is_file
from factory.deployment.agreement import compare
from factory.deployment.quiet import silenced
from factory.deployment.run_here import run_model

if TYPE_CHECKING:
    from torch import nn

OLDEST_OPSET = 17
MIN_SIGNAL_DB = 80.0
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_module_function(model: str) -> bool:
    """Whether ``model`` reads as package.module:function."""
    module, colon, function = model.partition(":")
    return (
        bool(colon)
        and function.isidentifier()
        and all(part.isidentifier() for part in module.split("."))
    )


def from_function(
    spec: str,
    image_shape: tuple[int, int, int],
    *,
    seed: int = 0,
    weights: Path | None = None,
) -> onnx.ModelProto:
    """The model of the torch network that ``module:function`` returns when called without values.

    Args:
        spec: for example ``torchvision.models:mobilenet_v3_small``; a module of the working folder
            is found too.
        image_shape: channels, height, width.
        seed: of random weights, where the function makes some.
        weights: a safetensors file for the network's state.
    """
    from factory.deployment.export import build_onnx

    return build_onnx(network_of(spec, seed=seed, weights=weights), image_shape)


def network_of(spec: str, *, seed: int = 0, weights: Path | None = None) -> nn.Module:
    """The torch network itself; the arguments are those of :func:`from_function`."""
    import torch

    torch.manual_seed(seed)
    network = _call(spec)
    if weights is not None:
        from factory.training.weights import load_weights

        load_weights(network, weights)
    return network


def _call(spec: str) -> nn.Module:
    from torch import nn

    module_name, _, function = spec.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"module {module_name!r} cannot be imported",
            where=repr(spec),
            why=str(error),
            fix="install it, or run this where the module is",
        ) from None
    make = getattr(module, function, None)
    if make is None:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        close = nearest(function, known).split("known:")[0].rstrip()
        raise InputError(
            f"module {module_name!r} has no {function!r}", fix=close or "check the function's name"
        )
    try:
        with silenced():
            network = make()
    except Exception as error:
        raise InputError(
            f"{spec} cannot be called without arguments",
            why=" ".join(str(error).split())[:200],
            fix="give a function of your own that returns the network",
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{spec} returned a {type(network).__name__}, not a torch.nn.Module",
            fix="give a function that returns the network",
        )
    return network


def from_file(path: Path, image_shape: tuple[int, int, int] | None = None) -> onnx.ModelProto:
    """The clean model of an ONNX file.

    A dynamic batch becomes 1; other dynamic sizes are taken from ``image_shape``.

    Raises:
        InputError: not an ONNX file, quantised already, or sizes that stay unknown.
    """
    from factory.graph.onnx_load import load_onnx

    model = _fixed(path, image_shape)
    if any(node.op_type in ("DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise InputError(
            f"{path} is quantised already",
            why="targets are made from the fp32 model",
            fix="give the fp32 file, or check this one with `factory verify`",
        )
    import tempfile

    with tempfile.TemporaryDirectory(prefix="factory-source-") as folder:
        fixed = Path(folder) / path.name
        onnx.save_model(model, fixed)
        load_onnx(fixed)  # one sentence about whatever is wrong
    return _cleaned(_newer(model), model)


def _fixed(path: Path, image_shape: tuple[int, int, int] | None) -> onnx.ModelProto:
    """The file's model with fixed input shapes and without weights among its inputs."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    if not is_file(path):
        raise InputError(f"model {path} does not exist", fix="check the path")
    try:
        model = onnx.load(path)
    except Exception:
        raise InputError(f"{path} is not an ONNX model") from None
    weights = {w.name for w in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in inputs[:1]:
        dims = list(value.type.tensor_type.shape.dim)
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in dims]
        if len(shape) != 4 or all(size > 0 for size in shape):
            continue
        wanted = (1, *image_shape) if image_shape else (1, 0, 0, 0)
        merged = [size or want for size, want in zip(shape, wanted, strict=True)]
        if 0 in merged:
            raise InputError(
                f"input {value.name!r} of {path} has no fixed size",
                why="a latency belongs to fixed shapes",
                fix="give it with --input, for example --input 3x224x224",
            )
        make_input_shape_fixed(model.graph, value.name, merged)
    with silenced():
        fix_output_shapes(model)
    return model


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an operator set that quantisation per channel and the passes know."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:
        raise InputError(
            f"the model's operator set {version} cannot be brought to {OLDEST_OPSET}",
            why=" ".join(str(error).split())[:200],
            fix=f"export it again with opset {OLDEST_OPSET} or newer",
        ) from None


def _not_finite(model: onnx.ModelProto) -> str:
    """Which weights hold NaN or infinity; "" where none does."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    names = [
        weight.name
        for weight in model.graph.initializer
        if weight.data_type in floats and not np.isfinite(onnx.numpy_helper.to_array(weight)).all()
    ]
    return f"among the weights in {', '.join(map(repr, names[:3]))}" if names else ""


def _cleaned(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """The model after all passes, its outputs compared with those of the file."""
    import onnx_ir as ir

    from factory.deployment.passes import clean_model

    props = {p.key: p.value for p in model.metadata_props}
    try:
        with silenced():
            clean = clean_model(ir.from_proto(model))
    except Exception as error:
        raise InputError(
            "the model's graph could not be cleaned", why=" ".join(str(error).split())[:200]
        ) from error
    onnx.helper.set_model_props(clean, props)
    dims = [d.dim_value for d in clean.graph.input[0].type.tensor_type.shape.dim]
    probe = np.random.default_rng(0).standard_normal((2, *dims[1:]), dtype=np.float32)
    theirs = run_model(original.SerializeToString(), probe)
    if not np.isfinite(theirs).all():
        raise InputError(
            "what the model computes of ordinary numbers is not finite (NaN or infinity)",
            why=_not_finite(original) or "all of its weights are finite",
            fix="train it again, or take a checkpoint from before it diverged",
        )
    ours = run_model(clean.SerializeToString(), probe)
    found = compare(ours, theirs)
    if found.signal_db < MIN_SIGNAL_DB:
        raise InputError(
            "cleaning changed what the model computes",
            why=f"{found.signal_db:.0f} dB of signal to noise, {MIN_SIGNAL_DB:.0f} are asked for",
            fix="please report this model",
        )
    return clean
