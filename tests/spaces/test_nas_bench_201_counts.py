"""What runs of a cell under each assumption, on cells worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from factory.spaces.nas_bench_201 import OPS, Cell201, all_cells
from factory.spaces.nas_bench_201_counts import (
    EXECUTED,
    executed_counts,
    reachable_counts,
    written_counts,
)

SHORT = {"n": "none", "s": "skip_connect", "1": "nor_conv_1x1", "3": "nor_conv_3x3"}
SHORT["a"] = "avg_pool_3x3"


def _cell(text: str) -> Cell201:
    """Edges 1-0, 2-0, 2-1, 3-0, 3-1, 3-2."""
    return Cell201(tuple(SHORT[letter] for letter in text))


def _row(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    return {name: n for name, n in zip(names, counts[0].tolist(), strict=True) if n}


def test_all_edges_run_as_written():
    cells = [_cell("31snna")]
    assert _row(written_counts(cells), OPS) == {
        "nor_conv_3x3": 1,
        "nor_conv_1x1": 1,
        "skip_connect": 1,
        "none": 2,
        "avg_pool_3x3": 1,
    }


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("33a1nn", {"nor_conv_1x1": 1, "none": 5}),  # nodes 1 and 2 are never read
        ("nn3s1n", {"skip_connect": 1, "nor_conv_1x1": 1, "none": 4}),  # reads a zero: still runs
        ("3nn3na", {"nor_conv_3x3": 1, "avg_pool_3x3": 1, "none": 4}),  # node 1 is never read
        ("nn3nns", {}),  # the output is a constant
        ("333nnn", {}),
    ],
)
def test_reachable(cell, kept):
    assert _row(reachable_counts([_cell(cell)]), OPS) == kept


@pytest.mark.parametrize(
    ("cell", "ran"),
    [
        # one pool p of the input; node 1 = p, node 2 = p + 0(node 1), node 3 = node 2 + 0(node 2)
        ("aanann", {"avg_pool_3x3": 1, "none": 2, "add": 2}),
        # node 1 is the input itself: both convolutions of node 2 share one ReLU; node 3 adds twice
        (
            "s11sss",
            {
                "nor_conv_1x1": 2,
                "relu": 1,
                "relu_shared": 1,
                "add": 3,
                "add_after_convolution": 1,
                "add_of_convolutions": 1,
                "add_of_equals": 1,
            },
        ),
        # all sums are sums of the input: node 2 = x + x, node 3 = (x + x) + (x + x)
        ("ssssss", {"add": 2, "add_of_equals": 2}),
    ],
)
def test_equal_expressions_run_once(cell, ran):
    assert _row(executed_counts([_cell(cell)]), EXECUTED) == ran


def test_the_views_agree_where_everything_is_used():
    cells = [cell for cell in all_cells() if "none" not in cell.ops][::40]
    written = written_counts(cells)
    assert np.array_equal(reachable_counts(cells), written)
    executed = executed_counts(cells)
    assert np.array_equal(executed[:, :2], written[:, 2:4])  # no two convolutions are equal
    assert np.all(executed[:, 3] <= written[:, 4])
