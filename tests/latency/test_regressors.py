"""The regressors of single families: what they must not lose on the way to milliseconds."""

import numpy as np
import pytest

from factory.graph.kernel import Kernel
from factory.latency.regressors import fit_kind
from factory.latency.roofline import Roofline


def pool(channels, side):
    return Kernel.parse(f"AveragePool(x=1x{channels}x{side}x{side},k=3,s=1,p=1,dtype=f32)")


@pytest.mark.parametrize("count", [30, 160])
def test_a_family_far_slower_than_the_roofline_is_not_cut_off(count):
    """16 ns an element where the roofline says 0.01: up to a thousand times as long."""
    sizes = [(channels, side) for channels in range(6, 70, 4) for side in range(10, 65, 5)]
    chosen = np.random.default_rng(0).permutation(len(sizes))[: count + 20]
    kernels = [pool(*sizes[i]) for i in chosen]
    ms = np.array([16e-6 * kernel.output_bytes / 4 for kernel in kernels])
    roofline = Roofline(3e-4, 1e-8, 1.2e-9, 0.0, 0.0)
    assert (ms / roofline.estimate(kernels)).max() > 1000
    fitted = fit_kind(kernels[:count], ms[:count], roofline, seed=0, trees=False)
    relative = fitted.predict_ms(kernels[count:], roofline) / ms[count:] - 1
    assert np.median(np.abs(relative)) < 0.1
    assert np.abs(relative).max() < 0.6


def test_a_kernel_counts_by_its_time():
    """Where no column tells light kernels from heavy ones, the answer is nearer to the heavy."""
    kernels = [pool(8 * c, side) for c in range(1, 9) for side in range(8, 48, 4)]
    roofline = Roofline(3e-4, 1e-8, 1.2e-9, 0.0, 0.0)
    estimate = roofline.estimate(kernels)
    heavy = np.random.default_rng(0).random(len(kernels)) < 0.5
    ms = estimate * np.where(heavy, 4.0, 1.0)
    fitted = fit_kind(kernels, ms, roofline, seed=0, trees=False, evaluate=False)
    ratio = fitted.predict_ms(kernels, roofline) / estimate
    assert np.median(ratio) > 1.15 * 2.0  # 2: the geometric mean of both
