"""Which source of kernel times a fit takes: the faithful one, unless another is clearly better."""

from types import SimpleNamespace

import numpy as np

from factory.latency.fitting import _chosen

MEASURED_MS = np.full(16, 2.0)


def fit(name, errors):
    """A fit whose predictions of sixteen networks are off by these shares."""
    held_out = None if errors is None else MEASURED_MS * (1 + np.asarray(errors))
    score = float("inf") if errors is None else float(np.mean(np.abs(errors)))
    data = SimpleNamespace(measured_ms=MEASURED_MS)
    return SimpleNamespace(name=name, held_out=held_out, data=data, score=score)


def test_the_last_source_stays_where_the_difference_is_noise():
    rng = np.random.default_rng(0)
    in_place = fit("in_place", 0.05 * rng.standard_normal(16))
    isolated = fit(
        "isolated", np.abs(in_place.held_out / 2 - 1) * (1 + 0.2 * rng.standard_normal(16))
    )
    assert _chosen([isolated, in_place]).name == "in_place"


def test_a_clearly_better_source_wins():
    isolated, in_place = fit("isolated", np.full(16, 0.01)), fit("in_place", np.full(16, 0.04))
    assert _chosen([isolated, in_place]).name == "isolated"
    assert _chosen([in_place, isolated]).name == "isolated"


def test_without_networks_the_only_known_score_decides():
    assert _chosen([fit("isolated", None)]).name == "isolated"
    assert _chosen([fit("isolated", None), fit("in_place", np.zeros(16))]).name == "in_place"
