"""The bilevel loop: weights on one half of the pictures, the architecture on the other.

min over alpha of L_val(w*(alpha), alpha), w* = argmin L_train (DARTS, arXiv 1806.09055): one
architecture step (Adam), one weight step (SGD with momentum, cosine) in turn, after a warm-up that
only moves the weights. Every batch, sample and dropout mask is a pure function of (seed, step), and
a checkpoint holds all else, so a killed search goes on to the same result, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from factory.core.errors import FactoryError, InputError
from factory.core.progress import Progress
from factory.data.augment import derived_seed
from factory.data.image_data import ImageData
from factory.data.loader import Batches, BatchStream
from factory.search import checkpoint, diagnostics
from factory.search.axes import GRADIENTS, SCHEDULES
from factory.search.budget import Budgets
from factory.search.collapse import CollapseWatch
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm
from factory.search.derive import derivation_of, given_activations, strongest_activations
from factory.search.distributed import join
from factory.search.gradient import Batch, gradients
from factory.search.hessian import largest_eigenvalue
from factory.search.live_curves import LiveCurves
from factory.search.problem import FOR_ARCHITECTURE, FOR_WEIGHTS, StageProblem
from factory.search.progressive import strongest
from factory.search.schedule import Schedule
from factory.spaces.base import SearchSpace

WEIGHTS, VALIDATION = 11, 12  # streams of random numbers


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


@dataclass(frozen=True)
class Outcome:
    """What a run of steps came to.

    Attributes:
        values: the architecture parameters to derive from, as plain numbers.
        stopped: why the search ended early; None: it did not.
    """

    budgets: Budgets
    values: dict[str, Any]
    stopped: str | None = None


class Bilevel:
    """The stages of a search on the two halves of the pictures; runs a range of steps."""

    def __init__(
        self, space: SearchSpace[Any], data: ImageData, cfg: SearchConfig, seed: int
    ) -> None:
        self.space, self.cfg, self.seed = space, cfg, seed
        self.derivation = derivation_of(space)
        self.device = pick_device(cfg.device)
        self.world = join(self.device)
        if self.world.size > cfg.batch_size // 2:
            raise InputError(
                f"a batch of {cfg.batch_size} pictures is too small for {self.world.size} processes"
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
        self.schedule: Schedule = SCHEDULES.get(cfg.schedule).load()(cfg, pass_steps)
        self.estimate = GRADIENTS.get(cfg.gradient).load()
        self.problem = self._stage_problem(0)
        self.watch = CollapseWatch(cfg.stop_patience)
        self.stopped: str | None = None
        self.step = 0

    def close(self) -> None:
        """Stop background work."""
        for batches in self.batches:
            batches.close()

    def _stage_problem(
        self, number: int, candidates: dict[str, Tensor] | None = None
    ) -> StageProblem:
        stage = self.schedule.stages[number]
        return StageProblem(self.space, self.cfg, stage, number, self.seed, self.device, candidates)

    def _names(self) -> list[str]:
        """Of the matrices of the choice."""
        return [matrix.name for matrix in self.space.matrices]

    def values(self) -> dict[str, Any]:
        """The architecture parameters as plain numbers."""
        return self.problem.arch.values()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps as tensors."""
        return self.problem.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave, in the stage that it was taken in."""
        number = int(tensors["stage"])
        if number or self.problem.number:
            candidates = {name: tensors[f"arch.candidates_{name}"] for name in self._names()}
            self.problem = self._stage_problem(number, candidates if number else None)
        self.problem.load_tensors(tensors)

    def _enter(self, number: int) -> None:
        """The next stage: a new net and new parameters for the candidates that are kept."""
        arch = self.problem.arch
        alpha = {name: arch.kept_alpha(name) for name in self._names()}
        keep = self.schedule.stages[number].candidates
        kept = None if keep is None else strongest(alpha, keep)
        self.problem = self._stage_problem(number, kept)

    def weight_step(self, batch: Batch, lr: float) -> float:
        """One step of the weights; its training loss."""
        problem = self.problem
        loss = problem.loss(batch, detach_arch=True)
        found = gradients(loss, problem.weight_parameters)
        loss, *grads = self.world.average([loss, *found])
        for parameter, grad in zip(problem.weight_parameters, grads, strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(problem.weight_parameters, self.cfg.grad_clip)
        problem.weight_optimizer.param_groups[0]["lr"] = lr
        problem.weight_optimizer.step()
        problem.weight_optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def arch_step(self, validation: Batch, training: Batch, budgets: Budgets) -> dict[str, Any]:
        """One step of the architecture; the validation loss and the expected costs."""
        problem, cfg = self.problem, self.cfg
        loss, grads = self.estimate(problem, validation, training)
        loss, *grads = self.world.average([loss, *grads])
        if cfg.arch_grad_clip is not None:
            grads = _clipped(grads, cfg.arch_grad_clip)
        grads = self._regularised(grads)
        budgets.at(self.step)
        total, expected = budgets.add_gradients(
            grads, problem.arch.marginals(), problem.arch_parameters
        )
        for parameter, grad in zip(problem.arch_parameters, total, strict=True):
            parameter.grad = grad
        problem.arch_optimizer.step()
        problem.arch_optimizer.zero_grad(set_to_none=True)
        return {"val_loss": float(loss), "expected": expected}

    def _regularised(self, grads: list[Tensor]) -> list[Tensor]:
        """beta-DARTS (arXiv 2203.01665): + lambda mean over edges of logsumexp(alpha)."""
        strength = self.cfg.beta_decay * self.schedule.share(self.step)
        if not strength:
            return grads
        problem = self.problem
        penalty = torch.cat(
            [torch.logsumexp(problem.arch.kept_alpha(name), 1) for name in self._names()]
        ).mean()
        more = torch.autograd.grad(strength * penalty, problem.arch_parameters, allow_unused=True)
        return [g if m is None else g + m for g, m in zip(grads, more, strict=True)]

    def run(
        self,
        end: int,
        folder: Path,
        label: str,
        fingerprint: str,
        terms: Sequence[CostTerm],
        progress: Progress,
        *,
        start: tuple[int, dict[str, Tensor], bytes],
        lr_floor: float = 0.0,
    ) -> Outcome:
        """Steps up to ``end``, from the folder's checkpoint or else from ``start``.

        ``start`` is (step, tensors, history so far); empty tensors: the fresh state. Leaves
        history.jsonl and the final checkpoint. A loss that is no number ends it with the last good
        checkpoint named.
        """
        budgets = Budgets.of(terms, self.space, self.cfg, self.seed)
        path = folder / checkpoint.FILE
        history = checkpoint.History(folder / "history.jsonl", write=self.world.is_main)
        found = checkpoint.load(path, fingerprint)
        self.watch, self.stopped = CollapseWatch(self.cfg.stop_patience), None
        if found is not None:
            tensors, values = found
            self.load_tensors(tensors)
            self.step = values["step"]
            self.stopped = values["stopped"]
            self.watch.load_state_dict(values["watch"])
            budgets.load_state_dict(values["budgets"])
            history.open(values["history_bytes"])
        else:
            first, tensors, before = start
            self.step = first
            if tensors:
                self.load_tensors(tensors)
            history.open(0, before)
        self.world.wait()

        def save() -> None:
            tensors = self.tensors()
            self._check_finite(tensors, path)
            values = {
                "fingerprint": fingerprint,
                "step": self.step,
                "history_bytes": history.size(),
                "budgets": budgets.state_dict(),
                "watch": self.watch.state_dict(),
                "stopped": self.stopped,
            }
            checkpoint.save(path, tensors, values)

        first = start[0]
        saved_at = self.step if found is not None else -1
        saved_time = time.monotonic()
        curves = (
            LiveCurves(folder / "tensorboard", self.step)
            if self.cfg.tensorboard and self.world.is_main
            else None
        )
        try:
            with progress.task(label, end - first, done=self.step - first) as task:
                while self.step < end and self.stopped is None:
                    row = self._one_step(budgets, lr_floor, path)
                    history.append(row)
                    if curves is not None:
                        curves.add(row)
                    task.advance(1, _note(row))
                    due = time.monotonic() - saved_time >= self.cfg.checkpoint_seconds
                    if self.cfg.checkpoint_steps is not None:
                        due = self.step % self.cfg.checkpoint_steps == 0
                    if due and self.step < end and self.world.is_main:
                        save()
                        saved_at, saved_time = self.step, time.monotonic()
            if saved_at != self.step and self.world.is_main:
                save()
        finally:
            history.close()
            if curves is not None:
                curves.close()
        self.world.wait()
        if self.stopped is not None:
            progress.message(f"{label}: {self.stopped}")
        values = self.values()
        if self.stopped is not None and self.watch.healthy is not None:
            values = self.watch.healthy
        return Outcome(budgets, values, self.stopped)

    def _one_step(self, budgets: Budgets, lr_floor: float, path: Path) -> dict[str, Any]:
        step, schedule, problem = self.step, self.schedule, self.problem
        number = schedule.stage_of(step)
        if number != problem.number:
            self._enter(number)
            problem = self.problem
        weights_only = schedule.weights_only(step)
        lr = max(schedule.weight_lr(step), lr_floor)
        moment = (schedule.skip_dropout(step), self._temperature(step), lr)
        training = self.world.share(self.batches[0].get(step))
        row: dict[str, Any] = {
            "step": step,
            "epoch": step // schedule.steps_per_epoch,
            "phase": "warmup" if weights_only else "search",
        }
        if len(schedule.stages) > 1:
            row["stage"] = number
        found: dict[str, Any] = {"val_loss": None, "expected": {}}
        validation: Batch | None = None
        if not weights_only:
            validation = self.world.share(self.batches[1].get(step))
            problem.use_step(step, FOR_ARCHITECTURE, *moment)
            found = self.arch_step(validation, training, budgets)
            self._check_loss(found["val_loss"], "architecture", path)
        problem.use_step(step, FOR_WEIGHTS, *moment)
        row["loss"] = self.weight_step(training, lr)
        self._check_loss(row["loss"], "weights", path)
        self.step += 1
        row |= found
        if validation is not None:
            self._watch(row, budgets, validation)
        row["lr"] = lr
        return row

    def _temperature(self, step: int) -> float:
        """Of the Gumbel samples, falling in a straight line."""
        start, end = self.cfg.temperature_start, self.cfg.temperature_end
        return start + (end - start) * self.schedule.share(step)

    def _watch(self, row: dict[str, Any], budgets: Budgets, validation: Batch) -> None:
        """Costs, multipliers and diagnostics of a step; at the end of an epoch also the gap."""
        values = self.values()
        derivation = self.derivation
        scores = derivation.scores(values)
        genotype = derivation.discretise(scores, self.cfg.max_skips)
        activations = strongest_activations(values, self.cfg.activations)
        terms = given_activations(self.space, budgets.terms, activations)
        derived = derivation.costs(terms, genotype)
        row["penalty"] = budgets.penalty(row["expected"])
        row["derived"] = derived
        row["limits"] = {t.name: t.limit for t in budgets.terms if t.limit is not None}
        row["scales"] = {name: budgets.scale(name) for name in budgets.limited}
        budgets.ascend(row["expected"], derived)
        row["multipliers"] = dict(budgets.multipliers)
        row["skip_share"] = diagnostics.skip_share(self.space.skip_shares(genotype))
        row["entropy"] = diagnostics.entropy(values["alpha"])
        if self.step % self.schedule.steps_per_epoch:
            return
        row["skip_share_by_cell"] = self.space.skip_shares(derivation.discretise(scores))
        row["supernet_loss"], row["derived_loss"] = self.world.average_floats(
            self.problem.gap(validation, genotype)
        )
        row["gap"] = row["derived_loss"] - row["supernet_loss"]
        row["probabilities"] = diagnostics.probabilities(values["alpha"])
        every, epoch = self.cfg.hessian_every, row["epoch"]
        if every is not None and (epoch + 1) % every == 0:
            eigenvalue = largest_eigenvalue(self.problem, validation, self.seed)
            (row["hessian_eigenvalue"],) = self.world.average_floats([eigenvalue])
        if self.cfg.stop == "collapse" and self.problem.number == len(self.schedule.stages) - 1:
            self.stopped = self.watch.judge(
                epoch,
                row["skip_share_by_cell"][self.space.matrices[0].name],
                budgets.multipliers,
                values,
                row.get("hessian_eigenvalue"),
            )
            if self.stopped is not None:
                row["stopped"] = self.stopped

    def _check_loss(self, loss: float, whose: str, path: Path) -> None:
        if not math.isfinite(loss):
            raise diverged(f"the loss of the {whose} is {loss} in step {self.step}", path)

    def _check_finite(self, tensors: dict[str, Tensor], path: Path) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise diverged(f"{name} is not finite after step {self.step}", path)


def diverged(what: str, path: Path) -> FactoryError:
    """The error of a search whose numbers are none any more; names the last good checkpoint."""
    step = checkpoint.step_of(path)
    kept = (
        f"the last good checkpoint is {path} at step {step}"
        if step is not None
        else "there is no checkpoint yet"
    )
    return FactoryError(
        f"the search diverged: {what}",
        why=kept,
        fix="lower search.weight_lr or search.arch_lr and search into another folder",
    )


def _clipped(grads: Sequence[Tensor], largest: float) -> list[Tensor]:
    length = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
    factor = torch.clamp(largest / (length + 1e-6), max=1.0)
    return [g * factor for g in grads]


def _note(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    for name, limit in row.get("limits", {}).items():
        parts.append(f"{name} {row['derived'][name]:.3g} of {limit:.3g}")
    return ", ".join(parts)
