"""Plots of a differentiable search: the architecture over time and the candidates at its end.

From the rows that a search writes at the end of every epoch (docs/formats/search.md). Every
edge's strongest operator has the colour of the cell drawings, the fainter the less probable it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.ticker import MaxNLocator

from factory.reporting.artefacts import Json, TierArtefacts, mapping, number
from factory.reporting.drawing import OP_COLOURS, OTHER_COLOUR
from factory.reporting.figures import INK, PALETTE, STYLE, clear, label, new_figure, svg

MOST_EPOCHS = 40  # columns of the plot over time


def epoch_rows(tier: TierArtefacts) -> list[Json]:
    """The rows that an epoch of the search ended with."""
    return [row for row in tier.search_history if mapping(row.get("probabilities"))]


def probability_plots(tier: TierArtefacts) -> list[str]:
    """Per cell type the edges over time and the candidates' probabilities at the end."""
    rows, known = epoch_rows(tier), _candidates(tier)
    found = []
    for name in mapping(rows[-1]["probabilities"]) if rows and known else ():
        assert known is not None
        over_time = [_matrix(row, name, known) for row in rows]
        maps = [m for m in over_time if m is not None]
        if len(maps) == len(rows):
            epochs = [int(number(row.get("epoch")) or 0) for row in rows]
            found.append(_probabilities(tier.name, name, known, epochs, maps))
    return found


def _candidates(tier: TierArtefacts) -> tuple[list[str], list[str]] | None:
    """(candidates, rows as text) of the search; None where the result does not tell them."""
    entry = mapping(tier.search.get("candidates"))
    operators, edges = entry.get("operators"), entry.get("edges")
    if not isinstance(operators, list) or not isinstance(edges, list):
        return None
    named = [_row_name(edge) for edge in edges]
    return None if "" in named else ([str(op) for op in operators], named)


def _row_name(row: Any) -> str:
    """Of an edge, [node, source], or of a variable; "" where it is neither."""
    if isinstance(row, list):
        return f"{row[1]} to {row[0]}" if len(row) == 2 else ""
    return row if isinstance(row, str) else ""


def _matrix(row: Json, name: str, known: tuple[list[str], list[str]]) -> np.ndarray | None:
    """[edges, operators] of a cell type, where the row has it in full."""
    try:
        values = np.array(mapping(row["probabilities"]).get(name), dtype=float)
    except (TypeError, ValueError):
        return None
    wanted = (len(known[1]), len(known[0]))
    return values if values.shape == wanted and bool(np.isfinite(values).all()) else None


def _probabilities(
    tier: str,
    name: str,
    known: tuple[list[str], list[str]],
    epochs: Sequence[int],
    maps: Sequence[np.ndarray],
) -> str:
    ops, edges = known
    step = -(-len(maps) // MOST_EPOCHS)
    kept = sorted({*range(0, len(maps), step), len(maps) - 1})
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.5, 1.7 + 0.27 * len(edges))
        left, right = (clear(a) for a in figure.subplots(2, 1))
        _over_time(left, ops, [epochs[i] for i in kept], [maps[i] for i in kept])
        _at_the_end(right, ops, maps[-1])
        for axes in (left, right):
            axes.grid(False)
            axes.set_yticks(range(len(edges)), edges, fontsize=6)
            axes.invert_yaxis()
        left.set_title(f"{label(name)} cell: strongest operator, by epoch")
        right.set_title(f"{label(name)} cell: probabilities at the end, %")
        shown = f"Operators of the {label(name)} cell of tier {label(tier)} over time"
        return svg(figure, shown)


def _over_time(
    axes: Axes, ops: Sequence[str], epochs: Sequence[int], maps: Sequence[np.ndarray]
) -> None:
    strongest = np.stack([m.argmax(1) for m in maps], 1)
    strength = np.stack([m.max(1) for m in maps], 1)
    colours = np.array([to_rgba(OP_COLOURS.get(op, OTHER_COLOUR)) for op in ops])
    shown = colours[strongest]
    least = 1.0 / len(ops)
    shown[..., 3] = 0.15 + 0.85 * np.clip((strength - least) / (1 - least), 0, 1)
    order = np.arange(strongest.size).reshape(strongest.shape)
    edges = np.append(np.array(epochs) - 0.5, epochs[-1] + 0.5)
    axes.pcolormesh(
        edges,
        np.arange(len(strongest) + 1) - 0.5,
        order,
        cmap=ListedColormap(shown.reshape(-1, 4)),
        vmin=-0.5,
        vmax=order.size - 0.5,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _at_the_end(axes: Axes, ops: Sequence[str], values: np.ndarray) -> None:
    shown = np.tile(to_rgba(PALETTE[0]), (values.size, 1))
    shown[:, 3] = np.clip(values.reshape(-1), 0, 1)
    order = np.arange(values.size).reshape(values.shape)
    axes.pcolormesh(
        np.arange(len(ops) + 1) - 0.5,
        np.arange(len(values) + 1) - 0.5,
        order,
        cmap=ListedColormap(shown),
        vmin=-0.5,
        vmax=order.size - 0.5,
    )
    axes.set_xticks(range(len(ops)), ops, rotation=55, ha="right", fontsize=6)
    for e, o in enumerate(values.argmax(1)):
        axes.text(o, e, f"{100 * values[e, o]:.0f}", fontsize=5, ha="center", va="center")


def diagnostics_plot(tier: TierArtefacts, index: int) -> str | None:
    """By epoch: skip share of each cell type and entropy; gap and Hessian's eigenvalue."""
    rows = epoch_rows(tier)
    if len(rows) < 2:
        return None
    epochs = [number(row.get("epoch")) or 0.0 for row in rows]
    colour = PALETTE[index % len(PALETTE)]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.5, 3.4)
        top, bottom = (clear(a) for a in figure.subplots(2, 1, sharex=True))
        for i, name in enumerate(mapping(rows[-1].get("skip_share_by_cell"))):
            values = [number(mapping(row.get("skip_share_by_cell")).get(name)) for row in rows]
            style: dict[str, Any] = {"ls": "-" if i == 0 else (0, (4, 2)), "color": colour}
            top.plot(epochs, _known(values), label=f"skips, {name}", **style)
        entropy = [number(row.get("entropy")) for row in rows]
        top.plot(epochs, _known(entropy), color=INK, lw=1, alpha=0.6, label="entropy")
        top.set_ylim(-0.02, 1.4)
        top.set_yticks([0, 0.5, 1])
        top.set_title("skip share and entropy")
        top.legend(ncols=2, loc="upper right", columnspacing=1, handlelength=1.4)
        gap = [number(row.get("gap")) for row in rows]
        bottom.plot(epochs, _known(gap), color=colour, label="gap")
        bottom.set_title("gap: derived network - supernet")
        bottom.set_xlabel("epoch")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        sharp = [number(row.get("hessian_eigenvalue")) for row in rows]
        known = [(e, v) for e, v in zip(epochs, sharp, strict=True) if v is not None]
        if known:
            twin = bottom.twinx()
            twin.grid(False)
            twin.plot(*zip(*known, strict=True), color="#cf4a5c", lw=1, marker=".")
            twin.set_ylabel("Hessian eigenvalue", color="#cf4a5c")
        return svg(figure, f"Diagnostics of the search of tier {label(tier.name)}")


def _known(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
