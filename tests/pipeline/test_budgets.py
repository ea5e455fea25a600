"""Budgets of a tier: several chips at once, peak memory, and the search on NAS-Bench-201."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_recipe import DEVICE, RECIPE

from factory.core.errors import BudgetError, InputError
from factory.core.reading import read_json
from factory.devices.simulated import SimulatedDevice
from factory.graph.fusion import NO_RULES, parse_rules
from factory.pipeline.build import run_build, summary
from factory.pipeline.context import BuildContext
from factory.pipeline.discrete_search import search_tiers, tier_problem
from factory.pipeline.recipe import Recipe
from factory.pipeline.recipe_loading import load_recipe, recipe_from_text
from factory.pipeline.run_folder import RunFolder
from factory.pipeline.search_budgets import tier_costs
from factory.pipeline.stages import fit, profile
from factory.pipeline.stages.fit import load_predictor
from factory.search.strategies.problem import admissible
from factory.spaces.nas_bench_201 import Cell201


def recipe_of(folder, more="", precision="fp32", **changed):
    """The tiny recipe on two chips."""
    for name, kind in (("simulated-a", "fp32"), ("simulated-b", precision)):
        path = folder / f"{name}.toml"
        path.write_text(DEVICE.format(id=name, precision=kind))
    text = RECIPE.format(device=folder / "simulated-a.toml")
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "two.toml"
    path.write_text(text + more)
    return path


def also(folder, text="latency_percentile = 60"):
    return f'[[tiers.also]]\ndevice = "{folder / "simulated-b.toml"}"\n{text}\n'


def test_a_budget_of_another_chip_is_one_number(tmp_path):
    path = recipe_of(tmp_path, also(tmp_path, "latency_percentile = 60\nmax_latency_ms = 3"))
    with pytest.raises(InputError, match="needs exactly one latency budget"):
        load_recipe(path)


def test_the_chips_of_a_tier_are_distinct_and_of_one_precision(tmp_path):
    recipe, _ = load_recipe(recipe_of(tmp_path, also(tmp_path), precision="int8"))
    with pytest.raises(InputError, match="run fp32 and int8"):
        BuildContext(recipe, RunFolder(tmp_path / "out"))
    twice = also(tmp_path).replace("simulated-b", "simulated-a")
    recipe, _ = load_recipe(recipe_of(tmp_path, twice))
    with pytest.raises(InputError, match="a chip is named twice in tier 'sim'"):
        BuildContext(recipe, RunFolder(tmp_path / "out"))


@pytest.mark.heavy
def test_a_model_keeps_the_budgets_of_two_chips_and_of_memory(tmp_path):
    recipe, _ = load_recipe(
        recipe_of(tmp_path, "max_peak_memory_mb = 0.1\nmax_params = 9e3\n" + also(tmp_path))
    )
    out = tmp_path / "out"
    run_build(recipe, out)
    budget = read_json(out / "02-fit/budgets.json")["tiers"]["sim"]
    (other,) = budget["also"]
    found = read_json(out / "03-search/sim/result.json")
    names = {"latency_ms", "latency_ms@simulated-b", "macs", "params", "peak_memory_mb"}
    assert set(found["predicted"]) == set(found["expected"]) == names
    assert found["predicted"]["latency_ms"] <= budget["max_latency_ms"]
    assert found["predicted"]["latency_ms@simulated-b"] <= other["max_latency_ms"]
    assert found["predicted"]["peak_memory_mb"] == found["peak_memory_mb"] <= 0.1
    assert found["predicted"]["params"] == found["params"] <= 9e3
    assert found["checked_also_ms"].keys() == {"simulated-b"}
    verdict = read_json(out / "06-verify/sim.json")
    (measured,) = verdict["also"]
    assert measured["median_ms"] <= other["max_latency_ms"]
    assert measured["verdict"] == "holds"
    assert verdict["verdict"] == "passed"
    listed = read_json(out / "06-verify/certificates/sim.certificate.json")["budget"]["limits"]
    assert [(part["name"], part["device_id"]) for part in listed] == [
        ("latency_ms", "simulated-a"),
        ("latency_ms", "simulated-b"),
        ("macs", ""),
        ("params", ""),
        ("peak_memory_mb", ""),
    ]
    assert all(part["holds"] and part["margin_percent"] >= 0 for part in listed)
    context = BuildContext(recipe, RunFolder(out))
    tier = recipe.tiers[0]
    half = {t.name: t.limit for t in tier_costs(context, tier, 0.5 * budget["max_latency_ms"])}
    assert half["latency_ms@simulated-b"] == pytest.approx(0.5 * other["max_latency_ms"])
    assert half["macs"] == 2e6
    discrete_search_keeps_them_too(context, tier, names)


def discrete_search_keeps_them_too(context, tier, names):
    (answer,) = search_tiers(context, "random", queries=2, epochs=1)["tiers"]
    (other,) = answer["also"]
    assert answer["params"] <= answer["max_params"] == 9e3
    assert answer["peak_memory_mb"] <= answer["max_peak_memory_mb"] == 0.1
    assert other["device_id"] == "simulated-b"
    assert other["predicted_ms"] <= other["max_latency_ms"]
    assert answer["within_budget"] == (
        answer["median_ms"] <= answer["max_latency_ms"]
        and other["median_ms"] <= other["max_latency_ms"]
    )
    # an architecture over any of them is never trained; latencies are those of its own network
    problem, space = tier_problem(context, tier, 1), context.space(tier)
    assert set(problem.limits) == names
    rng = np.random.default_rng(0)
    broken = set()
    for architecture in (space.random(rng) for _ in range(40)):
        found = problem.objective.known_costs(architecture)
        for name, chip in (
            ("latency_ms", "simulated-a"),
            ("latency_ms@simulated-b", "simulated-b"),
        ):
            predictor = load_predictor(context, chip)
            kernels = space.kernels(architecture, predictor.dtype)
            assert found[name] == pytest.approx(predictor.predict(kernels).latency_ms)
        over = {name for name in names if found[name] > problem.limits[name]}
        assert (admissible(problem, space.choices(architecture))[1] > 0) == bool(over)
        broken |= over
    assert {"latency_ms", "params"} <= broken


def test_budgets_count_by_the_fusion_rules_of_each_chip(tmp_path, monkeypatch):
    """A chip that folds additions and one that does not: each cost is that of its own network."""
    rules = parse_rules(["conv_pointwise+Add"])

    class Folds(SimulatedDevice):
        def __init__(self, profile) -> None:
            folds = profile.id == "simulated-a"
            super().__init__(profile, fuses=rules if folds else NO_RULES, compiles=folds)

    monkeypatch.setattr("factory.devices.simulated.SimulatedDevice", Folds)
    recipe, _ = load_recipe(recipe_of(tmp_path, also(tmp_path)))
    context = BuildContext(recipe, RunFolder(tmp_path / "out"))
    profile.run(context)
    fit.run(context)
    predictors = {name: load_predictor(context, name) for name in ("simulated-a", "simulated-b")}
    assert predictors["simulated-a"].fusion == rules
    assert predictors["simulated-b"].fusion == NO_RULES
    tier = recipe.tiers[0]
    first, other, macs = tier_costs(context, tier, 1.0)
    space, rng = context.space(tier), np.random.default_rng(0)
    differ = 0
    for architecture in (space.random(rng) for _ in range(20)):
        q = {name: many[0] for name, many in space.one_hot_many([architecture]).items()}
        for term, name in ((first, "simulated-a"), (other, "simulated-b")):
            predictor = predictors[name]
            kernels = space.kernels(architecture, predictor.dtype, predictor.fusion)
            assert term.value(q) == pytest.approx(predictor.predict(kernels).latency_ms)
        differ += space.kernels(architecture) != space.kernels(architecture, fusion=rules)
        assert macs.value(q) == space.counts(architecture).macs
    assert differ > 10


@pytest.mark.heavy
def test_memory_that_no_network_has_is_refused_before_training(tmp_path):
    recipe, _ = load_recipe(recipe_of(tmp_path, "max_peak_memory_mb = 0.001\n"))
    with pytest.raises(BudgetError, match=r"the smallest network in this space needs .* MB"):
        run_build(recipe, tmp_path / "out")
    assert not (tmp_path / "out/04-train").exists()


@pytest.mark.heavy
def test_a_build_on_nas_bench_201(tmp_path):
    recipe, _ = load_recipe(
        recipe_of(tmp_path, **{"[space]\n": '[space]\nkind = "nas_bench_201"\n'})
    )
    out = tmp_path / "out"
    answer = summary(run_build(recipe, out))
    assert answer["passed"] is True
    cell = Cell201.from_dict(read_json(out / "03-search/sim/genotype.json"))
    assert cell.connected
    page = (out / "07-report/report.html").read_text()
    assert str(cell).replace("+", "&#43;") in page or str(cell) in page


def test_a_recipe_keeps_its_old_form():
    text = RECIPE.format(device="simulated-a")
    recipe = recipe_from_text(text, "tiny")
    assert isinstance(recipe, Recipe)
    assert recipe.tiers[0].also == ()
    assert recipe.tiers[0].max_peak_memory_mb is None
