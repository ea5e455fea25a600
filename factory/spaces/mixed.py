"""Random networks of all that is deployed beside plain convolutions, to measure chips with.

Each is a stem, stages of blocks on maps (:mod:`.map_blocks`) or on tokens (:mod:`.token_blocks`),
and a head of some kind: classes, maps as large as the picture (arXiv 1612.03144, 1706.05587),
detections, sequences. Blocks, widths, sizes, heads and depths are drawn at random: structural
priors, not a list of known networks.
"""

from __future__ import annotations

import numpy as np

from factory.graph.counts import count
from factory.graph.opgraph import OpGraph
from factory.graph.shapes import shape_text
from factory.spaces.map_blocks import ALL_PIXELS, MAP_BLOCKS
from factory.spaces.mixed_drawing import MixedDrawer
from factory.spaces.mobile import FAMILIES
from factory.spaces.token_blocks import MOST_TOKENS, plain_block, token_stage

MOST_MACS = (5e7, 1.8e9)  # the limit of a network, drawn between them on a log scale
LEAST_SHARE = 0.2  # of its limit that a network must have
MOST_PARAMS = 24e6
MOST_KERNEL_ELEMENTS = 4e6  # of one tensor
MAX_TRIES = 400


def _stem(d: MixedDrawer, height: int, width: int) -> str:
    x = d.builder.input("image", (1, 3, height, width))
    if d.chance(0.02) and height * width < 200 * 200:
        x = d.resize(x, height - height // 16, width - width // 16, "cubic", by_scale=False)
        _, _, height, width = d.shape(x)
    c = d.channels(2 ** d.rng.uniform(3.5, 6.2))
    form = d.rng.random()
    if form < 0.25 and height % 4 == width % 4 == 0:  # patches
        k = d.pick(4, 4, 7)
        x = d.builder.conv(x, c, k, stride=4, padding=k // 2 if k == 7 else 0, bn=False, bias=True)
        return d.map_norm(x) if d.chance(0.6) else x
    if form < 0.4:  # convolutions until few pixels are left
        for index in range(3):
            x = d.gelu(d.conv(x, max(4, c >> (2 - index)), 3, 2))
        return x
    x = d.act(d.conv(x, c, d.pick(3, 3, 3, 5, 7), 2))
    if d.chance(0.3):
        return d.builder.max_pool(x, 3, 2, 1) if d.chance(0.5) else d.act(d.depthwise(x, 3, 2))
    return x


def _smaller(d: MixedDrawer, x: str, channels: int) -> str:
    _, _, h, w = d.shape(x)
    form = d.rng.random()
    if form < 0.3 and h % 2 == w % 2 == 0:
        x = d.map_norm(x) if d.chance(0.6) else d.builder.batch_norm(x)
        return d.builder.conv(x, channels, 2, stride=2, bn=False, bias=True)
    if form < 0.5:
        k = d.pick(3, 5, 7)
        x = d.act(d.conv(x, d.width(x), k, 2, d.width(x)))
        return d.conv(x, channels)
    if form < 0.6 and h % 2 == w % 2 == 0:
        pool = d.builder.max_pool if d.chance(0.5) else d.builder.avg_pool
        return d.conv(pool(x, 2, 2), channels)
    if form < 0.7:
        return FAMILIES[str(d.rng.choice(list(FAMILIES)))](d, x, channels + channels % 2, 2)
    return d.act(d.conv(x, channels, 3, 2))


def _classes(d: MixedDrawer, x: str) -> list[str]:
    b, form = d.builder, d.rng.random()
    classes = d.pick(10, 100, 1000)
    if form < 0.35:
        x = d.act(d.conv(x, d.channels(d.width(x) * d.rng.uniform(1, 4)))) if d.chance(0.4) else x
        return [b.linear(b.global_avg_pool(x), classes)]
    y = d.norm(d.tokens(x))
    if form < 0.65:
        return [b.linear(d.reduce("ReduceMean", y, (1,), keep=False), classes)]
    if form < 0.8:
        n, _, c = d.shape(y)
        attrs = (("axis", "1"), ("c1", "0s"), ("y", shape_text((n, c))))
        return [b.linear(b.unary("Gather", y, attrs), classes)]
    y = b.global_avg_pool(x)
    return [b.linear(d.gelu(b.linear(y, d.channels(d.width(x) * 2))), classes)]


def _pictures(d: MixedDrawer, maps: list[str], height: int, width: int) -> list[str]:
    """A map of classes: levels joined from the smallest up."""
    c, mode = d.channels(d.pick(24, 48, 64, 96, 128)), "linear" if d.chance(0.6) else "nearest"
    transposed, by_scale = d.chance(0.25), d.chance(0.5)
    x = maps[-1]
    if d.chance(0.4):  # pools and dilated convolutions side by side
        rates = sorted({d.pick(1, 2, 3), d.pick(4, 6), d.pick(9, 12)})
        arms = [d.act(d.conv(x, c))]
        for rate in rates[: d.pick(1, 2, 3)]:
            arms.append(d.act(d.builder.conv(x, c, 3, padding=rate, dilation=rate)))
        pooled = d.act(d.conv(d.builder.global_avg_pool(x), c))
        _, _, h, w = d.shape(x)
        arms.append(d.resize(pooled, h, w, mode, by_scale=False))
        x = d.builder.concat(arms)
    x = d.act(d.conv(x, c))
    for level in reversed(maps[:-1]):
        _, _, h, w = d.shape(level)
        _, _, small_h, small_w = d.shape(x)
        if transposed and (h, w) == (2 * small_h, 2 * small_w):
            k = d.pick(2, 4)
            attrs = (
                ("strides", "2"),
                ("group", "1"),
                ("pads", str((k - 2) // 2)),
                ("y", shape_text((1, c, h, w))),
            )
            weight = (c, c, k, k)
            x = d.builder.operator("ConvTranspose", (x,), attrs, weight=weight)
        else:
            x = d.resize(x, h, w, mode, by_scale=by_scale)
        side = d.conv(level, c)
        x = d.builder.add(side, x) if d.chance(0.6) else d.conv(d.builder.concat([x, side]), c)
        x = d.act(d.conv(x, c, 3) if d.chance(0.6) else d.conv(d.depthwise(x, 3, 1), c))
    y = d.builder.conv(x, d.pick(1, 2, 19, 21), 1, bn=False, bias=True)
    if d.chance(0.7):
        y = d.resize(y, height, width, mode, by_scale=by_scale)
    return [d.builder.unary("Sigmoid", y) if d.chance(0.3) else y]


def _detections(d: MixedDrawer, maps: list[str]) -> list[str]:
    """Boxes and classes on several levels, flattened and joined."""
    c, classes = d.channels(d.pick(32, 64, 96)), d.pick(1, 20, 80)
    levels = []
    up = None
    for level in reversed(maps[-3:]):
        y = d.act(d.conv(level, c))
        if up is not None:
            _, _, h, w = d.shape(y)
            y = d.builder.concat([y, d.resize(up, h, w, "nearest", by_scale=True)])
            y = d.act(d.conv(y, c, 3) if d.chance(0.5) else d.conv(d.depthwise(y, 3, 1), c))
        up = y
        levels.append(y)
    found, last = [], d.chance(0.5)
    for y in levels:
        boxes = d.builder.conv(d.act(d.conv(y, c, 3)), 4 * d.pick(1, 1, 3), 1, bn=False, bias=True)
        scores = d.builder.conv(d.act(d.depthwise(y, 3, 1)), classes, 1, bn=False, bias=True)
        if last:
            for part in (boxes, scores):
                part = d.builder.transpose(part, (0, 2, 3, 1))
                found.append(d.builder.reshape(part, (1, int(np.prod(d.shape(part))))))
        else:
            y = d.builder.concat([boxes, scores])
            n, channels, h, w = d.shape(y)
            found.append(d.builder.reshape(y, (n, channels, h * w)))
    if last:
        return [d.builder.concat(found, axis=1)]
    if len({d.shape(y)[1] for y in found}) > 1:
        return found
    return [d.builder.unary("Sigmoid", d.builder.concat(found, axis=2))]


def _sequence(d: MixedDrawer, x: str) -> list[str]:
    """Columns of a map as a sequence through recurrent or attending layers."""
    n, c, h, w = d.shape(x)
    x = d.reduce("ReduceMean", x, (2,), keep=False) if h > 1 else d.builder.reshape(x, (n, c, w))
    hidden, steps = d.pick(32, 48, 64, 96, 128, 192), w
    if d.chance(0.75):
        x = d.builder.transpose(x, (2, 0, 1))
        for _ in range(d.pick(1, 2)):
            op, two = str(d.rng.choice(("LSTM", "LSTM", "GRU"))), d.chance(0.6)
            directions, gates = 1 + two, 4 if op == "LSTM" else 3
            attrs = [("hidden_size", str(hidden))]
            attrs += [("direction", "bidirectional")] if two else []
            attrs += [("linear_before_reset", "1")] if op == "GRU" else []
            attrs.append(("y", shape_text((steps, directions, n, hidden))))
            width = d.shape(x)[2]
            params = directions * gates * hidden * (width + hidden + 2)
            weight = (directions, gates * hidden, width)
            x = d.builder.operator(op, (x,), tuple(attrs), weight=weight, params=params)
            if two:
                x = d.builder.transpose(x, (0, 2, 1, 3))
            x = d.builder.reshape(x, (steps, n, directions * hidden))
    else:
        x = d.builder.transpose(x, (0, 2, 1))
        for _ in range(d.pick(1, 2)):
            x = plain_block(d, x)
    return [d.softmax(d.builder.dense(x, d.pick(37, 97, 500, 2000)))]


def _sizes(rng: np.random.Generator) -> tuple[int, int]:
    grain = int(rng.choice((1, 8, 16, 32, 32, 32), p=(0.08, 0.12, 0.2, 0.2, 0.2, 0.2)))
    height = 2 ** float(
        rng.uniform(np.log2(96), np.log2(420) if rng.random() < 0.8 else np.log2(640))
    )
    width = height * (float(rng.uniform(0.5, 2.0)) if rng.random() < 0.35 else 1.0)
    if rng.random() < 0.25:
        height = width = 224.0
    return tuple(  # type: ignore[return-value]
        int(np.clip(round(side / grain) * grain, 96, 640)) for side in (height, width)
    )


def _draw(rng: np.random.Generator, name: str) -> OpGraph:
    d = MixedDrawer(rng, name)
    height, width = _sizes(rng)
    x = _stem(d, height, width)
    names = list(MAP_BLOCKS)
    weights = np.array([share for share, _ in MAP_BLOCKS.values()])
    late = float(rng.choice((0.0, 0.5, 0.75, 1.0)))  # how likely later stages are of tokens
    stages, maps = int(rng.integers(2, 5)), []
    channels = d.width(x) * float(rng.uniform(0.8, 1.6))
    for stage in range(stages):
        if stage > 0 or d.chance(0.3):
            if min(d.shape(x)[2:]) < 4:
                break
            wanted = d.channels(channels)
            x = _smaller(d, x, wanted + wanted % 2)
        depth = int(rng.integers(1, 3))
        pixels = d.shape(x)[2] * d.shape(x)[3]
        if d.chance(late * (stage + 1) / stages) and pixels <= 4 * MOST_TOKENS:
            x = token_stage(d, x, depth)
        else:
            for _ in range(depth):
                usable = weights * [
                    name not in ALL_PIXELS or pixels <= MOST_TOKENS for name in names
                ]
                block = str(rng.choice(names, p=usable / usable.sum()))
                x = MAP_BLOCKS[block][1](d, x)
                if d.chance(0.25):
                    family = str(rng.choice(("inverted", "bottleneck", "residual", "separable")))
                    x = FAMILIES[family](d, x, d.width(x), 1)
        maps.append(x)
        channels = min(channels * float(rng.uniform(1.2, 2.1)), 512.0)
    form = rng.random()
    if form < 0.55 or len(maps) < 2:
        return d.builder.finish(_classes(d, x))
    if form < 0.75:
        return d.builder.finish(_pictures(d, maps, height, width))
    if form < 0.88:
        return d.builder.finish(_detections(d, maps))
    return d.builder.finish(_sequence(d, x))


def random_mixed_network(rng: np.random.Generator, name: str = "mixed") -> OpGraph:
    """A random network within a limit on its work that is drawn too, with one image input."""
    least, most = np.log(MOST_MACS)
    for _ in range(MAX_TRIES):
        limit = float(np.exp(rng.uniform(least, most)))
        graph = _draw(rng, name)
        counts = count(graph)
        largest = max(int(np.prod(node.out_shape)) for node in graph.nodes)
        fits = counts.params <= MOST_PARAMS and largest <= MOST_KERNEL_ELEMENTS
        if fits and LEAST_SHARE * limit <= counts.macs <= limit:
            return graph
    raise ValueError(f"no random network within {MOST_MACS} in {MAX_TRIES} tries")
