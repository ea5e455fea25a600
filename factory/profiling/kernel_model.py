"""The ONNX model that a kernel is measured in: alone, or between neighbours that set its layout.

ONNX Runtime runs 8-bit convolutions channels-last, and what stands between them too: an 8-bit
MaxPool alone is an NCHW MaxPool, many times slower than the NhwcMaxPool that a network gets. So an
8-bit kernel whose time depends on the layout stands between depthwise 1x1 convolutions, whose
nodes are marked as context and whose time is taken off again by the row's reorder share.
"""

from __future__ import annotations

import onnx

from factory.devices.context import CONTEXT
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import kernel_to_onnx
from factory.graph.onnx_ops import emit
from factory.graph.onnx_writer import Writer
from factory.graph.opgraph import Node

LAYOUT_SENSITIVE = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat", "Slice", "Pad"}
)
_CONTEXT_ATTRS = (("s", "1"), ("p", "0"), ("d", "1"))


def kernel_model(kernel: Kernel, seed: int = 0) -> bytes:
    """ONNX bytes to time ``kernel`` with; InputError when it cannot be built."""
    alone = kernel.op not in LAYOUT_SENSITIVE or any(len(shape) != 4 for shape in kernel.inputs)
    if kernel.dtype != "i8" or alone:
        model = kernel_to_onnx(kernel, seed)
    else:
        model = _in_context(kernel, seed)
    content: bytes = model.SerializeToString()
    return content


def _in_context(kernel: Kernel, seed: int) -> onnx.ModelProto:
    """``x<i>`` -> depthwise 1x1 Conv -> kernel -> depthwise 1x1 Conv -> ``y``, uint8 outside."""
    kernel_to_onnx(kernel, seed)  # raises InputError where the kernel cannot be built at all
    writer = Writer(kernel.dtype, seed)
    inputs = []
    for index, shape in enumerate(kernel.inputs):
        inputs.append(writer.graph_input(f"x{index}", shape, whole=True))
        emit(writer, _neighbour(f"x{index}", f"{CONTEXT}{index}", shape))
    names = tuple(f"{CONTEXT}{index}" for index in range(len(kernel.inputs)))
    shape = kernel.output_shape
    emit(writer, Node(kernel.op, names, "kernel", kernel.attrs, kernel.inputs, shape))
    emit(writer, _neighbour("kernel", f"{CONTEXT}y", shape), whole=True)
    output = onnx.helper.make_tensor_value_info(f"{CONTEXT}y", onnx.TensorProto.UINT8, shape)
    return writer.model("kernel_in_context", inputs, [output])


def _neighbour(source: str, name: str, shape: tuple[int, ...]) -> Node:
    channels = shape[1]
    attrs = (*_CONTEXT_ATTRS, ("g", str(channels)), ("act", "none"))
    return Node("Conv", (source,), name, attrs, (shape,), shape, (channels, 1, 1, 1), f"{name}.w")
