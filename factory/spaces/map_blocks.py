"""Random blocks on maps: all but plain mobile blocks.

Linear and ReLU attention (arXiv 2205.14756), separable attention (2206.02680), multi-query
attention (2404.10518), large kernels (2201.03545, 2203.06717), pools that mix (2111.11418), plain
convolutions as re-parametrised networks leave them (2101.03697, 2206.04040), dilated convolutions
(1706.05587), cross-stage parts (1911.11929), coordinate attention (2103.02907), ghost features
(1911.11907).
"""

from __future__ import annotations

from collections.abc import Callable

from factory.spaces.mixed_drawing import MixedDrawer

# Blocks on maps: (drawer, map) -> map of the same shape.


def _large_kernel(d: MixedDrawer, x: str) -> str:
    c, k = d.width(x), d.pick(5, 7, 7, 7, 9, 11, 13)
    form = d.rng.random()
    y = d.builder.conv(x, c, k, padding=k // 2, groups=c, bn=form > 0.6, bias=form <= 0.6)
    inner = d.channels(c * d.ratio)
    if form < 0.35:
        y = d.norm(d.builder.transpose(y, (0, 2, 3, 1)))
        y = d.builder.dense(d.gelu(d.builder.dense(y, inner)), c)
        if d.layer_scale:
            y = d.const("Mul", y, (c,))
        return d.builder.add(x, d.builder.transpose(y, (0, 3, 1, 2)))
    if form < 0.6:
        y = d.map_norm(y)
    y = d.gelu(d.builder.conv(y, inner, 1, bn=False, bias=True))
    return d.builder.add(x, d.scaled(d.builder.conv(y, c, 1, bn=False, bias=True)))


def _pool_mixer(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    normed = d.group_norm(x) if d.chance(0.6) else d.builder.batch_norm(x)
    y = d.builder.operator("Sub", (d.builder.avg_pool(normed, 3, 1, 1), normed))
    x = d.builder.add(x, d.scaled(y))
    y = d.gelu(d.builder.conv(x, d.channels(c * d.ratio), 1, bn=False, bias=True))
    return d.builder.add(x, d.scaled(d.builder.conv(y, c, 1, bn=False, bias=True)))


def _mixing_depthwise(d: MixedDrawer, x: str) -> str:
    c, k = d.width(x), d.pick(3, 3, 5, 7)
    y = d.builder.conv(x, c, k, padding=k // 2, groups=c, bias=True, bn=False)
    x = d.builder.add(x, y) if d.chance(0.4) else y
    y = d.builder.conv(x, c, 7, padding=3, groups=c) if d.chance(0.3) else x
    y = d.gelu(d.builder.conv(y, d.channels(c * d.ratio), 1, bn=False, bias=True))
    return d.builder.add(x, d.scaled(d.builder.conv(y, c, 1, bn=False, bias=True)))


def _plain_rep(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    y = d.builder.conv(x, c, 3, padding=1, bn=False, bias=True)
    y = d.gate(y, c) if d.gated and d.chance(0.5) else y
    return d.act(y)


def _depthwise_rep(d: MixedDrawer, x: str) -> str:
    c, k = d.width(x), d.pick(3, 3, 5, 7)
    y = d.builder.conv(x, c, k, padding=k // 2, groups=c, bn=False, bias=True)
    y = d.gate(y, c) if d.gated and d.chance(0.5) else y
    return d.act(d.builder.conv(d.act(y), c, 1, bn=False, bias=True))


def _relu_attention(d: MixedDrawer, x: str) -> str:
    """ReLU linear attention with several scales; N of the map's pixels."""
    n, c, h, w = d.shape(x)
    width = d.pick(8, 16, 16, 32)
    inner = max(width, c // width * width)
    qkv = d.builder.conv(x, 3 * inner, 1, bn=False)
    groups = 3 * inner // width
    k = d.pick(3, 5)
    more = d.builder.conv(qkv, 3 * inner, k, padding=k // 2, groups=3 * inner, bn=False)
    more = d.builder.conv(more, 3 * inner, 1, groups=groups, bn=False)
    both = d.builder.concat([qkv, more])
    heads = 2 * inner // width
    y = d.builder.reshape(both, (n, heads, 3 * width, h * w))
    q, key, v = (
        d.builder.slice(y, (0, 0, i * width, 0), (n, heads, width, h * w)) for i in range(3)
    )
    if d.chance(0.5):
        q, key, v = map(d.swapped, (q, key, v))
        q, key = d.builder.relu(q), d.swapped(d.builder.relu(key))
        v = d.padded(v, (0, 0, 0, 0, 0, 0, 0, 1), "1.0s")
        y = d.matmul(q, d.matmul(key, v))
        top = d.builder.slice(y, (0, 0, 0, 0), (n, heads, h * w, width))
        under = d.builder.slice(y, (0, 0, 0, width), (n, heads, h * w, 1))
        y = d.swapped(d.builder.operator("Div", (top, d.const("Add", under))))
    else:
        q, key = d.builder.relu(q), d.builder.relu(key)
        v = d.padded(v, (0, 0, 0, 0, 0, 0, 1, 0), "1.0s")
        y = d.matmul(d.matmul(v, d.swapped(key)), q)
        top = d.builder.slice(y, (0, 0, 0, 0), (n, heads, width, h * w))
        under = d.builder.slice(y, (0, 0, width, 0), (n, heads, 1, h * w))
        y = d.builder.operator("Div", (top, d.const("Add", under)))
    y = d.builder.reshape(y, (n, heads * width, h, w))
    return d.builder.add(x, d.builder.conv(y, c, 1))


def _separable_attention(d: MixedDrawer, x: str) -> str:
    """One query a token; tokens are the pixels of patches."""
    n, c, h, w = d.shape(x)
    patch = 2 if h % 2 == w % 2 == 0 else 1
    y = d.builder.conv(d.act(d.builder.conv(x, c, 3, padding=1, groups=c)), c, 1, bn=False)
    y = d.builder.reshape(y, (n * c * (h // patch), patch, w // patch, patch))
    y = d.builder.transpose(y, (0, 2, 1, 3)) if patch > 1 else y
    y = d.builder.reshape(y, (n, c, patch * patch, h * w // patch**2))
    for _ in range(d.pick(1, 1, 2)):
        z = d.builder.conv(d.group_norm(y), 1 + 2 * c, 1, bn=False, bias=True)
        q, k, v = d.builder.split(z, (1, c, c), axis=1)
        context = d.reduce("ReduceSum", d.builder.mul(k, d.softmax(q)), (3,))
        z = d.builder.mul(d.builder.relu(v), context)
        y = d.builder.add(y, d.builder.conv(z, c, 1, bn=False, bias=True))
        z = d.act(d.builder.conv(d.group_norm(y), 2 * c, 1, bn=False, bias=True))
        y = d.builder.add(y, d.builder.conv(z, c, 1, bn=False, bias=True))
    y = d.builder.reshape(y, (n * c * (h // patch), w // patch, patch, patch))
    y = d.builder.transpose(y, (0, 2, 1, 3)) if patch > 1 else y
    return d.builder.conv(d.builder.reshape(y, (n, c, h, w)), c, 1)


def _multi_query(d: MixedDrawer, x: str) -> str:
    """Many queries, one key and value, these of a smaller map."""
    n, c, h, w = d.shape(x)
    width, heads = d.pick(32, 32, 64), d.pick(2, 4, 4, 8)
    small = x
    if h % 2 == w % 2 == 0 and h > 8:
        small = d.builder.conv(x, c, 3, stride=2, padding=1, groups=c)
    q = d.builder.reshape(d.builder.conv(x, heads * width, 1, bn=False), (n, heads, width, h * w))
    q = d.swapped(q)
    count_ = d.shape(small)[2] * d.shape(small)[3]
    k, v = (
        d.builder.reshape(d.builder.conv(small, width, 1, bn=False), (n, 1, width, count_))
        for _ in range(2)
    )
    y = d.matmul(d.softmax(d.matmul(d.const("Mul", q), k)), d.swapped(v))
    y = d.builder.transpose(y, (0, 1, 3, 2))
    y = d.builder.reshape(y, (n, heads * width, h, w))
    y = d.builder.conv(y, c, 1, bn=False)
    return d.builder.add(x, d.scaled(y))


def _map_attention(d: MixedDrawer, x: str) -> str:
    """All pixels to all, queries and keys from 1x1 convolutions, with a bias."""
    n, c, h, w = d.shape(x)
    key, heads = d.pick(16, 32), max(1, c // 64)
    value = max(8, c // heads)
    if d.chance(0.4):
        value = key
        y = d.builder.reshape(d.builder.conv(x, 3 * heads * key, 1), (n, 3, heads, key, h * w))
        y = d.builder.transpose(y, (1, 0, 2, 4, 3))
        parts = d.builder.split(y, (1, 1, 1), axis=0)
        q, k, v = (d.swapped(d.builder.reshape(one, (n, heads, h * w, key))) for one in parts)
    else:
        q, k, v = (
            d.builder.reshape(d.builder.conv(x, heads * part, 1), (n, heads, part, h * w))
            for part in (key, key, value)
        )
    scores = d.const("Mul", d.matmul(d.swapped(q), k))
    scores = d.const("Add", scores, (1, heads, h * w, h * w))
    if heads > 3 and d.chance(0.4):  # talking heads
        scores = d.builder.conv(scores, heads, 1, bn=False, bias=True)
    y = d.matmul(d.softmax(scores), d.swapped(v))
    y = d.builder.reshape(d.swapped(y), (n, heads * value, h, w))
    return d.builder.add(x, d.builder.conv(d.gelu(y), c, 1))


def _cascaded(d: MixedDrawer, x: str) -> str:
    """Attention on parts of the channels, one after the other."""
    n, c, h, w = d.shape(x)
    parts = d.pick(2, 3, 4)
    parts = next(p for p in (parts, 2, 1) if c % p == 0)
    width, key = c // parts, 16
    pieces = d.builder.split(x, (width,) * parts) if parts > 1 else [x]
    done: list[str] = []
    for piece in pieces:
        piece = d.builder.add(piece, done[-1]) if done else piece
        qkv = d.builder.conv(piece, 2 * key + width, 1)
        q, k, v = d.builder.split(qkv, (key, key, width))
        size = d.pick(3, 5, 7)
        q = d.builder.conv(q, key, size, padding=size // 2, groups=key)
        q, k, v = (d.builder.reshape(one, (n, d.shape(one)[1], h * w)) for one in (q, k, v))
        scores = d.const("Add", d.const("Mul", d.matmul(d.swapped(q), k)), (h * w, h * w))
        y = d.matmul(v, d.swapped(d.softmax(scores)))
        done.append(d.builder.reshape(y, (n, width, h, w)))
    y = d.builder.concat(done) if len(done) > 1 else done[0]
    return d.builder.add(x, d.builder.conv(d.builder.relu(y), c, 1))


def _dilated(d: MixedDrawer, x: str) -> str:
    c, k, rate = d.width(x), d.pick(3, 3, 5), d.pick(2, 2, 3, 4, 6, 12)
    pad = rate * (k // 2)
    if d.chance(0.5):
        y = d.builder.conv(x, c, k, padding=pad, dilation=rate, groups=c)
        y = d.builder.conv(d.act(y), c, 1)
    else:
        groups = next(g for g in (d.pick(1, 1, 2, 4), 1) if c % g == 0)
        y = d.builder.conv(x, c, 3, padding=rate, dilation=rate, groups=groups)
    return d.builder.add(x, d.act(y))


def _cross_stage(d: MixedDrawer, x: str) -> str:
    """Parts of the channels through more and more blocks, all joined."""
    c = d.width(x)
    half = d.channels(c / 2)
    y = d.act(d.conv(x, 2 * half))
    left, right = d.builder.split(y, (half, half))
    found = [left, right]
    for _ in range(d.pick(1, 2, 2)):
        y = d.act(d.conv(d.act(d.conv(found[-1], half, 3)), half, 3))
        found.append(d.builder.add(y, found[-1]) if d.chance(0.6) else y)
    return d.act(d.conv(d.builder.concat(found), c))


def _pyramid_pools(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    half = d.channels(c / 2)
    y = d.act(d.conv(x, half))
    k = d.pick(3, 5, 5)
    pools = [y]
    if d.chance(0.5):
        for _ in range(3):
            pools.append(d.builder.max_pool(pools[-1], k, 1, k // 2))
    else:
        pools += [d.builder.max_pool(y, size, 1, size // 2) for size in (5, 9, 13)]
    return d.act(d.conv(d.builder.concat(pools), c))


def _coordinates(d: MixedDrawer, x: str) -> str:
    """Gates from means over rows and over columns."""
    _n, c, h, w = d.shape(x)
    rows = d.reduce("ReduceMean", x, (3,))
    columns = d.builder.transpose(d.reduce("ReduceMean", x, (2,)), (0, 1, 3, 2))
    small = max(8, d.channels(c / 8))
    y = d.act(d.conv(d.builder.concat([rows, columns], axis=2), small))
    up, across = d.builder.split(y, (h, w), axis=2)
    across = d.builder.transpose(across, (0, 1, 3, 2))
    gates = [d.builder.unary("Sigmoid", d.conv(part, c)) for part in (up, across)]
    return d.builder.mul(d.builder.mul(x, gates[1]), gates[0])


def _ghost(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    half = -(-c // 2)
    first = d.act(d.conv(x, half))
    second = d.act(d.depthwise(first, 3, 1))
    y = d.builder.concat([first, second])
    if 2 * half != c:
        n, _, h, w = d.shape(y)
        y = d.builder.slice(y, (0, 0, 0, 0), (n, c, h, w))
    if d.chance(0.4):
        y = d.gate(y, c)
    if d.chance(0.4):  # gate from a smaller map
        n, _, h, w = d.shape(x)
        if h % 2 == w % 2 == 0 and h > 4:
            g = d.conv(d.builder.avg_pool(x, 2, 2), c)
            g = d.builder.unary("Sigmoid", d.depthwise(g, 5, 1))
            y = d.builder.mul(y, d.resize(g, h, w, "nearest", by_scale=d.chance(0.5)))
    return d.builder.add(x, y)


def _star(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    inner = d.channels(c * d.ratio)
    y = d.depthwise(x, 7, 1)
    a, b = (d.builder.conv(y, inner, 1, bn=False, bias=True) for _ in range(2))
    y = d.builder.mul(d.act(a, "relu6"), b)
    return d.builder.add(x, d.depthwise(d.conv(y, c), 7, 1) if d.chance(0.7) else d.conv(y, c))


def _several_kernels(d: MixedDrawer, x: str) -> str:
    """Depthwise kernels of several sizes on parts of the channels, a gate, a projection."""
    c = d.width(x)
    inner = d.channels(c * d.ratio)
    y = d.act(d.conv(x, inner))
    parts = d.pick(2, 3, 4)
    sizes = [inner // parts] * (parts - 1)
    sizes.append(inner - sum(sizes))
    pieces = d.builder.split(y, sizes)
    done = [d.depthwise(piece, 3 + 2 * i, 1) for i, piece in enumerate(pieces)]
    y = d.act(d.builder.batch_norm(d.builder.concat(done)))
    y = d.gate(y, c) if d.chance(0.5) else y
    return d.builder.add(x, d.conv(y, c))


def _shuffled_groups(d: MixedDrawer, x: str) -> str:
    c = d.width(x)
    groups = next(g for g in (d.pick(2, 3, 4, 8), 2, 1) if c % g == 0)
    y = d.act(d.conv(x, c, 1, 1, groups))
    y = d.shuffle(y, groups) if groups > 1 else y
    y = d.depthwise(y, 3, 1)
    return d.act(d.builder.add(x, d.conv(y, c, 1, 1, groups)))


MAP_BLOCKS: dict[str, tuple[float, Callable[[MixedDrawer, str], str]]] = {
    "large_kernel": (0.15, _large_kernel),
    "pool_mixer": (0.05, _pool_mixer),
    "mixing_depthwise": (0.07, _mixing_depthwise),
    "plain_rep": (0.06, _plain_rep),
    "depthwise_rep": (0.06, _depthwise_rep),
    "relu_attention": (0.08, _relu_attention),
    "separable_attention": (0.07, _separable_attention),
    "multi_query": (0.06, _multi_query),
    "map_attention": (0.05, _map_attention),
    "cascaded": (0.05, _cascaded),
    "dilated": (0.05, _dilated),
    "cross_stage": (0.06, _cross_stage),
    "pyramid_pools": (0.03, _pyramid_pools),
    "coordinates": (0.03, _coordinates),
    "ghost": (0.04, _ghost),
    "star": (0.03, _star),
    "several_kernels": (0.03, _several_kernels),
    "shuffled_groups": (0.03, _shuffled_groups),
}
ALL_PIXELS = ("multi_query", "map_attention", "cascaded")
