"""Shapes that devices share: found under noise, and worth their column."""

from __future__ import annotations

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.latency.design import choose
from factory.latency.few_shot import fit_few_shot
from factory.latency.pool import fit_pool
from factory.latency.pool_shape import shared_shapes


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
    for seed in range(3):
        counts, details, ms, truth = _world(seed)
        extended = shared_shapes([counts], details, ms[:, :5]).extend([counts], details)
        chosen = choose(fit_pool([counts], ms[:, :5]), [counts], 10)
        errors.append([])
        for views in ([counts], extended):
            found = fit_few_shot(fit_pool(views, ms[:, :5]), views, chosen, ms[chosen, 5])
            errors[-1].append(np.mean(np.abs(found.predict(views).ms / truth - 1)))
    without, with_shape = np.mean(errors, 0)
    assert with_shape < 0.8 * without


def test_networks_of_no_table_get_their_column_from_their_features():
    counts, details, ms, _ = _world()
    shapes = shared_shapes([counts], details, ms[:, :5], 2)
    (extended,) = shapes.extend([counts], details)
    (alone,) = shapes.extend([counts[7:9]], details[7:9])
    assert extended.shape == (600, 5)
    assert alone == pytest.approx(extended[7:9])


def test_wrong_input():
    counts, details, ms, _ = _world()
    with pytest.raises(InputError, match="finer features of 5 networks, views of 600"):
        shared_shapes([counts], details[:5], ms)
    with pytest.raises(InputError, match="7 shapes cannot be told from 6 devices"):
        shared_shapes([counts], details, ms, 7)
