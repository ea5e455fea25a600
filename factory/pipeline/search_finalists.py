"""The network that a search found, measured on its chips before it is trained.

One that is measured over a budget gets a lower target and is searched again; one that leaves much
of every latency budget unused gets a higher one. No target rests on one surprising measurement: a
finalist outside of its prediction's interval is measured again later, and one that was turned down
is measured again when its successor does not show the same error of the predictor. What was
measured is kept in each tier's checks.json, so that an interrupted stage measures nothing twice.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import BudgetError
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.core.validation import checked as as_type
from factory.devices.base import DISTURBED, open_device
from factory.devices.profile import DeviceProfile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.context import BuildContext
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.recipe import NO_LATENCY, TierSection
from factory.pipeline.recipe_loading import fingerprint
from factory.pipeline.search_budgets import tier_costs
from factory.pipeline.search_files import (
    SCHEMA_VERSION,
    UNUSED,
    raise_target,
    targets,
    work_folder,
)
from factory.pipeline.stages import fit
from factory.pipeline.stages import profile as stage_profile
from factory.spaces.base import SearchSpace

if TYPE_CHECKING:
    from factory.search.architectures import SearchResult


class _Tier:
    """The finalists of one tier: found, measured, and the targets that follow.

    Attributes:
        found: the network under the target in force.
        checked: its measured latency by chip; None where nothing could be measured.
    """

    def __init__(self, ctx: BuildContext, tier: TierSection) -> None:
        self.ctx, self.tier = ctx, tier
        self.folder = work_folder(ctx) / tier.name
        self.checks = ctx.folder.stage("search") / tier.name / "checks.json"
        self.budget = fit.load_budgets(ctx)[tier.name]
        self.limit_ms = float(self.budget["max_latency_ms"])
        self.known = targets(ctx)
        self.look()

    def look(self) -> None:
        """Derive the network under the target in force and measure it."""
        self.found = _derive(self.ctx, self.tier, self.folder)
        self.checked = check_on_chips(self.ctx, self.tier, self.found.genotype, self.checks)
        self.over = over_budget(self.checked, self.budget)

    def say(self, text: str) -> None:
        """A message about this tier."""
        self.ctx.progress.message(f"{self.tier.name}: {text}")

    def lower(self) -> bool:
        """A lower target for a finalist that is over a budget; False: none, or no round left."""
        name = self.tier.name
        rounds = self.known.count(name, "finalist", since_verify=True)
        if self.over <= 1 or rounds >= self.ctx.recipe.budget.finalist_rounds:
            return False
        tightened = self.known.tighten(
            name,
            "finalist",
            measured_ms=self.limit_ms * self.over,  # of the chip that is furthest over
            limit_ms=self.limit_ms,
            smallest_ms=self.found.smallest["latency_ms"],
        )
        if tightened:
            self.say(
                f"the finalist takes {self.over:.3g} times its latency budget as measured, "
                "searching below a lower target"
            )
        return tightened

    def take_back(self) -> bool:
        """Back to a target that was lowered because of a measurement that was wrong.

        Where the finalist is faster against its prediction than the one that was turned down, that
        one is measured again; it is measured so once.
        """
        entries = self.known.of(self.tier.name)
        taken = {entry["target_ms"] for entry in entries if entry["kind"] == "taken back"}
        for before, entry in itertools.pairwise(entries):
            earlier = _at_target(self.folder, before["target_ms"])
            if entry["kind"] != "finalist" or earlier is None or not self._contradicts(entry):
                continue
            if before["target_ms"] in taken or earlier.genotype == self.found.genotype:
                continue
            checks = _read_checks(self.checks)
            mark = f"again:{_key(earlier.genotype)}"
            if mark not in checks:
                self.say("a finalist that was measured over its budget is measured again")
                again = measure_on_chips(self.ctx, self.tier, earlier.genotype)
                own = _by_key(self.ctx, self.tier, earlier.genotype, again)
                write_json(self.checks, {**checks, mark: True, **own})
            checked = check_on_chips(self.ctx, self.tier, earlier.genotype, self.checks)
            if 0 < over_budget(checked, self.budget) <= 1:
                self.say("it keeps its budget: the lower target is taken back")
                self.known.add(self.tier.name, "taken back", before["target_ms"])
                return True
        return False

    def _contradicts(self, entry: dict[str, Any]) -> bool:
        """Whether the finalist is nearer to its target than what lowered the target was."""
        reached = self.over * self.limit_ms / self.known.last_ms(self.tier.name)
        claimed = entry["measured_ms"] / entry["before_ms"] if "before_ms" in entry else 0.0
        return self.over > 0 and claimed > (1.0 + DISTURBED) * reached

    def higher(self) -> bool:
        """Once, a higher target for a finalist that leaves much of its budget unused."""
        predicted_ms = self.found.predicted["latency_ms"]
        raised = raise_target(self.ctx, self.tier.name, used=self.over, predicted_ms=predicted_ms)
        if 0 < self.over < 1 - UNUSED:
            then = ", searching below a higher target" if raised else ""
            self.say(f"the finalist leaves {1 - self.over:.0%} of its latency budget unused{then}")
        if raised:
            self.known = targets(self.ctx)
        return raised

    def keep_best(self) -> bool:
        """Back to the largest finalist that keeps its budget, where the last one does not.

        Of those since the last verification: it has judged the ones before.
        """
        if self.over <= 1 or not self.checks.exists():
            return False
        best_ms = 0.0
        for entry in self.known.of(self.tier.name, since_verify=True):
            earlier = _at_target(self.folder, entry["target_ms"])
            if earlier is None or entry["target_ms"] <= best_ms:
                continue
            checked = check_on_chips(self.ctx, self.tier, earlier.genotype, self.checks)
            if 0 < over_budget(checked, self.budget) <= 1:
                best_ms = entry["target_ms"]
        if best_ms:
            self.known.add(self.tier.name, "kept", best_ms)
        return best_ms > 0


def finish_tier(ctx: BuildContext, tier: TierSection) -> dict[str, Any]:
    """Measure the finalist, move the target while the budget asks for it, and sum up."""
    state = _Tier(ctx, tier)
    while state.lower() or state.take_back() or state.higher():
        state.look()
    if state.keep_best():
        state.look()
    found, checked, budget = state.found, state.checked, state.budget
    predictor = fit.load_predictor(ctx, ctx.device(tier).id)
    prediction = predictor.predict(
        ctx.space(tier).kernels(found.genotype, predictor.dtype, predictor.fusion)
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": tier.name,
        "device_id": ctx.device(tier).id,
        "budget": {
            key: budget[key]
            for key in ("max_latency_ms", "max_macs", "max_params", "max_peak_memory_mb", "also")
        },
        "target_ms": found.limits["latency_ms"],
        "predicted_ms": prediction.latency_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        **_sizes(ctx.space(tier), found.genotype),
        "smallest_ms": found.smallest["latency_ms"],
        "checked_ms": checked[ctx.device(tier).id],
        "checked_also_ms": {d.id: checked[d.id] for d in ctx.also(tier)},
        "predicted": found.predicted,
        "targets": targets(ctx).of(tier.name),
        **_summary(ctx, found),
    }


def _derive(ctx: BuildContext, tier: TierSection, folder: Path) -> SearchResult:
    """The architecture under the current target; an unreachable lower target keeps the last.

    Every target's network is kept beside the search's own files, to go back to.
    """
    from factory.search.architectures import SearchResult, continue_with_tighter

    found = SearchResult.load(folder)
    target_ms = targets(ctx).last_ms(tier.name)
    if found.limits["latency_ms"] == target_ms:
        _keep(folder, target_ms)
        return found
    if (before := _at_target(folder, target_ms)) is not None:
        shutil.copyfile(_of_target(folder, target_ms) / "search.json", folder / "search.json")
        write_json(folder / "genotype.json", before.genotype.to_dict())
        return SearchResult.load(folder)
    try:
        found = continue_with_tighter(
            ctx.search_space(),
            folder,
            tier_costs(ctx, tier, target_ms, ctx.activations),
            ctx.recipe.search,
            extra_epochs=ctx.recipe.budget.extra_epochs,
            data=ctx.data if ctx.recipe.budget.extra_epochs else None,
            progress=ctx.progress,
        )
    except BudgetError as error:
        ctx.progress.message(f"{tier.name}: no lower target can be met: {error}")
        return found
    _keep(folder, target_ms)
    return found


def _of_target(folder: Path, target_ms: float) -> Path:
    return folder / f"target-{target_ms:.9g}"


def _keep(folder: Path, target_ms: float) -> None:
    kept = _of_target(folder, target_ms) / "search.json"
    if not kept.exists():
        write_json(kept, read_json(folder / "search.json", "search result"))


def _at_target(folder: Path, target_ms: float) -> SearchResult | None:
    """The network that was found under an earlier target."""
    from factory.search.architectures import SearchResult

    kept = _of_target(folder, target_ms)
    return SearchResult.load(kept) if (kept / "search.json").exists() else None


def check_on_chips(
    ctx: BuildContext, tier: TierSection, architecture: Any, path: Path
) -> dict[str, float | None]:
    """:func:`measure_on_chips`, once; kept in ``path`` but for what could not be measured."""
    checks = _read_checks(path)
    own = ctx.device(tier)
    names = {_key(architecture, profile, own): profile.id for profile in (own, *ctx.also(tier))}
    if any(checks.get(key) is None for key in names):
        measured = measure_on_chips(ctx, tier, architecture)
        checks.update(_by_key(ctx, tier, architecture, measured))
        write_json(path, checks)
    return {device_id: checks[key] for key, device_id in names.items()}


def _read_checks(path: Path) -> dict[str, float | bool | None]:
    """What was measured: milliseconds by key, and which finalists were measured again."""
    if not path.exists():
        return {}
    return as_type(dict[str, float | bool | None], read_json(path, "finalists"), str(path))


def measure_on_chips(
    ctx: BuildContext, tier: TierSection, architecture: Any
) -> dict[str, float | None]:
    """Median latency with random weights on every chip of the tier, in ms.

    None where the model does not run or the machine was too busy to tell: the search then goes by
    the prediction, and the verification of the trained file decides.
    """
    return {
        profile.id: _measured(ctx, ctx.space(tier), architecture, profile)
        for profile in (ctx.device(tier), *ctx.also(tier))
    }


def _by_key(
    ctx: BuildContext, tier: TierSection, architecture: Any, measured: dict[str, float | None]
) -> dict[str, float | None]:
    own = ctx.device(tier)
    return {
        _key(architecture, profile, own): measured[profile.id] for profile in (own, *ctx.also(tier))
    }


def _key(
    architecture: Any, profile: DeviceProfile | None = None, own: DeviceProfile | None = None
) -> str:
    """Key of an architecture's check, on a chip where that is not the tier's own."""
    key = fingerprint(architecture.to_dict())
    return key if profile is own or profile is None else f"{key}@{profile.id}"


def _measured(
    ctx: BuildContext, space: SearchSpace[Any], architecture: Any, profile: DeviceProfile
) -> float | None:
    """Median latency of an architecture with random weights in ms."""
    from factory.verification.verify import verify_with_prediction

    content = network_bytes(space, architecture, profile.dtype, ctx.seed)
    with open_device(profile) as device:
        result = verify_with_prediction(
            content,
            device,
            predictor=fit.load_predictor(ctx, profile.id),
            usual=stage_profile.usual(ctx, profile.id),
            progress=ctx.progress,
        )
    if result.median_ms is None:
        ctx.progress.message(f"{profile.id}: a finalist: {'; '.join(result.reasons)}")
    return result.median_ms


def _compared(
    ctx: BuildContext, space: SearchSpace[Any], architecture: Any, profile: DeviceProfile
) -> float | None:
    """The same for a comparison that nothing rests on: one attempt of fewer rounds."""
    from factory.verification.verify import verify_model

    content = network_bytes(space, architecture, profile.dtype, ctx.seed)
    with open_device(profile) as device:
        usual = stage_profile.usual(ctx, profile.id)
        return verify_model(content, device, usual=usual, rounds=3, attempts=1).median_ms


def over_budget(checked: dict[str, float | None], budget: dict[str, Any]) -> float:
    """Largest ratio of a measured latency to its budget; 0 where nothing could be measured."""
    limits = {budget["device_id"]: budget["max_latency_ms"]}
    limits |= {other["device_id"]: other["max_latency_ms"] for other in budget["also"]}
    ratios = [value / limits[name] for name, value in checked.items() if value is not None]
    return max(ratios, default=0.0)


def finish_baseline(ctx: BuildContext) -> dict[str, Any]:
    """The architecture searched without a latency term, on every chip."""
    from factory.search.architectures import SearchResult

    found = SearchResult.load(work_folder(ctx) / NO_LATENCY)
    space = ctx.space(None)
    predicted_ms: dict[str, float] = {}
    measured_ms: dict[str, float | None] = {}
    for device_id, profile in ctx.devices.items():
        predictor: LatencyPredictor = fit.load_predictor(ctx, device_id)
        measured_ms[device_id] = _compared(ctx, space, found.genotype, profile)
        counts = space.kernels(found.genotype, predictor.dtype, predictor.fusion)
        predicted_ms[device_id] = predictor.predict(counts).latency_ms
    return {
        "schema_version": SCHEMA_VERSION,
        "tier": NO_LATENCY,
        "predicted_ms_by_device": predicted_ms,
        "measured_ms_by_device": measured_ms,
        **_sizes(space, found.genotype),
        "targets": [],
        **_summary(ctx, found),
    }


def _sizes(space: SearchSpace[Any], architecture: Any) -> dict[str, float]:
    counts = space.counts(architecture)
    return {
        "macs": counts.macs,
        "macs_darts_paper": counts.macs_darts_paper,
        "params": counts.params,
        "peak_memory_mb": counts.peak_memory_mb,
    }


def _summary(ctx: BuildContext, found: SearchResult) -> dict[str, Any]:
    matrix = ctx.search_space().matrices[0]
    return {
        "candidates": {
            "operators": list(matrix.columns),
            "edges": [row if isinstance(row, str) else list(row) for row in matrix.rows],
        },
        "repaired": found.repaired,
        "discretised": found.discretised.to_dict(),
        "skip_share": found.skip_share,
        "entropy": found.entropy,
        "expected": found.expected,
        "multipliers": found.multipliers,
        "steps": found.steps,
        "method": found.method,
        "seed": found.seed,
        "skip_share_by_cell": found.skip_share_by_cell,
        "gap": found.gap,
        "derived_loss": found.derived_loss,
        "stopped": found.stopped,
    }
