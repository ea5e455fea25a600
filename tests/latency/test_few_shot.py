"""Few-shot prediction on made-up chips whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.latency.design import choose, covariance_factor, d_optimal
from factory.latency.few_shot import FewShot, fit_few_shot
from factory.latency.known_chips import KnownChips
from factory.latency.pool import PoolPrior, fit_pool, relative_fit

NETWORKS, KINDS = 800, 4
FAMILIES = ["a", "a", "b", "b", "c", "c", "d", "d"]


def _world(seed: int = 0, noise: float = 0.03) -> tuple[list[np.ndarray], np.ndarray]:
    """(views, ms of nine devices): the last one drops what it need not run, the others do not."""
    rng = np.random.default_rng(seed)
    written = rng.multinomial(8, np.ones(KINDS) / KINDS, NETWORKS).astype(float)
    live = written * (rng.random((NETWORKS, KINDS)) < 0.7)
    weights = np.array([0.2, 0.5, 1.0, 2.0]) * rng.lognormal(0, 0.4, (9, KINDS))
    speed = rng.lognormal(0, 1, 9)
    ms = (written + 0.1) @ (weights * speed[:, None]).T
    ms[:, 8] = (live + 0.1) @ weights[8] * speed[8]
    return [written + 0.1, live + 0.1], ms * rng.lognormal(0, noise, ms.shape)


def _error(found: np.ndarray, ms: np.ndarray) -> float:
    return float(np.mean(np.abs(found / ms - 1)))


@pytest.fixture(scope="module")
def world() -> tuple[list[np.ndarray], np.ndarray]:
    return _world()


@pytest.fixture(scope="module")
def prior(world) -> PoolPrior:
    views, ms = world
    return fit_pool(views, ms[:, :8])


def test_the_pool_knows_its_views_and_its_noise(prior):
    assert prior.view_D.tolist() == [0] * 8
    assert prior.noise == pytest.approx(0.03, rel=0.3)
    assert np.linalg.eigvalsh(prior.covariance_KK).min() > 0


def test_robust_fit_ignores_outliers():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (200, 3)).astype(float)
    ms = counts @ [1.0, 2.0, 3.0]
    ms[::20] *= 5
    weights, scatter = relative_fit(counts, ms)
    assert weights == pytest.approx([1, 2, 3], rel=0.02)
    assert scatter < 0.02


def test_ten_measurements_find_the_view_and_the_weights(world, prior):
    views, ms = world
    chosen = choose(prior, views, 10)
    assert len(set(chosen.tolist())) == 10
    dropping = fit_few_shot(prior, views, chosen, ms[chosen, 8])
    assert dropping.share_V[1] > 0.99
    assert _error(dropping.predict(views).ms, ms[:, 8]) < 0.05
    others = fit_pool(views, ms[:, 2:8])
    running = fit_few_shot(others, views, chosen, ms[chosen, 0])
    assert running.share_V[0] > 0.99
    assert _error(running.predict(views).ms, ms[:, 0]) < 0.04


def test_designed_networks_beat_random_ones():
    designed, random = [], []
    for seed in range(6):
        views, ms = _world(seed, noise=0.1)
        truth = _world(seed, noise=0.0)[1][:, 8]
        known = fit_pool(views, ms[:, 2:8])
        for chosen, errors in (
            (choose(known, views, 5), designed),
            (np.random.default_rng(seed).choice(NETWORKS, 5, replace=False), random),
        ):
            found = fit_few_shot(known, views, chosen, ms[chosen, 8])
            errors.append(_error(found.predict(views).ms, truth))
    assert np.mean(designed) < 0.8 * np.mean(random)


def test_the_greedy_gain_is_the_fall_of_the_mean_variance(world, prior):
    """The choice of one network against a plain search with full matrices."""
    views = [view[:60] for view in world[0]]
    factor = covariance_factor(prior, views)
    full = factor @ factor.T

    def left(i: int) -> float:
        after = full - np.outer(full[:, i], full[i]) / (full[i, i] + prior.noise**2)
        return float(np.trace(after))

    assert choose(prior, views, 1).tolist() == [int(np.argmin([left(i) for i in range(60)]))]


def test_pool_of_one_helps(world):
    views, ms = world
    chosen = d_optimal(views[0], 3)
    known = fit_pool(views[:1], ms[:, :1])
    found = fit_few_shot(known, views[:1], chosen, ms[chosen, 0] * 1.7)
    assert _error(found.predict(views[:1]).ms, 1.7 * ms[:, 0]) < 0.05


def test_outlier_among_the_ten_does_little_harm(world, prior):
    views, ms = world
    chosen = choose(prior, views, 10)
    spoilt = ms[chosen, 8].copy()
    spoilt[4] *= 2
    found = fit_few_shot(prior, views, chosen, spoilt).predict(views)
    assert _error(found.ms, ms[:, 8]) < 0.08


def test_whole_milliseconds_are_noticed(world, prior):
    views, ms = world
    chosen = choose(prior, views, 10)
    coarse = np.maximum(np.round(ms[chosen, 8] / ms[:, 8].mean() * 4), 1.0)
    assert fit_few_shot(prior, views, chosen, coarse).unit_ms == 1.0
    assert fit_few_shot(prior, views, chosen, ms[chosen, 8]).unit_ms == 0.0


def test_scale_does_not_matter(world, prior):
    views, ms = world
    chosen = choose(prior, views, 10)
    a = fit_few_shot(prior, views, chosen, ms[chosen, 8]).predict(views)
    b = fit_few_shot(prior, views, chosen, 1000 * ms[chosen, 8]).predict(views)
    for left, right in zip(a, b, strict=True):
        assert right == pytest.approx(1000 * left, rel=1e-6)


def test_calibrated_intervals_cover(world):
    views, ms = world
    covered = []
    for d in range(8):
        outside = [k for k in range(8) if FAMILIES[k] != FAMILIES[d]]
        known = KnownChips(views, ms[:, outside])
        chosen = known.choose(10)
        stretch = known.calibrate([FAMILIES[k] for k in outside], chosen)
        _, low, high = known.fit(chosen, ms[chosen, d], stretch).predict(views)
        covered.append(np.mean((ms[:, d] >= low) & (ms[:, d] <= high)))
    assert 0.82 < np.mean(covered) < 0.97


def test_stored_as_plain_numbers(world, prior):
    views, ms = world
    chosen = choose(prior, views, 10)
    found = fit_few_shot(prior, views, chosen, ms[chosen, 8])
    again = FewShot.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again.predict(views).high_ms, found.predict(views).high_ms)
    kept = PoolPrior.from_dict(json.loads(json.dumps(prior.to_dict())))
    assert np.array_equal(choose(kept, views, 10), chosen)
    with pytest.raises(InputError, match="no few-shot predictor"):
        FewShot.from_dict({"schema_version": 1, "kind": "few_shot"})


def test_networks_of_next_to_nothing_do_not_set_the_scale(world, prior):
    """Six of the ten run nothing (a constant, whatever the time says): the others decide."""
    views, ms = world
    empty = [np.vstack([view, np.zeros((6, KINDS))]) for view in views]
    chosen = np.append(choose(prior, views, 4), NETWORKS + np.arange(6))
    measured = np.append(ms[chosen[:4], 8], np.full(6, 1e-4 * ms[:, 8].mean()))
    found = fit_few_shot(prior, empty, chosen, measured).predict(views)
    assert abs(np.median(found.ms / ms[:, 8]) - 1) < 0.1


def test_a_device_like_a_known_one_needs_few_measurements(world):
    """Three networks do not tell four weights; that it is a twin of device 5, they do."""
    views, ms = world
    twin = 3.0 * ms[:, 5] * np.random.default_rng(1).lognormal(0, 0.01, NETWORKS)
    known = fit_pool(views, ms[:, :8])
    chosen = choose(known, views, 3)
    found = fit_few_shot(known, views, chosen, twin[chosen]).predict(views)
    assert _error(found.ms, twin) < 0.05


def test_wrong_input(world, prior):
    views, ms = world
    with pytest.raises(
        InputError, match=r"device 1 of the pool has a latency of -1\.0 ms at \[7\]"
    ):
        fit_pool(views, np.where(np.arange(NETWORKS)[:, None] * [0, 1] == 7, -1.0, ms[:, :2]))
    with pytest.raises(InputError, match="the pool has no device"):
        fit_pool(views, ms[:, :0])
    with pytest.raises(InputError, match="device 0 of the pool has 2 latencies"):
        fit_pool(views, np.where(np.arange(NETWORKS)[:, None] < 2, ms[:, :2], np.nan))
    with pytest.raises(InputError, match="same networks and columns"):
        fit_pool([views[0], views[1][:5]], ms)
    with pytest.raises(InputError, match="the new chip has a latency of nan ms"):
        fit_few_shot(prior, views, np.arange(2), np.array([1.0, np.nan]))
    with pytest.raises(InputError, match="2 latencies for 3 chosen networks"):
        fit_few_shot(prior, views, np.arange(3), np.ones(2))
    with pytest.raises(InputError, match="cannot choose 801 of 800 networks"):
        choose(prior, views, 801)
    found = fit_few_shot(prior, views, np.arange(3), np.ones(3))
    with pytest.raises(InputError, match="fitted on 2 of 4"):
        found.predict([view[:, :2] for view in views])
