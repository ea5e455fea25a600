"""Non-negative least squares and arrays of trees against the libraries they stand in for."""

import numpy as np
import pytest

from factory.latency.least_squares import leave_one_out, solve_nonnegative
from factory.latency.trees import TreeEnsemble, fit_trees


@pytest.mark.parametrize("seed", range(20))
def test_solves_like_scipy(seed):
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    rows, target = rng.standard_normal((15, 6)), rng.standard_normal(15)
    ours = solve_nonnegative(rows.T @ rows, rows.T @ target)
    assert ours == pytest.approx(nnls(rows, target)[0], abs=1e-8)


def test_leave_one_out_is_a_refit():
    rng = np.random.default_rng(0)
    rows, target = rng.random((12, 4)), rng.random(12)
    prior, moment = 0.1 * np.eye(4), 0.1 * np.ones(4)
    fast = leave_one_out(rows, target, prior, moment)
    for index in range(12):
        keep = np.arange(12) != index
        solution = solve_nonnegative(
            rows[keep].T @ rows[keep] + prior, rows[keep].T @ target[keep] + moment
        )
        assert fast[index] == pytest.approx(rows[index] @ solution)


def test_tree_arrays_equal_sklearn():
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(0)
    features, target = rng.random((80, 5)), rng.random(80)
    ours = fit_trees(features, target, seed=4)
    theirs = ExtraTreesRegressor(
        n_estimators=48, min_samples_leaf=2, max_depth=9, max_features=0.6, random_state=4
    ).fit(features, target)
    unseen = rng.random((200, 5)) * 1.5
    again = TreeEnsemble.from_dict(ours.to_dict())
    assert again.predict(unseen) == pytest.approx(theirs.predict(unseen))
