"""Held-out errors are honest, intervals are wide enough, a correction is what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import InputError
from factory.latency import evaluation
from factory.latency.correction import (
    GROUPS,
    SHARE_KEPT,
    Correction,
    NetworkData,
    inside_network_ms,
    select_correction,
)
from factory.latency.facts import parse_counts
from factory.latency.intervals import (
    ASSUMED_HALF_WIDTH,
    LEAST_HALF_WIDTH,
    doubt,
    half_width,
    relative_doubt,
    usual_doubt,
)


@pytest.mark.parametrize("rows", [4, 12, 25])
def test_no_fold_sees_what_it_predicts(rows):
    seen = []

    def fit(keep):
        def predict(index):
            seen.append(not set(index) & set(keep) and len(index) + len(keep) == rows)
            return index.astype(float)

        return predict

    predicted = evaluation.held_out(rows, 0, fit)
    assert all(seen)
    assert (predicted == np.arange(rows)).all(), "every network is held out once a repeat"


def test_interval_is_the_conformal_order_statistic():
    residuals = np.linspace(-0.1, 0.1, 19)
    assert half_width(residuals) == pytest.approx(sorted(abs(residuals))[17])
    assert half_width(np.zeros(30)) == LEAST_HALF_WIDTH
    assert half_width(np.zeros(30), noise=0.07) == 0.07
    assert half_width(np.empty(0)) == ASSUMED_HALF_WIDTH
    few = np.array([0.02, -0.04, 0.01])
    assert half_width(few) > 0.04


def test_errors_of_one_family_add_up_and_those_of_several_are_independent():
    shares, errors = np.array([0.3, 0.4, 0.3]), np.array([0.1, 0.1, 0.0])
    assert doubt(shares, errors, ["a", "a", "b"]) == pytest.approx(0.07)
    assert doubt(shares, errors, ["a", "b", "b"]) == pytest.approx(0.05)
    assert doubt(np.empty(0), np.empty(0), []) == 0.0


def test_intervals_are_alike_up_to_the_usual_doubt_and_grow_beyond():
    rng = np.random.default_rng(0)
    doubts = np.where(np.arange(2000) % 50 == 0, 0.2, 0.05)
    usual = usual_doubt(doubts)
    assert usual == 0.05
    assert usual_doubt(np.empty(0)) == 0.0
    scale = np.array([relative_doubt(one, usual) for one in doubts])
    residuals = 0.03 * scale * rng.standard_normal(2000)
    width = half_width(residuals[:1000] / scale[:1000]) * scale[1000:]
    inside = np.abs(residuals[1000:]) <= width
    assert 0.87 < inside.mean() < 0.93
    assert inside[doubts[1000:] > usual].mean() > 0.7, "the doubtful ones are covered too"
    assert relative_doubt(0.0, 0.1) == 1.0, "a network of measured kernels has an interval too"
    assert relative_doubt(0.3, 0.1) == pytest.approx(3.0)


def data(rows, truth, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, len(GROUPS), 40)
    kernel_ms = rng.uniform(0.005, 0.2, 40)
    counts = rng.integers(0, 4, (rows, 40)).astype(float)
    blank = NetworkData(counts, kernel_ms, groups, np.ones(rows))
    measured = truth.predict(blank) * (1 + noise * rng.standard_normal(rows))
    return NetworkData(counts, kernel_ms, groups, measured)


def test_a_plain_scale_is_found_and_nothing_more():
    truth = Correction(scales=(1.2,) * len(GROUPS))
    found = select_correction(data(16, truth, noise=0.005)).correction
    assert found.structure == "scale"
    assert found.scales == pytest.approx(truth.scales, rel=0.02)


def test_no_correction_where_none_is_needed():
    assert select_correction(data(16, Correction())).correction.structure == "none"


def test_groups_are_found_when_they_differ():
    truth = Correction(scales=(1.4, 0.9, 1.0, 0.0, 0.1, 0.7, 1.1))
    train, unseen = data(20, truth), data(200, truth)
    selection = select_correction(train)
    predicted = selection.correction.predict(unseen)
    assert np.max(np.abs(predicted / unseen.measured_ms - 1)) < 0.05
    assert min(selection.correction.scales) >= 0


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 10), st.floats(0, 1))
def test_a_session_never_makes_a_kernel_free(kernel_ms, session_ms):
    inside = inside_network_ms(np.array([kernel_ms]), session_ms)[0]
    assert SHARE_KEPT * kernel_ms <= inside <= kernel_ms


def test_counts_text():
    text = "2*Relu(x=1x8x4x4,dtype=f32);1.5*Relu(x=1x8x2x2,dtype=f32)"
    assert sorted(parse_counts(text).values()) == [1.5, 2.0]
    for bad in ("Relu(x=1x8x4x4,dtype=f32)", "-1*Relu(x=1x8x4x4,dtype=f32)", "two*Relu()"):
        with pytest.raises(InputError, match="kernel"):
            parse_counts(bad)
