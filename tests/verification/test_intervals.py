import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.verification.intervals import bootstrap_median, wilson


def test_wilson_against_published_values():
    # Newcombe, Statist. Med. 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for correct, images, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(correct, images) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(pair):
    correct, images = pair
    low, high = wilson(correct, images)
    assert 0 <= low <= correct / images <= high <= 1


def test_no_share():
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="no share"):
        wilson(0, 0)


def test_bootstrap_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_median(rng.lognormal(0.0, 0.1, 15), resamples=400)
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 1.0


def test_bootstrap_of_one_round_and_of_none():
    assert bootstrap_median([2.5]) == (2.5, 2.5)
    with pytest.raises(ValueError, match="no rounds"):
        bootstrap_median([])
