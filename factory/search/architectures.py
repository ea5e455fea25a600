"""Architectures for several tiers from one supernet: a shared warm-up, then one branch a tier.

The warm-up moves weights only, so it is the same for every tier and done once. A tier states its
costs with limits; one without limits is the same search without budgets. What a tier leaves in its
folder: genotype.json, history.jsonl, search.json (result with alpha and beta), and the final
checkpoint, from which :func:`continue_with_tighter` goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.progress import SILENT, Progress
from factory.core.reading import read_object
from factory.data.image_data import ImageData
from factory.search import checkpoint, diagnostics
from factory.search.axes import AXES
from factory.search.bilevel import Bilevel
from factory.search.budget import Budgets
from factory.search.config import SearchConfig, check_row
from factory.search.costs import CostTerm
from factory.search.derive import derivation_of, given_activations, strongest_activations
from factory.search.relaxation import choice_of_values
from factory.search.result import SearchResult
from factory.spaces.base import SearchSpace

__all__ = ["SearchResult", "TierBudget", "continue_with_tighter", "search_architectures"]

WARM_UP = "_warm-up"
NOT_IN_RESULT = {"checkpoint_seconds", "checkpoint_steps", "tensorboard", "seeds", "preset"}


@dataclass(frozen=True)
class TierBudget:
    """One tier: its name (and folder) and the costs of the network that it ships."""

    name: str
    costs: list[CostTerm] = field(default_factory=list)


def search_architectures(
    space: SearchSpace[Any],
    data: ImageData,
    tiers: Sequence[TierBudget],
    cfg: SearchConfig,
    out_dir: Path,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, SearchResult]:
    """One architecture for every tier.

    Args:
        space: the space at the *search* size; its spec is the supernet's.
        data: pictures; half of the training split trains the weights, half the architecture.
        tiers: budgets; the costs are those of the tiers' own target networks.
        cfg: settings.
        out_dir: a folder a tier; killed at any moment, the same call goes on from there.
        progress: where to report.
        seed: one seed, one result.

    Raises:
        BudgetError: a budget cannot be met by any network; said before anything is trained.
    """
    names = [tier.name for tier in tiers]
    if len(set(names)) != len(names) or WARM_UP in names:
        raise InputError(f"tier names {names} are not distinct or use {WARM_UP!r}")
    check_row(space, cfg)
    feasible = derivation_of(space).check_feasible
    smallest = {
        tier.name: feasible(tier.costs, cfg.max_skips, where=f"tier {tier.name!r}")
        for tier in tiers
    }
    common = _fingerprint(space, data, cfg, seed)
    marks = {tier.name: _tier_fingerprint(space, common, tier.costs) for tier in tiers}
    results: dict[str, SearchResult] = {}
    for tier in tiers:
        done = _finished(out_dir / tier.name, marks[tier.name])
        if done is not None:
            results[tier.name] = done
    if len(results) == len(tiers):
        return results
    bilevel = Bilevel(space, data, cfg, seed)
    try:
        start = _warm_up(bilevel, out_dir, common, progress)
        for tier in tiers:
            if tier.name not in results:
                folder, mark = out_dir / tier.name, marks[tier.name]
                outcome = bilevel.run(
                    bilevel.schedule.total_steps,
                    folder,
                    f"search {tier.name}",
                    mark,
                    tier.costs,
                    progress,
                    start=start,
                )
                ended = Ended(
                    outcome.values, outcome.budgets.multipliers, outcome.stopped, bilevel.step
                )
                result = _result(space, tier, ended, cfg, folder, smallest[tier.name], seed)
                if bilevel.world.is_main:
                    _write(result, folder, mark)
                results[tier.name] = result
    finally:
        bilevel.close()
    return {tier.name: results[tier.name] for tier in tiers}


def continue_with_tighter(
    space: SearchSpace[Any],
    tier_dir: Path,
    costs: Sequence[CostTerm],
    cfg: SearchConfig,
    *,
    extra_epochs: int = 0,
    data: ImageData | None = None,
    progress: Progress = SILENT,
) -> SearchResult:
    """Derive a finished tier again under other limits, without training it anew.

    ``costs`` are the tier's costs with the new limits. With ``extra_epochs`` the search first goes
    on for that long under them, from the tier's last state (``data`` as in
    :func:`search_architectures`). The tier's genotype.json and search.json are replaced; the same
    call gives the same result.
    """
    tier_dir = Path(tier_dir)
    before = SearchResult.load(tier_dir)
    smallest = derivation_of(space).check_feasible(
        costs, cfg.max_skips, where=f"tier {before.tier!r}"
    )
    tier = TierBudget(before.tier, list(costs))
    outcome = Ended(before.alphas, before.multipliers, before.stopped, before.steps)
    folder = tier_dir
    own_mark = read_object(tier_dir / "search.json").get("fingerprint", "")
    if extra_epochs:
        if data is None:
            raise ValueError("extra_epochs needs data")
        found = checkpoint.load(tier_dir / checkpoint.FILE, own_mark)
        if found is None:
            raise InputError(f"{tier_dir} holds no checkpoint to go on from", fix="search again")
        tensors, state = found
        mark = _tier_fingerprint(space, own_mark + str(extra_epochs), costs)
        folder = tier_dir / f"round-{mark[:8]}"
        bilevel = Bilevel(space, data, cfg, before.seed)
        try:
            ran = bilevel.run(
                state["step"] + extra_epochs * bilevel.schedule.steps_per_epoch,
                folder,
                f"search on {tier.name}",
                mark,
                costs,
                progress,
                start=(state["step"], tensors, before.history.read_bytes()),
                lr_floor=0.05 * cfg.weight_lr,
            )
            outcome = Ended(ran.values, ran.budgets.multipliers, ran.stopped, bilevel.step)
        finally:
            bilevel.close()
    result = _result(space, tier, outcome, cfg, folder, smallest, before.seed)
    if folder != tier_dir:
        write_json(folder / "genotype.json", result.genotype.to_dict())
        # the tier's own search stays what later rounds start from
        result = dataclasses.replace(result, alphas=before.alphas, steps=before.steps)
    result = dataclasses.replace(result, history=before.history)
    return _write(result, tier_dir, own_mark)


def _warm_up(
    bilevel: Bilevel, out_dir: Path, fingerprint: str, progress: Progress
) -> tuple[int, dict[str, Tensor], bytes]:
    """The shared start of all tiers: step, state, history."""
    end = bilevel.schedule.warmup_steps
    folder = out_dir / WARM_UP
    if not end:
        return 0, {k: v.detach().clone() for k, v in bilevel.tensors().items()}, b""
    bilevel.run(end, folder, "warm-up", fingerprint, [], progress, start=(0, {}, b""))
    tensors = {k: v.detach().clone() for k, v in bilevel.tensors().items()}
    return end, tensors, (folder / "history.jsonl").read_bytes()


@dataclass(frozen=True)
class Ended:
    """Where a search ended: its parameters, its multipliers, why early, and after which step."""

    values: dict[str, Any]
    multipliers: dict[str, float]
    stopped: str | None
    steps: int


def _result(
    space: SearchSpace[Any],
    tier: TierBudget,
    ended: Ended,
    cfg: SearchConfig,
    folder: Path,
    smallest: dict[str, float],
    seed: int,
) -> SearchResult:
    values, derivation = ended.values, derivation_of(space)
    scores = derivation.scores(values)
    activations = strongest_activations(values, cfg.activations)
    terms = given_activations(space, tier.costs, activations)
    genotype, repaired = derivation.repair(scores, terms, cfg.max_skips)
    history = folder / "history.jsonl"
    last = _last_epoch(history)
    discretised = derivation.discretise(scores, cfg.max_skips)
    free_shares = space.skip_shares(derivation.discretise(scores))
    shares, predicted = space.skip_shares(genotype), derivation.costs(terms, genotype)
    if activations is not None:
        genotype, discretised = (
            space.with_activations(g, activations) for g in (genotype, discretised)
        )
    return SearchResult(
        tier=tier.name,
        genotype=genotype,
        discretised=discretised,
        repaired=repaired,
        expected=Budgets(tier.costs, 1.0, 1.0).expected(choice_of_values(space, values)),
        predicted=predicted,
        limits={t.name: float(t.limit) for t in tier.costs if t.limit is not None},
        multipliers=dict(ended.multipliers),
        smallest=smallest,
        skip_share=diagnostics.skip_share(shares),
        entropy=diagnostics.entropy(values["alpha"]),
        steps=ended.steps,
        alphas=values,
        history=history,
        seed=seed,
        method={"preset": cfg.preset, **{axis: getattr(cfg, axis) for axis in AXES}},
        skip_share_by_cell=free_shares,
        derived_loss=last.get("derived_loss"),
        gap=last.get("gap"),
        activations=activations,
        stopped=ended.stopped,
        front=derivation.front(scores, terms, cfg.front, cfg.max_skips),
    )


def _last_epoch(history: Path) -> dict[str, Any]:
    """The last line that an epoch's end wrote; empty without one."""
    if not history.exists():
        return {}
    rows = checkpoint.History(history).rows()
    return next((row for row in reversed(rows) if "gap" in row), {})


def _write(result: SearchResult, folder: Path, fingerprint: str) -> SearchResult:
    write_json(folder / "genotype.json", result.genotype.to_dict())
    write_json(folder / "search.json", {**result.to_dict(), "fingerprint": fingerprint})
    return result


def _finished(folder: Path, fingerprint: str) -> SearchResult | None:
    path = folder / "search.json"
    if not path.exists():
        return None
    if read_object(path, "search result").get("fingerprint") != fingerprint:
        raise InputError(
            f"{path} is the result of a search with other settings, data, seed or budgets",
            fix=f"search in another folder, or remove {folder} to start afresh",
        )
    return SearchResult.load(folder)


def _hash(value: Any, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _fingerprint(space: SearchSpace[Any], data: ImageData, cfg: SearchConfig, seed: int) -> str:
    settings = cfg.model_dump(mode="json", exclude=NOT_IN_RESULT)
    about_data = [data.name, len(data.train), list(data.class_names), list(data.mean)]
    return _hash([settings, dataclasses.astuple(space.spec), about_data, seed])


def _tier_fingerprint(space: SearchSpace[Any], common: str, costs: Sequence[CostTerm]) -> str:
    terms = [[t.name, t.limit, t.unit, *([] if t.least is None else [t.least])] for t in costs]
    reduced = [
        np.append(v, c) for c, v in (t.presence.weighted(t.weights, t.constant) for t in costs)
    ]
    return _hash([common, terms, [m.name for m in space.matrices]], *reduced)
