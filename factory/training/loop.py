"""Training of one network: SGD, cosine, label smoothing, auxiliary head, drop path, EMA.

Every step is a pure function of the weights and of (seed, step), and a checkpoint is written at
each epoch's end (and within long epochs): killed at any moment and started again, the run ends
with the same bits on a CPU. mixup: arXiv 1710.09412. Drop path: FractalNet, arXiv 1605.07648,
raised linearly over the epochs as in NASNet, arXiv 1707.07012.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from factory.core.errors import FactoryError
from factory.core.progress import SILENT, Progress, Task
from factory.data.augment import derived_seed
from factory.data.image_data import ImageData
from factory.data.loader import Batches, BatchStream
from factory.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from factory.training.config import TrainConfig
from factory.training.ema import WeightAverage
from factory.training.evaluate import evaluate
from factory.training.hardware import CompiledOrEager, choose_hardware
from factory.training.result import (
    WEIGHTS_FILE,
    TrainResult,
    read_result,
    write_history,
    write_result,
)
from factory.training.schedule import learning_rate
from factory.training.weights import load_weights

CHECK_EVERY_STEPS = 50  # how often an accelerator is asked whether the loss is finite
DEVICE_DATA_LIMIT_BYTES = 2 * 2**30  # pictures up to this size move to the accelerator


def train_network(
    network: nn.Module,
    data: ImageData,
    cfg: TrainConfig,
    out_dir: Path | str,
    progress: Progress = SILENT,
    seed: int = 0,
    *,
    label: str = "train",
) -> TrainResult:
    """Train ``network`` (or go on with it) and leave weights, history and result in ``out_dir``.

    ``network`` comes initialised; afterwards it holds the averaged weights, in eval mode, on the
    CPU. A folder whose training is finished is read back, not trained again.
    """
    out_dir = Path(out_dir)
    run_id = fingerprint(network, data, cfg, seed)
    finished = read_result(out_dir, run_id)
    if finished is None:
        with torch.random.fork_rng():
            finished = _Run(network, data, cfg, out_dir, seed, run_id, progress).train(label)
    network.cpu().to(memory_format=torch.contiguous_format).eval()
    load_weights(network, finished.weights)
    return finished


class _Run:
    """One training run: its state and its steps."""

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        cfg: TrainConfig,
        out_dir: Path,
        seed: int,
        run_id: str,
        progress: Progress,
    ) -> None:
        self.cfg, self.out_dir, self.seed, self.run_id = cfg, out_dir, seed, run_id
        self.data, self.progress = data, progress
        self.stream = BatchStream(len(data.train), cfg.batch_size, seed)
        self.steps_per_epoch = self.stream.steps_per_epoch
        self.total_steps = cfg.epochs * self.steps_per_epoch
        self.warmup_steps = round(cfg.warmup_epochs * self.steps_per_epoch)
        self.hardware = choose_hardware(cfg, self.total_steps)
        device = self.hardware.device
        self.network = network.to(device)
        if self.hardware.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.call = CompiledOrEager(self.network, self.hardware, progress)
        self.average = WeightAverage(self.network, cfg.ema_decay)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(
            self.parameters,
            lr=cfg.lr,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
            nesterov=cfg.momentum > 0,
            foreach=True,
        )
        nbytes = math.prod(data.image_shape) * (len(data.train) + len(data.test))
        fits = nbytes <= DEVICE_DATA_LIMIT_BYTES
        self.test = data.test.to(device) if fits else data.test
        self.batches = Batches(
            data,
            data.train.to(device) if fits else data.train,
            self.stream,
            augmentation=data.augmentation.with_cutout(cfg.cutout),
            device=device,
            channels_last=self.hardware.channels_last,
        )
        self.step = 0
        self.loss_sum = torch.zeros((), device=device)  # of the running epoch
        self.history: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.started_s = self.saved_s = time.monotonic()

    def train(self, label: str) -> TrainResult:
        """Resume where a checkpoint is, run to the end, write the results."""
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self._resume()
        write_history(self.out_dir, self.history)
        try:
            with self.progress.task(label, total=self.total_steps, done=self.step) as task:
                while self.step < self.total_steps:
                    self._one_step(task)
        finally:
            self.batches.close()
        return self._finish()

    def _one_step(self, task: Task) -> None:
        epoch = self.step // self.steps_per_epoch
        lr = learning_rate(self.step, self.total_steps, self.warmup_steps, self.cfg.lr)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        if hasattr(self.network, "drop_path_prob"):
            setattr(self.network, "drop_path_prob", self.cfg.drop_path * epoch / self.cfg.epochs)  # noqa: B010
        torch.manual_seed(derived_seed(self.seed, self.step, 4))  # drop path
        self.network.train()
        x, labels = self.batches.get(self.step)
        with self.hardware.autocast():
            loss = self._loss(x, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.cfg.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.cfg.grad_clip, foreach=True)
        self.optimiser.step()
        self.average.update(self.step)
        self.loss_sum += loss.detach()
        self.step += 1
        self._bookkeeping(epoch, lr, task)

    def _loss(self, x: Tensor, labels: Tensor) -> Tensor:
        if not self.cfg.mixup:
            return self._cross_entropy(self.call(x), labels)
        rng = np.random.default_rng([self.seed, self.step, 5])
        share = float(rng.beta(self.cfg.mixup, self.cfg.mixup))
        output = self.call(x.lerp(x.flip(0), 1 - share))
        return share * self._cross_entropy(output, labels) + (1 - share) * self._cross_entropy(
            output, labels.flip(0)
        )

    def _cross_entropy(self, output: Any, labels: Tensor) -> Tensor:
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        smoothing = self.cfg.label_smoothing
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        if auxiliary is not None and self.cfg.auxiliary_weight:
            loss = loss + self.cfg.auxiliary_weight * functional.cross_entropy(
                auxiliary.float(), labels, label_smoothing=smoothing
            )
        return loss

    def _bookkeeping(self, epoch: int, lr: float, task: Task) -> None:
        """Finite? Epoch over? Time to save?"""
        place = self.step % self.steps_per_epoch
        epoch_ends = place == 0
        due = time.monotonic() - self.saved_s >= self.cfg.checkpoint_s
        on_cpu = self.hardware.device.type == "cpu"
        if epoch_ends or due or on_cpu or self.step % CHECK_EVERY_STEPS == 0:
            self._check_finite(self.loss_sum)
        if epoch_ends:
            self._end_epoch(epoch, lr)
        if epoch_ends or due:
            self._save()
        note = f"epoch {epoch + 1}/{self.cfg.epochs}"
        if self.history:
            note += f", loss {self.history[-1]['train_loss']:.3f}"
            accuracy = self.history[-1]["test_accuracy"]
            note += "" if accuracy is None else f", test {100 * accuracy:.1f} %"
        task.advance(note=note)

    def _check_finite(self, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            raise FactoryError(
                f"training diverged: the loss is not finite at step {self.step}",
                where=str(self.out_dir),
                why=f"the learning rate is {self.cfg.lr:g}",
                fix="lower training.lr or set training.grad_clip, and start in a new folder",
            )

    def _end_epoch(self, epoch: int, lr: float) -> None:
        train_loss = self.loss_sum.item() / self.steps_per_epoch
        self.loss_sum = torch.zeros_like(self.loss_sum)
        accuracy = test_loss = None
        if (epoch + 1) % self.cfg.eval_every == 0 or epoch + 1 == self.cfg.epochs:
            accuracy, test_loss = evaluate(
                self.average.network, self.data, self.test, hardware=self.hardware
            )
            self._check_finite(torch.tensor(test_loss))
        self.history.append(
            {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                "test_accuracy": accuracy,
                "test_loss": test_loss,
                "lr": lr,
            }
        )

    @property
    def _checkpoint(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started_s

    def _save(self) -> None:
        """The checkpoint first, then the history: on resume the checkpoint's history wins."""
        state = {
            "fingerprint": self.run_id,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "loss_sum": self.loss_sum,
            "history": self.history,
            "seconds": self._seconds(),
        }
        save_checkpoint(self._checkpoint, state)
        write_history(self.out_dir, self.history)
        self.saved_s = time.monotonic()

    def _resume(self) -> None:
        state = load_checkpoint(self._checkpoint, self.run_id)
        if state is None:
            return
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.loss_sum = state["loss_sum"].to(self.hardware.device)
        self.history = state["history"]
        self.seconds_before = state["seconds"]

    def _finish(self) -> TrainResult:
        last = self.history[-1]
        result = TrainResult(
            test_accuracy=last["test_accuracy"],
            test_loss=last["test_loss"],
            history=self.history,
            weights=self.out_dir / WEIGHTS_FILE,
            epochs=self.cfg.epochs,
            steps=self.total_steps,
            seconds=round(self._seconds(), 3),
            hardware=self.hardware.describe(),
        )
        write_result(result, self.average.state_dict(), run_id=self.run_id, seed=self.seed)
        self._checkpoint.unlink(missing_ok=True)
        return result
