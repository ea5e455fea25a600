"""What a model comes from where it is an ONNX file.

It becomes one clean fp32 ``ModelProto``: fixed shapes, a current operator set, every node named.
Torch networks come from :mod:`factory.deployment.torch_functions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.tools.onnx_model_utils import fix_output_shapes

from factory.core import made_up
from factory.core.errors import InputError
from factory.core.guard import guarded
from factory.deployment.agreement import BOUNDS, Outputs, compare
from factory.deployment.passes import clean_model
from factory.deployment.quiet import silenced
from factory.deployment.run_here import Samples, open_session, part, run_model, run_outputs
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs, ModelInputs, model_inputs
from factory.graph.onnx_load import (
    LARGEST_BYTES,
    examine_model,
    file_bytes,
    foreign_errors,
    open_unchecked,
    weight_files_bytes,
)

OLDEST_OPSET = 17
MOST_VALUES = 2**24  # of an input: calibration holds hundreds of them
MOST_SAMPLE_BYTES = 128 << 20
NOTES = "notes of the reader"  # key of metadata between the child and its parent
OLDEST_IR = 4  # from here on weights need not be inputs
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_file(path: Path, asked: AskedInputs = NOTHING_ASKED) -> tuple[onnx.ModelProto, list[str]]:
    """The clean model of an ONNX file, made and run in the guarded child, and what was assumed.

    A free batch becomes 1; other free sizes are taken from ``asked``.

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
        shapes=list(asked.shapes),
        values=asked.file and str(Path(asked.file).absolute()),
    )
    model = onnx.ModelProto()
    model.ParseFromString(content)
    props = {p.key: p.value for p in model.metadata_props}
    notes = [note for note in props.pop(NOTES, "").splitlines() if note]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, props)
    return model, notes


def cleaned_file(path: str, where: str, shapes: Sequence[str], values: str) -> bytes:
    """The work of :func:`from_file`; the model's bytes, notes among its metadata."""
    model = open_unchecked(Path(path), where)
    if any(node.op_type in ("DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise InputError(
            f"{where} is quantised already",
            why="targets are made from the fp32 model",
            fix="give the fp32 file, or check this one with `factory verify`",
        )
    inputs = model_inputs(model, where, AskedInputs(tuple(shapes), values))
    model = _fixed(model, where, inputs)
    examine_model(model, where)
    clean = _cleaned(_newer(model), model, where, inputs)
    props = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(clean, props | {NOTES: "\n".join(inputs.notes)})
    with foreign_errors(f"the cleaned model of {where} cannot be written"):
        content: bytes = clean.SerializeToString()
    return content


def _fixed(model: onnx.ModelProto, where: str, inputs: ModelInputs) -> onnx.ModelProto:
    """``model`` with fixed input shapes and without weights among its inputs."""
    if not inputs.inputs:
        raise InputError(f"the graph of {where} has no input", fix="export it again")
    for name, shape in inputs.shapes.items():
        if math.prod(shape) > MOST_VALUES:
            raise InputError(
                f"the input {name!r} of {where} takes {'x'.join(map(str, shape))} values",
                why=f"at most {MOST_VALUES:,} are exported",
                fix="export the network for a smaller input",
            )
    kept = {one.name for one in inputs.inputs}
    values = [value for value in model.graph.input if value.name in kept]
    del model.graph.input[:]
    model.graph.input.extend(values)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    model = inputs.fix(model)
    with silenced(), foreign_errors(f"{where} is not a valid ONNX model"):
        fix_output_shapes(model)
    return model


def made_up_samples(model: onnx.ModelProto, where: str, number: int, seed: int) -> Samples:
    """``number`` made-up values for each input that the model runs with and computes numbers from.

    Memory limits them: there are two at least.
    """
    inputs = model_inputs(model, where)
    taken = 4 * sum(math.prod(shape) for shape in inputs.shapes.values())
    number = max(2, min(number, MOST_SAMPLE_BYTES // max(taken, 1)))
    session = open_session(model.SerializeToString())

    def run(fed: Mapping[str, np.ndarray]) -> None:
        made = run_outputs(session, {name: value[None] for name, value in fed.items()})
        if not all(_finite(values) for values in made.values()):
            raise InputError(f"{where} computes NaN or infinity for made-up values")

    tries = (inputs.feeds(seed * 1000 + row) for row in range(number))
    rows = [made_up.first_of(run, feeds)[0] for feeds in tries]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


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


def _cleaned(
    model: onnx.ModelProto, original: onnx.ModelProto, where: str, inputs: ModelInputs
) -> onnx.ModelProto:
    """The model after all passes, its outputs compared with those of the file."""
    with silenced(), foreign_errors(f"the graph of {where} could not be cleaned"):
        clean = clean_model(ir.from_proto(model))

    def compared(fed: Mapping[str, np.ndarray]) -> str:
        samples = {name: value[None] for name, value in fed.items()}
        theirs = check_numbers(original, samples, where)
        return compare(run_model(clean.SerializeToString(), samples), theirs).lacks(BOUNDS["fp32"])

    for seed in range(2):
        _, why = made_up.first_of(compared, inputs.feeds(seed))
        if why:
            raise InputError(
                f"cleaning changed what {where} computes", why=why, fix="please report this model"
            )
    return clean


def check_numbers(model: onnx.ModelProto, samples: Samples, where: str) -> Outputs:
    """The outputs of an fp32 model; InputError names what makes values that are not finite."""
    for weight in model.graph.initializer:  # infinity may be a mask, NaN means nothing
        array = onnx.numpy_helper.to_array(weight)
        if _any(np.isnan, array):
            odd = int(np.sum(~np.isfinite(array)))
            raise _no_numbers(
                where, f"{odd} values of its weight {weight.name!r} are NaN or infinite"
            )
    made = run_model(model.SerializeToString(), samples)
    broken = next((name for name, values in made.items() if not _finite(values)), None)
    if broken is None:
        return made
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    known = {v.name for v in whole.graph.output}
    for node in whole.graph.node:
        for name in node.output:
            if name and name not in known:
                whole.graph.output.append(onnx.ValueInfoProto(name=name))
    every = run_model(whole.SerializeToString(), part(samples, slice(4)))
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in whole.graph.initializer}
    values = {**weights, **every}
    why = f"its output {broken!r} is not finite"
    for test, what in ((np.isnan, "NaN"), (lambda v: ~np.isfinite(v), "not finite")):
        for node in whole.graph.node:
            if not any(_any(test, values.get(name)) for name in node.output):
                continue
            given = [name for name in node.input if not _finite(values.get(name))]
            bad = next((name for name in given if name in weights), None)
            if bad is not None:
                count = int(np.sum(~np.isfinite(weights[bad])))
                why += f"; {count} values of its weight {bad!r} are NaN or infinite"
            elif not given:
                told = f"{node.op_type} {node.name}".strip()
                why += (
                    f"; all that its {told} reads is finite, and the result {node.output[0]!r} is "
                    f"{what}"
                )
            else:
                continue
            raise _no_numbers(where, why)
    raise _no_numbers(where, why)


def _no_numbers(where: str, why: str) -> InputError:
    return InputError(
        f"{where} computes NaN or infinity",
        why=why,
        fix="train it again (a smaller learning rate, clipped gradients), export it again, or give "
        "inputs that it is made for",
    )


def _any(test: Callable[[np.ndarray], np.ndarray], values: np.ndarray | None) -> bool:
    return values is not None and values.dtype.kind == "f" and bool(np.any(test(values)))


def _finite(values: np.ndarray | None) -> bool:
    return not _any(lambda v: ~np.isfinite(v), values)
