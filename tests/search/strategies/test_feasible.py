"""Limits that cannot be met are refused with the smallest reachable value."""

import pytest
from toy_problem import toy_problem

from factory.core.errors import BudgetError
from factory.search.strategies.feasible import check_feasible


def test_smallest_reachable_costs() -> None:
    # the toy network of one unit takes 2 ms and 10 MACs; nothing smaller can be built
    problem = toy_problem(known=True, limits={"latency_ms": 5.0, "macs": 50.0})
    assert check_feasible(problem) == {"latency_ms": 2.0, "macs": 10.0}
    assert check_feasible(toy_problem(limits={"latency_ms": 0.1})) == {}  # known by query only


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"latency_ms": 1.5},
            r"the smallest network in this space needs 2 ms on chip, the budget is 1\.5 ms in here",
        ),
        ({"macs": 5.0}, r"raise the budget of macs above 0\.00 M MACs"),
    ],
)
def test_unreachable(limits: dict, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        check_feasible(toy_problem(known=True, limits=limits), "here", "chip")
