"""Shapes that depend on values, from one run of ONNX Runtime; only within the guarded child.

All tensors whose shape is not known become outputs of the model, which runs once, unoptimised, with
the values that were given or with made-up ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from factory.core.errors import FactoryError
from factory.core.made_up import first_of
from factory.graph.model_inputs import ModelInputs

_DEPENDS = (
    "the shapes of {count} are known from a run alone (the first: {first}): "
    "they are those of one run with {which} inputs"
)
_FAILED = (
    "the shapes of {count} are known from a run alone (the first: {first}), and "
    "the model did not run: {why}"
)


@dataclass(frozen=True)
class Observed:
    """What a run showed.

    Attributes:
        shapes: (element type, sizes) of each tensor whose shape was not known.
        notes: sentences about that.
        failure: why there was no run, "" where there was one or none was needed.
    """

    shapes: Mapping[str, tuple[int, list[int]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""


def observe(
    model: onnx.ModelProto, inputs: ModelInputs, folder: str, *, always: bool = False
) -> Observed:
    """The shapes of ``model`` that are not known without running it.

    Args:
        model: with fixed input shapes.
        inputs: what it is run with.
        folder: where its weights lie that are in files of their own.
        always: run it also where all shapes are known, to see that it runs.
    """
    from factory.graph.onnx_constants import Facts
    from factory.graph.onnx_import import as_read
    from factory.graph.onnx_load import inline_functions

    try:
        inlined = inline_functions(model)
        facts = Facts(as_read(inlined))
    except FactoryError:
        return Observed()
    own = {name for node in inlined.graph.node for name in node.output}
    names = [name for name in facts.unknown(constants=True) if name in own]
    if not names and not always:
        return Observed()
    try:
        made = _run(inlined, names, inputs, folder)
    except Exception as error:  # the runtime's, of many kinds
        why = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")[:300]
        told = (
            _FAILED.format(count=_tensors(names), first=facts.maker(names[0]), why=why)
            if names
            else ""
        )
        return Observed(notes=(told,) if told else (), failure=why)
    shapes = {
        name: (onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
        for name, array in zip(names, made, strict=True)
        if isinstance(array, np.ndarray) and array.dtype.kind not in "OUS"
    }
    if not names:
        return Observed()
    which = "the given" if inputs.given else "made-up"
    note = _DEPENDS.format(count=_tensors(names), first=facts.maker(names[0]), which=which)
    return Observed(shapes, (note,))


def _tensors(names: list[str]) -> str:
    return "one tensor" if len(names) == 1 else f"{len(names)} tensors"


def _run(model: onnx.ModelProto, names: list[str], inputs: ModelInputs, folder: str) -> list[Any]:
    import onnxruntime as ort

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if folder:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", folder
        )
    session = ort.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = names or [session.get_outputs()[0].name]
    _, made = first_of(lambda feeds: session.run(wanted, dict(feeds)), inputs.feeds())
    return list(made)[: len(names)]
