"""Why a kernel is slow, in words and numbers: what binds it, and what is unusual about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.graph.kernel import Kernel
from factory.latency.features import BLOCK, family
from factory.latency.prediction import Part, Prediction
from factory.latency.predictor import LatencyPredictor
from factory.latency.rates import COMPUTE, FIXED, Rates, fit_rates, moved

LOW_SHARE = 0.5  # below this share of the best rate a reason is looked for
REORDERS_SAID = 0.05
WORTH_MEASURING = 0.005  # share of the time from which a kernel is named
FALLBACK = "fallback: "  # in the reason of a row in place that another provider ran


@dataclass
class _Seen:
    """What the table says of one kernel in place."""

    ms: float = 0.0
    reorders_ms: float = 0.0
    fallback: str = ""


def rates_of(predictor: LatencyPredictor) -> Rates:
    """The chip's best rates: noted by the fit, else from the kernels that are looked up."""
    noted = predictor.report.get("rates")
    if noted:
        return Rates(**noted)
    return fit_rates(dict(predictor.measured_ms.items()), predictor.roofline.start_ms)


def explain(
    prediction: Prediction, predictor: LatencyPredictor, table: Any = None
) -> list[dict[str, Any]]:
    """For each kernel of the prediction, in its order: numbers, and a sentence ``why``.

    Args:
        prediction: of one network.
        predictor: that made it.
        table: its latency table; without it layout and fallback come from the fit alone.
    """
    rates = rates_of(predictor)
    wanted = {str(part.kernel) for part in prediction.parts}
    seen = _seen(table, wanted) if table is not None else {}
    return [_explained(part, predictor, rates, seen) for part in prediction.parts]


def worth_measuring(kernels: list[dict[str, Any]], inferred: bool = False) -> list[str]:
    """The kernels whose measurement would help: those outside first, then by their share.

    ``inferred``: none was measured by itself, so only those outside.
    """
    found = [
        entry
        for entry in kernels
        if entry["source"] != "measured"
        and (entry["outside"] or (entry["share"] >= WORTH_MEASURING and not inferred))
    ]
    found.sort(key=lambda entry: (not entry["outside"], -entry["share"], entry["kernel"]))
    return [entry["kernel"] for entry in found]


def _seen(table: Any, wanted: set[str]) -> dict[str, _Seen]:
    found: dict[str, _Seen] = defaultdict(_Seen)
    for row in table.rows("in_place"):
        text = str(row.key).rpartition("@")[0]
        if text in wanted and row.status == "ok":
            one = found[text]
            one.ms += float(row.median_ms)
            one.reorders_ms += float(row.median_ms) * float(row.reorder_share)
            _, said, where = str(row.reason).partition(FALLBACK)
            one.fallback = where if said else one.fallback
    return dict(found)


def _explained(
    part: Part, predictor: LatencyPredictor, rates: Rates, seen: Mapping[str, _Seen]
) -> dict[str, Any]:
    kernel, text = part.kernel, str(part.kernel)
    one_ms = part.ms / part.count if part.count else 0.0
    bound, share = rates.binding(kernel, one_ms)
    name = family(kernel)
    here = seen.get(text)
    reorders = predictor.report.get("reorder_share", {}).get(name, 0.0)
    if here is not None and here.ms > 0:
        reorders = here.reorders_ms / here.ms
    fallback = here.fallback if here is not None else ""
    if text in predictor.failed:
        fallback = predictor.failed[text]
    outside = part.source == "roofline"
    regressor = predictor.regressor(name)
    if part.source == "regressor" and regressor is not None:
        outside = not bool(regressor.in_range([kernel])[0])
    numbers = {
        "macs": kernel.macs,
        "bytes": moved(kernel),
        "bound": bound,
        "rate_share": share,
        "reorder_share": reorders,
        "fallback": fallback,
        "outside": outside,
    }
    return {
        "kernel": text,
        "count": part.count,
        "share": part.share,
        "source": part.source,
        **numbers,
        "why": _sentence(kernel, one_ms, rates, numbers, part.source),
    }


def _sentence(
    kernel: Kernel, ms: float, rates: Rates, numbers: Mapping[str, Any], source: str
) -> str:
    """'compute-bound, 34 % of the best 21.3 G MACs/s: its channels do not fill vectors'."""
    bound, share = numbers["bound"], numbers["rate_share"]
    if ms <= 0:
        said = "free: the runtime folds it into a neighbour"
    elif bound == FIXED:
        said = f"fixed cost: it does little, {1e3 * rates.fixed_ms:.3g} us are needed by any kernel"
    elif bound == COMPUTE:
        said = (
            f"compute-bound, {100 * share:.0f} % of the best {rates.macs_per_ms / 1e6:.3g} G MACs/s"
        )
    else:
        said = f"memory-bound, {100 * share:.0f} % of the best {rates.bytes_per_ms / 1e6:.3g} GB/s"
    if ms > 0 and bound != FIXED and share < LOW_SHARE and (cause := _cause(kernel)):
        said += f": {cause}"
    if numbers["reorder_share"] >= REORDERS_SAID:
        said += f"; {100 * numbers['reorder_share']:.0f} % of it are changes of layout"
    if numbers["fallback"]:
        said += f"; it falls back to another execution provider or fails: {numbers['fallback']}"
    if numbers["outside"]:
        said += (
            "; nothing of its kind was measured"
            if source == "roofline"
            else "; it lies outside of what was measured"
        )
    return said


def _cause(kernel: Kernel) -> str:
    """What keeps a kernel below the best rates, from its shape alone."""
    if kernel.op != "Conv" or kernel.weight is None or len(kernel.weight) != 4:
        return ""
    out, _, height, width = kernel.weight
    channels = kernel.inputs[0][1]
    pixels = kernel.output_shape[2] * kernel.output_shape[3]
    if channels % 4 or out % 4:
        return "its channels are no multiple of 4"
    if kernel.kind == "conv_depthwise":
        return f"depthwise: {height * width} multiplications for each number read"
    if kernel.kind == "conv_grouped":
        return "grouped: few channels in each group"
    if channels < BLOCK:
        return f"only {channels} input channels"
    if pixels <= 16:
        return f"only {pixels} output pixels for {kernel.weight_bytes / 1e3:.0f} kB of weights"
    if out % BLOCK or channels % BLOCK:
        return f"its channels do not fill blocks of {BLOCK}"
    return ""
