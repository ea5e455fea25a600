"""Diagnostics, candidates over time and seeds in the report."""

from __future__ import annotations

import json

import pytest

from factory.reporting.artefacts import read_run
from factory.reporting.report import write_report
from factory.reporting.search_figures import diagnostics_plot, epoch_rows, probability_plots
from factory.reporting.search_view import diagnostics, seed_rows


@pytest.fixture
def run_root(make_run):
    return make_run()


def test_what_was_watched_is_told(run_root):
    tier = read_run(run_root).tiers[0]
    told = dict(diagnostics(tier))
    assert told["method"] == "pc-darts-cifar, amended"
    assert told["skip share, normal cell"].startswith("25%")
    assert told["skip share, reduce cell"].startswith("50%")
    assert told["entropy of alpha"].startswith("0.420")
    assert told["gap"].startswith("+0.500")
    assert told["largest Hessian eigenvalue"].endswith("at first")
    assert told["ended"] == "after its last epoch"
    rows = seed_rows(tier)
    assert rows is not None
    assert (rows["seeds"], rows["best"], rows["different"], rows["stopped"]) == (3, 4, 3, 1)
    assert rows["rows"][0] == ("gap to the supernet", "0.5", "0.1", "0.4", "0.6")
    assert rows["rows"][1] == ("latency_ms", "0.5", "", "0.4", "0.6")


def test_the_page_has_plots_and_tables_and_the_reason_of_an_early_end(run_root):
    path = run_root / "03-search/digits-all/result.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "stopped": "stopped after epoch 7: <too many> skips"}))
    page = write_report(run_root).read_text()
    assert "stopped after epoch 7: &lt;too many&gt; skips" in page
    assert page.count("Operators over time") >= 3
    assert "Operators of the reduce cell of tier digits-all over time" in page
    assert "Diagnostics of the search of tier digits-all" in page
    assert "3 seeds" in page
    assert page.count("<svg") == page.count("</svg>")


@pytest.mark.parametrize(
    "damage",
    [None, "nothing", {"normal": [[0.5]]}, {"normal": [["x"] * 8] * 14}, {"other": [[1.0]]}],
)
def test_damaged_rows_are_left_out(run_root, damage):
    tier = read_run(run_root).tiers[0]
    for row in epoch_rows(tier):
        row["probabilities"] = damage
    assert probability_plots(tier) == []
    tier = read_run(run_root).tiers[0]
    tier.search["candidates"] = damage
    assert probability_plots(tier) == []
    tier.seeds["values"] = "nothing"
    assert seed_rows(tier) is None


def test_without_a_history_there_is_nothing(run_root):
    tier = read_run(run_root).tiers[0]
    tier.search_history = []
    assert probability_plots(tier) == []
    assert diagnostics_plot(tier, 0) is None
