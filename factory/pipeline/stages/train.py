"""Stage 4, train: the derived network of each tier, at its deployed size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.stages import search

if TYPE_CHECKING:
    from factory.spaces.cell_network import CellNetwork
    from factory.spaces.genotype import Genotype
    from factory.spaces.network_spec import NetworkSpec
    from factory.training.config import TrainConfig


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per tier."""
    return [tier_unit(ctx, tier) for tier in ctx.recipe.tiers]


def tier_unit(ctx: BuildContext, tier: TierSection) -> Unit:
    """The training of a tier's network."""
    inputs = {
        "genotype": search.tier_unit(ctx, tier.name).digest(),
        "size": ctx.spec_hash(ctx.spec(tier)),
        "recipe": ctx.part("data", "training"),
        "seed": str(ctx.seed),
    }
    return ctx.folder.unit("train", tier.name, inputs)


def run(ctx: BuildContext) -> None:
    """Train what is not trained yet; an interrupted training goes on at its checkpoint."""
    from factory.training.loop import train_network

    for tier in ctx.recipe.tiers:
        unit = tier_unit(ctx, tier)
        if unit.is_done():
            continue
        started = time.monotonic()
        unit.begin()
        genotype = search.load_genotype(ctx, tier.name)
        network = make_network(genotype, ctx.spec(tier), ctx.recipe.training, ctx.seed)
        result = train_network(
            network,
            ctx.data,
            ctx.recipe.training,
            unit.folder,
            ctx.progress,
            ctx.seed,
            label=f"train {tier.name}",
        )
        ctx.progress.message(f"{tier.name}: test accuracy {result.test_accuracy:.2%}")
        outputs = [unit.folder / name for name in ("weights.safetensors", "result.json")]
        unit.finish(outputs, time.monotonic() - started)


def make_network(genotype: Genotype, spec: NetworkSpec, cfg: TrainConfig, seed: int) -> CellNetwork:
    """The network to train, initialised from the seed."""
    from factory.spaces.cell_network import CellNetwork

    network = CellNetwork(genotype, spec, auxiliary=cfg.auxiliary_weight > 0)
    return network.initialise(seed)


def load_network(ctx: BuildContext, tier: TierSection) -> CellNetwork:
    """The trained network of a tier, in evaluation mode."""
    import safetensors.torch

    genotype = search.load_genotype(ctx, tier.name)
    network = make_network(genotype, ctx.spec(tier), ctx.recipe.training, ctx.seed)
    weights = ctx.folder.stage("train") / tier.name / "weights.safetensors"
    network.load_state_dict(safetensors.torch.load_file(weights))
    network.eval()
    return network
