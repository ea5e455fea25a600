"""Stage 6, verify: is the file the trained network, and does it hold its budgets on the chip?

When a model is measured over its latency budget, or leaves much of it unused, :func:`retarget`
writes another target for its search; the build then runs search, train and deploy again for that
tier (a bounded number of times) before it says plainly that the tier failed and by how much. Where
the machine was too busy to measure a model, its tier is undecided, and the next build verifies it
again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.files import write_json
from factory.core.reading import read_object
from factory.devices.base import Device, open_device
from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.search_files import (
    UNUSED,
    add_target,
    load_genotype,
    raise_target,
    round_count,
)
from factory.pipeline.search_files import load_result as load_search
from factory.pipeline.stages import deploy, fit, profile, train
from factory.verification.result import UNDECIDED

if TYPE_CHECKING:
    from factory.verification.certificate import LimitPart

SCHEMA_VERSION = 1
PARITY_IMAGES = 128


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per tier."""
    return [tier_unit(ctx, tier) for tier in ctx.recipe.tiers]


def tier_unit(ctx: BuildContext, tier: TierSection) -> Unit:
    """The verification of a tier's file."""
    inputs = {
        "model": deploy.tier_unit(ctx, tier).digest(),
        "budgets": fit.budget_unit(ctx).digest(),
        "chip": ctx.chip_identity(ctx.device(tier)),
        "recipe": ctx.part("data", "budget", "tiers"),
    }
    return ctx.folder.unit("verify", tier.name, inputs, shared=True)


def result_path(ctx: BuildContext, tier: TierSection) -> Path:
    """Where the verdict of a tier is."""
    return ctx.folder.stage("verify") / f"{tier.name}.json"


def certificate_path(ctx: BuildContext, tier: TierSection) -> Path:
    """Where the certificate of a tier is."""
    return ctx.folder.stage("verify") / "certificates" / f"{tier.name}.certificate.json"


def load_result(ctx: BuildContext, tier: TierSection) -> dict[str, Any]:
    """The verdict of a tier."""
    return read_object(result_path(ctx, tier), "verification")


def run(ctx: BuildContext) -> None:
    """Verify what is not verified yet."""
    budgets = fit.load_budgets(ctx)
    open_tiers = [tier for tier in ctx.recipe.tiers if not _is_decided(ctx, tier)]
    if not open_tiers:
        return
    with ctx.progress.task("verify", total=len(open_tiers)) as task:
        for tier in open_tiers:
            unit = tier_unit(ctx, tier)
            started = time.monotonic()
            path = result_path(ctx, tier)
            certificate = certificate_path(ctx, tier)
            unit.begin([path, certificate])
            with open_device(ctx.device(tier)) as device:
                result = verify_tier(ctx, tier, device, budgets[tier.name])
                decided = result["verdict"] != UNDECIDED
                if decided:
                    certify_tier(ctx, tier, device, result)
                else:
                    certificate.unlink(missing_ok=True)
            write_json(path, result)
            outputs = [path, certificate] if decided else [path]
            unit.finish(outputs, time.monotonic() - started)
            ctx.progress.message(verdict_line(result))
            task.advance(note=tier.name)


def _is_decided(ctx: BuildContext, tier: TierSection) -> bool:
    done = tier_unit(ctx, tier).is_done()
    return done and load_result(ctx, tier)["verdict"] != UNDECIDED


def verdict_line(result: dict[str, Any]) -> str:
    """'cpu-1: passed, 5.32 ms of 6 ms, accuracy 98.1 %'."""
    median = result["median_ms"]
    shown = "not measured" if median is None else f"{median:.3f} ms"
    return (
        f"{result['tier']}: {result['verdict']}, {shown} of "
        f"{result['budget']['max_latency_ms']:g} ms, accuracy {result['accuracy']:.2%}"
        + "".join(f"; {reason}" for reason in result["reasons"])
    )


def verify_tier(
    ctx: BuildContext, tier: TierSection, device: Device, budget: dict[str, Any]
) -> dict[str, Any]:
    """Parity, accuracy, latency and verdict of one tier's file."""
    from factory.verification.verify import verify_with_prediction

    folder = ctx.folder.stage("deploy") / tier.name
    path = folder / deploy.MODEL
    predictor = fit.load_predictor(ctx, device.profile.id)
    measured = verify_with_prediction(
        path,
        device,
        max_latency_ms=budget["max_latency_ms"],
        predictor=predictor,
        usual=profile.usual(ctx, device.profile.id),
        before_ms=load_search(ctx, tier.name)["checked_ms"],
        progress=ctx.progress,
    )
    counts = ctx.space(tier).counts(load_genotype(ctx, tier.name))
    result = {
        **measured.to_dict(),
        "schema_version": SCHEMA_VERSION,
        "tier": tier.name,
        "budget": {"max_latency_ms": budget["max_latency_ms"], "max_macs": budget["max_macs"]},
        "macs": counts.macs,
        "macs_darts_paper": counts.macs_darts_paper,
        "params": counts.params,
        "peak_memory_mb": counts.peak_memory_mb,
        "also": _on_other_chips(ctx, path, budget),
        "rounds": round_count(ctx, tier.name),
        "timing_rounds": measured.to_dict()["rounds"],
    }
    result.update(_images_part(ctx, tier, device, folder))
    broken = _broken(ctx, tier, result)
    undecided = [
        f"{other['device_id']}: {reason}"
        for other in result["also"]
        if other["verdict"] == UNDECIDED
        for reason in other["reasons"]
    ]
    if measured.verdict == UNDECIDED:
        undecided = [*measured.reasons, *undecided]
    elif measured.verdict != "holds":
        broken = [*measured.reasons, *broken]
    result["reasons"] = [*broken, *undecided]
    result["verdict"] = "failed" if broken else UNDECIDED if undecided else "passed"
    result["unused"] = unused = _unused(result)
    if unused > UNUSED:
        result["notes"].append(f"{unused:.0%} of the latency budget are left unused")
    return result


def _latency_pairs(result: dict[str, Any]) -> list[tuple[float, float]]:
    """(measured, budget) in ms of the file on every chip of the tier where it was measured."""
    pairs = [(result["median_ms"], result["budget"]["max_latency_ms"])]
    pairs += [(other["median_ms"], other["max_latency_ms"]) for other in result["also"]]
    return [(median_ms, limit_ms) for median_ms, limit_ms in pairs if median_ms is not None]


def _unused(result: dict[str, Any]) -> float:
    """Share of the latency budget that is left on the chip where the least is; 0 when unknown."""
    used = max((median / limit for median, limit in _latency_pairs(result)), default=1.0)
    return max(0.0, 1.0 - used)


def _on_other_chips(ctx: BuildContext, path: Path, budget: dict[str, Any]) -> list[dict[str, Any]]:
    """The same file on the other chips of the tier: budget and measured latency."""
    from factory.verification.verify import verify_with_prediction

    found = []
    for entry in budget["also"]:
        name, limit_ms = entry["device_id"], entry["max_latency_ms"]
        with open_device(ctx.devices[name]) as device:
            measured = verify_with_prediction(
                path,
                device,
                max_latency_ms=limit_ms,
                predictor=fit.load_predictor(ctx, name),
                usual=profile.usual(ctx, name),
                progress=ctx.progress,
            )
        found.append(
            {
                "device_id": name,
                "max_latency_ms": limit_ms,
                "median_ms": measured.median_ms,
                "verdict": measured.verdict,
                "reasons": list(measured.reasons),
            }
        )
    return found


def _images_part(
    ctx: BuildContext, tier: TierSection, device: Device, folder: Path
) -> dict[str, Any]:
    """Parity and accuracy, on the test images."""
    from factory.verification.parity import check_parity, classify, measure_int8_drop

    images, labels = test_images(ctx)
    int8 = device.profile.precision == "int8"
    shipped = (folder / deploy.MODEL).read_bytes()
    full = (folder / deploy.MODEL_FP32).read_bytes() if int8 else shipped
    sample = np.linspace(0, len(images) - 1, min(PARITY_IMAGES, len(images))).astype(int)
    parity = check_parity(
        full,
        device,
        images[sample],
        lambda x: torch_outputs(ctx, tier, x),
        threshold=ctx.recipe.budget.max_parity_difference,
    )
    part: dict[str, Any] = {
        "parity": {**parity.to_dict(), "of": "the fp32 file"},
        "accuracy_images": len(images),
    }
    if int8:
        drop = measure_int8_drop(shipped, full, device, images, labels)
        part.update(
            accuracy=drop.accuracy,
            accuracy_fp32=drop.accuracy_fp32,
            accuracy_drop_points=drop.accuracy_drop_points,
        )
    else:
        accuracy = float(np.mean(classify(shipped, device, images) == labels))
        part.update(accuracy=accuracy, accuracy_fp32=accuracy, accuracy_drop_points=0.0)
    return part


def certify_tier(
    ctx: BuildContext, tier: TierSection, device: Device, result: dict[str, Any]
) -> None:
    """Write the certificate of a verified tier."""
    from factory.verification.certificate import AccuracyPart
    from factory.verification.certify import certify
    from factory.verification.intervals import wilson

    images = result["accuracy_images"]
    correct = round(result["accuracy"] * images)
    certify(
        ctx.folder.stage("deploy") / tier.name / deploy.MODEL,
        device,
        result,
        accuracy=AccuracyPart(
            value=result["accuracy"],
            interval=wilson(correct, images),
            correct=correct,
            images=images,
            data=f"{ctx.data.name}, {images} test pictures",
            fp32=result["accuracy_fp32"],
            drop_points=result["accuracy_drop_points"],
        ),
        limits=further_limits(tier, result),
        min_accuracy=tier.min_accuracy,
        macs=result["macs"],
        params=result["params"],
    ).save(certificate_path(ctx, tier))


def further_limits(tier: TierSection, result: dict[str, Any]) -> list[LimitPart]:
    """Every budget of the tier beside the latency on its own chip, with what came of it."""
    from factory.verification.certificate import LimitPart

    found = [
        LimitPart.of("latency_ms", other["median_ms"], other["max_latency_ms"], other["device_id"])
        for other in result["also"]
    ]
    for name in ("macs", "params", "peak_memory_mb"):
        limit = getattr(tier, f"max_{name}")
        if limit is not None:
            found.append(LimitPart.of(name, result[name], limit))
    return found


def _broken(ctx: BuildContext, tier: TierSection, result: dict[str, Any]) -> list[str]:
    """What does not hold beside the latency, in words."""
    reasons = []
    parity = result["parity"]
    if not parity["holds"]:
        reasons.append(
            f"the ONNX file differs from PyTorch by {parity['max_relative_difference']:.2g} "
            f"(limit {parity['threshold']:g})"
        )
    max_macs = result["budget"]["max_macs"]
    if max_macs is not None and result["macs"] > max_macs:
        reasons.append(
            f"{result['macs'] / 1e6:.2f} M MACs are over the budget of {max_macs / 1e6:.2f} M"
        )
    memory_mb = tier.max_peak_memory_mb
    if memory_mb is not None and result["peak_memory_mb"] > memory_mb * (1 + 1e-12):
        reasons.append(
            f"{result['peak_memory_mb']:.4g} MB of peak memory are over the budget of "
            f"{memory_mb:g} MB"
        )
    for other in result["also"]:
        if other["verdict"] not in ("holds", UNDECIDED):
            shown = "not measured" if other["median_ms"] is None else f"{other['median_ms']:.3f} ms"
            reasons.append(
                f"{shown} on {other['device_id']}, the budget there is "
                f"{other['max_latency_ms']:g} ms"
            )
    limit = ctx.recipe.budget.max_int8_drop_points
    if result["accuracy_drop_points"] > limit + 1e-9:
        reasons.append(f"int8 loses {result['accuracy_drop_points']:.2f} points (limit {limit:g})")
    if tier.max_params is not None and result["params"] > tier.max_params:
        reasons.append(
            f"{result['params']:,} parameters are over the budget of {tier.max_params:,.0f}"
        )
    if tier.min_accuracy is not None and result["accuracy"] < tier.min_accuracy:
        reasons.append(
            f"accuracy {result['accuracy']:.2%} is below the required {tier.min_accuracy:.2%}"
        )
    return reasons


def test_images(ctx: BuildContext) -> tuple[np.ndarray, np.ndarray]:
    """All test pictures, normalised, and their labels."""
    images, labels = ctx.data.test[slice(None)]
    return ctx.data.normalise(images).numpy(), labels.numpy()


def torch_outputs(ctx: BuildContext, tier: TierSection, images: np.ndarray) -> np.ndarray:
    """Logits of the trained network in PyTorch."""
    import torch

    network = train.load_network(ctx, tier)
    with torch.inference_mode():
        parts = [network(part).numpy() for part in torch.from_numpy(images).split(64)]
    return np.concatenate(parts)


def retarget(ctx: BuildContext) -> list[str]:
    """Give tiers that were measured over their latency budget a lower target, while allowed.

    One that leaves much of it unused gets a higher one, once. Undecided tiers keep theirs.
    Returns the names of the tiers that are to be searched again.
    """
    again = []
    for tier in ctx.recipe.tiers:
        result = load_result(ctx, tier)
        limit = result["budget"]["max_latency_ms"]
        used = max((median / most for median, most in _latency_pairs(result)), default=0.0)
        if result["verdict"] == UNDECIDED or not used:
            continue
        if used > 1:  # by the chip that is furthest over its budget
            moved = add_target(ctx, tier.name, measured_ms=limit * used, limit_ms=limit)
        else:
            predicted_ms = float(load_search(ctx, tier.name)["predicted"]["latency_ms"])
            moved = raise_target(ctx, tier.name, used=used, predicted_ms=predicted_ms)
        if moved:
            ctx.progress.message(
                f"{tier.name}: uses {used:.0%} of its latency budget as measured, searching again"
            )
            again.append(tier.name)
    return again
