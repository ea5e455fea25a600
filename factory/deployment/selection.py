"""Measured pass selection: a rewrite is applied only where the chip says that it helps.

The model as it is and the rewritten one are timed alternately on the device, in rounds that
alternate which one goes first. The gain of a round is 1 - rewritten / before. A pass is kept when
the median gain is at least MIN_GAIN, the rewritten model was faster in nine rounds of ten, and
its outputs on the device are the same up to rounding. The next pass is tried on top of what was
kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.deployment.agreement import compare
from factory.deployment.passes.base import Pass
from factory.deployment.passes.hard_swish_split import hard_swish_to_clip, split_hard_swish
from factory.deployment.passes.pad_channels import pad_channels_8, pad_channels_16
from factory.deployment.passes.remove_unused import remove_unused
from factory.deployment.passes.slice_into_conv import slice_into_conv
from factory.devices.base import Device, TimingPlan
from factory.graph.onnx_load import with_shapes

MEASURED_PASSES: tuple[Pass, ...] = (
    slice_into_conv,
    split_hard_swish,
    hard_swish_to_clip,
    pad_channels_8,
    pad_channels_16,
)
MIN_GAIN = 0.01
ROUNDS = 12
PLAN = TimingPlan(min_runs=10, max_runs=200, min_time_ms=25.0, warmup_time_ms=20.0)
MIN_SIGNAL_DB = 60.0
Prepare = Callable[[onnx.ModelProto], bytes]


@dataclass(frozen=True)
class PassTrial:
    """One pass on one chip.

    Attributes:
        status: "kept", "not faster", "nothing to do", "changes the numbers" or "failed".
        gain_percent: median over the rounds; positive is faster.
        low_percent, high_percent: the 10th and 90th percentile of the rounds' gains.
        wins: rounds in which the rewritten model was faster.
    """

    name: str
    status: str
    reason: str = ""
    before_ms: float | None = None
    after_ms: float | None = None
    gain_percent: float | None = None
    low_percent: float | None = None
    high_percent: float | None = None
    wins: int = 0
    rounds: int = 0
    signal_db: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def rewrite(model: onnx.ModelProto, one_pass: Pass) -> onnx.ModelProto | None:
    """The model after ``one_pass``, checked; None when there was nothing to rewrite."""
    copy = ir.from_proto(model)
    if not one_pass(copy):
        return None
    remove_unused(copy)
    return with_shapes(ir.to_proto(copy), f"the model after {one_pass.__name__} is not valid")


def select_passes(
    model: onnx.ModelProto,
    device: Device,
    *,
    passes: Sequence[Pass] = MEASURED_PASSES,
    prepare: Prepare = onnx.ModelProto.SerializeToString,
    rounds: int = ROUNDS,
    plan: TimingPlan = PLAN,
    progress: Progress = SILENT,
) -> tuple[onnx.ModelProto, list[PassTrial]]:
    """Apply those of ``passes`` that make ``model`` faster on ``device``.

    Args:
        model: the fp32 model.
        device: the chip, open.
        passes: tried in this order, each on top of what was kept.
        prepare: the file that is timed, from the fp32 model (for an int8 chip: quantised).
        rounds: pairs of measurements a pass.
        plan: how often a round runs each model.
        progress: where long work reports.
    """
    trials = []
    with progress.task("passes on the chip", total=len(passes)) as task:
        for one_pass in passes:
            model, trial = _try(model, device, one_pass, prepare, rounds, plan)
            trials.append(trial)
            task.advance(note=trial.name)
    return model, trials


def _try(
    model: onnx.ModelProto,
    device: Device,
    one_pass: Pass,
    prepare: Prepare,
    rounds: int,
    plan: TimingPlan,
) -> tuple[onnx.ModelProto, PassTrial]:
    name = one_pass.__name__
    try:
        after = rewrite(model, one_pass)
        if after is None:
            return model, PassTrial(name, "nothing to do")
        old, new = prepare(model), prepare(after)
        signal_db = _parity(model, after, device)
        if signal_db < MIN_SIGNAL_DB:
            return model, PassTrial(name, "changes the numbers", signal_db=signal_db)
        pairs = []
        for number in range(rounds):
            both = [old, new] if number % 2 == 0 else [new, old]
            timings = device.time_many(both, plan, rounds=2)
            failed = next((t for t in timings if not t.ok), None)
            if failed is not None:
                return model, PassTrial(name, "failed", reason=failed.reason)
            first, second = (t.median_ms for t in timings)
            pairs.append((first, second) if number % 2 == 0 else (second, first))
    except InputError as error:
        return model, PassTrial(name, "failed", reason=str(error))
    trial = judge_pass(name, pairs, signal_db)
    return (after if trial.status == "kept" else model), trial


def judge_pass(
    name: str, pairs: Sequence[tuple[float, float]], signal_db: float | None = None
) -> PassTrial:
    """The verdict on (before, after) milliseconds of each round."""
    gains = np.array([1 - after / before for before, after in pairs])
    low, median, high = np.percentile(gains, [10, 50, 90])
    wins = int(np.sum(gains > 0))
    needed = len(pairs) - math.floor(len(pairs) / 10)
    kept = median >= MIN_GAIN and wins >= needed
    reason = (
        f"faster in {wins} of {len(pairs)} rounds"
        if kept
        else f"median gain {median:.1%}, faster in {wins} of {len(pairs)} rounds "
        f"(needed: {MIN_GAIN:.0%} and {needed})"
    )
    return PassTrial(
        name=name,
        status="kept" if kept else "not faster",
        reason=reason,
        before_ms=float(np.median([before for before, _ in pairs])),
        after_ms=float(np.median([after for _, after in pairs])),
        gain_percent=100 * float(median),
        low_percent=100 * float(low),
        high_percent=100 * float(high),
        wins=wins,
        rounds=len(pairs),
        signal_db=signal_db,
    )


def _parity(before: onnx.ModelProto, after: onnx.ModelProto, device: Device) -> float:
    """Signal to noise of the rewritten fp32 model's outputs, computed on the device."""
    dims = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim]
    inputs = np.random.default_rng(0).standard_normal((4, *dims[1:]), dtype=np.float32)
    outputs = [device.run_batch(m.SerializeToString(), inputs) for m in (after, before)]
    ours, theirs = (np.asarray(o, np.float64).reshape(len(inputs), -1) for o in outputs)
    return compare(ours, theirs).signal_db
