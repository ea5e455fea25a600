"""Values for the inputs of models."""

from __future__ import annotations

import numpy as np
import pytest

from factory.core import made_up


def of(kind: str, shape=(64,)):
    return next(made_up.feeds({"x": (made_up.TYPES[kind], shape)}))["x"]


@pytest.mark.parametrize("kind", sorted(made_up.TYPES))
def test_values_have_their_type_and_shape_and_are_the_same_again(kind):
    array = of(kind, (3, 5))
    assert array.dtype == made_up.TYPES[kind]
    assert array.shape == (3, 5)
    assert np.array_equal(array, of(kind, (3, 5)))


def test_bytes_cover_their_range_and_wider_whole_numbers_are_small_indices():
    assert of("uint8", (4000,)).max() == 255
    assert of("int8", (4000,)).min() == -128
    assert set(of("int64").tolist()) == {0, 1}
    assert of("float", ()).shape == ()


def test_a_model_that_cannot_take_an_index_of_one_gets_zeros():
    tries = list(made_up.feeds({"x": (np.dtype("f4"), (2,)), "i": (np.dtype("i8"), (64,))}))
    assert len(tries) == 3

    def run(feeds):
        if feeds["i"].max() > 0:
            raise IndexError("out of range")
        return "ran"

    feeds, result = made_up.first_of(run, tries)
    assert result == "ran"
    assert not feeds["i"].any()
    with pytest.raises(ZeroDivisionError):
        made_up.first_of(lambda feeds: 1 / 0, tries)


def test_an_input_of_gigabytes_is_not_made():
    with pytest.raises(ValueError, match="too large"):
        of("float", (1 << 20, 1 << 20))
