"""Preprocessing inside the graph: an app feeds camera pixels, uint8 [H,W,3], and nothing else.

    pixels -> Cast -> Transpose -> Resize -> (round to 8 bits) -> crop -> channel order -> a x + b

The steps are those of :class:`factory.deployment.metadata.Preprocessing`, in that order, with the
rounding that a picture library does after resizing, so that the graph and the program beside it
see the same numbers. The resize is ONNX's anti-aliased linear one, which is how Pillow scales down.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.deployment.metadata import Preprocessing
from factory.graph.onnx_load import with_shapes

PIXELS = "pixels"
PREFIX = "camera_"
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as picture libraries do


def embed_preprocessing(
    model: onnx.ModelProto,
    preprocessing: Preprocessing,
    camera: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """``model`` with an input ``pixels`` uint8 [H,W,3] in RGB order in place of its picture.

    Args:
        model: one input, float32 [1,C,H,W], as the preprocessing makes it.
        preprocessing: what happens to a picture.
        camera: height and width of the pictures that come in; the model's own size where None,
            and then nothing is resized.

    Raises:
        InputError: the model's input is not such a picture.
    """
    shape = _picture_shape(model)
    if preprocessing.layout == "NHWC":
        height, width, channels = shape[1:]
    else:
        channels, height, width = shape[1:]
    if (height, width) != tuple(preprocessing.size):
        raise InputError(
            f"the model takes {height}x{width} pixels but its preprocessing says "
            f"{preprocessing.size[0]}x{preprocessing.size[1]}",
            fix="correct the preprocessing",
        )
    camera = camera or (height, width)
    if min(camera) < 1:
        raise InputError(f"a camera of {camera[0]}x{camera[1]} pixels is not accepted")
    front = _Front(model)
    x = front.node("Cast", [PIXELS], to=TensorProto.FLOAT)
    x = front.node("Transpose", [x], perm=[2, 0, 1])
    x = front.node("Unsqueeze", [x, front.constant("axis", np.array([0], np.int64))])
    if camera != (height, width):
        x = _resize_and_crop(front, x, preprocessing, camera, (height, width))
    x = _channels(front, x, preprocessing, channels)
    mean = np.asarray(preprocessing.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(preprocessing.std, np.float32).reshape(1, -1, 1, 1)
    scale = np.float32(preprocessing.scale) / std
    x = front.node("Mul", [x, front.constant("scale", scale.astype(np.float32))])
    x = front.node("Add", [x, front.constant("shift", (-mean / std).astype(np.float32))])
    if preprocessing.layout == "NHWC":
        x = front.node("Transpose", [x], perm=[0, 2, 3, 1])
    return front.joined(x, camera, preprocessing)


def _picture_shape(model: onnx.ModelProto) -> list[int]:
    weights = {w.name for w in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    tensor = inputs[0].type.tensor_type
    shape = [d.dim_value for d in tensor.shape.dim]
    if len(inputs) != 1 or len(shape) != 4 or tensor.elem_type != TensorProto.FLOAT:
        raise InputError(
            "preprocessing can only be put before a model with one float picture as its input",
            fix="export without --camera",
        )
    return shape


def _resize_and_crop(
    front: _Front,
    x: str,
    preprocessing: Preprocessing,
    camera: tuple[int, int],
    size: tuple[int, int],
) -> str:
    """Scaled to ``size``: stretched, or by the shorter side and cropped in the middle."""
    target = resized_shape(preprocessing, camera)
    shape = np.array([1, 3, *target], np.int64)
    scaled = front.node(
        "Resize",
        [x, "", "", front.constant("sizes", shape)],
        mode="linear",
        antialias=int(target[0] < camera[0] or target[1] < camera[1]),
        coordinate_transformation_mode="half_pixel",
    )
    rounded = front.node("Round", [scaled])
    low, high = (front.constant(n, np.float32(v)) for n, v in (("low", 0), ("high", 255)))
    x = front.node("Clip", [rounded, low, high])
    if target == size:
        return x
    starts = [(have - want) // 2 for have, want in zip(target, size, strict=True)]
    ends = [start + want for start, want in zip(starts, size, strict=True)]
    return front.node(
        "Slice",
        [
            x,
            front.constant("crop_starts", np.array(starts, np.int64)),
            front.constant("crop_ends", np.array(ends, np.int64)),
            front.constant("crop_axes", np.array([2, 3], np.int64)),
        ],
    )


def resized_shape(preprocessing: Preprocessing, camera: tuple[int, int]) -> tuple[int, int]:
    """Height and width after resizing, before the crop."""
    height, width = preprocessing.size
    if preprocessing.fit == "stretch":
        return height, width
    factor = max(height / camera[0], width / camera[1])
    return max(height, round(camera[0] * factor)), max(width, round(camera[1] * factor))


def _channels(front: _Front, x: str, preprocessing: Preprocessing, channels: int) -> str:
    """RGB, BGR or grey."""
    if preprocessing.colour == "grey":
        if channels != 1:
            raise InputError(f"grey pictures for a model of {channels} channels")
        weights = np.asarray(GREY_WEIGHTS, np.float32).reshape(1, 3, 1, 1)
        return front.node("Conv", [x, front.constant("grey", weights)], kernel_shape=[1, 1])
    if preprocessing.colour == "BGR":
        order = front.constant("order", np.array([2, 1, 0], np.int64))
        return front.node("Gather", [x, order], axis=1)
    return x


class _Front:
    """The nodes before the model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, name: str, array: Any) -> str:
        """A new weight."""
        full = PREFIX + name
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), full))
        return full

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """A new node; the name of its output."""
        name = f"{PREFIX}{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def joined(
        self, last: str, camera: tuple[int, int], preprocessing: Preprocessing
    ) -> onnx.ModelProto:
        """The whole model, checked, its metadata saying that pixels go in."""
        graph = self.model.graph
        weights = {w.name for w in graph.initializer}
        picture = next(v.name for v in graph.input if v.name not in weights)
        self.nodes[-1].output[0] = picture
        nodes = [*self.nodes, *graph.node]
        del graph.input[:], graph.node[:]
        graph.node.extend(nodes)
        graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [*camera, 3]))
        props = {p.key: p.value for p in self.model.metadata_props}
        props["preprocessing"] = json.dumps(preprocessing.model_dump(mode="json"))
        props["preprocessing_inside"] = json.dumps(
            {"input": PIXELS, "dtype": "uint8", "layout": "HWC", "camera": list(camera)}
        )
        helper.set_model_props(self.model, props)
        return with_shapes(self.model, "the model with the preprocessing inside is not valid")
