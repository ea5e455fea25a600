"""Kernels, sizes and expected counts of fixed networks, held exactly: a rewrite must not move them.

Architectures come from fixed choices, not from random draws.
"""

import hashlib
from typing import Any

import numpy as np
import pytest

from factory.graph.fusion import FusionRule
from factory.spaces import PUBLISHED, CellSpace, NasBench201Space, NetworkSpec, Spec201

FUSION = frozenset({FusionRule("conv_pointwise", "Add"), FusionRule("conv_pointwise", "Tanh")})
CELLS = {
    "small": CellSpace(NetworkSpec(8, 5, "cifar", (3, 16, 16), 10)),
    "odd": CellSpace(NetworkSpec(6, 4, "imagenet", (3, 50, 46), 7)),
    "benchmark": CellSpace(NetworkSpec(36, 20, "cifar", (3, 32, 32), 10)),
}
CELLS_201 = {
    "small": NasBench201Space(Spec201(4, 2, (3, 16, 16), 10)),
    "benchmark": NasBench201Space(Spec201(16, 5, (3, 32, 32), 10)),
}


def fixed(space: Any, count: int) -> list[Any]:
    """Architectures of a fixed sequence of choices; unbuildable ones left out."""
    sizes, found = space.cardinalities, []
    for number in range(count):
        choices = [(7 * number + 3 * i + i * i * (number + 1)) % n for i, n in enumerate(sizes)]
        architecture = space.from_choices(choices)
        found += [architecture] if space.buildable(architecture) else []
    return found


def digest(space: Any, architectures: list[Any], **options: Any) -> str:
    lines = []
    for architecture in architectures:
        kernels = space.kernels(architecture, **options)
        lines += sorted(f"{kernel} {count}" for kernel, count in kernels.items())
        counts = space.counts(architecture)
        lines.append(f"{counts.params} {counts.macs} {counts.peak_memory_bytes}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def expected(space: Any, architectures: list[Any], **options: Any) -> str:
    """Kernels and integer counts of the polynomial at one-hot choices."""
    presence = space.presence(**options)
    counts = np.rint(presence.counts(space.one_hot_many(architectures))).astype(int)
    order = sorted(range(len(presence.kernels)), key=lambda i: str(presence.kernels[i]))
    lines = [f"{presence.kernels[i]} {counts[:, i].tolist()}" for i in order]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", CELLS)
def test_networks_of_the_cell_space(name: str) -> None:
    space = CELLS[name]
    networks = [*PUBLISHED.values(), *fixed(space, 2 if name == "benchmark" else 6)]
    assert digest(space, networks) == NETWORKS["cell", name]
    assert digest(space, networks[:3], dtype="i8", fusion=FUSION) == FUSED["cell", name]
    assert expected(space, networks) == EXPECTED["cell", name]


@pytest.mark.parametrize("name", CELLS_201)
def test_networks_of_nas_bench_201(name: str) -> None:
    space = CELLS_201[name]
    networks = fixed(space, 8)
    assert digest(space, networks) == NETWORKS["201", name]
    assert digest(space, networks[:3], dtype="i8", fusion=FUSION) == FUSED["201", name]
    assert expected(space, networks) == EXPECTED["201", name]


NETWORKS = {
    ("cell", "small"): "988aaa53b4a00b43",
    ("cell", "odd"): "9c4186e3fa2335b6",
    ("cell", "benchmark"): "01176d6e255d03ca",
    ("201", "small"): "b32ecf0ce2e92092",
    ("201", "benchmark"): "95e29662cbc82076",
}
FUSED = {
    ("cell", "small"): "1d5bd57234098ffc",
    ("cell", "odd"): "d23966a63febb471",
    ("cell", "benchmark"): "16603a3e6ed1148a",
    ("201", "small"): "78869c086a27aa6f",
    ("201", "benchmark"): "db1eb3bed0fa9ef9",
}
EXPECTED = {
    ("cell", "small"): "cdec4413fa63ce86",
    ("cell", "odd"): "8997b56305ea8522",
    ("cell", "benchmark"): "c68d8299156d231f",
    ("201", "small"): "b6af06e04d5abc40",
    ("201", "benchmark"): "3fcca171cab5428c",
}
