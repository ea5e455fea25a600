"""build, search and train: the line as far as it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.pipeline.recipe import Recipe
from factory.pipeline.recipe_loading import load_recipe

if TYPE_CHECKING:
    from factory.data.survey import Survey

SCHEMA_VERSION = 1


def build(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    scale: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Build one verified ONNX model per tier; called again it goes on where it was.

    Args:
        recipe: a recipe's path or name.
        out: run folder; runs/<recipe name> by default.
        scale: a named scale of the recipe.
        seed: replaces the recipe's seed.
        dry_run: only check the recipe and say which stages would run.
        progress: where progress is reported.

    Returns:
        What `factory build --json` prints; ``passed`` says whether every tier holds.
    """
    return _line(recipe, out, scale, seed, dry_run, progress, "report")


def search(
    recipe: str | Path | None = None,
    *,
    list_methods: bool = False,
    out: str | Path | None = None,
    scale: str | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    dry_run: bool = False,
    strategy: str | None = None,
    queries: int = 30,
    epochs: int = 3,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Profile, fit and search only; the other arguments are those of :func:`build`.

    Args:
        list_methods: search nothing; what comes back are the axes of a search method, their
            choices and the presets.
        seeds: replaces the recipe's search.seeds.
        strategy: a discrete strategy in place of the differentiable search.
        queries: architectures it evaluates per tier.
        epochs: epochs of the short training that is one evaluation.
    """
    if list_methods:
        from factory.pipeline.verbs.methods import methods

        return methods()
    if recipe is None:
        raise InputError(
            "no recipe was named", fix="name one, or list the methods with factory search --list"
        )
    if strategy is None:
        return _line(recipe, out, scale, seed, dry_run, progress, "search", seeds)
    from factory.search.strategies import STRATEGIES

    STRATEGIES.get(strategy)  # an unknown name is told before anything is measured
    if queries < 1 or epochs < 1:
        raise InputError(
            f"queries = {queries}, epochs = {epochs} is not accepted", fix="give at least 1 of both"
        )
    answer = _line(recipe, out, scale, seed, dry_run, progress, "fit")
    if dry_run:
        state = f"{strategy}, {queries} queries a tier of {epochs} epochs each"
        return {**answer, "stages": [*answer["stages"], {"stage": "search", "state": state}]}
    from factory.pipeline.context import open_run
    from factory.pipeline.discrete_search import search_tiers

    return search_tiers(open_run(answer["run"], progress), strategy, queries, epochs)


def train(
    recipe: str | Path,
    *,
    genotype: str | None = None,
    out: str | Path | None = None,
    scale: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train the tiers of a recipe (searching first), or only ``genotype`` at the recipe's size."""
    if genotype is None:
        return _line(recipe, out, scale, seed, dry_run, progress, "train")
    from factory.pipeline.train_one import train_one

    checked, _ = load_recipe(recipe, scale=scale, seed=seed)
    return train_one(checked, genotype, out=out, dry_run=dry_run, progress=progress)


def _survey(recipe: Recipe, progress: Progress) -> Survey | None:
    """A look at the recipe's folder of pictures; InputError where one of them cannot be read."""
    if recipe.data.kind != "image_folder":
        return None
    from factory.data.survey import survey_folder

    survey = survey_folder(recipe.data, progress)
    for line in survey.sentences():
        progress.message(line)
    survey.require_readable()
    return survey


def _line(
    recipe: str | Path,
    out: str | Path | None,
    scale: str | None,
    seed: int | None,
    dry_run: bool,
    progress: Progress,
    until: str,
    seeds: int | None = None,
) -> dict[str, Any]:
    checked, _ = load_recipe(recipe, scale=scale, seed=seed)
    if seeds is not None:
        checked = checked.model_copy(
            update={"search": checked.search.model_copy(update={"seeds": seeds})}
        )
    from factory.pipeline.build import plan, run_build, summary
    from factory.pipeline.context import BuildContext, default_out
    from factory.pipeline.run_folder import STAGES, RunFolder

    folder = Path(out) if out is not None else default_out(checked)
    if dry_run:
        BuildContext(checked, RunFolder(folder))
        survey = _survey(checked, progress)
        stages = plan(checked, folder)[: STAGES.index(until) + 1]
        return {
            "schema_version": SCHEMA_VERSION,
            "dry_run": True,
            "passed": True,
            "run": str(folder),
            "recipe": checked.as_dict(),
            "stages": stages,
            "data": None if survey is None else survey.as_dict(),
        }
    ctx = run_build(checked, folder, until=until, progress=progress)
    return summary(ctx, until)
