"""A table of the layout of HW-NAS-Bench-360 as an objective."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from factory.core.errors import InputError
from factory.search.strategies import RegularisedEvolution
from factory.search.strategies.problem import Problem
from factory.search.strategies.study import run_search
from factory.search.strategies.tabular import Table201
from factory.spaces.nas_bench_201 import SIZE, Cell201, all_cells


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    cells = list(all_cells())
    first: dict[str, int] = {}
    rep = [first.setdefault(cell.unique_string(), i) for i, cell in enumerate(cells)]
    convs = np.array([cell.live().ops.count("nor_conv_3x3") for cell in cells])
    noise = np.random.default_rng(0).uniform(0, 5, SIZE)
    return pd.DataFrame(
        {
            "arch_idx": range(SIZE),
            "rep_arch_idx": rep,
            "framework": "onnx",
            "lat_ms_median": (1.0 + convs + 0.1 * noise)[rep],
            "accuracy": 60 + 4 * convs + noise,
        }
    )


def test_search_on_a_table(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    table = Table201.load(path)
    cell = Cell201.from_index(77)
    score = table.evaluate(cell)
    assert score.latency_ms == pytest.approx(frame.lat_ms_median[frame.rep_arch_idx[77]])
    assert score.accuracy == pytest.approx(frame.accuracy[77] / 100)
    whole = table.hypervolume(np.arange(SIZE), 0.5)
    problem = Problem(table.space(), table, {"latency_ms": 4.0})
    outcome = run_search(problem, RegularisedEvolution(20, 8), queries=60)
    found = np.array([seen.architecture.index for seen in outcome.history.queries])
    assert 0.5 * whole < table.hypervolume(found, 0.5) < whole
    assert outcome.best is not None
    assert outcome.best.score is not None
    assert outcome.best.score.latency_ms <= 4.0
    assert outcome.best.score.accuracy > 0.70


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="accuracy"), "unknown column 'accuracy'"),
        (lambda f: f.assign(framework="litert"), "unknown runtime 'onnx'.* known: litert"),
        (lambda f: f[:-1], "has 15624 rows of onnx, not one for each"),
        (lambda f: f.assign(lat_ms_median=-1.0), "latencies that are not positive"),
        (lambda f: f.assign(lat_ms_median=f.lat_ms_median + f.arch_idx), "not that of their rep"),
    ],
)
def test_bad_tables(frame: pd.DataFrame, tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "table.csv"
    change(frame).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        Table201.load(path)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; check the path"):
        Table201.load(tmp_path / "table.csv")
