"""The plots of the report, as inline SVG that takes the page's colours and font.

Drawn by matplotlib without a display; what it writes is cleaned so that several drawings can
stand in one page: no name spaces, no metadata, no identifiers but the referenced ones, and ink
and grid in the page's own colours (light and dark).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factory.reporting.artefacts import Json, RunArtefacts, TierArtefacts, mapping, number

INK, GRID = "#010203", "#040506"
PALETTE = (
    "#3f83c8", "#d9822b", "#2b9c78", "#b05fc4", "#cf4a5c",
    "#7f9327", "#5f6fc9", "#1899a8", "#a9714f", "#7c8798",
)  # fmt: skip
MARKERS = "osD^vPX<>*"
MAX_POINTS = 240
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def svg(figure: Figure, label: str) -> str:
    """The drawing as inline SVG with this label, in the page's colours."""
    stream = io.StringIO()
    salt = "".join(c for c in label if c.isalnum())
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', _keep_sizes, text)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    for name in sorted(used):
        text = re.sub(rf'(id="|href="#|url\(#){re.escape(name)}(["\)])', rf"\1{salt}{name}\2", text)
    text = re.sub(r"font: (\d[\d.]*(?:px)?) [^;\"]*", r"font-size: \1", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--line)")
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1).strip()


def _keep_sizes(match: re.Match[str]) -> str:
    """Drop name spaces and the drawing's own size in points; keep sizes of rectangles."""
    return "" if match[1].startswith(("xmlns", "version")) or "pt" in match[0] else match[0]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, see-through."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def clear(axes: Axes) -> Axes:
    """The axes, see-through and below what is drawn."""
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    return axes


def plain(name: str) -> str:
    """A name as matplotlib shows it: no mathematics between dollar signs."""
    return name.replace("$", r"\$")


def accuracy_latency(tiers: Sequence[Json]) -> str | None:
    """Accuracy against latency: measured (p10 to p90), predicted, and each tier's budget."""
    shown = [
        t for t in tiers if t["accuracy"] is not None and (t["median_ms"] or t["predicted_ms"])
    ]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.8, 3.1)
        axes = clear(figure.subplots())
        for position, tier in enumerate(tiers):
            if tier not in shown:
                continue
            colour, marker = PALETTE[position % 10], MARKERS[position % 10]
            accuracy = 100 * tier["accuracy"]
            median, predicted = tier["median_ms"], tier["predicted_ms"]
            if predicted:
                axes.plot(
                    predicted, accuracy, marker, ms=9, mfc="none", mec=colour, mew=1.1, alpha=0.8
                )
            if median:
                low, high = tier["p10_ms"] or median, tier["p90_ms"] or median
                spread = [[max(median - low, 0)], [max(high - median, 0)]]
                axes.errorbar(median, accuracy, xerr=spread, fmt="none", ecolor=colour, capsize=3)
                axes.plot(median, accuracy, marker, ms=6, color=colour)
            axes.plot([], [], marker, color=colour, label=plain(tier["name"]))
            if tier["max_latency_ms"]:
                axes.axvline(tier["max_latency_ms"], color=colour, ls=(0, (4, 3)), lw=1)
        # One disturbed run's p90 must not push points and budgets into a corner.
        places = [t[k] for t in shown for k in ("median_ms", "predicted_ms", "max_latency_ms")]
        axes.set_xlim(0, min(axes.get_xlim()[1], 2 * max(p for p in places if p)))
        axes.margins(y=0.35)
        axes.set_xlabel("latency, ms (filled: measured, hollow: predicted, dashed: budget)")
        axes.set_ylabel("test accuracy, %")
        axes.ticklabel_format(useOffset=False)
        figure.legend(loc="outside upper left", ncols=min(len(shown), 3))
        return svg(figure, "Accuracy against latency of each tier")


def search_curves(tier: TierArtefacts, index: int) -> str | None:
    """Loss, expected latency against its target with the multiplier, and skip share."""
    steps = [s for s in tier.search_history if number(s.get("step")) is not None]
    if len(steps) < 2:
        return None
    searching = [s for s in steps if s.get("phase") != "warmup"] or steps
    latency = _latency_term(searching)
    colour = PALETTE[index % 10]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.5, 4.8 if latency else 3.4)
        rows = [1, 1.3, 0.8] if latency else [1, 0.8]
        panels = [clear(a) for a in figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)]
        loss, cost, skip = panels[0], panels[1], panels[-1]
        _line(loss, steps, "loss", color=colour, label="training")
        _line(loss, steps, "val_loss", color=INK, alpha=0.6, lw=1, label="architecture")
        loss.set_title("task loss")
        loss.legend(ncols=2, loc="upper right")
        if latency:
            _line(cost, searching, "expected", latency, color=colour, label="expected")
            _line(cost, searching, "limits", latency, color=INK, ls=(0, (4, 3)), label="target")
            cost.set_ylim(bottom=0)
            twin = cost.twinx()
            twin.grid(False)
            _line(twin, searching, "multipliers", latency, color="#cf4a5c", lw=1, alpha=0.8)
            twin.plot([], [], color="#cf4a5c", lw=1, label="multiplier")
            twin.set_ylim(bottom=0)
            twin.set_ylabel("multiplier", color="#cf4a5c")
            handles = [*cost.get_legend_handles_labels()[0], *twin.get_legend_handles_labels()[0]]
            cost.legend(
                handles=handles, ncols=3, loc="lower right", columnspacing=1, handlelength=1.4
            )
            cost.set_title(f"expected {plain(latency).replace('_ms', ', ms')} and its target")
        _line(skip, searching, "skip_share", color=colour)
        skip.set_ylim(0, 1)
        skip.set_title("share of skip connections")
        skip.set_xlabel("step")
        return svg(figure, f"Search of tier {label(tier.name)}")


def label(name: str) -> str:
    """A name that is safe inside an attribute."""
    return re.sub(r"[^\w .-]", "", name)


def _latency_term(steps: list[Json]) -> str | None:
    for step in steps:
        names = list(mapping(step.get("expected")))
        for name in names:
            if "latency" in name or name.endswith("_ms"):
                return str(name)
    return None


def _line(axes: Axes, steps: list[Json], key: str, inner: str | None = None, **style: Any) -> None:
    """Plot one quantity of the history, averaged down to at most MAX_POINTS points."""
    points: list[tuple[float, float]] = []
    for step in steps:
        value = step.get(key) if inner is None else mapping(step.get(key)).get(inner)
        y, x = number(value), number(step.get("step"))
        if y is not None and x is not None:
            points.append((x, y))
    size = -(-len(points) // MAX_POINTS) or 1
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    axes.plot(
        [sum(p[0] for p in b) / len(b) for b in blocks],
        [sum(p[1] for p in b) / len(b) for b in blocks],
        **style,
    )


def training_curves(run: RunArtefacts) -> list[str]:
    """Test accuracy and training loss by epoch, every tier in each plot."""
    tiers = [(i, t) for i, t in enumerate(run.tiers) if len(t.train_history) > 1]
    if not tiers:
        return []
    plots = (("test_accuracy", "test accuracy, %", 100.0), ("train_loss", "training loss", 1.0))
    return [_by_epoch(tiers, *plot) for plot in plots]


def _by_epoch(tiers: list[tuple[int, TierArtefacts]], key: str, title: str, factor: float) -> str:
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.8, 2.5)
        axes = clear(figure.subplots())
        for index, tier in tiers:
            points = [
                (number(row.get("epoch")), number(row.get(key))) for row in tier.train_history
            ]
            known = [(x, y * factor) for x, y in points if x is not None and y is not None]
            axes.plot(
                [p[0] for p in known],
                [p[1] for p in known],
                color=PALETTE[index % 10],
                label=plain(tier.name),
            )
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=min(len(tiers), 3))
        return svg(figure, f"{title.rstrip(' ,%')} by epoch")
