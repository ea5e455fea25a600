"""Target onnx-fp16: weights and arithmetic in 16-bit floats, inputs and outputs kept in 32.

Operators that lose too much in 16 bits stay in 32 (:mod:`factory.deployment.half_repair`).
For GPUs and NPUs. A CPU computes most operators by casting to 32 bits and back, so that a time
measured on one says nothing; the file is loaded and compared there, never sold as faster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from factory.core.files import write_atomic_bytes
from factory.deployment.run_here import open_session
from factory.deployment.targets.base import Target, convert_or_tell, with_precision
from factory.deployment.trials import without_form
from factory.graph.onnx_load import with_shapes

ALWAYS_FLOAT_INPUTS = {"Resize": (2,)}
"""Inputs that the converter leaves in 32 bits by itself."""


@dataclass(frozen=True)
class Fp16(Target):
    """onnxruntime's float16 converter."""

    def write(self, source: Path, out: Path) -> list[Path]:
        """Convert; weights beyond the range of 16 bits are clipped by the converter."""

        def convert() -> None:
            model = with_precision(half_model(onnx.load(source)), "fp16", self.name)
            write_atomic_bytes(out, model.SerializeToString(deterministic=True))

        convert_or_tell("the conversion to 16-bit floats", convert)
        return [out]


def half_model(model: onnx.ModelProto, float_nodes: Collection[str] = ()) -> onnx.ModelProto:
    """``model``, which is used up, in 16-bit floats but for ``float_nodes``.

    Operators that have no 16-bit form stay in 32 bits: those whose definition allows none, those
    that hold a graph of their own, and those that the runtime does not load.
    """
    # The types of the copies stay unknown to the converter, which would turn them into 16 bits.
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    kept = {*float_nodes, *_copy_what_stays(model)}
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in [*graph.value_info, *graph.input, *graph.output]
    }
    kinds |= {weight.name: weight.data_type for weight in graph.initializer}
    kept |= {node.name for node in graph.node if not _has_half(node, opsets, kinds)}
    content = model.SerializeToString()
    names = {node.name for node in graph.node}

    def fault(only: Collection[str]) -> str:
        try:
            half = _converted(onnx.ModelProto.FromString(content), kept | (names - set(only)))
            open_session(half.SerializeToString())
        except Exception as error:  # of the converter, whose errors have no common type
            return " ".join(str(error).split())[:300]
        return ""

    if fault(names - kept):
        kept |= set(without_form([n for n in graph.node if n.name not in kept], fault))
    return _converted(model, kept)


def _copy_what_stays(model: onnx.ModelProto) -> list[str]:
    """Put Identity nodes, named in the answer, where 32-bit values cross an edge of the graph.

    The converter does not look into graphs inside of nodes, nor at weights that are outputs.
    """
    graph, copies = model.graph, []
    weights = {weight.name: weight for weight in graph.initializer}
    made = {name for node in graph.node for name in node.output} | {v.name for v in graph.input}

    def copy(source: str, target: str) -> onnx.NodeProto:
        node = onnx.helper.make_node("Identity", [source], [target], name=f"{target}~copy")
        copies.append(node.name)
        return node

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        parts = [a.g for a in node.attribute if a.HasField("g")]
        for outer in sorted(_captured(parts) & (made | set(weights))):
            inner = f"{outer}~{node.name}"
            nodes.append(copy(outer, inner))
            for inside in parts:
                _rename(inside, outer, inner)
        nodes.append(node)
    for value in graph.output:
        if value.name in weights:
            weight = weights[value.name]
            nodes.append(copy(f"{value.name}~weight", value.name))
            for node in nodes[:-1]:
                node.input[:] = [nodes[-1].input[0] if n == value.name else n for n in node.input]
            weight.name = nodes[-1].input[0]
    del graph.node[:]
    graph.node.extend(nodes)
    return copies


def _captured(graphs: Sequence[onnx.GraphProto]) -> set[str]:
    """Values of outside that ``graphs`` read."""
    found: set[str] = set()
    for graph in graphs:
        own = {w.name for w in graph.initializer} | {v.name for v in graph.input}
        own |= {name for node in graph.node for name in node.output}
        read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
        read |= _captured([a.g for node in graph.node for a in node.attribute if a.HasField("g")])
        found |= read - own
    return found


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)


def _has_half(node: onnx.NodeProto, opsets: Mapping[str, int], kinds: Mapping[str, int]) -> bool:
    """Whether the operator's definition allows 16 bits wherever the node has 32-bit floats."""
    if any(attribute.HasField("g") for attribute in node.attribute):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return True  # of another domain: the runtime will tell
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            if kinds.get(name) != onnx.TensorProto.FLOAT:
                continue
            kind = formal[min(index, len(formal) - 1)].type_str
            if "tensor(float16)" not in allowed.get(kind, {kind}) and not (
                node.op_type in ALWAYS_FLOAT_INPUTS and index in ALWAYS_FLOAT_INPUTS[node.op_type]
            ):
                return False
    return True


def _converted(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """The runtime's converter; ``model`` is used up."""
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=list(kept), disable_shape_infer=True
    )
    ordered = ir.from_proto(half)
    TopologicalSortPass()(ordered)  # the converter puts its casts last
    _remove_detours(ordered)
    half = ir.to_proto(ordered)
    return with_shapes(half, "the 16-bit model is not valid")


def _remove_detours(model: ir.Model) -> None:
    """From one 32-bit operator to the next: no way through 16 bits, which would round."""

    def casts(node: ir.Node | None, to: ir.DataType) -> bool:
        return node is not None and node.op_type == "Cast" and node.attributes["to"].value == to

    for node in list(model.graph):
        value = node.inputs[0] if node.inputs else None
        if value is None or not casts(node, ir.DataType.FLOAT):
            continue
        before = value.producer()
        if not casts(before, ir.DataType.FLOAT16):
            continue
        assert before is not None
        whole, after = before.inputs[0], node.outputs[0]
        assert whole is not None
        if after.is_graph_output():
            if whole.producer() is None or whole.is_graph_output():
                continue
            whole.name, after.name = after.name, whole.name
        ir.convenience.replace_all_uses_with(after, whole, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        if not value.uses() and not value.is_graph_output():
            model.graph.remove(before, safe=True)


TARGETS = (
    Fp16(
        name="onnx-fp16",
        summary="ONNX, 16-bit floats inside, 32-bit inputs and outputs; for GPUs and NPUs",
        precision="fp16",
        serves=(("CoreMLExecutionProvider", "fp16"), ("CUDAExecutionProvider", "fp16")),
        timing_here="a CPU computes 16-bit floats by casting: only loading and parity are checked",
    ),
)
