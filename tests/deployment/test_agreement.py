"""Outputs beside their reference: every one counts, by signal to noise, element and equality."""

import numpy as np
import pytest

from factory.deployment.agreement import BOUNDS, LARGEST_DB, compare

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 50))
INT8 = BOUNDS["int8"]


def test_the_worst_output_counts():
    found = compare({"a": X, "b": X + 1.0}, {"a": X, "b": X})
    assert [round(one.signal_db) for one in found.outputs] == [LARGEST_DB, 0]
    assert found.signal_db == found.outputs[1].signal_db
    assert found.lacks(INT8).startswith("output 'b': ")
    assert "dB of signal to noise, 10 are asked for" in found.lacks(INT8)


def test_one_element_that_is_wholly_wrong_is_found_among_many():
    other = X.copy()
    other[0, 0] += 20 * np.abs(X).max()
    many = np.tile(X, (1, 20_000)).astype(np.float32)
    wrong = many.copy()
    wrong[0, 0] += 2 * np.abs(X).max()
    found = compare(wrong, many)
    assert found.signal_db > 40
    assert "an element differs by" in found.lacks(INT8)


def test_whole_numbers_and_truth_values_are_compared_by_equality():
    whole = RNG.integers(0, 9, (4, 50))
    other = whole.copy()
    other[0, :5] += 1
    found = compare({"i": other, "b": whole > 4}, {"i": whole, "b": whole > 4})
    assert [one.signal_db for one in found.outputs] == [None, None]
    assert found.outputs[0].same == pytest.approx(0.975)
    assert found.lacks(INT8) == ""
    assert "97.5% of its elements are equal, 99.0% are asked for" in found.lacks(BOUNDS["fp16"])


def test_infinity_where_the_reference_has_it_is_no_difference():
    mask = np.where(X > 0, X, -np.inf)
    assert compare(mask, mask).signal_db == LARGEST_DB
    assert compare(X, mask).signal_db == -LARGEST_DB
    assert "not finite" in compare(mask, X).lacks(INT8)


def test_another_shape_is_a_difference():
    assert compare(X[:, :5], X).signal_db == -LARGEST_DB


def test_outputs_are_paired_by_their_order():
    assert compare({"renamed": X}, {"y": X}).signal_db == LARGEST_DB
