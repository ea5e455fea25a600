"""Random blocks on tokens: attention of several kinds, and what follows it.

Over all tokens or over windows of them, with a bias, with fewer keys, over channels (arXiv
2010.11929, 2103.14030, 2104.01136, 2102.12122, 2106.09681).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from factory.graph.shapes import shape_text
from factory.spaces.mixed_drawing import MixedDrawer

MOST_TOKENS = 1100  # that attend to each other

# Blocks on tokens: (drawer, tokens, height, width of their map) -> tokens.


def _product(d: MixedDrawer, q: str, k: str, v: str, bias: bool) -> str:
    """softmax(q @ k) @ v; k with its last two axes swapped already."""
    if d.scale_first:
        q = d.const("Mul", q)
    scores = d.matmul(q, k)
    if not d.scale_first:
        scores = d.const("Mul", scores)
    if bias:
        scores = d.const("Add", scores, d.shape(scores))
    return d.matmul(d.softmax(scores), v)


def _qkv(d: MixedDrawer, x: str, heads: int) -> tuple[str, str, str]:
    """Queries, keys (swapped) and values [1, heads, N, width] of one linear layer."""
    n, count_, c = d.shape(x)
    width = c // heads
    y = d.builder.dense(x, 3 * c, bias=d.chance(0.8))
    if d.chance(0.7):
        y = d.builder.reshape(y, (n, count_, 3, heads, width))
        y = d.builder.transpose(y, (2, 0, 3, 1, 4))
        if d.chance(0.7):
            parts = d.builder.split(y, (1, 1, 1), axis=0)
            q, k, v = (d.builder.reshape(part, (n, heads, count_, width)) for part in parts)
        else:
            q, k, v = (d.taken(y, i) for i in range(3))
    else:
        y = d.builder.reshape(y, (n, count_, heads, 3 * width))
        parts = d.builder.split(y, (width, width, width), axis=3)
        q, k, v = (d.builder.transpose(part, (0, 2, 1, 3)) for part in parts)
    return q, d.swapped(k), v


def _split_heads(d: MixedDrawer, x: str, heads: int) -> str:
    n, count_, c = d.shape(x)
    x = d.builder.reshape(x, (n, count_, heads, c // heads))
    return d.builder.transpose(x, (0, 2, 1, 3))


def _joined(d: MixedDrawer, x: str) -> str:
    n, heads, count_, width = d.shape(x)
    return d.builder.reshape(d.builder.transpose(x, (0, 2, 1, 3)), (n, count_, heads * width))


def _attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    c = d.shape(x)[2]
    heads, bias = d.heads(c), d.chance(0.3)
    if d.chance(0.6):
        q, k, v = _qkv(d, x, heads)
    else:
        q, k, v = (_split_heads(d, d.builder.dense(x, c), heads) for _ in range(3))
        k = d.swapped(k)
    return d.builder.dense(_joined(d, _product(d, q, k, v, bias)), c)


def _reduced_attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    """Fewer keys than queries: those of a smaller map."""
    n, _, c = d.shape(x)
    heads = d.heads(c)
    factor = next((f for f in (8, 4, 2) if height % f == width % f == 0 and height > f), 1)
    small = x
    if factor > 1:
        y = d.builder.conv(
            d.as_map(x, height, width), c, factor, stride=factor, bn=False, bias=True
        )
        small = d.norm(d.tokens(y))
    q = _split_heads(d, d.builder.dense(x, c), heads)
    count_ = d.shape(small)[1]
    y = d.builder.reshape(d.builder.dense(small, 2 * c), (n, count_, 2, heads, c // heads))
    parts = d.builder.split(d.builder.transpose(y, (2, 0, 3, 1, 4)), (1, 1), axis=0)
    k, v = (d.builder.reshape(part, (n, heads, count_, c // heads)) for part in parts)
    y = _joined(d, _product(d, q, d.swapped(k), v, False))
    return d.builder.dense(y, c)


def _window_attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    n, _, c = d.shape(x)
    side = d.pick(4, 7, 7, 8)
    rows, columns = -(-height // side), -(-width // side)
    y = d.builder.reshape(x, (n, height, width, c))
    if d.chance(0.4):
        y = _rolled(d, _rolled(d, y, 1, side // 2), 2, side // 2)
    if (rows * side, columns * side) != (height, width):
        pads = (0, 0, 0, 0, 0, rows * side - height, columns * side - width, 0)
        y = d.padded(y, pads)
    y = d.builder.reshape(y, (n, rows, side, columns, side, c))
    y = d.builder.transpose(y, (0, 1, 3, 2, 4, 5))
    y = d.builder.reshape(y, (rows * columns, side * side, c))
    heads, bias = d.heads(c), d.chance(0.7)
    q, k, v = _qkv(d, y, heads)
    scores = d.matmul(d.const("Mul", q), k)
    if bias:
        scores = d.const("Add", scores, (1, heads, side * side, side * side))
    y = d.builder.dense(_joined(d, d.matmul(d.softmax(scores), v)), c)
    y = d.builder.reshape(y, (n, rows, columns, side, side, c))
    y = d.builder.transpose(y, (0, 1, 3, 2, 4, 5))
    y = d.builder.reshape(y, (n, rows * side, columns * side, c))
    if (rows * side, columns * side) != (height, width):
        y = d.builder.slice(y, (0, 0, 0, 0), (n, height, width, c))
    return d.builder.reshape(y, (n, height * width, c))


def _rolled(d: MixedDrawer, x: str, axis: int, by: int) -> str:
    """torch.roll: two slices, the other way round."""
    shape, size = d.shape(x), d.shape(x)[axis]
    if by >= size:
        return x
    start = [0] * len(shape)
    start[axis] = by
    first = d.builder.slice(x, start, (*shape[:axis], size - by, *shape[axis + 1 :]))
    second = d.builder.slice(x, [0] * len(shape), (*shape[:axis], by, *shape[axis + 1 :]))
    return d.builder.concat([first, second], axis=axis)


def _channel_attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    """Attention of channels to each other."""
    c = d.shape(x)[2]
    n, count_, _ = d.shape(x)
    heads = d.heads(c)
    if d.chance(0.5):
        y = d.builder.reshape(d.builder.dense(x, 3 * c), (n, count_, 3, heads, c // heads))
        y = d.builder.transpose(y, (2, 0, 3, 4, 1))
        parts = d.builder.split(y, (1, 1, 1), axis=0)
        q, k, v = (d.builder.reshape(part, (n, heads, c // heads, count_)) for part in parts)
        v = d.swapped(v)
    else:
        q, k, v = _qkv(d, x, heads)  # k [1, heads, width, N]
        q = d.swapped(q)
    if d.chance(0.5):
        q = d.builder.operator("Div", (q, d.reduce("ReduceL2", q, (3,))))
        k = d.builder.operator("Div", (k, d.reduce("ReduceL2", k, (3,))))
    mixed = d.softmax(d.const("Mul", d.matmul(q, d.swapped(k)), (1, d.shape(q)[1], 1, 1)))
    y = d.builder.transpose(d.matmul(mixed, d.swapped(v)), (0, 3, 1, 2))
    n, count_, heads, part = d.shape(y)
    return d.builder.dense(d.builder.reshape(y, (n, count_, heads * part)), c)


def _linear_attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    """Keys and values first: O(N)."""
    c = d.shape(x)[2]
    q, k, v = _qkv(d, x, d.heads(c))
    form = d.rng.random()
    if form < 0.4:
        q, k = d.builder.relu(q), d.builder.relu(k)
    elif form < 0.7:
        k = d.softmax(k)
    else:  # over the tokens before their axes are swapped
        k = d.swapped(d.softmax(d.swapped(k), axis=2))
    y = d.matmul(d.const("Mul", q), d.matmul(k, v))
    return d.builder.dense(_joined(d, y), c)


def _levit_attention(d: MixedDrawer, x: str, height: int, width: int) -> str:
    """Short keys, long values, normalisation by BatchNorm, hard swish."""
    n, count_, c = d.shape(x)
    key, heads = d.pick(16, 16, 32), max(1, c // 32)
    value = key * d.pick(1, 2, 2)
    y = _batch_linear(d, x, heads * (2 * key + value))
    y = d.builder.reshape(y, (n, count_, heads, 2 * key + value))
    q, k, v = d.builder.split(y, (key, key, value), axis=3)
    q = d.builder.transpose(q, (0, 2, 1, 3))
    k, v = d.builder.transpose(k, (0, 2, 3, 1)), d.builder.transpose(v, (0, 2, 1, 3))
    scores = d.const("Add", d.const("Mul", d.matmul(q, k)), (heads, count_, count_))
    y = _joined(d, d.matmul(d.softmax(scores), v))
    return _batch_linear(d, d.builder.unary("HardSwish", y), c)


def _batch_linear(d: MixedDrawer, x: str, channels: int) -> str:
    n, count_, _ = d.shape(x)
    y = d.builder.reshape(d.builder.dense(x, channels, bias=False), (n * count_, channels))
    return d.builder.reshape(d.builder.batch_norm(y), (n, count_, channels))


TOKEN_MIXERS: dict[str, Callable[[MixedDrawer, str, int, int], str]] = {
    "attention": _attention,
    "reduced": _reduced_attention,
    "window": _window_attention,
    "channel": _channel_attention,
    "linear": _linear_attention,
    "levit": _levit_attention,
}
_TOKEN_WEIGHTS = (0.34, 0.16, 0.18, 0.08, 0.1, 0.14)


def token_block(d: MixedDrawer, x: str, mixer: str, height: int, width: int) -> str:
    """Attention of the kind ``mixer`` and two layers a token, both added to what they read."""
    plain = mixer == "levit"
    y = TOKEN_MIXERS[mixer](d, x if plain else d.norm(x), height, width)
    x = d.builder.add(x, y if plain else d.scaled(y))
    c = d.shape(x)[2]
    inner = d.channels(c * d.ratio)
    if plain:
        y = d.builder.unary("HardSwish", _batch_linear(d, x, inner))
        return d.builder.add(x, _batch_linear(d, y, c))
    y = d.builder.dense(d.norm(x), inner)
    if d.chance(0.2):
        y = d.as_map(y, height, width)
        y = d.tokens(d.builder.conv(y, inner, 3, padding=1, groups=inner, bn=False, bias=True))
    return d.builder.add(x, d.scaled(d.builder.dense(d.gelu(y), c)))


def token_stage(d: MixedDrawer, x: str, depth: int) -> str:
    """Blocks on the tokens of a map."""
    _, c, height, width = d.shape(x)
    names = list(TOKEN_MIXERS)
    if height * width > MOST_TOKENS:
        names = ["reduced", "window", "channel", "linear"]
    weights = np.array([_TOKEN_WEIGHTS[list(TOKEN_MIXERS).index(name)] for name in names])
    mixer = str(d.rng.choice(names, p=weights / weights.sum()))
    y = d.tokens(x)
    if d.chance(0.4):
        y = d.const("Add", y, (1, height * width, c))
    class_token = mixer == "attention" and d.chance(0.35)
    if class_token:
        y = d.builder.operator(
            "Concat", (y,), (("axis", "1"), ("y", _more(d, y))), weight=(1, 1, c)
        )
    for _ in range(depth):
        y = token_block(d, y, mixer, height, width) if not class_token else plain_block(d, y)
    if class_token:
        y = d.builder.slice(y, (0, 1, 0), (1, height * width, c))
    return d.as_map(d.norm(y) if d.chance(0.5) else y, height, width)


def _more(d: MixedDrawer, x: str) -> str:
    n, count_, c = d.shape(x)
    return shape_text((n, count_ + 1, c))


def plain_block(d: MixedDrawer, x: str) -> str:
    """The same on tokens that are no map: those of a sequence, or with one for the class."""
    c = d.shape(x)[2]
    x = d.builder.add(x, d.scaled(_attention(d, d.norm(x), 1, 1)))
    y = d.gelu(d.builder.dense(d.norm(x), d.channels(c * d.ratio)))
    return d.builder.add(x, d.scaled(d.builder.dense(y, c)))
