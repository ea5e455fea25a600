"""The Gaussian process as plain arrays."""

import json

import numpy as np
import pytest

from factory.latency.gaussian import GaussianProcess, fit_gaussian


def data(n=120):
    x = np.random.default_rng(0).standard_normal((n, 3))
    return x, np.sin(x[:, 0]) + 0.3 * x[:, 1] * x[:, 2]


def test_learns_a_smooth_function_and_knows_where_it_does_not():
    x, y = data()
    fitted = fit_gaussian(x - 0.0, y - y.mean(), seed=0)
    inside, truth = data(200)
    assert np.sqrt(np.mean((fitted.predict(inside) + y.mean() - truth) ** 2)) < 0.15
    known, far = fitted.deviation(x[:20]), fitted.deviation(x[:20] + 30.0)
    assert known.max() < 0.5 * far.min()
    assert far == pytest.approx(np.full(20, np.sqrt(fitted.variance)))
    assert fitted.predict(x[:3] + 30.0) == pytest.approx(np.zeros(3), abs=1e-9)


def test_saved_and_loaded_is_the_same():
    x, y = data(40)
    fitted = fit_gaussian(x, y - y.mean(), seed=0)
    loaded = GaussianProcess.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert (loaded.predict(x) == fitted.predict(x)).all()
    assert fit_gaussian(x, y - y.mean(), seed=0).to_dict() == fitted.to_dict()


def test_heavy_rows_are_followed_and_kept(monkeypatch):
    x = np.repeat(np.linspace(-2, 2, 40)[:, None], 2, axis=0)
    heavy = np.arange(80) % 2 == 0
    y = np.where(heavy, 1.0, -1.0)  # at each place one says 1, the other -1
    even = fit_gaussian(x, y, seed=0).predict(x)
    assert np.abs(even).max() < 0.05
    weights = np.where(heavy, 3.0, 0.3)
    assert fit_gaussian(x, y, seed=0, weights=weights).predict(x).min() > 0.2
    monkeypatch.setattr("factory.latency.gaussian.MAX_POINTS", 20)
    z = np.arange(80.0)[:, None]
    kept = fit_gaussian(z, y, seed=0, weights=np.where(heavy, 1e6, 1e-6)).points[:, 0]
    assert len(kept) == 20
    assert (kept % 2 == 0).all()
