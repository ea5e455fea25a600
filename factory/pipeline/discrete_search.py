"""`factory search --strategy`: discrete search of a recipe's tiers, each query a short training.

Uses the predictors and budgets of the run's first two stages. A query trains the architecture for
a few epochs at the search's size on one part of the training pictures and tests it on the other;
latency and MACs are those of the tier's own network, predicted, and an architecture over a budget
is never trained. At the end the most accurate ones are measured on the chip until one keeps the
budget. Files: <run>/search-<strategy>/<tier>/{trials.jsonl, genotype.json, result.json}; finished
trainings are shared by all tiers and strategies in <run>/search-trainings. A killed search goes on
where it was.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import BudgetError, InputError
from factory.core.files import read_json, write_json
from factory.core.progress import SILENT
from factory.core.units import format_ms
from factory.devices.base import open_device
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.context import BuildContext
from factory.pipeline.lock import locked
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.recipe import TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.stages import fit
from factory.search.strategies import STRATEGIES
from factory.search.strategies.feasible import check_feasible
from factory.search.strategies.problem import Problem, Score, Seen
from factory.search.strategies.study import Outcome, run_search
from factory.spaces.base import SearchSpace
from factory.spaces.config import space_of
from factory.training.config import TrainConfig

SCHEMA_VERSION = 1
FINALISTS = 5  # measured at most, the most accurate first


class PredictedCosts:
    """Latency (predicted) and MACs of a space's architectures, linear in the kernel counts."""

    def __init__(self, space: SearchSpace[Any], predictor: LatencyPredictor) -> None:
        self._space, self._presence = space, space.presence(predictor.dtype)
        kernels = self._presence.kernels
        self._latency = self._presence.weighted(*predictor.linear_ms(kernels))
        self._macs = self._presence.weighted(np.array([kernel.macs for kernel in kernels], float))

    def __call__(self, architecture: Any) -> dict[str, float]:
        """{"latency_ms", "macs"} of one architecture."""
        q = {name: values[0] for name, values in self._space.one_hot_many([architecture]).items()}
        monomials = self._presence.evaluate_monomials(q)
        found = {}
        for name, (constant, weights) in (("latency_ms", self._latency), ("macs", self._macs)):
            found[name] = float(constant + weights @ monomials)
        return found


class ShortTraining:
    """The objective: validation accuracy after a few epochs, predicted latency, MACs."""

    def __init__(self, ctx: BuildContext, tier: TierSection, epochs: int, label: str) -> None:
        self._ctx, self._epochs, self._label = ctx, epochs, label
        self._space = space_of(ctx.search_spec())
        predictor = fit.load_predictor(ctx, ctx.device(tier).id)
        self._costs = PredictedCosts(ctx.space(tier), predictor)
        self._known: dict[Any, dict[str, float]] = {}
        self._folder = ctx.folder.root / "search-trainings"
        self._cfg = short_config(ctx.recipe.training, epochs)
        self.fingerprint = fingerprint(
            {
                "data": ctx.part("data"),
                "size": ctx.spec_hash(ctx.search_spec()),
                "training": self._cfg.model_dump(mode="json"),
                "fraction": ctx.recipe.search.weight_fraction,
                "seed": ctx.seed,
            }
        )

    def known_costs(self, architecture: Any) -> Mapping[str, float]:
        """Predicted latency and MACs of the tier's network."""
        if architecture not in self._known:
            self._known[architecture] = self._costs(architecture)
        return self._known[architecture]

    def evaluate(self, architecture: Any) -> Score:
        """Train it shortly, or read what an earlier training came to."""
        costs = self.known_costs(architecture)
        return Score(self._accuracy(architecture), costs["latency_ms"], costs["macs"])

    def _accuracy(self, architecture: Any) -> float:
        from factory.training.loop import train_network

        form = self._space.to_dict(architecture)
        name = fingerprint({"architecture": form, "training": self.fingerprint})[:16]
        path = self._folder / f"{name}.json"
        if not path.exists():
            network: Any = self._space.network(architecture)
            result = train_network(
                network.initialise(self._ctx.seed),
                self._data,
                self._cfg,
                self._folder / name,
                SILENT,
                self._ctx.seed,
                label=self._label,
            )
            record = {"architecture": form, "accuracy": result.test_accuracy}
            write_json(path, {"schema_version": SCHEMA_VERSION, **record})
        shutil.rmtree(self._folder / name, ignore_errors=True)
        return float(read_json(path, "short training")["accuracy"])

    @cached_property
    def _data(self) -> Any:
        """The training pictures, one part to train on and the other to test on."""
        data = self._ctx.data
        train, validation = data.split(self._ctx.recipe.search.weight_fraction, self._ctx.seed)
        return dataclasses.replace(data, train=train, test=validation)


def short_config(training: TrainConfig, epochs: int) -> TrainConfig:
    """The recipe's training for a few epochs, without what only pays in a long one."""
    changes = {
        "epochs": epochs,
        "warmup_epochs": min(training.warmup_epochs, epochs / 4),
        "auxiliary_weight": 0.0,
        "drop_path": 0.0,
        "ema_decay": 0.0,
        "eval_every": epochs,
    }
    return TrainConfig.model_validate({**training.model_dump(), **changes})


def search_tiers(ctx: BuildContext, strategy: str, queries: int, epochs: int) -> dict[str, Any]:
    """Search every tier; the answer of the verb."""
    make = STRATEGIES.get(strategy)
    problems = {}
    for tier in ctx.recipe.tiers:  # all budgets are checked before anything is trained
        problems[tier.name] = _problem(ctx, tier, epochs)
        check_feasible(
            problems[tier.name], f"tier {tier.name!r} of the recipe", ctx.device(tier).id
        )
    found = []
    with locked(ctx.folder.root):
        for tier in ctx.recipe.tiers:
            folder = ctx.folder.root / f"search-{strategy}" / tier.name
            problem = problems[tier.name]
            outcome = run_search(
                problem,
                make(),
                queries=queries,
                seed=ctx.seed,
                path=folder / "trials.jsonl",
                fingerprint=problem.objective.fingerprint,  # type: ignore[attr-defined]
                progress=ctx.progress,
                label=f"{strategy} {tier.name}",
            )
            found.append(_finish(ctx, tier, outcome, folder, strategy))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": ctx.recipe.name,
        "run": str(ctx.folder.root),
        "stage": "search",
        "strategy": strategy,
        "queries": queries,
        "epochs": epochs,
        "passed": True,
        "tiers": found,
        "report": None,
    }


def _problem(ctx: BuildContext, tier: TierSection, epochs: int) -> Problem[Any]:
    budget = fit.load_budgets(ctx)[tier.name]
    objective = ShortTraining(ctx, tier, epochs, f"train for {tier.name}")
    limits = {"latency_ms": float(budget["max_latency_ms"])}
    if budget["max_macs"] is not None:
        limits["macs"] = float(budget["max_macs"])
    problem = Problem(ctx.space(tier), objective, limits)
    safe = {**limits, "latency_ms": limits["latency_ms"] * ctx.recipe.budget.safety}
    try:
        check_feasible(dataclasses.replace(problem, limits=safe))
    except BudgetError:
        return problem
    return dataclasses.replace(problem, limits=safe)


def _finish(
    ctx: BuildContext, tier: TierSection, outcome: Outcome[Any], folder: Path, strategy: str
) -> dict[str, Any]:
    """Measure finalists until one keeps the budget; its files and its line of the answer."""
    limit_ms = float(fit.load_budgets(ctx)[tier.name]["max_latency_ms"])
    ranked = sorted(outcome.history.feasible(), key=_accuracy, reverse=True)[:FINALISTS]
    if not ranked:
        raise InputError(
            f"{strategy} found no architecture within the budgets of tier {tier.name!r}",
            fix="give more --queries",
        )
    chosen, measured_ms = ranked[0], None
    for seen in ranked:
        measured_ms = _measure(ctx, tier, seen.architecture, folder)
        chosen = seen
        if measured_ms is None or measured_ms <= limit_ms:
            break
        ctx.progress.message(
            f"{tier.name}: a finalist takes {format_ms(measured_ms)} of {format_ms(limit_ms)}"
        )
    score, space = chosen.score, ctx.space(tier)
    assert score is not None
    write_json(folder / "genotype.json", space.to_dict(chosen.architecture))
    answer = {
        "tier": tier.name,
        "device_id": ctx.device(tier).id,
        "max_latency_ms": limit_ms,
        "max_macs": fit.load_budgets(ctx)[tier.name]["max_macs"],
        "predicted_ms": score.latency_ms,
        "median_ms": measured_ms,
        "within_budget": measured_ms is None or measured_ms <= limit_ms,
        "macs": round(score.macs),
        "params": space.counts(chosen.architecture).params,
        "validation_accuracy": score.accuracy,
        "queries": len(outcome.history.queries),
        "genotype": str(folder / "genotype.json"),
    }
    front = [
        {"architecture": space.to_dict(seen.architecture), **dataclasses.asdict(seen.score)}
        for seen in outcome.front
        if seen.score is not None
    ]
    write_json(folder / "result.json", {"schema_version": SCHEMA_VERSION, **answer, "front": front})
    return answer


def _accuracy(seen: Seen[Any]) -> float:
    assert seen.score is not None
    return seen.score.accuracy


def _measure(ctx: BuildContext, tier: TierSection, architecture: Any, folder: Path) -> float | None:
    """Median latency with random weights on the tier's chip, measured once."""
    from factory.verification.verify import verify_model

    path = folder / "checks.json"
    checks: dict[str, float | None] = read_json(path, "finalists") if path.exists() else {}
    space = ctx.space(tier)
    key = fingerprint(space.to_dict(architecture))
    if key not in checks:
        profile = ctx.device(tier)
        _, content = network_bytes(space, architecture, profile.dtype, ctx.seed)
        with open_device(profile) as device:
            checks[key] = verify_model(content, device).median_ms
        write_json(path, checks)
    return checks[key]
