"""Stage 5, deploy: the ONNX file of each tier, quantised where its chip runs int8."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.search_files import load_genotype
from factory.pipeline.stages import train

if TYPE_CHECKING:
    from factory.data.image_data import ImageData, ImageSplit
    from factory.deployment.fine_tuning import Trainable
    from factory.deployment.gate_contract import GateData
    from factory.deployment.manifest import ModelManifest
    from factory.deployment.metadata import ModelMetadata, Preprocessing

MODEL = "model.onnx"
MODEL_FP32 = "model-fp32.onnx"
MANIFEST = "manifest.json"
GATE = "int8-gate.json"


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
        "int8_limit": str(ctx.recipe.budget.max_int8_drop_points),
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
            manifest = export_tier(ctx, tier, unit.folder, int8=int8)
            manifest.save(unit.folder / MANIFEST)
            names = [MODEL, MANIFEST, *([MODEL_FP32, GATE] if int8 else [])]
            unit.finish([unit.folder / name for name in names], time.monotonic() - started)
            task.advance(note=tier.name)


def export_tier(ctx: BuildContext, tier: TierSection, folder: Path, *, int8: bool) -> ModelManifest:
    """Write a trained tier as ONNX into ``folder``; in int8 through the accuracy gate.

    An int8 file that the gate refuses is written all the same, as its best attempt: the verdict of
    the next stage is then a failure with the gate's reason, and the rest of the run is kept.
    """
    from factory.deployment.export import export_onnx

    network = train.load_network(ctx, tier)
    full = folder / (MODEL_FP32 if int8 else MODEL)
    manifest = export_onnx(network, ctx.data.image_shape, full, model_metadata(ctx, tier))
    if int8:
        manifest = _gated(ctx, tier, full, folder)
    return manifest


def _gated(ctx: BuildContext, tier: TierSection, full: Path, folder: Path) -> ModelManifest:
    """The int8 file of a tier and the trail of how it was made."""
    import onnx

    from factory.core.files import write_atomic_bytes, write_json
    from factory.deployment.chip_flags import wants_reduced_range
    from factory.deployment.gate import gate_int8
    from factory.deployment.gate_contract import GateConfig
    from factory.deployment.manifest import describe_model
    from factory.deployment.quantise import QuantiseConfig, quantise_onnx

    config = GateConfig(
        max_drop_points=ctx.recipe.budget.max_int8_drop_points,
        reduce_range=wants_reduced_range(ctx.device(tier).chip == "local"),
    )
    from factory.deployment.fine_tuning import Rounding, tuned_onnx
    from factory.deployment.flavours import CPU_FLAVOUR

    data, source = gate_data(ctx), onnx.load(full)

    def tune(steps: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
        rounding = Rounding.of(CPU_FLAVOUR, config.reduce_range)
        return tuned_onnx(trainable(ctx, tier), source, rounding, steps, ctx.progress)

    result = gate_int8(source, data, config, progress=ctx.progress, tuner=tune)
    write_json(folder / GATE, result.to_dict())
    ctx.progress.message(f"{tier.name}: int8 {result.verdict}: {result.reason}")
    if result.model is None:
        return quantise_onnx(
            full,
            folder / MODEL,
            data.calibration,
            QuantiseConfig.model_validate({"method": result.method}),
        )
    content = result.model.SerializeToString(deterministic=True)
    write_atomic_bytes(folder / MODEL, content)
    return describe_model(folder / MODEL)


def model_metadata(ctx: BuildContext, tier: TierSection) -> ModelMetadata:
    """What the file says about itself."""
    from factory.deployment.metadata import ModelMetadata

    data = ctx.data
    return ModelMetadata(
        class_names=data.class_names,
        preprocessing=preprocessing_of(data),
        genotype=load_genotype(ctx, tier.name).to_dict(),
        tier=tier.name,
        extra={"recipe": ctx.recipe.name, "seed": str(ctx.seed)},
    )


def preprocessing_of(data: ImageData) -> Preprocessing:
    """How a picture becomes the input of a network trained on ``data``."""
    from factory.deployment.metadata import Preprocessing

    size = (data.image_shape[1], data.image_shape[2])
    return Preprocessing(mean=data.mean, std=data.std, size=size, fit="cover")


def trainable(ctx: BuildContext, tier: TierSection) -> Trainable:
    """The tier's network with batches of its training pictures, for the gate's last step."""
    from factory.data.loader import Batches, BatchStream
    from factory.deployment.fine_tuning import BATCH_SIZE, Trainable

    data = ctx.data
    stream = BatchStream(len(data.train), BATCH_SIZE, ctx.seed)
    batches = Batches(data, data.train, stream, augmentation=data.augmentation)
    return Trainable(train.load_network(ctx, tier), batches.get, ctx.seed)


def gate_data(ctx: BuildContext) -> GateData:
    """Pictures for the int8 gate: to calibrate, to choose a method, and to judge."""
    import torch

    from factory.deployment.gate_contract import GateData
    from factory.pipeline.export_pictures import split_for_gate

    data = ctx.data
    calibration, selection = split_for_gate(
        len(data.train), 4 * int(np.prod(data.image_shape)), ctx.seed
    )

    def prepared(split: ImageSplit, index: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        images, labels = split[slice(None) if index is None else torch.from_numpy(index)]
        return data.normalise(images).numpy(), labels.numpy()

    chosen, chosen_labels = prepared(data.train, selection)
    test, test_labels = prepared(data.test, None)
    return GateData(
        calibration=prepared(data.train, calibration)[0],
        selection_images=chosen,
        selection_labels=chosen_labels,
        test_images=test,
        test_labels=test_labels,
        name=f"{data.name}, {len(test)} test pictures",
    )
