"""The whole search on a tiny supernet: budgets, one seed one result, SIGKILL, tighter limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import search_tiny as tiny
from pydantic import ValidationError

from factory.core.errors import BudgetError, InputError
from factory.search.architectures import TierBudget, continue_with_tighter, search_architectures
from factory.search.budget import Budgets
from factory.search.config import PRESETS, SearchConfig
from factory.spaces.cell_space import CellSpace

LEFT = ("a/search.json", "a/history.jsonl", "a/genotype.json", "free/search.json")


def _contents(folder: Path) -> list[bytes]:
    files = [*LEFT, "a/checkpoint.safetensors", "free/checkpoint.safetensors"]
    return [(folder / name).read_bytes() for name in files]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("search")
    return folder, tiny.run(folder, checkpoint_steps=2)


def test_budget_held_and_diagnostics_logged(finished):
    folder, results = finished
    tier = results["a"]
    hot = tiny.target().one_hot(tier.genotype)
    assert tier.predicted["latency_ms"] == pytest.approx(tiny.latency_term().value(hot))
    assert tier.predicted["latency_ms"] <= 0.75
    assert tier.predicted["macs"] <= 3e6
    assert results["free"].limits == {}
    rows = [json.loads(line) for line in (folder / "a/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["phase"] for row in rows] == ["warmup"] * 3 + ["search"] * 9
    last = rows[-1]
    assert set(last["expected"]) == set(last["derived"]) == {"latency_ms", "macs"}
    assert last["limits"] == {"latency_ms": 0.75, "macs": 3e6}
    assert last["multipliers"]["latency_ms"] > 0
    assert 0 <= last["skip_share"] <= 1
    assert 0 < last["entropy"] <= 1


def test_one_seed_one_result(finished, tmp_path):
    tiny.run(tmp_path, checkpoint_steps=5)
    assert _contents(tmp_path) == _contents(finished[0])


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_killed_in_the_middle_ends_with_the_same_bits(finished, tmp_path):
    # In the warm-up, in the search of "a", to the end; checkpoints are every second step.
    command = [sys.executable, tiny.__file__, str(tmp_path), "3", "7", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 2 + ["0"], done.stderr
    assert _contents(tmp_path) == _contents(finished[0])


def test_a_torn_history_is_cut_back(finished, tmp_path):
    stop = RuntimeError("stop")

    class Stopping:
        def __init__(self):
            self.left = 6

        def task(self, label, total, done=0):
            outer = self

            class Task:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    return None

                def advance(self, n=1, note=""):
                    outer.left -= 1
                    if not outer.left:
                        raise stop

            return Task()

        def message(self, text):
            return None

    tiers = [TierBudget("a", [tiny.latency_term(0.75), tiny.mac_term(3e6)]), TierBudget("free")]
    cfg = tiny.tiny_config(checkpoint_steps=2)
    with pytest.raises(RuntimeError):
        search_architectures(
            CellSpace(tiny.SPEC), tiny.tiny_data(), tiers, cfg, tmp_path, Stopping(), seed=3
        )
    with (tmp_path / "a/history.jsonl").open("a") as stream:
        stream.write('{"step": 99, "torn')
    tiny.run(tmp_path, checkpoint_steps=2)
    assert _contents(tmp_path) == _contents(finished[0])


def test_finished_is_not_searched_again_and_other_settings_are_refused(finished):
    folder, results = finished
    before = (folder / "a/checkpoint.safetensors").stat().st_mtime_ns
    assert tiny.run(folder)["a"].genotype == results["a"].genotype
    assert (folder / "a/checkpoint.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other settings"):
        tiny.run(folder, arch_lr=0.01)


def test_tighter_limits_without_and_with_more_search(tmp_path):
    tiers = [TierBudget("a", [tiny.latency_term(0.9)])]
    space, data, cfg = CellSpace(tiny.SPEC), tiny.tiny_data(), tiny.tiny_config()
    search_architectures(space, data, tiers, cfg, tmp_path, seed=1)
    tighter = continue_with_tighter(space, tmp_path / "a", [tiny.latency_term(0.7)], cfg)
    assert tighter.predicted["latency_ms"] <= 0.7
    again = continue_with_tighter(
        space, tmp_path / "a", [tiny.latency_term(0.65)], cfg, extra_epochs=1, data=data
    )  # fmt: skip
    assert again.predicted["latency_ms"] <= 0.65
    repeated = continue_with_tighter(
        space, tmp_path / "a", [tiny.latency_term(0.65)], cfg, extra_epochs=1, data=data
    )  # fmt: skip
    assert repeated.genotype == again.genotype
    with pytest.raises(BudgetError, match="smallest network"):
        continue_with_tighter(space, tmp_path / "a", [tiny.latency_term(0.3)], cfg)


def test_impossible_budget_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(BudgetError, match="the smallest network in this space needs"):
        search_architectures(
            CellSpace(tiny.SPEC), tiny.tiny_data(), [TierBudget("x", [tiny.latency_term(0.1)])],
            tiny.tiny_config(), tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_multiplier_rises_over_the_budget_and_falls_under_it():
    budgets = Budgets([tiny.latency_term(1.0)], 0.3, 2.0)
    for _ in range(50):
        budgets.ascend({"latency_ms": 2.0}, {"latency_ms": 2.0})
    assert budgets.multipliers["latency_ms"] == 2.0
    budgets.ascend({"latency_ms": 0.5}, {"latency_ms": 1.2})  # only the derived one is over
    assert budgets.multipliers["latency_ms"] == 2.0
    for _ in range(50):
        budgets.ascend({"latency_ms": 0.8}, {"latency_ms": 0.8})
    assert budgets.multipliers["latency_ms"] == 0.0


def test_presets_hold_published_settings_and_can_be_overridden():
    for name in PRESETS:
        assert SearchConfig(preset=name).preset == name
    cifar = SearchConfig()
    assert (cifar.partial_channels, cifar.batch_size, cifar.weight_lr) == (4, 256, 0.1)
    assert (cifar.epochs, cifar.warmup_epochs, cifar.arch_lr) == (50, 15, 6e-4)
    assert SearchConfig(preset="pc-darts-imagenet").arch_lr == 6e-3
    assert SearchConfig(preset="darts-cifar").partial_channels == 1
    assert SearchConfig(arch_lr=0.01).arch_lr == 0.01
    assert SearchConfig(**cifar.model_dump()) == cifar
    for bad in (
        {"epochs": 5, "warmup_epochs": 5},
        {"channels": 6, "partial_channels": 4},
        {"preset": "nope"},
        {"lr": 1},
        {"relaxation": "full", "partial_channels": 4},
    ):
        with pytest.raises(ValidationError):
            SearchConfig(**bad)
