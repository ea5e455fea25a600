"""The plots of a prediction: latency per device with interval and baselines, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from factory.reporting.artefacts import Json, mapping, number, records
from factory.reporting.figures import INK, PALETTE, STYLE, clear, label, new_figure, plain, svg
from factory.reporting.kernel_view import KIND_NAMES, readable

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
KIND_COLOURS = {
    "conv_depthwise": "#2b9c78", "conv_pointwise": "#3f83c8", "conv_dense": "#5f6fc9",
    "conv_grouped": "#1899a8", "gemm": "#b05fc4", "pool": "#d9822b", "elementwise": "#cf4a5c",
    "concat": "#a9714f", "global_pool": "#b59a2b", "copy": "#7f9327", "other": "#7c8798",
}  # fmt: skip


def latency_plot(answers: Sequence[Json]) -> str | None:
    """A bar for each device with its 90 % interval; the baselines as marks."""
    if not answers:
        return None
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 1.1 + 0.5 * len(answers))
        axes = clear(figure.subplots())
        for row, answer in enumerate(answers):
            ms, low, high = answer["latency_ms"], answer["low_ms"], answer["high_ms"]
            axes.barh(row, ms, height=0.5, color=PALETTE[row % 10], alpha=0.85)
            spread = [[max(ms - low, 0)], [max(high - ms, 0)]]
            axes.errorbar(ms, row, xerr=spread, fmt="none", ecolor=INK, capsize=4, lw=1.2)
            for key, marker in (("macs_line", "x"), ("counts_ridge", "+")):
                value = number(mapping(mapping(answer.get("baselines")).get(key)).get("latency_ms"))
                if value is not None:
                    axes.plot(value, row - 0.36, marker, color=INK, ms=6, mew=1.3, alpha=0.75)
        axes.plot([], [], "x", color=INK, label="MACs only", alpha=0.75)
        axes.plot([], [], "+", color=INK, label="ridge on kernel counts", alpha=0.75)
        axes.set_yticks(range(len(answers)), [plain(str(a["device"])) for a in answers])
        axes.set_ylim(len(answers) - 0.4, -0.7)
        axes.set_xlim(left=0)
        axes.grid(False, axis="y")
        axes.set_xlabel("predicted latency, ms; the line is the 90 % interval")
        figure.legend(loc="outside upper right", ncols=2)
        return svg(figure, "Predicted latency by device")


def roofline_plot(answer: Json, index: int) -> str | None:
    """MACs/s against MACs per byte of each kernel, under the best rates; area is the share."""
    rates = mapping(answer.get("rates"))
    peak, width = number(rates.get("macs_per_ms")), number(rates.get("bytes_per_ms"))
    points: dict[str, list[tuple[float, float, float]]] = {}
    for part in records(answer.get("kernels")):
        macs, moved = number(part.get("macs")), number(part.get("bytes"))
        ms, count = number(part.get("ms")), number(part.get("count"))
        if macs and moved and ms and count:
            kind = readable(str(part.get("kernel")))[2]
            point = (macs / moved, macs * count / ms / 1e6, number(part.get("share")) or 0.0)
            points.setdefault(kind, []).append(point)
    if not points or not peak or not width:
        return None
    everything = [point for members in points.values() for point in members]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 3.4)
        axes = clear(figure.subplots())
        xs = np.array([p[0] for p in everything])
        x = np.geomspace(xs.min() / 1.6, xs.max() * 1.6, 64)
        roof = np.minimum(peak, x * width) / 1e6
        axes.plot(x, roof, color=INK, lw=1.2, label="best rates measured")
        for kind, members in sorted(points.items(), key=lambda i: -sum(p[2] for p in i[1])):
            axes.scatter(
                [p[0] for p in members],
                [p[1] for p in members],
                s=[12 + 900 * p[2] for p in members],
                color=KIND_COLOURS.get(kind, KIND_COLOURS["other"]),
                alpha=0.6,
                lw=0,
                label=KIND_NAMES.get(kind, kind),
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PLAIN)
            axis.set_minor_formatter(NullFormatter())
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.set_xlabel("MACs per byte moved")
        axes.set_ylabel("G MACs/s")
        legend = figure.legend(loc="outside upper left", ncols=3)
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([28])  # type: ignore[union-attr]
        return svg(figure, f"Kernels under the roofline of {label(str(answer['device']))} {index}")
