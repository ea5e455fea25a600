"""Stage 4, train: the derived network of each tier, at its deployed size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from factory.pipeline.context import BuildContext
from factory.pipeline.recipe import TierSection
from factory.pipeline.run_folder import Unit
from factory.pipeline.search_files import load_genotype
from factory.pipeline.search_files import tier_unit as search_unit

if TYPE_CHECKING:
    from torch import nn

    from factory.spaces.base import SearchSpace
    from factory.training.config import TrainConfig


def units(ctx: BuildContext) -> list[Unit]:
    """One unit per tier."""
    return [tier_unit(ctx, tier) for tier in ctx.recipe.tiers]


def tier_unit(ctx: BuildContext, tier: TierSection) -> Unit:
    """The training of a tier's network."""
    inputs = {
        "genotype": search_unit(ctx, tier.name).digest(),
        "size": ctx.size_hash(ctx.space(tier)),
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
        genotype = load_genotype(ctx, tier.name)
        network = make_network(genotype, ctx.space(tier), ctx.recipe.training, ctx.seed)
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


def make_network(
    architecture: Any, space: SearchSpace[Any], cfg: TrainConfig, seed: int
) -> nn.Module:
    """The network to train, initialised from the seed."""
    network: Any = space.network(architecture, auxiliary=cfg.auxiliary_weight > 0)
    initialised: nn.Module = network.initialise(seed)
    return initialised


def load_network(ctx: BuildContext, tier: TierSection) -> nn.Module:
    """The trained network of a tier, in evaluation mode."""
    from factory.training.weights import load_weights

    genotype = load_genotype(ctx, tier.name)
    network = make_network(genotype, ctx.space(tier), ctx.recipe.training, ctx.seed)
    weights = ctx.folder.stage("train") / tier.name / "weights.safetensors"
    load_weights(network, weights)
    network.eval()
    return network
