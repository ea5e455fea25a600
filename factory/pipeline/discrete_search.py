"""`factory search --strategy`: discrete search of a recipe's tiers, each query a short training.

Uses the predictors of the run's first two stages and the cost terms of the differentiable search
(search_budgets.py), so all budgets of a tier are limits here too. A query trains the architecture
for a few epochs at the search's size on one part of the training pictures and tests it on the
other; costs are those of the tier's own network, predicted, and an architecture over a budget is
never trained. At the end the most accurate ones are measured on the tier's chips until one keeps
its latency budgets.

Files: <run>/search-<strategy>/<tier>/{trials.jsonl, genotype.json, result.json}; finished trainings
are shared by all tiers and strategies in <run>/search-trainings. A killed search goes on where it
was.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.progress import SILENT
from factory.core.reading import read_json
from factory.core.validation import checked
from factory.pipeline.context import BuildContext
from factory.pipeline.lock import locked
from factory.pipeline.recipe import TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.search_budgets import first_target_ms, tier_costs
from factory.pipeline.search_finalists import check_on_chips, over_budget
from factory.pipeline.stages import fit
from factory.search.costs import CostTerm, macs_term
from factory.search.strategies import STRATEGIES
from factory.search.strategies.problem import Problem, Score, Seen
from factory.search.strategies.study import Outcome, run_search
from factory.spaces.base import SearchSpace
from factory.training.config import TrainConfig

SCHEMA_VERSION = 1
FINALISTS = 5  # measured at most, the most accurate first


class TermCosts:
    """Exact values of cost terms on a space's architectures; weights are folded in once."""

    def __init__(self, space: SearchSpace[Any], terms: Sequence[CostTerm]) -> None:
        self._space, self._terms = space, terms
        self._folded = [term.presence.weighted(term.weights, term.constant) for term in terms]

    def __call__(self, architecture: Any) -> dict[str, float]:
        """Cost by the name of its term."""
        q = {name: values[0] for name, values in self._space.one_hot_many([architecture]).items()}
        monomials: dict[int, np.ndarray] = {}
        found = {}
        for term, (constant, weights) in zip(self._terms, self._folded, strict=True):
            if term.exact is not None:
                found[term.name] = term.exact(architecture)
                continue
            key = id(term.presence)
            if key not in monomials:
                monomials[key] = term.presence.evaluate_monomials(q)
            found[term.name] = float(constant + weights @ monomials[key])
        return found


class ShortTraining:
    """The objective: validation accuracy after a few epochs, and the tier's costs."""

    def __init__(
        self,
        ctx: BuildContext,
        tier: TierSection,
        terms: Sequence[CostTerm],
        epochs: int,
        label: str,
    ) -> None:
        self._ctx, self._epochs, self._label = ctx, epochs, label
        self._space = ctx.search_space()
        observed = [] if any(t.name == "macs" for t in terms) else [macs_term(terms[0].presence)]
        self._costs = TermCosts(ctx.space(tier), [*terms, *observed])
        self._known: dict[Any, dict[str, float]] = {}
        self._folder = ctx.folder.root / "search-trainings"
        self._cfg = short_config(ctx.recipe.training, epochs)
        self.fingerprint = fingerprint(
            {
                "data": ctx.part("data"),
                "size": ctx.size_hash(self._space),
                "training": self._cfg.model_dump(mode="json"),
                "fraction": ctx.recipe.search.weight_fraction,
                "seed": ctx.seed,
            }
        )

    def known_costs(self, architecture: Any) -> Mapping[str, float]:
        """Costs of the tier's network: predicted latencies, MACs, and what else has a budget."""
        if architecture not in self._known:
            self._known[architecture] = self._costs(architecture)
        return self._known[architecture]

    def evaluate(self, architecture: Any) -> Score:
        """Train it shortly, or read what an earlier training came to."""
        further = dict(self.known_costs(architecture))
        latency_ms, macs = further.pop("latency_ms"), further.pop("macs")
        return Score(self._accuracy(architecture), latency_ms, macs, further)

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
        known = checked(dict[str, Any], read_json(path, "short training"), str(path))
        return float(checked(float, known.get("accuracy"), str(path)))

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
        problems[tier.name] = tier_problem(ctx, tier, epochs)
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


def tier_problem(ctx: BuildContext, tier: TierSection, epochs: int) -> Problem[Any]:
    """The tier's search; BudgetError where no network can keep the budgets."""
    terms = tier_costs(ctx, tier, first_target_ms(ctx, tier))
    objective = ShortTraining(ctx, tier, terms, epochs, f"train for {tier.name}")
    limits = {term.name: term.limit for term in terms if term.limit is not None}
    return Problem(ctx.space(tier), objective, limits)


def _finish(
    ctx: BuildContext, tier: TierSection, outcome: Outcome[Any], folder: Path, strategy: str
) -> dict[str, Any]:
    """Measure finalists until one keeps the budget; its files and its line of the answer."""
    budget = fit.load_budgets(ctx)[tier.name]
    ranked = sorted(outcome.history.feasible(), key=_accuracy, reverse=True)[:FINALISTS]
    if not ranked:
        raise InputError(
            f"{strategy} found no architecture within the budgets of tier {tier.name!r}",
            fix="give more --queries",
        )
    for chosen in ranked:
        checked = check_on_chips(ctx, tier, chosen.architecture, folder / "checks.json")
        over = over_budget(checked, budget)
        if over <= 1:
            break
        ctx.progress.message(
            f"{tier.name}: a finalist takes {over:.3g} times its latency budget as measured"
        )
    score, space = chosen.score, ctx.space(tier)
    assert score is not None
    write_json(folder / "genotype.json", space.to_dict(chosen.architecture))
    counts = space.counts(chosen.architecture)
    answer = {
        "tier": tier.name,
        **{key: value for key, value in budget.items() if key != "latency_percentile"},
        "predicted_ms": score.latency_ms,
        "median_ms": checked[budget["device_id"]],
        "also": [
            {
                "device_id": other["device_id"],
                "max_latency_ms": other["max_latency_ms"],
                "predicted_ms": score.cost(f"latency_ms@{other['device_id']}"),
                "median_ms": checked[other["device_id"]],
            }
            for other in budget["also"]
        ],
        "within_budget": over <= 1 and None not in checked.values(),
        "macs": round(score.macs),
        "params": counts.params,
        "peak_memory_mb": counts.peak_memory_mb,
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
