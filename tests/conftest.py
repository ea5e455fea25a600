"""The longest files first: two workers that take a file at a time then end at about the same time.

`make test` keeps this order (--no-loadscope-reorder); by itself pytest-xdist begins with the files
of the most tests, and ends with one worker alone in a file of few tests that take minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST = (
    "pipeline/test_build.py",
    "search/test_supernet.py",
    "pipeline/test_budgets.py",
    "latency/test_predictor.py",
    "pipeline/test_discrete_search.py",
    "devices/test_browser_page.py",
    "devices/test_agent.py",
    "search/test_rows.py",
    "search/test_form_201.py",
    "graph/test_torch_models.py",
    "search/test_search.py",
    "devices/test_contract.py",
    "pipeline/test_farm.py",
    "search/test_distributed.py",
    "deployment/test_fine_tuning.py",
    "deployment/targets/test_contract.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="module")
def any_load() -> Iterator[None]:
    """A real chip may be as busy as it likes: the test is about something else than trust."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.verification.rounds.DISTURBED", math.inf)
        yield
