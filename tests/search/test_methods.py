"""Rows of choices: presets, any other row, what is refused; and the list of them."""

from __future__ import annotations

import json
import sys
import typing

import pytest
from pydantic import ValidationError

from factory.cli.main import run
from factory.core.errors import InputError
from factory.core.validation import validate
from factory.search.axes import ACTIVATIONS, AXES
from factory.search.config import SearchConfig
from factory.search.presets import PRESETS, preset_names


def test_every_choice_of_the_settings_is_on_an_axis_and_loads():
    for axis, registry in AXES.items():
        choices = typing.get_args(SearchConfig.model_fields[axis].annotation)
        assert sorted(choices) == sorted(registry.names())
        for name in registry:
            assert registry.get(name).load() is not None


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_consistent_and_written_out_they_are_the_same(name):
    cfg = SearchConfig(preset=name)
    assert SearchConfig(**cfg.model_dump()) == cfg
    assert SearchConfig(**json.loads(cfg.model_dump_json())) == cfg


def test_published_settings():
    darts = SearchConfig(preset="darts")
    assert (darts.epochs, darts.batch_size, darts.weight_lr, darts.weight_lr_min) == (
        50, 64, 0.025, 0.001,
    )  # fmt: skip
    assert (darts.arch_lr, darts.arch_weight_decay, darts.warmup_epochs) == (3e-4, 1e-3, 0)
    assert SearchConfig(preset="darts-2nd").gradient == "second_order"
    stages = SearchConfig(preset="p-darts")
    assert (stages.stage_layers, stages.stage_candidates) == ((5, 11, 17), (8, 5, 3))
    assert (stages.epochs, stages.warmup_epochs, stages.batch_size) == (25, 10, 96)
    assert (stages.skip_dropout, stages.max_skips, stages.arch_lr) == ((0.0, 0.4, 0.7), 2, 6e-4)
    assert SearchConfig(preset="stabilized-darts").amended_eta == 0.1
    assert SearchConfig(preset="la-darts").latency_cost == "module"
    assert len(SearchConfig(preset="scalable-darts").activations) > 1
    gdas = SearchConfig(preset="gdas")
    assert (gdas.temperature_start, gdas.temperature_end) == (10.0, 0.1)
    assert SearchConfig(preset="beta-darts").beta_decay == 50


def test_short_forms_keep_the_row():
    for name in PRESETS:
        if name == "short":
            continue
        long, short = SearchConfig(preset=name), SearchConfig(preset=f"{name}-short")
        assert all(getattr(long, axis) == getattr(short, axis) for axis in AXES)
        assert short.epochs < long.epochs
        assert short.batch_size <= 64
    assert SearchConfig(preset="short", arch_lr=0.03) == SearchConfig(preset="short")
    assert SearchConfig(preset="pc-darts-short").model_dump(exclude={"preset"}) == SearchConfig(
        preset="short"
    ).model_dump(exclude={"preset"})


def test_any_row_can_be_written_from_any_preset():
    row = SearchConfig(preset="p-darts", relaxation="partial_channel", latency_cost="module")
    assert (row.schedule, row.partial_channels, row.stage_layers[-1]) == ("progressive", 4, 17)
    flat = SearchConfig(preset="p-darts", schedule="single_stage")
    assert (flat.epochs, flat.skip_dropout) == (50, (0.0, 0.4, 0.7))
    deep = SearchConfig(preset="darts-short", schedule="progressive")
    assert (deep.epochs, deep.warmup_epochs, deep.stage_layers) == (4, 1, (5, 6, 8))
    wide = SearchConfig(preset="pc-darts", relaxation="full", sampling="gumbel_soft")
    assert (wide.partial_channels, wide.batch_size) == (1, 256)
    both = SearchConfig(relaxation="factorised", partial_channels=4, gradient="amended")
    assert (both.partial_channels, both.activations[0]) == (4, "relu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "p-dart"}, "did you mean 'p-darts'"),
        ({"relaxation": "full", "partial_channels": 4}, "set partial_channels = 1"),
        ({"relaxation": "factorised", "activations": ["relu"]}, "two activations or more"),
        ({"activations": ["relu", "tanh"]}, "does nothing with relaxation = 'partial_channel'"),
        ({"relaxation": "factorised", "activations": ["relu", "swish"]}, "unknown activation"),
        ({"amended_eta": 0.5}, "does nothing with gradient = 'first_order', only with 'amended'"),
        ({"temperature_end": 0.01}, "only with 'gumbel_soft' or 'gumbel_hard'"),
        ({"sampling": "gumbel_hard", "temperature_end": 20}, "larger than temperature_start"),
        ({"schedule": "progressive", "stage_layers": [5, 11]}, "one entry a stage"),
        ({"schedule": "progressive", "stage_candidates": [8, 5, 5]}, "must fall"),
        ({"schedule": "progressive", "stage_candidates": [8, 5, 1]}, "other than none is left"),
        ({"schedule": "progressive", "skip_dropout": [0, 0.4, 1.0]}, "must lie in [0, 1)"),
        ({"module_samples": 5000}, "does nothing with latency_cost = 'additive'"),
        ({"gradient": "third_order"}, "first_order"),
        ({"relaxation": ["full"]}, "partial_channel"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_sentence(settings, words):
    with pytest.raises(InputError) as error:
        validate(SearchConfig, settings, where="recipe r")
    assert words in str(error.value)
    assert str(error.value).count("\n") == 0
    with pytest.raises(ValidationError):
        SearchConfig(**settings)


def test_the_list_names_every_choice_and_preset(capsys):
    assert run(["search", "--list"]) == 0
    text = capsys.readouterr().out
    for names in (*AXES.values(), ACTIVATIONS, PRESETS):
        assert all(name in text for name in names)
    assert run(["search", "--list", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["presets"]) == set(PRESETS)
    assert answer["presets"]["p-darts"]["row"]["schedule"] == "progressive"
    assert run(["search"]) == 2
    assert "factory search --list" in capsys.readouterr().err


def test_the_list_needs_no_torch():
    import subprocess

    code = (
        "import sys; from factory.cli.main import run; run(['search', '--list']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
