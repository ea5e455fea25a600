"""The small-sample regressor against a textbook Gaussian process, and where it must be right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.latency.small_sample import SmallSample, _kernel, _solve, fit_small_sample


def _networks(count: int, seed: int = 0, bend: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, (count, 5)).astype(float)
    ms = 1.0 + counts @ [0.1, 0.3, 0.0, 1.0, 0.5] - bend * np.minimum(counts[:, 1], counts[:, 4])
    return counts, ms


@pytest.mark.parametrize("count", [12, 200])
def test_additive_chips_are_exact(count):
    counts, ms = _networks(count)
    found = fit_small_sample(counts, ms)
    unseen, truth = _networks(300, seed=1)
    assert np.abs(found.predict(unseen).ms / truth - 1).max() < 0.02


def test_what_does_not_add_up_is_learnt():
    counts, ms = _networks(300, bend=0.25)
    unseen, truth = _networks(300, seed=1, bend=0.25)
    found = fit_small_sample(counts, ms)
    line = np.linalg.lstsq(np.hstack([counts, np.ones((300, 1))]), ms, rcond=None)[0]
    straight = np.mean(np.abs((unseen @ line[:-1] + line[-1]) / truth - 1))
    assert found.curvature > 0
    assert np.mean(np.abs(found.predict(unseen).ms / truth - 1)) < 0.5 * straight


def test_intervals_cover_nine_of_ten():
    rng = np.random.default_rng(0)
    counts, ms = _networks(400)
    found = fit_small_sample(counts, ms * rng.lognormal(0, 0.05, 400))
    unseen, truth = _networks(2000, seed=1)
    truth = truth * rng.lognormal(0, 0.05, 2000)
    _, low, high = found.predict(unseen)
    assert 0.85 < np.mean((truth >= low) & (truth <= high)) < 0.95
    assert found.half_width == pytest.approx(1.645 * 0.05, rel=0.2)


def test_leave_one_out_is_a_refit():
    """Each residual against a plain solve without its row."""
    rng = np.random.default_rng(0)
    rows = rng.random((30, 4))
    kernel = _kernel(rows, rows, 0.15, 1.5)
    target = 1 + rng.random(30)
    values, vectors = np.linalg.eigh(kernel)
    offset, dual, left_out = _solve(values, vectors, target, 0.1)
    noisy = kernel + 0.1 * values.mean() * np.eye(30)
    assert noisy @ dual == pytest.approx(target - offset)
    assert dual.sum() == pytest.approx(0.0, abs=1e-9)  # the offset's normal equation
    for i in range(30):
        keep = np.arange(30) != i
        weights = np.linalg.solve(noisy[np.ix_(keep, keep)], target[keep] - offset)
        assert left_out[i] == pytest.approx(target[i] - offset - kernel[i, keep] @ weights)


def test_stored_as_plain_numbers():
    counts, ms = _networks(40, bend=0.3)
    found = fit_small_sample(counts, ms)
    again = SmallSample.from_dict(json.loads(json.dumps(found.to_dict())))
    for left, right in zip(again.predict(counts), found.predict(counts), strict=True):
        assert np.array_equal(left, right)
    with pytest.raises(InputError, match="no small-sample predictor"):
        SmallSample.from_dict({"schema_version": 1, "kind": "few_shot"})


def test_wrong_input():
    counts, ms = _networks(10)
    with pytest.raises(InputError, match=r"the table has a latency of 0\.0 ms at \[2\]"):
        fit_small_sample(counts, np.where(np.arange(10) == 2, 0.0, ms))
    with pytest.raises(InputError, match="2 networks are too few"):
        fit_small_sample(counts[:2], ms[:2])
    with pytest.raises(InputError, match="9 latencies for features of shape"):
        fit_small_sample(counts, ms[:9])
    with pytest.raises(InputError, match="fitted on 5"):
        fit_small_sample(counts, ms).predict(counts[:, :3])
