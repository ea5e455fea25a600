"""A plain per-edge mixed operation and cell, reading the weights of the batched supernet."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from factory.spaces.cell_space import EDGES, OPS


def bn(x):
    return F.batch_norm(x, None, None, None, None, True)


def reduce_(x, even, odd):
    h, w = x.shape[2:]
    parts = [F.conv2d(x, even[:, :, None, None], stride=2)]
    if odd is not None:
        shifted = F.pad(x, (0, w % 2, 0, h % 2))[:, :, 1:, 1:]
        parts.append(F.conv2d(shifted, odd[:, :, None, None], stride=2))
    return bn(torch.cat(parts, 1))


def edge_weights(cell, edge):
    """Weights of one edge, cut out of its group."""
    for module in cell.groups:
        if edge in module.group.edges:
            i, m = module.group.edges.index(edge), len(module.group.edges)

            def cut(w, i=i, m=m):
                n = w.shape[0] // m
                return w[i * n : (i + 1) * n]

            found = {name: cut(w) for name, w in module.depthwise.items()}
            for k, name in enumerate(("sep3_1", "sep5_1", "dil3", "dil5")):
                found[f"{name}_p"] = cut(module.pointwise1[k])
            for k, name in enumerate(("sep3_2", "sep5_2")):
                found[f"{name}_p"] = cut(module.pointwise2[k])
            for name in ("skip_even", "skip_odd"):
                w = getattr(module, name)
                found[name] = None if w is None else cut(w)
            return found
    raise AssertionError


def candidate(op, x, w, stride):
    c = x.shape[1]
    if op == "none":
        return x[:, :, ::stride, ::stride] * 0.0
    if op == "max_pool_3x3":
        return bn(F.max_pool2d(x, 3, stride, 1))
    if op == "avg_pool_3x3":
        return bn(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
    if op == "skip_connect":
        if stride == 1:
            return x
        return reduce_(F.relu(x), w["skip_even"], w["skip_odd"])
    kind, size = op[:3], int(op[-1])
    if kind == "dil":
        y = F.conv2d(F.relu(x), w[f"dil{size}"], None, stride, size - 1, 2, c)
        return bn(F.conv2d(y, w[f"dil{size}_p"][:, :, None, None]))
    for stage, s in ((1, stride), (2, 1)):
        x = F.conv2d(F.relu(x), w[f"sep{size}_{stage}"], None, s, size // 2, 1, c)
        x = bn(F.conv2d(x, w[f"sep{size}_{stage}_p"][:, :, None, None]))
    return x


def shuffle(x, k):
    n, c, h, w = x.shape
    return x.view(n, k, c // k, h, w).transpose(1, 2).reshape(n, c, h, w)


def mixed(x, w, alpha, stride, k):
    c = x.shape[1] // k
    y = sum(a * candidate(op, x[:, :c], w, stride) for a, op in zip(alpha, OPS, strict=True))
    if k == 1:
        return y
    rest = x[:, c:] if stride == 1 else F.max_pool2d(x[:, c:], 2, 2, ceil_mode=True)
    return shuffle(torch.cat([y, rest], 1), k)


def preprocess(module, x):
    if module.reduce:
        return reduce_(F.relu(x), module.weight, module.weight_odd)
    return bn(F.conv2d(F.relu(x), module.weight[:, :, None, None]))


def forward_cell(cell, s0, s1, mix):
    states = [preprocess(cell.preprocess0, s0), preprocess(cell.preprocess1, s1)]
    for node in range(2, 6):
        total = 0
        for e, (target, source) in enumerate(EDGES):
            if target == node:
                stride = cell.plan.stride(source)
                y = mixed(
                    states[source], edge_weights(cell, e), mix.alpha_EO[e], stride, cell.partial
                )
                total = total + mix.beta_E[e] * y
        states.append(total)
    return torch.cat(states[2:], 1)


def forward(net, x, mixing):
    """Logits of the supernet, computed edge by edge."""
    s0, s1 = net.stem(x)
    for cell in net.cells:
        s0, s1 = s1, forward_cell(cell, s0, s1, mixing[cell.plan.cell_type])
    return F.linear(s1.mean((2, 3)), net.classifier_weight, net.classifier_bias)
