"""Attributes of ONNX nodes as the text that kernels carry."""

from __future__ import annotations

import re
from typing import Any

import onnx
from onnx import AttributeProto

from factory.graph.opgraph import Attrs
from factory.graph.shapes import Shape, pads_text, spatial_text

_NOT_TEXT = re.compile(r"[^A-Za-z0-9_.:+-]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_.]")
_RENAMED = {"dtype": "to", "x": "x_", "w": "w_", "y": "y_"}  # names that the text form keeps


def attribute_values(proto: onnx.NodeProto) -> dict[str, Any]:
    """Name -> value of every attribute that is a number, a text or a list of them."""
    values: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.INT:
            values[attribute.name] = attribute.i
        elif attribute.type == AttributeProto.FLOAT:
            values[attribute.name] = attribute.f
        elif attribute.type == AttributeProto.STRING:
            values[attribute.name] = attribute.s.decode(errors="replace")
        elif attribute.type == AttributeProto.INTS:
            values[attribute.name] = list(attribute.ints)
        elif attribute.type == AttributeProto.FLOATS:
            values[attribute.name] = list(attribute.floats)
    return values


def kernel_name(text: str) -> str:
    """An operator's name as the text form of kernels takes it."""
    name = _NOT_NAME.sub("_", text)
    return name if name[:1].isalpha() else f"_{name}"


def number_text(value: float) -> str:
    """'6', '0.01', '1e-05': six significant digits."""
    return f"{value:.6g}"


def attribute_texts(proto: onnx.NodeProto) -> Attrs:
    """All attributes of an operator without a rule of its own, in alphabetical order."""
    texts = {}
    for name, value in attribute_values(proto).items():
        if isinstance(value, list):
            text = "x".join(number_text(v) if isinstance(v, float) else str(v) for v in value)
        elif isinstance(value, float):
            text = number_text(value)
        else:
            text = _NOT_TEXT.sub("_", str(value))
        if text:
            texts[_RENAMED.get(name, name)] = text
    return tuple(sorted(texts.items()))


def _pads(
    values: dict[str, Any], x: Shape, kernel: list[int], stride: list[int], dilation: list[int]
) -> list[int]:
    axes = len(kernel)
    mode = values.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list(values.get("pads") or [0] * (2 * axes))
    if mode == "VALID":
        return [0] * (2 * axes)
    begins, ends = [], []
    for i in range(axes):
        count = -(-x[2 + i] // stride[i])
        span = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        total = max(0, span - x[2 + i])
        less, more = total // 2, total - total // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    return begins + ends


def conv_attrs(values: dict[str, Any], x: Shape, weight: Shape) -> Attrs:
    """Stride, pads, dilation, groups and (no) activation of a convolution."""
    kernel = list(weight[2:])
    stride = list(values.get("strides") or [1] * len(kernel))
    dilation = list(values.get("dilations") or [1] * len(kernel))
    return (
        ("s", spatial_text(stride)),
        ("p", pads_text(_pads(values, x, kernel, stride, dilation))),
        ("d", spatial_text(dilation)),
        ("g", str(values.get("group", 1))),
        ("act", "none"),
    )


def pool_attrs(values: dict[str, Any], x: Shape) -> Attrs:
    """Window, stride and pads of a pool; dilation, ceil and incl where they are not the default."""
    kernel = list(values["kernel_shape"])
    stride = list(values.get("strides") or [1] * len(kernel))
    dilation = list(values.get("dilations") or [1] * len(kernel))
    pads = _pads(values, x, kernel, stride, dilation)
    attrs = [("k", spatial_text(kernel)), ("s", spatial_text(stride)), ("p", pads_text(pads))]
    if set(dilation) != {1}:
        attrs.append(("d", spatial_text(dilation)))
    if values.get("ceil_mode"):
        attrs.append(("ceil", "1"))
    if values.get("count_include_pad") and any(pads):
        attrs.append(("incl", "1"))
    return tuple(attrs)
