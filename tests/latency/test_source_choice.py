"""Which source of kernel times a fit takes: the faithful one, unless another is clearly better."""

from types import SimpleNamespace

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.facts import MIN_NETWORKS_TO_INFER, Facts, InPlaceFact, NetworkFact
from factory.latency.fitting import _chosen
from factory.latency.sources import sources

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


def facts(networks, timed=0, traced=0):
    """So many networks of one kernel each, of which some were timed alone and some traced."""
    kernels = [Kernel.parse(f"Relu(x=1x8x{n + 4}x8,dtype=f32)") for n in range(networks)]
    measured = [NetworkFact(f"net:{n}", {kernel: 1}, 1.0) for n, kernel in enumerate(kernels)]
    in_place = [InPlaceFact(f"net:{n}", kernel, 1, 1.0) for n, kernel in enumerate(kernels)]
    alone = dict.fromkeys(kernels[:timed], 1.0)
    return Facts("chip", "f32", alone, {}, measured, in_place=in_place[:traced])


def names(*args, **more):
    return [source.name for source in sources(facts(*args, **more))]


def test_kernels_are_inferred_only_without_traces_and_from_enough_networks():
    enough = MIN_NETWORKS_TO_INFER
    assert names(enough) == ["inferred"]
    assert names(enough - 1, timed=5) == ["isolated"]
    assert names(enough, timed=enough, traced=3) == ["isolated", "in_place"]
    # of one size all kernels were timed; a profile for any network times none
    assert names(enough, timed=enough) == ["inferred", "isolated"]
    assert names(enough, timed=enough // 4) == ["inferred"]
