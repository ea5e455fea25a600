"""What a table allows at best: tools/table_noise.py."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def noise() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "table_noise.py"
    spec = importlib.util.spec_from_file_location("table_noise", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, size=(2000, 3)) + 1.0
    steady_ms = counts @ [1.0, 2.0, 0.5] * np.exp(rng.normal(0, 0.01, 2000))
    return counts, steady_ms, 1 + 0.1 * np.sin(np.arange(2000) / 150)


def test_a_speed_that_moves_is_found(noise: ModuleType) -> None:
    counts, steady_ms, moved = table()
    found = noise.drift(steady_ms * moved, noise.unseen(counts, steady_ms * moved))
    assert np.abs(found / moved - np.median(found / moved)).max() < 0.03
    assert 4 < noise.drift_percent(found) < 9


def test_a_steady_table_has_next_to_no_drift(noise: ModuleType) -> None:
    counts, steady_ms, _ = table()
    predicted = noise.unseen(counts, steady_ms)
    assert noise.drift_percent(noise.drift(steady_ms, predicted)) < 0.3
    assert noise.half_width_percent(predicted, steady_ms) == pytest.approx(1.65, abs=0.15)


def test_a_networks_own_time_has_no_part_in_its_drift(noise: ModuleType) -> None:
    counts, steady_ms, _ = table()
    outlier = steady_ms.copy()
    outlier[1000] *= 3
    predicted = noise.unseen(counts, steady_ms)
    found, expected = noise.drift(outlier, predicted), noise.drift(steady_ms, predicted)
    assert found[1000] == pytest.approx(expected[1000], rel=1e-3)
