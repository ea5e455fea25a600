"""Stage 5, deploy: the ONNX file of each tier, quantised where its chip runs int8."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import search, train

if TYPE_CHECKING:
    from factory.deployment.manifest import ModelManifest
    from factory.deployment.metadata import ModelMetadata

CALIBRATION_IMAGES = 256
MODEL = "model.onnx"
MODEL_FP32 = "model-fp32.onnx"
MANIFEST = "manifest.json"


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per tier."""
    return [tier_unit(ctx, tier) for tier in ctx.recipe.tiers]


def tier_unit(ctx: BuildContext, tier: TierSection) -> Unit:
    """The deployable files of a tier."""
    inputs = {
        "weights": train.tier_unit(ctx, tier).digest(),
        "precision": ctx.device(tier).precision,
        "recipe": ctx.part("data"),
        "tier": tier.name,
    }
    return ctx.folder.unit("deploy", tier.name, inputs)


def run(ctx: BuildContext) -> None:
    """Export and quantise what is not there yet."""
    open_units = [tier for tier in ctx.recipe.tiers if not tier_unit(ctx, tier).is_done()]
    if not open_units:
        return
    with ctx.progress.task("export", total=len(open_units)) as task:
        for tier in open_units:
            unit = tier_unit(ctx, tier)
            started = time.monotonic()
            unit.begin()
            int8 = ctx.device(tier).precision == "int8"
            manifest = export_tier(
                ctx,
                tier,
                unit.folder / MODEL,
                fp32_path=unit.folder / (MODEL_FP32 if int8 else MODEL),
                int8=int8,
            )
            manifest.save(unit.folder / MANIFEST)
            names = [MODEL, MANIFEST, *([MODEL_FP32] if int8 else [])]
            unit.finish([unit.folder / name for name in names], time.monotonic() - started)
            task.advance(note=tier.name)


def export_tier(
    ctx: BuildContext, tier: TierSection, path: Path, *, fp32_path: Path, int8: bool
) -> ModelManifest:
    """Write a trained tier as ONNX to ``path``; in int8 by way of ``fp32_path``."""
    from factory.deployment.export import export_onnx

    network = train.load_network(ctx, tier)
    manifest = export_onnx(network, ctx.data.image_shape, fp32_path, model_metadata(ctx, tier))
    if int8:
        from factory.deployment.quantise import quantise_onnx

        manifest = quantise_onnx(fp32_path, path, calibration_images(ctx))
    return manifest


def model_metadata(ctx: BuildContext, tier: TierSection) -> ModelMetadata:
    """What the file says about itself."""
    from factory.deployment.metadata import ModelMetadata, Preprocessing

    data = ctx.data
    return ModelMetadata(
        class_names=data.class_names,
        preprocessing=Preprocessing(
            mean=data.mean, std=data.std, size=(data.image_shape[1], data.image_shape[2])
        ),
        genotype=search.load_genotype(ctx, tier.name).to_dict(),
        tier=tier.name,
        extra={"recipe": ctx.recipe.name, "seed": str(ctx.seed)},
    )


def calibration_images(ctx: BuildContext) -> np.ndarray:
    """Normalised training images for the ranges of int8, a fixed random choice."""
    import torch

    data = ctx.data
    rng = np.random.default_rng([ctx.seed, 13])
    count = min(CALIBRATION_IMAGES, len(data.train))
    index = np.sort(rng.choice(len(data.train), size=count, replace=False))
    images, _ = data.train[torch.from_numpy(index)]
    normalised: np.ndarray = data.normalise(images).numpy()
    return normalised
