"""Fronts, hypervolume, expected improvement and the regression, against brute force."""

import numpy as np
import pytest
from toy_problem import toy_problem

from factory.search.strategies.evolution import PlainEvolution
from factory.search.strategies.gaussian_process import GaussianProcess
from factory.search.strategies.improvement import expected_improvement
from factory.search.strategies.pareto import front, hypervolume
from factory.search.strategies.study import run_search


@pytest.mark.parametrize("seed", range(5))
def test_front_by_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [tuple(p) for p in rng.integers(0, 12, size=(40, 2)).astype(float).tolist()]
    kept = [points[i] for i in front(points)]
    dominated = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert sorted(kept) == kept == sorted(set(points) - dominated)


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_counts_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 15, size=(10, 2))
    squares = {(x, y) for px, py in points for x in range(px, 12) for y in range(py, 12)}
    found = hypervolume([tuple(p) for p in points.astype(float).tolist()], (12.0, 12.0))
    assert found == len(squares)
    assert hypervolume([], (1.0, 1.0)) == 0.0


@pytest.mark.parametrize("points", [[], [(0.0, 0.5), (0.4, 0.1), (0.9, -0.3), (2.0, -2.0)]])
def test_expected_improvement_is_the_mean_improvement(points: list) -> None:
    rng = np.random.default_rng(0)
    reference = (1.0, 1.0)
    first = (np.array([0.2, 0.9, -0.5, 3.0]), np.array([0.3, 0.05, 0.2, 0.1]))
    second = (np.array([0.0, -0.2, 0.6, 0.0]), np.array([0.4, 0.3, 0.1, 0.1]))
    expected = expected_improvement(points, reference, first, second)
    before = hypervolume(points, reference)
    for i in range(3):
        draws = zip(
            rng.normal(first[0][i], first[1][i], 4000),
            rng.normal(second[0][i], second[1][i], 4000),
            strict=True,
        )
        gains = [hypervolume([*points, draw], reference) - before for draw in draws]
        error = np.std(gains) / np.sqrt(len(gains))
        assert abs(np.mean(gains) - expected[i]) < 4 * error + 1e-6
    assert expected[3] < 1e-6  # far beyond the reference


def test_regression_learns_a_smooth_function_and_its_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(120, 2))
    clean = np.sin(x[:, 0]) + 0.5 * x[:, 1]
    fit = GaussianProcess.fit(x[:80], clean[:80] + rng.normal(0, 0.1, 80))
    mean, deviation = fit.predict(x[80:])
    assert np.abs(mean - clean[80:]).max() < 0.35
    assert 0.05 < np.median(deviation) < 0.2
    far, unsure = fit.predict(np.full((1, 2), 50.0))
    assert unsure[0] > 3 * np.median(deviation)
    assert abs(far[0] - clean[:80].mean()) < 0.1  # nothing known: back to the mean


def test_regression_of_a_constant() -> None:
    fit = GaussianProcess.fit(np.zeros((3, 2)), np.ones(3))
    mean, deviation = fit.predict(np.ones((1, 2)))
    assert mean[0] == pytest.approx(1.0)
    assert np.isfinite(deviation).all()


def test_evolution_takes_parents_from_the_living() -> None:
    """A child differs in one variable from one of the last five queries (few are redrawn)."""
    outcome = run_search(toy_problem(), PlainEvolution(5, 3), queries=80, seed=0)
    queries = [seen.choices for seen in outcome.history.queries]
    near = [
        min(
            sum(a != b for a, b in zip(child, parent, strict=True)) for parent in queries[i - 5 : i]
        )
        for i, child in enumerate(queries)
        if i >= 5
    ]
    assert np.mean(np.array(near) == 1) > 0.95
