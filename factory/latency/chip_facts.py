"""What a fit notes about a chip beside its predictor, so that predictions can be explained.

It goes into the predictor's ``report``: baselines, best rates, changes of layout by family, and
what a start costs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from factory.latency.baselines import fit_baselines
from factory.latency.facts import Facts
from factory.latency.features import family
from factory.latency.rates import fit_rates
from factory.latency.start_up import fit_start_up

if TYPE_CHECKING:
    from factory.latency.predictor import LatencyPredictor


def chip_facts(table: Any, facts: Facts, predictor: LatencyPredictor) -> dict[str, Any]:
    """Entries for the report; plain values."""
    times = predictor.measured_ms
    if not times:  # inferred: the regressors say what the kernels of the networks take
        kernels = sorted({kernel for network in facts.networks for kernel in network.counts})
        times = dict(zip(kernels, predictor.kernel_ms(kernels).tolist(), strict=True))
    return {
        "baseline_models": fit_baselines(facts.networks, predictor.seed),
        "rates": fit_rates(times, predictor.roofline.start_ms).to_dict(),
        "reorder_share": _reorders(table, facts),
        "start_up": fit_start_up(table.rows("network"), facts.networks),
    }


def _reorders(table: Any, facts: Facts) -> dict[str, float]:
    """Family -> share of its time in place that goes into changes of layout."""
    share = {str(row.key): float(row.reorder_share) for row in table.rows("in_place")}
    spent: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for fact in facts.in_place:
        ms = fact.count * fact.ms
        name = family(fact.kernel)
        total[name] += ms
        spent[name] += ms * share.get(f"{fact.kernel}@{fact.network}", 0.0)
    return {name: spent[name] / ms for name, ms in sorted(total.items()) if spent[name] > 0}
