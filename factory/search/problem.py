"""One stage's supernet with its architecture parameters and optimizers, as the estimates see it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.data.augment import derived_seed
from factory.search import checkpoint
from factory.search.axes import RELAXATIONS, SAMPLINGS
from factory.search.config import SearchConfig
from factory.search.gradient import Batch, EstimateSettings
from factory.search.relaxation import ArchParameters, Relaxation
from factory.search.schedule import Stage
from factory.spaces.base import SearchSpace
from factory.spaces.mixing import Mixing, SkipDropout, SupernetOptions

SUPERNET, ARCHITECTURE, DROPOUT = 13, 14, 17  # streams of random numbers
FOR_ARCHITECTURE, FOR_WEIGHTS = 0, 1  # uses of the samples and masks of a step


class StageProblem:
    """What a stage of the search trains; see :class:`factory.search.gradient.BilevelProblem`.

    ``number`` is the index of the stage; ``candidates`` per matrix [E, O], None: all.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        cfg: SearchConfig,
        stage: Stage,
        number: int,
        seed: int,
        device: torch.device,
        candidates: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.cfg, self.number, self.seed, self.device = cfg, number, seed, device
        relaxation: Relaxation = RELAXATIONS.get(cfg.relaxation).load()
        partial = cfg.partial_channels if relaxation.partial_channels else 1
        activations = cfg.activations if relaxation.factorised else ()
        edge_weights = cfg.relaxation == "partial_channel" or partial > 1
        # the first stage's numbers are those of a search with one stage
        net_seed, arch_seed = (
            derived_seed(seed, stream, *([number] if number else []))
            for stream in (SUPERNET, ARCHITECTURE)
        )
        single = needs_single_edges(cfg, stage, candidates)
        self.supernet = space.supernet(
            SupernetOptions(net_seed, stage.layers, partial, candidates, activations, single)
        )
        self.arch = ArchParameters(space, arch_seed, edge_weights, candidates, len(activations))
        self.supernet.to(device)
        self.arch.to(device)
        self.weight_parameters: list[nn.Parameter] = list(self.supernet.parameters())
        self.arch_parameters: list[nn.Parameter] = self.arch.trainable()
        self.weight_optimizer = torch.optim.SGD(
            self.weight_parameters,
            lr=cfg.weight_lr,
            momentum=cfg.weight_momentum,
            weight_decay=cfg.weight_decay,
        )
        self.arch_optimizer = torch.optim.Adam(
            self.arch_parameters,
            lr=cfg.arch_lr,
            betas=cfg.arch_betas,
            weight_decay=cfg.arch_weight_decay,
        )
        self.settings = EstimateSettings()
        self.use_step(0, FOR_WEIGHTS, 0.0, cfg.temperature_start, cfg.weight_lr)

    def use_step(
        self, step: int, use: int, dropout: float, temperature: float, weight_lr: float
    ) -> None:
        """Fix what is random and what changes with time for the evaluations that follow."""
        self.sample = SAMPLINGS.get(self.cfg.sampling).load()(self.seed, step, use, temperature)
        self.dropout = SkipDropout(
            dropout, derived_seed(derived_seed(self.seed, DROPOUT, step, use), 0)
        )
        self.settings = EstimateSettings(
            weight_lr, self.cfg.weight_momentum, self.cfg.weight_decay, self.cfg.amended_eta
        )

    def weight_momenta(self) -> Sequence[Tensor | None]:
        """SGD's momentum buffers."""
        state = self.weight_optimizer.state
        return [state.get(p, {}).get("momentum_buffer") for p in self.weight_parameters]

    def loss(self, batch: Batch, *, detach_arch: bool = False) -> Tensor:
        """Cross-entropy of the supernet on a batch, with this step's samples and masks."""
        return self._loss(batch, self.arch.mixing(detach_arch, self.sample), self.dropout)

    @torch.no_grad()
    def gap(self, batch: Batch, genotype: Any) -> tuple[float, float]:
        """Losses of the supernet as it is and of ``genotype`` inside it, on one batch."""
        soft = self._loss(batch, self.arch.mixing(), None)
        hard = self._loss(batch, self.arch.derived_mixing(genotype), None)
        return float(soft), float(hard)

    def _loss(
        self, batch: Batch, mixing: Mapping[str, Mixing], dropout: SkipDropout | None
    ) -> Tensor:
        x, labels = batch
        precision = (
            torch.autocast("cuda", torch.bfloat16)
            if self.device.type == "cuda"
            else contextlib.nullcontext()
        )
        with precision:
            logits = self.supernet(x, mixing, dropout)
        return F.cross_entropy(logits.float(), labels)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps as tensors."""
        result = {f"supernet.{k}": v for k, v in self.supernet.state_dict().items()}
        result |= {f"arch.{k}": v for k, v in self.arch.state_dict().items()}
        result["stage"] = torch.tensor(self.number)
        result |= checkpoint.optimizer_tensors(self.weight_optimizer, self.weight_parameters, "sgd")
        return result | checkpoint.optimizer_tensors(
            self.arch_optimizer, self.arch_parameters, "adam"
        )

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        for module, prefix in ((self.supernet, "supernet."), (self.arch, "arch.")):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(own)
        self.weight_optimizer.state.clear()
        self.arch_optimizer.state.clear()
        kept = dict(tensors)
        checkpoint.load_optimizer(self.weight_optimizer, self.weight_parameters, "sgd", kept)
        checkpoint.load_optimizer(self.arch_optimizer, self.arch_parameters, "adam", kept)


def needs_single_edges(
    cfg: SearchConfig, stage: Stage, candidates: Mapping[str, Tensor] | None
) -> bool:
    """Whether only some candidates run in this stage."""
    return (
        cfg.relaxation == "factorised"
        or cfg.sampling == "gumbel_hard"
        or candidates is not None
        or stage.skip_dropout > 0
    )
