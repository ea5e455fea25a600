"""Times of kernels from the totals of networks: against a truth that is a sum of kernels."""

import numpy as np
import pytest

from factory.devices.simulated import Roofline
from factory.graph.canonical import kernel_counts
from factory.latency.inferred import infer_times
from factory.pipeline.network_samples import sample_network

NUMBER, UNSEEN, CONSTANT_MS = 80, 20, 0.3


@pytest.fixture(scope="module")
def networks():
    return [kernel_counts(sample_network("mobile", 5, n)) for n in range(NUMBER + UNSEEN)]


def truth_ms(counts, roofline):
    return CONSTANT_MS + sum(n * roofline.kernel_ms(kernel) for kernel, n in counts.items())


@pytest.mark.parametrize(
    "roofline", [Roofline(), Roofline(0.02, 0.01, 0.3)], ids=["busy", "slow memory"]
)
def test_the_times_add_up_to_networks(networks, roofline):
    measured = np.array([truth_ms(counts, roofline) for counts in networks])
    times = infer_times(networks[:NUMBER], measured[:NUMBER])
    assert times.keys() == {kernel for counts in networks[:NUMBER] for kernel in counts}
    assert min(times.values()) >= 0
    free = [kernel for kernel, ms in times.items() if ms == 0]  # hardly anything, where they run
    lost = sum(counts[k] * roofline.kernel_ms(k) for counts in networks[:NUMBER] for k in free)
    assert lost < 0.01 * measured[:NUMBER].sum()
    sums = np.array([sum(n * times[k] for k, n in counts.items()) for counts in networks[:NUMBER]])
    assert np.mean(np.abs(sums / measured[:NUMBER] - 1)) < 0.05
    busy = [k for k in times if roofline.kernel_ms(k) > np.median(list(times.values()))]
    ratios = np.array([times[kernel] / roofline.kernel_ms(kernel) for kernel in busy])
    assert np.median(np.abs(ratios - 1)) < 0.15  # the kernels themselves, not only their sums


def test_noise_is_not_fitted(networks):
    """With 5 % of noise the sums come nearer to the truth than what was measured."""
    roofline = Roofline()
    truth = np.array([truth_ms(counts, roofline) for counts in networks[:NUMBER]]) - CONSTANT_MS
    noisy = truth * (1 + 0.05 * np.random.default_rng(0).standard_normal(NUMBER))
    times = infer_times(networks[:NUMBER], noisy)
    sums = np.array([sum(n * times[k] for k, n in counts.items()) for counts in networks[:NUMBER]])
    error = np.mean(np.abs(sums / truth - 1))
    assert error < np.mean(np.abs(noisy / truth - 1))


def test_the_same_networks_give_the_same_times(networks):
    measured = np.array([truth_ms(counts, Roofline()) for counts in networks[:25]])
    assert infer_times(networks[:25], measured) == infer_times(networks[:25], measured)
