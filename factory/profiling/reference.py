"""The reference model: a small fixed network, timed within every block to see load and throttling.

Its time says how fast the chip was while the block's rows were measured; it never changes, so the
reference rows of two tables of one chip can be compared.
"""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder, OpGraph

if TYPE_CHECKING:
    from factory.profiling.table import LatencyTable

KEY = "reference"


def reference_graph() -> OpGraph:
    """6.9 M MACs of the operators that most networks are made of."""
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


@functools.cache
def reference_model(dtype: str) -> bytes:
    """The reference network as an ONNX model in "f32" or "i8"."""
    content: bytes = to_onnx(reference_graph(), dtype, seed=0).SerializeToString()
    return content


def usual_reference_ms(table: LatencyTable) -> float | None:
    """What the reference model took while the table was measured, in ms: the median of its rows."""
    found = [row.median_ms for row in table.rows("reference") if row.status == "ok"]
    return statistics.median(found) if found else None
