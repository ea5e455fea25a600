"""A time left is shown where the steps go at one pace, and nowhere else."""

import pytest

from factory.core.progress import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def pace_of(seconds_a_step, total=100, done=0):
    """A task after steps of these lengths."""
    clock = Clock()
    pace = Pace(total, done, clock)
    for seconds in seconds_a_step:
        clock.now += seconds
        pace.advance(1)
    return pace


def test_even_steps_tell_what_is_left():
    assert pace_of([2.0] * 20).left_s() == pytest.approx(160.0)
    assert pace_of([2.0] * 20, done=40).left_s() == pytest.approx(80.0)
    assert pace_of([2.0] * 2000, total=4000).left_s() == pytest.approx(4000.0)


@pytest.mark.parametrize(
    "steps",
    [
        [20.0] * 3,  # too few
        [0.1] * 20,  # too soon
        [10.0] + [1.0] * 4,  # the first one warms up
        [1.0] * 10 + [4.0] * 10,  # it became slower
        [4.0] * 10 + [1.0] * 10,
    ],
)
def test_uneven_steps_tell_nothing(steps):
    assert pace_of(steps).left_s() is None


def test_a_step_that_does_not_end_is_no_progress():
    pace = pace_of([2.0] * 10)
    assert pace.left_s() == pytest.approx(180.0)
    pace._clock.now += 60.0
    assert pace.left_s() is None


def test_without_a_total_or_at_the_end_there_is_nothing_to_tell():
    assert pace_of([2.0] * 20, total=None).left_s() is None
    assert pace_of([2.0] * 20, total=20).left_s() is None
