"""Whole searches on rows beyond the default one: resumed to the same bits, stages, early ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import search_tiny as tiny
import torch
from safetensors import safe_open

from factory.core.errors import FactoryError, InputError
from factory.search import checkpoint, latency_module
from factory.search.architectures import TierBudget, search_architectures
from factory.search.collapse import CollapseWatch
from factory.search.config import SearchConfig
from factory.search.progressive import dropout_at, progressive, strongest
from factory.search.seeds import search_seeds
from factory.spaces.cell_space import CellSpace
from factory.spaces.genotype import CELL_TYPES

SHORT = {"epochs": 2, "warmup_epochs": 1, "steps_per_epoch": 2, "batch_size": 6}
STAGES = {
    "schedule": "progressive",
    "stage_layers": (3, 3, 4),
    "stage_candidates": (8, 5, 3),
    "skip_dropout": (0.0, 0.4, 0.7),
}
ROWS = {
    "p-darts with partial channels and a latency module": {
        **STAGES, "latency_cost": "module", "module_samples": 300,
    },
    "gdas": {"relaxation": "full", "partial_channels": 1, "sampling": "gumbel_hard"},
    "factorised, amended": {
        "relaxation": "factorised", "activations": ("relu", "tanh"), "gradient": "amended",
    },
    "second order, snas, beta-DARTS": {
        "gradient": "second_order", "sampling": "gumbel_soft", "beta_decay": 5.0,
    },
}  # fmt: skip


class Interrupting:
    """Progress that raises after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

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
                    raise KeyboardInterrupt

        return Task()

    def message(self, text):
        return None


def _search(out: Path, progress=None, seed=3, limit=0.9, **settings):
    cfg = tiny.tiny_config(**{**SHORT, **settings})
    terms = [tiny.latency_term(limit), tiny.mac_term(4e6)] if limit else []
    arguments = (CellSpace(tiny.SPEC), tiny.tiny_data(), [TierBudget("a", terms)], cfg, out)
    if progress is None:
        return search_seeds(*arguments, seed=seed)["a"]
    return search_architectures(*arguments, progress, seed=seed)["a"]


def _rows(folder: Path):
    return [json.loads(line) for line in (folder / "a/history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.heavy] if name.startswith(("fact", "second")) else [])
        for name in ROWS
    ],
)
def test_an_interrupted_search_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr(latency_module, "LEAST_STEPS", 60)  # how well it is fitted is not asked
    settings = {**ROWS[name], "checkpoint_steps": 1}
    whole = _search(tmp_path / "whole", **settings)
    stops = (3, 5) if "schedule" in settings else (3,)
    for steps in stops:  # within a stage, and on into the next ones
        with pytest.raises(KeyboardInterrupt):
            _search(tmp_path / "cut", Interrupting(steps), **settings)
    again = _search(tmp_path / "cut", **settings)
    assert again.genotype == whole.genotype
    for file in ("search.json", "history.jsonl", "checkpoint.safetensors"):
        assert (tmp_path / "cut/a" / file).read_bytes() == (
            tmp_path / "whole/a" / file
        ).read_bytes()
    assert whole.predicted["latency_ms"] <= 0.9
    assert whole.gap is not None
    if "activations" in settings:
        assert len(whole.activations["normal"]) == 14
    last = _rows(tmp_path / "whole")[-1]
    assert last["gap"] == pytest.approx(last["derived_loss"] - last["supernet_loss"])
    assert len(last["probabilities"]["normal"]) == 14


def test_stages_keep_exactly_the_strongest_candidates(tmp_path):
    result = _search(tmp_path, limit=None, **STAGES)
    rows = _rows(tmp_path)
    assert [row["stage"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert [row["phase"] for row in rows] == ["warmup", "warmup", "search", "search"] * 3
    with safe_open(str(tmp_path / "a/checkpoint.safetensors"), "pt") as stream:
        kept = {name: stream.get_tensor(f"arch.candidates_{name}") for name in CELL_TYPES}
        assert int(stream.get_tensor("stage")) == 2
        assert not any("cells.4." in key for key in stream.keys())  # noqa: SIM118
    assert all(bool((kept[name].sum(1) == 3).all()) for name in CELL_TYPES)
    for name in CELL_TYPES:
        alpha = torch.tensor(rows[7]["probabilities"][name])  # the end of the second stage
        assert int((alpha > 0).sum()) == 14 * 5
        for e in range(14):
            assert set(alpha[e].topk(3).indices.tolist()) == set(
                kept[name][e].nonzero()[:, 0].tolist()
            )
    hot = tiny.target().one_hot(result.genotype)
    for name in CELL_TYPES:
        assert not bool((torch.from_numpy(hot[name]) > 0).logical_and(~kept[name]).any())


def test_strongest_never_brings_back_what_is_out():
    alpha = torch.arange(8.0).expand(14, 8).clone()
    alpha[:, 7] = -torch.inf
    kept = strongest({"normal": alpha}, 3)["normal"]
    assert kept[0].tolist() == [False] * 4 + [True] * 3 + [False]


def test_progressive_schedule_and_its_dropout():
    cfg = SearchConfig(preset="p-darts")
    plan = progressive(cfg, 100)
    assert [(s.start, s.warm_until, s.end) for s in plan.stages] == [
        (0, 1000, 2500), (2500, 3500, 5000), (5000, 6000, 7500),
    ]  # fmt: skip
    assert plan.weight_lr(0) == plan.weight_lr(2500) == 0.025
    assert plan.weight_lr(2499) < 1e-4
    assert [plan.weights_only(s) for s in (999, 1000, 2499, 2500, 9999)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert dropout_at(0.4, 0, cfg) == pytest.approx(0.4 * 24 / 25)
    assert dropout_at(0.4, 9, cfg) == pytest.approx(0.4 * 15 / 25)
    assert dropout_at(0.4, 10, cfg) == 0.4
    assert dropout_at(0.4, 15, cfg) == pytest.approx(0.4 * 2.718281828**-1)
    assert plan.skip_dropout(100) == 0.0
    assert plan.skip_dropout(5000 + 1000) == 0.7


def test_a_collapse_ends_the_search_and_says_why():
    watch = CollapseWatch(2)
    assert watch.judge(0, 0.25, {}, {"epoch": 0}) is None
    assert watch.judge(1, 0.75, {"latency_ms": 0.4}, {"epoch": 1}) is None  # the budget asks for it
    assert watch.judge(2, 0.75, {"latency_ms": 0.0}, {"epoch": 2}) is None
    restored = CollapseWatch(2)
    restored.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    reason = restored.judge(3, 0.75, {}, {"epoch": 3})
    assert "75%) were skip connections for 2 epochs in a row" in reason
    assert "the architecture of epoch 1 was taken" in reason
    assert restored.healthy == {"epoch": 1}


def test_a_rising_eigenvalue_ends_the_search():
    watch = CollapseWatch(3)
    reasons = [watch.judge(e, 0.0, {}, {"epoch": e}, 1.0 + 0.2 * e) for e in range(10)]
    assert reasons[:9] == [None] * 9
    assert "eigenvalue of the architecture's Hessian grew from 1.4 to 2.4" in reasons[9]
    assert watch.healthy == {"epoch": 4}


def test_a_search_that_collapses_stops_and_takes_the_last_healthy_epoch(tmp_path, monkeypatch):
    shares = {"normal": 0.9, "reduce": 0.1}
    monkeypatch.setattr(tiny.CellSpace, "skip_shares", lambda space, genotype: shares)
    result = _search(tmp_path, limit=None, epochs=5, stop_patience=2, hessian_every=2)
    assert "stopped after epoch 2" in result.stopped
    assert "the skip limit decides" in result.stopped
    rows = _rows(tmp_path)
    assert rows[-1]["epoch"] == 2
    assert rows[-1]["stopped"] == result.stopped
    assert any(isinstance(row.get("hessian_eigenvalue"), float) for row in rows)
    assert _search(tmp_path, limit=None, epochs=5, stop_patience=2, hessian_every=2) == result
    off = _search(tmp_path / "off", limit=None, epochs=3, stop_patience=1, stop="off")
    assert off.stopped is None


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    from factory.search.problem import StageProblem

    plain = StageProblem.loss
    calls: list[int] = []

    def loss(self, batch, *, detach_arch=False):
        calls.append(1)
        value = plain(self, batch, detach_arch=detach_arch)
        return value * float("nan") if len(calls) > 6 else value

    monkeypatch.setattr(StageProblem, "loss", loss)
    with pytest.raises(FactoryError) as error:
        _search(tmp_path, limit=None, epochs=4, checkpoint_steps=1)
    text = str(error.value)
    assert "the search diverged: the loss of the architecture is nan in step 4" in text
    assert f"the last good checkpoint is {tmp_path / 'a/checkpoint.safetensors'} at step 4" in text
    with safe_open(str(tmp_path / "a/checkpoint.safetensors"), "pt") as stream:
        for key in stream.keys():  # noqa: SIM118
            assert bool(torch.isfinite(stream.get_tensor(key).double()).all())


def test_several_seeds_give_statistics_and_the_best(tmp_path):
    result = _search(tmp_path, limit=0.9, seeds=2)
    summary = json.loads((tmp_path / "a/seeds.json").read_text())
    assert summary["seeds"] == [3, 4]
    losses = summary["values"]["derived_loss"]["all"]
    assert result.seed == summary["best_seed"] == [3, 4][losses.index(min(losses))]
    assert result.derived_loss == min(losses)
    alone = _search(tmp_path / "alone", limit=0.9, seed=4)
    other = json.loads((tmp_path / "seed-4/a/search.json").read_text())
    assert alone.genotype.to_dict() == other["genotype"]
    assert _search(tmp_path, limit=0.9, seeds=2) == result


def test_a_front_over_budgets_from_one_search(tmp_path):
    result = _search(tmp_path, front=5)
    costs = [entry["costs"]["latency_ms"] for entry in result.front]
    strengths = [entry["strength"] for entry in result.front]
    assert len(costs) >= 2
    assert costs == sorted(costs)
    assert strengths == sorted(strengths)
    assert all(entry["costs"]["macs"] <= 4e6 for entry in result.front)
    assert all(
        entry["costs"]["latency_ms"] <= entry["limit"] * (1 + 1e-9) for entry in result.front
    )


def test_tensorboard_is_optional_and_missing_it_is_told(tmp_path, monkeypatch):
    import builtins

    from factory.core.errors import InputError

    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if "tensorboard" in name:
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install '\.\[tensorboard\]'"):
        _search(tmp_path, limit=None, tensorboard=True)


def test_a_checkpoint_in_which_one_bit_changed_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}
    checkpoint.save(path, tensors, {"fingerprint": "f", "step": 3})
    known, values = checkpoint.load(path, "f")
    assert values["step"] == checkpoint.step_of(path) == 3
    assert all(torch.equal(known[name], value) for name, value in tensors.items())
    content = path.read_bytes()
    for place in (4, 60, len(content) - 3):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        assert checkpoint.step_of(path) is None
        with pytest.raises(InputError, match="cannot be read"):
            checkpoint.load(path, "f")
