"""Small valid ONNX files of many kinds, and what makes one wrong: any field of any message."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

PICTURE = (1, 3, 8, 8)
NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 16, 31, 64, 999, -1, -2, -8, 1 << 20, 2**31 - 1, 2**31, 2**40, 2**62,
    2**63 - 1, -(2**63), -(2**31),
)  # fmt: skip
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"))
NAMES = ("", "x", "y", "w", "\n", "a b", "é", "../m.onnx", "n" * 3000, "{}", "%s")
TYPES = ("Conv", "Relu", "If", "Loop", "Reshape", "Gemm", "MatMul", "ConstantOfShape", "Pad",
         "Expand", "Resize", "Identity", "QLinearConv", "NoSuch")  # fmt: skip


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    *,
    inputs: dict[str, Sequence[Any]] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    ir: int = 9,
    kind: int = TensorProto.FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    meta: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes; shapes of outputs are left to inference."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, shape in (inputs or {"x": PICTURE}).items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=functions)
    helper.set_model_props(model, meta or {})
    return model


def floats(*shape: int) -> np.ndarray:
    """Small numbers, always the same."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) / 4


def classifier(**options: Any) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, pooling, Gemm."""
    weights = {
        "w": floats(4, 3, 3, 3), "s": np.ones(4, np.float32), "b": floats(4), "m": floats(4),
        "v": np.ones(4, np.float32), "h": floats(5, 4), "hb": floats(5),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], name="first"),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "h", "hb"], ["y"], transB=1),
    ]
    return model_of(nodes, weights, **options)


def shapes() -> onnx.ModelProto:
    """A shape that is computed: Shape, Slice, Concat, Reshape; Pad, Clip and Resize."""
    node = helper.make_node
    ints = {"zero": [0], "one": [1], "rest": [-1], "pads": [0, 0, 1, 1, 0, 0, 1, 1]}
    weights: dict[str, Any] = {name: np.array(v, np.int64) for name, v in ints.items()}
    weights |= {"low": np.float32(0), "high": np.float32(6), "z": np.array([1, 1, 2, 2], "f")}
    nodes = [
        node("Pad", ["x", "pads"], ["q"]),
        node("Clip", ["q", "low", "high"], ["k"]),
        node("Resize", ["k", "", "z"], ["r"], mode="nearest"),
        node("Shape", ["r"], ["sh"]),
        node("Slice", ["sh", "zero", "one"], ["batch"]),
        node("Concat", ["batch", "rest"], ["to"], axis=0),
        node("Reshape", ["r", "to"], ["y"]),
    ]
    return model_of(nodes, weights)


def quantised(kind: str) -> onnx.ModelProto:
    """int8, as QDQ or with QLinearConv."""
    node = helper.make_node
    weights: dict[str, Any] = {
        "sx": np.float32(0.1), "zx": np.uint8(128), "sw": np.full(4, 0.01, np.float32),
        "zw": np.zeros(4, np.int8), "w": (floats(4, 3, 3, 3) * 100).astype(np.int8),
    }  # fmt: skip
    start = node("QuantizeLinear", ["x", "sx", "zx"], ["q"])
    end = node("DequantizeLinear", ["o", "sx", "zx"], ["y"])
    if kind == "qlinear":
        names = ["q", "sx", "zx", "w", "sw", "zw", "sx", "zx"]
        return model_of([start, node("QLinearConv", names, ["o"]), end], weights)
    middle = [
        node("DequantizeLinear", ["q", "sx", "zx"], ["d"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["dw"], axis=0),
        node("Conv", ["d", "dw"], ["c"]),
        node("QuantizeLinear", ["c", "sx", "zx"], ["o"]),
    ]
    return model_of([start, *middle, end], weights)


def branches() -> onnx.ModelProto:
    """If and Loop with graphs of their own."""
    node, info = helper.make_node, helper.make_tensor_value_info
    then = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [info("t", 1, PICTURE)])
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [info("e", 1, PICTURE)])
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Mul", ["s", "s"], ["s2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("s", 1, PICTURE)],
        [info("on", TensorProto.BOOL, []), info("s2", 1, PICTURE)],
    )  # fmt: skip
    weights = {"zero": np.float32(0), "times": np.int64(2), "yes": np.bool_(True)}
    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "zero"], ["q"]),
        node("If", ["q"], ["o"], then_branch=then, else_branch=other),
        node("Loop", ["times", "yes", "o"], ["y"], body=body),
    ]
    model = model_of(nodes, weights)
    model.graph.output[0].CopyFrom(info("y", 1, PICTURE))
    return model


def with_function() -> onnx.ModelProto:
    """A function of the model's own, called twice."""
    node = helper.make_node
    made = helper.make_function(
        "own",
        "twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["s"]), node("HardSwish", ["s"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    nodes = [node("twice", ["x"], ["t"], domain="own"), node("twice", ["t"], ["y"], domain="own")]
    return model_of(nodes, functions=[made], domains=["own"])


def attention() -> onnx.ModelProto:
    """MatMul, Softmax, Transpose, Split, LayerNormalization."""
    node = helper.make_node
    weights = {"w": floats(8, 24), "g": np.ones(8, np.float32), "b": floats(8)}
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["n"]),
        node("MatMul", ["n", "w"], ["qkv"]),
        node("Split", ["qkv"], ["q", "k", "v"], axis=2, num_outputs=3),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    return model_of(nodes, weights, inputs={"x": (1, 6, 8)})


def old_file() -> onnx.ModelProto:
    """IR version 3: the weights are inputs of the graph too."""
    model = classifier(opset=8, ir=3)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    return model


def sparse() -> onnx.ModelProto:
    """A weight of which only some values are stored."""
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], inputs={"x": (1, 3, 4)})
    values = numpy_helper.from_array(floats(2), "w")
    where = numpy_helper.from_array(np.array([1, 5], np.int64), "w_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [12]))
    model.graph.node[0].input[1] = "r"
    to = numpy_helper.from_array(np.array([3, 4], np.int64), "to")
    model.graph.initializer.append(to)
    model.graph.node.insert(0, helper.make_node("Reshape", ["w", "to"], ["r"]))
    return model


PREPROCESSING = (
    '{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": [8, 8], "scale": 0.00392}'
)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Models of one picture, which export takes."""
    meta = {"class_names": '["a", "b", "c", "d", "e"]', "preprocessing": PREPROCESSING}
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    made = [
        classifier(meta=meta), classifier(opset=13, ir=7), classifier(opset=21, ir=10),
        old_file(), model_of([conv], {"w": floats(4, 3, 3, 3)}, inputs={"x": ("n", 3, 8, 8)}),
        with_function(),
    ]  # fmt: skip
    contents = tuple(model.SerializeToString() for model in made)
    ort.InferenceSession(contents[0])  # the first one of a machine writes a file of its own
    return contents


@functools.cache
def fixed() -> tuple[bytes, ...]:
    """Models of fixed shapes, which all other doors take."""
    names = ["x", "w"]
    half = model_of([helper.make_node("Add", names, ["y"])], {"w": floats(8).astype(np.float16)},
                    kind=TensorProto.FLOAT16)  # fmt: skip
    half.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    made = [
        shapes(), quantised("qdq"), quantised("qlinear"), branches(), attention(), half,
        model_of([helper.make_node("Mul", names, ["y"])], inputs={"x": (2, 3), "w": (3,)}),
    ]  # fmt: skip
    return (*pictures()[:4], pictures()[5], *(model.SerializeToString() for model in made))


def messages(message: Message) -> Iterator[Message]:
    """The message and every one within it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from messages(part)


def wrong_model(rng: random.Random, content: bytes) -> bytes:
    """One to four fields of the model's messages changed."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        every = list(messages(model))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _change(rng, rng.choice(every), model)
        return bytes(model.SerializeToString())
    except (DecodeError, ValueError, TypeError, UnicodeDecodeError):
        return content  # bytes that are no model are for the changes of bytes


def _change(rng: random.Random, message: Message, model: onnx.ModelProto) -> None:
    present = [field for field, _ in message.ListFields()]
    fields = message.DESCRIPTOR.fields
    field = rng.choice(present if present and rng.random() < 0.8 else fields)
    value = getattr(message, field.name)
    single = isinstance(value, str | bytes | int | float | Message)
    if single and field.type == field.TYPE_MESSAGE:
        message.ClearField(field.name)
    elif single:
        setattr(message, field.name, _odd(rng, field, value, model))
    elif field.type == field.TYPE_MESSAGE:
        _change_list(rng, value)
    elif value and rng.random() < 0.7:
        value[rng.randrange(len(value))] = _odd(rng, field, value[0], model)
    else:
        _change_list(rng, value, [_odd(rng, field, value[0] if value else None, model)])


def _change_list(rng: random.Random, values: Any, new: Sequence[Any] = ()) -> None:
    """One element removed, repeated or moved, or all removed, or ``new`` added."""
    which = rng.randrange(5)
    if new and (which == 0 or not values):
        values.extend(new)
    elif values and which == 1:
        del values[:]
    elif values and which == 2:
        copies = list(values)
        rng.shuffle(copies)
        del values[:]
        values.extend(copies)
    elif values and which == 3:
        values.extend([values[rng.randrange(len(values))]])
    elif values:
        del values[rng.randrange(len(values))]


def _odd(rng: random.Random, field: Any, old: Any, model: onnx.ModelProto) -> Any:
    if field.type == field.TYPE_STRING:
        known = [name for node in model.graph.node for name in (*node.input, *node.output)]
        return rng.choice((*NAMES, *TYPES, *known))
    if field.type == field.TYPE_BYTES:
        old = old or b""
        cut = rng.randrange(len(old) + 1)
        return rng.choice((b"", old[:cut], old * 3, rng.randbytes(len(old)), b"\xff" * len(old)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.enum_type is not None:
        return rng.choice(list(field.enum_type.values_by_number))
    number = rng.choice(NUMBERS)
    if field.type == field.TYPE_INT32:
        return number % 2**31
    return number % 2**64 if field.type == field.TYPE_UINT64 else number
