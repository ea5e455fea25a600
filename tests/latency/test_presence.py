"""The presence polynomial on a small hand-made space with two edges and three operators."""

import numpy as np
import pytest

from factory.graph.kernel import Kernel
from factory.latency.presence import PresenceMatrix

RELU = Kernel("Relu", ((1, 4, 8, 8),))
POOL = Kernel("GlobalAveragePool", ((1, 4, 8, 8),))


def small() -> PresenceMatrix:
    """RELU: once if edge 0 or edge 1 carries operator 1; POOL: two always, one more by edge 1."""
    shared = np.array([[False, True, False], [False, True, False]])
    single = np.array([[False, False, False], [False, False, True]])
    return PresenceMatrix(
        kernels=(RELU, POOL),
        constant=np.array([1.0, 3.0]),
        monomials=[("normal", shared), ("reduce", single)],
        coefficients=np.array([[-1.0, 0.0], [0.0, -1.0]]),
    )


def q_of(normal: list[list[float]], reduce: list[list[float]]) -> dict[str, np.ndarray]:
    return {"normal": np.array(normal), "reduce": np.array(reduce)}


def test_one_hot_counts_are_integers_and_sharing_counts_once() -> None:
    q = q_of([[0, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 1]])
    assert small().counts(q).tolist() == [1.0, 3.0]
    counter = small().counter(q)
    assert counter == {RELU: 1, POOL: 3}
    assert all(isinstance(count, int) for count in counter.values())


def test_absent_kernels_are_left_out_of_the_counter() -> None:
    q = q_of([[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]])
    assert small().counter(q) == {POOL: 2}


def test_soft_choice_is_the_expectation_over_independent_edges() -> None:
    q = q_of([[0, 0.5, 0.2], [0, 0.4, 0.6]], [[0.3, 0.3, 0.3], [0.1, 0.1, 0.7]])
    np.testing.assert_allclose(small().counts(q), [1 - 0.5 * 0.6, 3 - 0.3])
    assert small().counter(q)[RELU] == pytest.approx(0.7)


def test_batch_dimensions_broadcast() -> None:
    rng = np.random.default_rng(0)
    normal, reduce = rng.random((5, 2, 3)) / 3, rng.random((2, 3)) / 3
    counts = small().counts({"normal": normal, "reduce": reduce})
    assert counts.shape == (5, 2)
    for i in range(5):
        expected = small().counts({"normal": normal[i], "reduce": reduce})
        np.testing.assert_allclose(counts[i], expected)


def test_weighted_is_the_same_cost() -> None:
    presence = small()
    q = q_of([[0, 0.5, 0.2], [0, 0.4, 0.6]], [[0.3, 0.3, 0.3], [0.1, 0.1, 0.7]])
    weights = np.array([0.25, 2.0])
    constant, values = presence.weighted(weights, constant=0.5)
    direct = 0.5 + weights @ presence.counts(q)
    assert constant + values @ presence.evaluate_monomials(q) == pytest.approx(direct)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="needs constant"):
        PresenceMatrix((RELU,), np.zeros(2), [], np.zeros((1, 0)))


def test_scores_of_many_are_the_weighted_counts():
    rng = np.random.default_rng(5)
    masks = [("normal", rng.random((3, 4)) < 0.3) for _ in range(6)]
    kernels = tuple(Kernel.parse(f"Relu(x=1x{channels}x8x8,dtype=f32)") for channels in (8, 16, 24))
    presence = PresenceMatrix(kernels, rng.random(3), masks, rng.standard_normal((3, 6)))
    hot = np.eye(4)[rng.integers(0, 4, (50, 3))]
    hot[::7, 1] = 0.0  # an edge that carries nothing
    weights = rng.random(3)
    for q in (hot, 0.5 * hot, hot.astype(int)):
        expected = presence.constant + np.stack(
            [
                np.prod(1.0 - np.einsum("eo,beo->be", mask, q), axis=1) for _, mask in masks
            ], axis=1
        ) @ presence.coefficients.T  # fmt: skip
        assert presence.counts({"normal": q}) == pytest.approx(expected)
        scores = presence.scores({"normal": q}, weights, 0.7)
        assert scores == pytest.approx(0.7 + expected @ weights)
