"""The references: small fixed models, timed beside every measurement to see what disturbed it.

Their times say how fast the chip was meanwhile. They never change, so the reference rows of two
tables of one chip can be compared. One alone does not do. A model that fits into the first caches
goes on undisturbed while another program takes the shared cache and the memory away. And a program
that shares the core takes it away for milliseconds: the median of a short model does not feel that
at all, a network of eight milliseconds takes twice as long (docs/results/references.md). So there
are three, and their means count beside their medians.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder, OpGraph

if TYPE_CHECKING:
    from factory.profiling.rows import Row
    from factory.profiling.table import LatencyTable

KEY = "reference"  # of the smallest, whose time every row carries
Usual = Mapping[str, float]  # key of a reference -> milliseconds that it usually takes


def reference_graph() -> OpGraph:
    """6.9 M MACs of the operators that most networks are made of; fits into the first caches."""
    builder = GraphBuilder("reference")
    x = builder.input("image", (1, 3, 32, 32))
    x = builder.relu(builder.conv(x, 16, 3, padding=1))
    x = builder.relu(builder.conv(x, 32, 3, stride=2, padding=1))
    y = builder.relu(builder.conv(x, 32, 3, padding=1, groups=32))
    y = builder.conv(y, 32, 1)
    x = builder.relu(builder.add(x, y))
    x = builder.max_pool(builder.conv(x, 64, 3, padding=1), 2, 2)
    x = builder.relu(builder.conv(x, 64, 1))
    return builder.finish([builder.linear(builder.global_avg_pool(x), 10)])


def memory_graph() -> OpGraph:
    """13 MB of activations (fp32), an operation or two a value: as fast as the memory is."""
    builder = GraphBuilder("reference-memory")
    x = builder.input("image", (1, 16, 320, 320))
    x = builder.add(builder.relu(x), x)
    return builder.finish([builder.global_avg_pool(x)])


def kernels_graph() -> OpGraph:
    """172 M MACs of inverted bottlenecks: the kernels that matter, maps beyond the first caches."""
    builder = GraphBuilder("reference-kernels")
    x = builder.input("image", (1, 3, 224, 224))
    x = builder.relu(builder.conv(x, 24, 3, stride=2, padding=1))
    for width, stride, k in ((24, 2, 3), (24, 1, 3), (40, 2, 5), (80, 2, 3), (80, 1, 5)):
        y = builder.relu(builder.conv(x, 6 * builder.shape(x)[1], 1))
        hidden = builder.shape(y)[1]
        y = builder.relu(builder.conv(y, hidden, k, stride=stride, padding=k // 2, groups=hidden))
        y = builder.conv(y, width, 1)
        x = builder.add(x, y) if builder.shape(x) == builder.shape(y) else y
    return builder.finish([builder.linear(builder.global_avg_pool(builder.relu(x)), 10)])


GRAPHS: dict[str, Callable[[], OpGraph]] = {
    KEY: reference_graph,
    f"{KEY}:memory": memory_graph,
    f"{KEY}:kernels": kernels_graph,
}


@functools.cache
def reference_models(dtype: str) -> Mapping[str, bytes]:
    """The references as ONNX models in "f32" or "i8", by their keys."""
    return {
        key: to_onnx(graph(), dtype, seed=0).SerializeToString() for key, graph in GRAPHS.items()
    }


def title(key: str) -> str:
    """'the reference model', 'the memory reference'."""
    _, _, which = key.partition(":")
    return f"the {which} reference" if which else "the small reference"


def reference_rows(table: LatencyTable, key: str = KEY) -> list[Row]:
    """The successful rows of one reference, in the order in which they were measured."""
    return [row for row in table.rows("reference") if row.key == key and row.status == "ok"]


def usual_reference_ms(table: LatencyTable) -> float | None:
    """What the smallest reference took while the table was measured: the median of its rows."""
    return usual_references_ms(table).get(KEY)


def usual_references_ms(table: LatencyTable) -> dict[str, float]:
    """What each reference took while the table was measured, by key: the medians of their rows."""
    found = {key: [row.median_ms for row in reference_rows(table, key)] for key in GRAPHS}
    return {key: statistics.median(times) for key, times in found.items() if times}
