import itertools
import re

import numpy as np
import pytest

from factory.reporting.drawing import draw_cell

OPS = ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "max_pool_3x3", "skip_connect", "new_op"]


def random_pairs(rng, nodes=4):
    pairs = []
    for node in range(nodes):
        for source in rng.choice(node + 2, size=2, replace=False):
            pairs.append([OPS[rng.integers(len(OPS))], int(source)])
    return pairs


def rectangles(svg):
    found = re.findall(
        r'<rect [^>]*?x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg
    )
    boxes = [tuple(map(float, box)) for box in found]
    circles = re.findall(r'<circle class="node" cx="([\d.]+)" cy="([\d.]+)" r="(\d+)"', svg)
    for cx, cy, r in (map(float, c) for c in circles):
        boxes.append((cx - r, cy - r, 2 * r, 2 * r))
    return boxes


def segments(svg):
    """Vertical pieces (x, y1, y2) of the source lines."""
    return [
        tuple(map(float, s))
        for s in re.findall(r'class="bus" d="M([\d.]+) ([\d.]+) V([\d.]+)"', svg)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_nothing_overlaps_whatever_the_genotype(seed):
    pairs = random_pairs(np.random.default_rng(seed), nodes=2 + seed % 5)
    svg = draw_cell(pairs, list(range(2, 2 + len(pairs) // 2)), "cell")
    assert svg is not None
    boxes = rectangles(svg)
    assert len(boxes) == len(pairs) + len(pairs) // 2 + 3
    for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(boxes, 2):
        apart = ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
        assert apart
    for x, y1, y2 in segments(svg):
        for bx, by, bw, bh in boxes:
            inside = bx < x < bx + bw and max(y1, by) < min(y2, by + bh) - 0.1
            assert not inside, (x, y1, y2, bx, by)
    columns = [x for x, _, _ in segments(svg)]
    assert len(columns) == len(set(columns))
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert all(x >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)


def test_labels_words_and_strides():
    pairs = [["max_pool_3x3", 0], ["skip_connect", 1], ["sep_conv_5x5", 2], ["skip_connect", 0]]
    svg = draw_cell(pairs, [2, 3], "reduction cell", stride=2)
    assert svg.count(" /2</text>") == 3
    assert "node 1 takes sep_conv_5x5 of node 0" in svg
    assert 'aria-label="reduction cell:' in svg


def test_operator_names_are_escaped():
    svg = draw_cell([["<b>&", 0], ["x", 1]], [2], 'a"b')
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg
    assert 'aria-label="a&quot;b' in svg


@pytest.mark.parametrize(
    "pairs",
    [None, [], "text", [["a", 0]], [["a", 5], ["b", 0]], [["a", "0"], ["b", 1]], [[1, 0], ["b", 1]],
     [["a", True], ["b", 1]], [["a"], ["b"]], [["a", -1], ["b", 0]]],
)  # fmt: skip
def test_what_is_no_cell_is_not_drawn(pairs):
    assert draw_cell(pairs, [2], "cell") is None
