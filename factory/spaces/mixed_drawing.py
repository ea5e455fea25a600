"""What random networks of :mod:`factory.spaces.mixed` are drawn with: words on maps and sequences.

They are written as exporters write them, so that a runtime fuses what it fuses in deployment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factory.graph.shapes import shape_text
from factory.spaces.mobile import Drawer


class MixedDrawer(Drawer):
    """One random network while it is drawn; its words on sequences beside those on maps."""

    def __init__(self, rng: np.random.Generator, name: str) -> None:
        super().__init__(rng, name)
        self.soft = str(
            rng.choice(("gelu", "gelu", "silu", "relu", "hardswish", "tanh-gelu", "square"))
        )
        self.head_width = int(rng.choice((8, 16, 24, 32, 32, 48, 64)))
        self.scale_first = bool(rng.random() < 0.5)
        self.layer_scale = bool(rng.random() < 0.35)
        self.ratio = float(rng.choice((2, 2, 3, 4, 4)))

    def chance(self, share: float) -> bool:
        """True in ``share`` of all cases."""
        return bool(self.rng.random() < share)

    def pick(self, *values: int) -> int:
        """One of the values."""
        return int(self.rng.choice(values))

    def shape(self, x: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.builder.shape(x)

    def const(self, op: str, x: str, weight: Sequence[int] = ()) -> str:
        """An operator with a constant operand: one number, or the shape given."""
        return self.builder.operator(op, (x,), weight=weight)

    def gelu(self, x: str) -> str:
        """The network's soft activation."""
        b = self.builder
        if self.soft == "gelu":
            return b.unary("Gelu", x)
        if self.soft == "square":  # learned factor and shift of a squared ReLU
            squared = b.unary("Pow", b.relu(x), (("c1", "2.0s"),))
            return self.const("Add", self.const("Mul", squared))
        if self.soft != "tanh-gelu":
            return self.act(x, self.soft)
        cubed = b.mul(x, b.mul(x, x))
        inner = b.unary("Tanh", self.const("Mul", b.add(x, self.const("Mul", cubed))))
        return self.const("Mul", b.mul(x, self.const("Add", inner)))

    def norm(self, x: str) -> str:
        """Normalisation over the last axis."""
        width = self.shape(x)[-1]
        return self.builder.operator("LayerNormalization", (x,), weight=(width,), params=2 * width)

    def map_norm(self, x: str) -> str:
        """Normalisation of a map over its channels, the axes turned around it."""
        y = self.norm(self.builder.transpose(x, (0, 2, 3, 1)))
        return self.builder.transpose(y, (0, 3, 1, 2))

    def group_norm(self, x: str) -> str:
        """Normalisation of a map over all of it, as exporters write it."""
        c = self.shape(x)[1]
        flat = self.builder.reshape(x, (1, 1, int(np.prod(self.shape(x)))))
        flat = self.builder.operator("InstanceNormalization", (flat,), weight=(1,), params=2)
        y = self.builder.reshape(flat, self.shape(x))
        return self.const("Add", self.const("Mul", y, (c, 1, 1)), (c, 1, 1))

    def scaled(self, x: str) -> str:
        """A learned factor for each channel, where this network has them."""
        if not self.layer_scale:
            return x
        shape = self.shape(x)
        return self.const("Mul", x, (shape[1], 1, 1) if len(shape) == 4 else (shape[-1],))

    def softmax(self, x: str, axis: int = -1) -> str:
        """Softmax over an axis."""
        rank = len(self.shape(x))
        return self.builder.unary("Softmax", x, (("axis", str(axis % rank)),))

    def matmul(self, a: str, b: str) -> str:
        """The product of two activations."""
        return self.builder.operator("MatMul", (a, b))

    def swapped(self, x: str) -> str:
        """The last two axes the other way round."""
        rank = len(self.shape(x))
        return self.builder.transpose(x, (*range(rank - 2), rank - 1, rank - 2))

    def tokens(self, x: str) -> str:
        """A map as a sequence of its pixels."""
        n, c, h, w = self.shape(x)
        return self.builder.transpose(self.builder.reshape(x, (n, c, h * w)), (0, 2, 1))

    def as_map(self, x: str, height: int, width: int) -> str:
        """A sequence of pixels as a map."""
        n, _, c = self.shape(x)
        return self.builder.reshape(self.builder.transpose(x, (0, 2, 1)), (n, c, height, width))

    def reduce(self, op: str, x: str, axes: Sequence[int], keep: bool = True) -> str:
        """A reduction over some axes."""
        shape = self.shape(x)
        y = [
            1 if axis in axes else size
            for axis, size in enumerate(shape)
            if keep or axis not in axes
        ]
        attrs = (
            ("axes", "x".join(map(str, axes))),
            ("keepdims", str(int(keep))),
            ("y", shape_text(tuple(y))),
        )
        return self.builder.unary(op, x, attrs)

    def heads(self, channels: int) -> int:
        """Number of heads of about this network's width."""
        wanted = max(1, round(channels / self.head_width))
        return next(h for h in range(wanted, 0, -1) if channels % h == 0)

    def taken(self, x: str, index: int) -> str:
        """x[index]."""
        attrs = (("axis", "0"), ("c1", f"{index}s"), ("y", shape_text(self.shape(x)[1:])))
        return self.builder.unary("Gather", x, attrs)

    def resize(self, x: str, height: int, width: int, mode: str, *, by_scale: bool) -> str:
        """A map in another size, nearest or bilinear."""
        n, c, h, w = self.shape(x)
        whole = height % h == 0 and width % w == 0
        coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
        attrs = (
            ("mode", mode),
            ("coordinate_transformation_mode", coordinates),
            ("scaled", str(int(by_scale and whole))),
            ("y", shape_text((n, c, height, width))),
        )
        return self.builder.unary("Resize", x, attrs)

    def padded(self, x: str, pads: Sequence[int], fill: str = "") -> str:
        """Constants around a tensor of four axes: begins, then ends of all."""
        if not fill and not any((*pads[:2], *pads[4:6])):
            return self.builder.pad_hw(x, pads[6:], pads[2:4])
        shape = tuple(
            before + size + after
            for before, size, after in zip(pads[:4], self.shape(x), pads[4:], strict=True)
        )
        attrs = [("c1", "x".join(map(str, pads))), ("mode", "constant"), ("y", shape_text(shape))]
        if fill:
            attrs.insert(1, ("c2", fill))
        return self.builder.unary("Pad", x, tuple(attrs))
