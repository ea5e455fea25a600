"""`factory search --strategy` on a simulated chip, in both spaces."""

import json
from pathlib import Path

import numpy as np
import pytest

from factory.api import build, search, train
from factory.core.errors import BudgetError, InputError
from factory.pipeline.context import open_run
from factory.pipeline.discrete_search import TermCosts
from factory.pipeline.stages.fit import load_predictor
from factory.search.costs import macs_term, parameters_term
from factory.search.peak_memory import peak_memory_term
from factory.spaces import Cell201, Genotype
from factory.spaces.cell_space import CellSpace
from factory.spaces.network_spec import NetworkSpec


def nas_bench_201(recipe: Path) -> Path:
    text = recipe.read_text().replace("[space]", '[space]\nkind = "nas_bench_201"')
    recipe.write_text(text)
    return recipe


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["cell", "nas_bench_201"])
def test_discrete_search_keeps_the_budgets_and_goes_on(tiny: Path, tmp_path: Path, kind) -> None:
    recipe = tiny if kind == "cell" else nas_bench_201(tiny)
    out = tmp_path / "out"
    fewer = search(recipe, out=out, strategy="evolution", queries=2, epochs=1)
    trainings = sorted((out / "search-trainings").iterdir())
    assert len(trainings) == 2
    answer = search(recipe, out=out, strategy="evolution", queries=4, epochs=1)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "search-trainings").iterdir()}
    assert len(after) == 4
    assert {path.name for path in trainings} < set(after)
    (tier,) = answer["tiers"]
    assert tier["queries"] == 4
    assert tier["predicted_ms"] <= tier["max_latency_ms"]
    assert tier["macs"] <= tier["max_macs"] == 2e6
    assert tier["within_budget"] == (tier["median_ms"] <= tier["max_latency_ms"])
    assert fewer["tiers"][0]["validation_accuracy"] <= tier["validation_accuracy"] <= 1
    saved = json.loads(Path(tier["genotype"]).read_text())
    found = Genotype.from_dict(saved) if kind == "cell" else Cell201.from_dict(saved)
    ctx = open_run(out)
    predictor = load_predictor(ctx, "simulated-a")
    kernels = ctx.space(ctx.recipe.tiers[0]).kernels(found, predictor.dtype)
    assert tier["predicted_ms"] == pytest.approx(predictor.predict(kernels).latency_ms)
    assert tier["macs"] == sum(kernel.macs * count for kernel, count in kernels.items())
    again = search(recipe, out=out, strategy="evolution", queries=4, epochs=1)
    assert again == answer
    other = search(recipe, out=out, strategy="random", queries=1, epochs=1)
    assert other["tiers"][0]["queries"] == 1
    trained = train(recipe, genotype=tier["genotype"], out=tmp_path / "trained")
    assert trained["genotype"] == saved
    assert trained["params"] == tier["params"]


@pytest.mark.heavy
def test_unreachable_budget_is_told_before_any_training(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text().replace("latency_percentile = 40", "max_latency_ms = 1e-3"))
    with pytest.raises(BudgetError, match=r"smallest network in this space needs .* ms on sim"):
        search(tiny, out=tmp_path / "out", strategy="random", queries=2, epochs=1)
    assert not (tmp_path / "out" / "search-trainings").exists()


def test_costs_of_terms_are_those_of_the_network() -> None:
    space = CellSpace(NetworkSpec(4, 3, "cifar", (3, 8, 8), 3))
    presence = space.presence()
    terms = [macs_term(presence), parameters_term(presence), peak_memory_term(space, None)]
    costs, rng = TermCosts(space, terms), np.random.default_rng(0)
    for architecture in (space.random(rng) for _ in range(5)):
        counts = space.counts(architecture)
        expected = {
            "macs": counts.macs,
            "params": counts.params,
            "peak_memory_mb": counts.peak_memory_mb,
        }
        assert costs(architecture) == pytest.approx(expected)


def test_bad_arguments(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown search strategy 'evolutoin'; did you mean"):
        search(tiny, out=tmp_path / "out", strategy="evolutoin")
    with pytest.raises(InputError, match="give at least 1 of both"):
        search(tiny, out=tmp_path / "out", strategy="random", queries=0)
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_would_be_done(tiny: Path, tmp_path: Path) -> None:
    answer = search(tiny, out=tmp_path / "out", strategy="nsga2", dry_run=True)
    assert answer["stages"][-1] == {
        "stage": "search",
        "state": "nsga2, 30 queries a tier of 3 epochs each",
    }


def test_a_row_that_the_other_space_has_not_is_refused_before_anything_is_measured(
    tiny: Path, tmp_path: Path
) -> None:
    text = tiny.read_text()
    assert "[search]\n" in text
    tiny.write_text(text.replace("[search]\n", '[search]\nlatency_cost = "module"\n'))
    message = "latency_cost = 'module' does not run on nas_bench_201"
    with pytest.raises(InputError, match=message):
        build(nas_bench_201(tiny), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*profile*"))
