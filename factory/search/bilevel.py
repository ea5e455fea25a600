"""The bilevel loop: weights on one half of the pictures, the architecture on the other.

min over alpha of L_val(w*(alpha), alpha), w* = argmin L_train (DARTS, arXiv 1806.09055): one
architecture step (Adam), one weight step (SGD with momentum, cosine) in turn, after a warm-up that
only moves the weights. Every batch is a pure function of (seed, step), and a checkpoint holds all
else, so a killed search goes on to the same result, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.core.errors import FactoryError, InputError
from factory.core.progress import Progress
from factory.data.augment import derived_seed
from factory.data.image_data import ImageData
from factory.data.loader import Batches, BatchStream
from factory.search import checkpoint, diagnostics
from factory.search.budget import Budgets
from factory.search.config import SearchConfig
from factory.search.costs import CostModel, CostTerm
from factory.search.derive import Scores, discretise, log_scores
from factory.search.gradient import GRADIENTS, Batch
from factory.search.relaxation import RELAXATIONS, ArchParameters
from factory.search.schedule import SCHEDULES, Schedule
from factory.search.supernet import Supernet
from factory.spaces.network_spec import NetworkSpec

WEIGHTS, VALIDATION, SUPERNET, ARCHITECTURE = 11, 12, 13, 14  # streams of random numbers


def pick_device(name: str) -> torch.device:
    """ "auto" is an accelerator where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r} for the search", fix="use auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "search.device is 'cuda' but torch sees no accelerator",
            fix="set search.device = 'auto' or 'cpu'",
        )
    return torch.device(name)


class Bilevel:
    """Supernet, architecture parameters and both optimizers; runs a range of steps."""

    def __init__(self, spec: NetworkSpec, data: ImageData, cfg: SearchConfig, seed: int) -> None:
        self.cfg = cfg
        self.device = pick_device(cfg.device)
        relaxation = RELAXATIONS.get(cfg.relaxation)
        partial = cfg.partial_channels if relaxation.partial_channels else 1
        self.supernet = Supernet(spec, partial, derived_seed(seed, SUPERNET)).to(self.device)
        self.arch = ArchParameters(
            derived_seed(seed, ARCHITECTURE), relaxation.edge_normalisation
        ).to(self.device)
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
        halves = data.split(cfg.weight_fraction, seed)
        augmentation = data.augmentation if cfg.augment else None
        self.batches = [
            Batches(
                data,
                half.to(self.device),
                BatchStream(len(half), cfg.batch_size, derived_seed(seed, stream)),
                augmentation=augmentation,
                device=self.device,
                channels_last=True,
            )
            for half, stream in zip(halves, (WEIGHTS, VALIDATION), strict=True)
        ]
        pass_steps = self.batches[0].stream.steps_per_epoch
        self.schedule: Schedule = SCHEDULES.get(cfg.schedule)(cfg, pass_steps)
        self.step = 0

    def close(self) -> None:
        """Stop background work."""
        for batches in self.batches:
            batches.close()

    def loss(self, batch: Batch, *, detach_arch: bool = False) -> Tensor:
        """Cross-entropy of the supernet on a batch."""
        x, labels = batch
        precision = (
            torch.autocast("cuda", torch.bfloat16)
            if self.device.type == "cuda"
            else contextlib.nullcontext()
        )
        with precision:
            logits = self.supernet(x, self.arch.mixing(detach_arch))
        return F.cross_entropy(logits.float(), labels)

    def scores(self) -> Scores:
        """Log strengths of the current parameters."""
        values = self.arch.values()
        return log_scores(values["alpha"], values["beta"])  # type: ignore[arg-type]

    def weight_step(self, batch: Batch, lr: float) -> float:
        """One step of the weights; its training loss."""
        loss = self.loss(batch, detach_arch=True)
        grads = torch.autograd.grad(loss, self.weight_parameters)
        for parameter, grad in zip(self.weight_parameters, grads, strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(self.weight_parameters, self.cfg.grad_clip)
        self.weight_optimizer.param_groups[0]["lr"] = lr
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad(set_to_none=True)
        return _finite(float(loss.detach()), "weights")

    def arch_step(self, validation: Batch, training: Batch, budgets: Budgets) -> dict[str, Any]:
        """One step of the architecture; the validation loss and the expected costs."""
        estimate = GRADIENTS.get(self.cfg.gradient)
        loss, grads = estimate(self, validation, training)
        total, expected = budgets.add_gradients(grads, self.arch.marginals(), self.arch_parameters)
        for parameter, grad in zip(self.arch_parameters, total, strict=True):
            parameter.grad = grad
        self.arch_optimizer.step()
        self.arch_optimizer.zero_grad(set_to_none=True)
        return {"val_loss": _finite(float(loss), "architecture"), "expected": expected}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps as tensors."""
        result = {f"supernet.{k}": v for k, v in self.supernet.state_dict().items()}
        result |= {f"arch.{k}": v for k, v in self.arch.state_dict().items()}
        result |= checkpoint.optimizer_tensors(self.weight_optimizer, self.weight_parameters, "sgd")
        return result | checkpoint.optimizer_tensors(
            self.arch_optimizer, self.arch_parameters, "adam"
        )

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        for module, prefix in ((self.supernet, "supernet."), (self.arch, "arch.")):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(own)
        self.weight_optimizer.state.clear()
        self.arch_optimizer.state.clear()
        checkpoint.load_optimizer(self.weight_optimizer, self.weight_parameters, "sgd", tensors)
        checkpoint.load_optimizer(self.arch_optimizer, self.arch_parameters, "adam", tensors)

    def run(
        self,
        end: int,
        folder: Path,
        label: str,
        fingerprint: str,
        terms: Sequence[CostTerm],
        progress: Progress,
        *,
        weights_only: bool,
        start: tuple[int, dict[str, Tensor], bytes],
        lr_floor: float = 0.0,
    ) -> Budgets:
        """Steps up to ``end``, from the folder's checkpoint or else from ``start``.

        ``start`` is (step, tensors, history so far); empty tensors: the fresh state. Leaves
        history.jsonl and the final checkpoint.
        """
        budgets = Budgets(terms, self.cfg.multiplier_lr, self.cfg.multiplier_max)
        model = CostModel(terms)
        path = folder / checkpoint.FILE
        history = checkpoint.History(folder / "history.jsonl")
        found = checkpoint.load(path, fingerprint)
        if found is not None:
            tensors, values = found
            self.load_tensors(tensors)
            self.step = values["step"]
            budgets.load_state_dict(values["budgets"])
            history.open(values["history_bytes"])
        else:
            first, tensors, before = start
            self.step = first
            if tensors:
                self.load_tensors(tensors)
            history.open(0, before)

        def save() -> None:
            values = {
                "fingerprint": fingerprint,
                "step": self.step,
                "history_bytes": history.size(),
                "budgets": budgets.state_dict(),
            }
            checkpoint.save(path, self.tensors(), values)

        first = start[0]
        saved_at = self.step if found is not None else -1
        saved_time = time.monotonic()
        try:
            with progress.task(label, end - first, done=self.step - first) as task:
                while self.step < end:
                    row = self._one_step(budgets, model, weights_only, lr_floor)
                    history.append(row)
                    task.advance(1, _note(row))
                    due = time.monotonic() - saved_time >= self.cfg.checkpoint_seconds
                    if self.cfg.checkpoint_steps is not None:
                        due = self.step % self.cfg.checkpoint_steps == 0
                    if due and self.step < end:
                        save()
                        saved_at, saved_time = self.step, time.monotonic()
            if saved_at != self.step:
                save()
        finally:
            history.close()
        return budgets

    def _one_step(
        self, budgets: Budgets, model: CostModel, weights_only: bool, lr_floor: float
    ) -> dict[str, Any]:
        step = self.step
        training = self.batches[0].get(step)
        row: dict[str, Any] = {
            "step": step,
            "epoch": step // self.schedule.steps_per_epoch,
            "phase": "warmup" if weights_only else "search",
        }
        found: dict[str, Any] = {"val_loss": None, "expected": {}}
        if not weights_only:
            validation = self.batches[1].get(step)
            found = self.arch_step(validation, training, budgets)
        lr = max(self.schedule.weight_lr(step), lr_floor)
        row["loss"] = self.weight_step(training, lr)
        self.step += 1
        row |= found
        if not weights_only:
            genotype = discretise(self.scores(), self.cfg.max_skips)
            derived = diagnostics.derived_costs(model, genotype)
            row["penalty"] = budgets.penalty(found["expected"])
            row["derived"] = derived
            row["limits"] = {t.name: t.limit for t in budgets.terms if t.limit is not None}
            row["scales"] = {name: budgets.scale(name) for name in budgets.limited}
            budgets.ascend(found["expected"], derived)
            row["multipliers"] = dict(budgets.multipliers)
            row["skip_share"] = diagnostics.skip_share(genotype)
            row["entropy"] = diagnostics.entropy(self.arch.values()["alpha"])  # type: ignore[arg-type]
        row["lr"] = lr
        return row


def _note(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    for name, limit in row.get("limits", {}).items():
        parts.append(f"{name} {row['derived'][name]:.3g} of {limit:.3g}")
    return ", ".join(parts)


def _finite(loss: float, whose: str) -> float:
    if not math.isfinite(loss):
        raise FactoryError(
            f"the search diverged: the loss of the {whose} is {loss}",
            fix="lower search.weight_lr, and remove the search's folder to start afresh",
        )
    return loss
