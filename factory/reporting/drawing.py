"""The drawing of a cell: inputs, nodes and output as an SVG without crossing labels.

Layout, top to bottom. Every source (an input, or a node that others read) has its own vertical
line on the left; every edge of the cell has its own row, a horizontal line from its source to a
label with the operator's name; the two labels of a node stand left of it, one above the other.
A node that others read sends its result back left through the gap under it. The nodes on the
right feed the output at the bottom. Rows and vertical lines are never shared, so that lines meet
at right angles only and labels cannot overlap, whatever the genotype.
"""

from __future__ import annotations

from html import escape
from typing import Any

OP_COLOURS = {
    "sep_conv_3x3": "#2f6fb3",
    "sep_conv_5x5": "#234f86",
    "dil_conv_3x3": "#24805f",
    "dil_conv_5x5": "#185c45",
    "max_pool_3x3": "#b3561c",
    "avg_pool_3x3": "#8a6a0c",
    "skip_connect": "#667085",
}
OTHER_COLOUR = "#7a4a8c"
SOURCE_X, SOURCE_STEP = (24, 74), 12
PILL_WIDTH, PILL_HEIGHT, ROW = 116, 20, 26
TOP, BAND_GAP, OUTPUT_HEIGHT = 42, 20, 26


def draw_cell(
    pairs: Any, concat: Any, title: str, stride: int = 1, activations: Any = None
) -> str | None:
    """SVG of one cell, or None where ``pairs`` is not a list of (operator, source) pairs.

    Args:
        pairs: two (operator, source) pairs a node; sources 0 and 1 are the inputs.
        concat: the states that the output joins (2 is the first node).
        title: told to screen readers, "normal cell".
        stride: stride of edges from the two inputs, 2 in a reduction cell.
        activations: of each pair, where one is no ReLU.
    """
    edges = _edges(pairs)
    if edges is None:
        return None
    nodes = len(edges) // 2
    joined = [s for s in concat if isinstance(s, int)] if isinstance(concat, list) else []
    read = sorted({source for _, source in edges if source >= 2})
    bus_x = {0: SOURCE_X[0], 1: SOURCE_X[1]}
    for position, source in enumerate(read, start=1):
        bus_x[source] = SOURCE_X[1] + SOURCE_STEP * position
    pill_x = max(SOURCE_X[1] + SOURCE_STEP * 3, *bus_x.values()) + 14
    node_x = pill_x + PILL_WIDTH + 30
    out_x = node_x + 28
    width, band = out_x + 10, 2 * ROW + BAND_GAP
    rows = [TOP + band * (i // 2) + ROW * (i % 2) + ROW / 2 + 4 for i in range(len(edges))]
    node_y = [(rows[2 * i] + rows[2 * i + 1]) / 2 for i in range(nodes)]
    output_y = TOP + band * nodes + 4
    height = output_y + OUTPUT_HEIGHT + 4

    lines: list[str] = []
    last_use = {s: max(i for i, e in enumerate(edges) if e[1] == s) for s in {e[1] for e in edges}}
    for source, last in sorted(last_use.items()):
        x = bus_x[source]
        start = TOP - 10 if source < 2 else node_y[source - 2] + ROW + BAND_GAP / 2
        if source >= 2:
            lines.append(
                f'<path class="bus" d="M{node_x} {node_y[source - 2] + 13:g} V{start:g} H{x}"/>'
            )
        lines.append(f'<path class="bus" d="M{x} {start:g} V{rows[last]:g}"/>')
    shapes: list[str] = []
    for index, (op, source) in enumerate(edges):
        y, colour = rows[index], OP_COLOURS.get(op, OTHER_COLOUR)
        target = node_y[index // 2]
        halved = stride > 1 and source < 2
        named = isinstance(activations, list) and len(activations) == len(edges)
        activation = str(activations[index]) if named else "relu"
        shown = "" if activation == "relu" else f" {activation}"
        text = escape(op + (" /2" if halved else "") + shown)
        lines.append(f'<path d="M{bus_x[source]} {y:g} H{pill_x}" stroke="{colour}"/>')
        lines.append(
            f'<path d="M{pill_x + PILL_WIDTH} {y:g} C{node_x - 20} {y:g} {node_x - 24} '
            f'{target:g} {node_x - 13} {target:g}" stroke="{colour}"/>'
        )
        shapes.append(
            f'<circle cx="{bus_x[source]}" cy="{y:g}" r="3" fill="{colour}"/>'
            f'<rect x="{pill_x}" y="{y - PILL_HEIGHT / 2:g}" width="{PILL_WIDTH}" '
            f'height="{PILL_HEIGHT}" rx="10" fill="{colour}"/>'
            f'<text class="pill" x="{pill_x + PILL_WIDTH / 2:g}" y="{y + 4:g}">{text}</text>'
        )
    for i in range(nodes):
        if i + 2 in joined:
            lines.append(f'<path class="bus" d="M{node_x + 13} {node_y[i]:g} H{out_x}"/>')
        shapes.append(_circle(node_x, node_y[i], str(i)))
    used = [node_y[s - 2] for s in joined if 2 <= s < nodes + 2]
    if used:
        lines.append(f'<path class="bus" d="M{out_x} {min(used):g} V{output_y}"/>')
    shapes.append(_box(SOURCE_X[0], TOP - 32, 44, "c_{k-2}"))
    shapes.append(_box(SOURCE_X[1], TOP - 32, 44, "c_{k-1}"))
    shapes.append(_box(out_x - 40, output_y, 96, "concat → c_{k}"))
    return (
        f'<svg class="cell" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}: {escape(_words(edges))}">'
        f'<g class="lines">{"".join(lines)}</g>{"".join(shapes)}</svg>'
    )


def _edges(pairs: Any) -> list[tuple[str, int]] | None:
    if not isinstance(pairs, list) or not pairs or len(pairs) % 2:
        return None
    edges: list[tuple[str, int]] = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return None
        op, source = pair
        if not isinstance(op, str) or isinstance(source, bool) or not isinstance(source, int):
            return None
        if not 0 <= source < 2 + index // 2:
            return None
        edges.append((op, source))
    return edges


def _circle(x: float, y: float, label: str) -> str:
    return (
        f'<circle class="node" cx="{x}" cy="{y:g}" r="13"/>'
        f'<text x="{x}" y="{y + 4:g}">{label}</text>'
    )


def _box(x: float, y: float, width: int, label: str) -> str:
    """A box centred on ``x``; ``c_{k-1}`` gets a lowered index."""
    name, _, index = label.partition("_{")
    text = escape(name)
    if index:
        text += f'<tspan dy="3" font-size="8">{escape(index.rstrip("}"))}</tspan>'
    left = x - width / 2
    return (
        f'<rect class="state" x="{left:g}" y="{y:g}" width="{width}" height="22" rx="4"/>'
        f'<text x="{x:g}" y="{y + 15:g}">{text}</text>'
    )


def _words(edges: list[tuple[str, int]]) -> str:
    names = {0: "input k-2", 1: "input k-1"}
    return "; ".join(
        f"node {i // 2} takes {op} of {names.get(s, f'node {s - 2}')}"
        for i, (op, s) in enumerate(edges)
    )
