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
