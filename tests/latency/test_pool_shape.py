"""Known chips as functions of finer features: worth their columns, and carried to any network."""

from __future__ import annotations

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.latency.known_chips import KnownChips
from factory.latency.pool import fit_pool
from factory.latency.pool_shape import pool_functions


def _world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(counts, finer features, ms of six devices, the truth of the last one)."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(6, np.ones(3) / 3, 600).astype(float)
    details = np.hstack([counts, counts**2, rng.random((600, 3))])
    weights = np.array([0.3, 1.0, 2.0]) * rng.lognormal(0, 0.1, (6, 3))
    bend = 1 + 0.1 * (counts[:, 2] >= 3)
    truth = (counts + 0.2) @ weights.T * bend[:, None] ** rng.uniform(0.7, 1.3, 6)
    return counts + 0.2, details, truth * rng.lognormal(0, 0.02, truth.shape), truth[:, 5]


def test_a_shared_deviation_from_sums_is_carried_to_the_next_device():
    errors = []
    for seed in range(8):
        counts, details, ms, truth = _world(seed)
        errors.append([])
        for known in (
            KnownChips([counts], ms[:, :5]),
            KnownChips([counts], ms[:, :5], [details]),
        ):
            chosen = np.random.default_rng(seed).choice(600, 10, replace=False)
            found = known.fit(chosen, ms[chosen, 5]).predict([counts], [details])
            errors[-1].append(np.mean(np.abs(found.ms / truth - 1)))
    without, with_shape = np.mean(errors, 0)
    assert with_shape < 0.8 * without


def test_networks_of_no_table_get_their_columns_from_their_features():
    counts, details, ms, _ = _world()
    prior = fit_pool([counts], ms[:, :5])
    functions = pool_functions([counts], [details], ms[:, :5], prior)
    (extended,) = functions.extend([counts], [details])
    (alone,) = functions.extend([counts[7:9]], [details[7:9]])
    assert extended.shape == (600, 8)
    assert alone == pytest.approx(extended[7:9])
    relative = ms[:, :5] / ms[:, :5].mean(0)
    assert extended[:, 3:] == pytest.approx(relative, rel=0.15)


def test_half_of_the_chance_goes_to_the_functions():
    counts, details, ms, _ = _world()
    prior = fit_pool([counts], ms[:, :5])
    wide = pool_functions([counts], [details], ms[:, :5], prior).centres(prior)
    assert wide.centres_CK.shape == (12, 8)
    assert wide.chance_C.sum() == pytest.approx(1)
    assert wide.chance_C[wide.centres_CK[:, 3:].any(1)].sum() == pytest.approx(0.5)


def test_a_pool_without_some_chips_is_the_pool_of_the_others():
    counts, details, ms, _ = _world()
    kept = np.array([True, False, True, True, False, False])
    fewer = KnownChips([counts], ms, [details]).only(kept)
    fresh = KnownChips([counts], ms[:, kept], [details])
    chosen = fewer.choose(8)
    assert np.array_equal(chosen, fresh.choose(8))
    left, right = (
        known.fit(chosen, ms[chosen, 5]).predict([counts], [details]) for known in (fewer, fresh)
    )
    assert left.ms == pytest.approx(right.ms)


def test_wrong_input():
    counts, details, ms, _ = _world()
    prior = fit_pool([counts], ms)
    with pytest.raises(InputError, match=r"finer features of shape \(1, 5\), views of \(1, 600\)"):
        pool_functions([counts], [details[:5]], ms, prior)
    with pytest.raises(InputError, match=r"a pool of shape \(600, 2\) for this prior"):
        pool_functions([counts], [details], ms[:, :2], prior)
    known = KnownChips([counts], ms, [details])
    with pytest.raises(InputError, match="2 families for 6 chips"):
        known.calibrate(["a", "b"], np.arange(5))
    with pytest.raises(InputError, match="finer features are missing"):
        known.fit(np.arange(5), ms[:5, 0]).predict([counts])
    with pytest.raises(InputError, match="no known chip is left"):
        known.only(np.zeros(6, dtype=bool))
