"""The accuracy gate: an int8 file costs at most so many points, or it does not leave.

1. Every calibration method makes a file; the one that loses least on the selection pictures is
   taken (ties: the one whose outputs lie closest to fp32).
2. It is judged on the test pictures. Within the limit: done.
3. Beyond it: each operator is quantised alone; by how much that disturbs the output is its
   sensitivity. The most sensitive 1, 2, 4, ... stay in floats until the limit holds.
4. If half of the operators in floats do not help and the network can be trained, it is fine-tuned
   with simulated rounding (:mod:`factory.deployment.fine_tuning`); the fp32 file of the tuned
   network goes through 1 and 2 again, and through 3 where that helps. What is lost counts against
   the network as it was.
5. If that does not help either, the file is refused.

The selection pictures are training pictures that were not used for calibration, so that the test
pictures judge and do not choose; where the test set has to decide a second time (step 3), the
trail says so. Every attempt is in the trail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.deployment.agreement import Agreement, compare
from factory.deployment.calibration import Method, calibrate
from factory.deployment.flavours import CPU_FLAVOUR, Flavour
from factory.deployment.gate_contract import GateConfig, GateData, GateResult
from factory.deployment.quantise import QuantiseConfig, check_calibration, quantise_model
from factory.deployment.run_here import run_model

Run = Callable[[bytes, np.ndarray], np.ndarray]
Tuner = Callable[[int], tuple[onnx.ModelProto, dict[str, Any]]]
"""From a number of training steps to the fine-tuned fp32 model and what was done."""


class _Gate:
    """One passage through the gate."""

    def __init__(
        self,
        source: onnx.ModelProto,
        data: GateData,
        config: GateConfig,
        flavour: Flavour,
        run: Run,
        progress: Progress,
        ranges: dict[str, Any],
        before: _Gate | None = None,
    ) -> None:
        self.source, self.data, self.config, self.flavour = source, data, config, flavour
        self.run, self.progress = run, progress
        self.images = check_calibration(source, data.calibration, "the int8 gate")
        self.trail: list[dict[str, Any]]
        self.test_fp32: np.ndarray
        self.selection_fp32: np.ndarray
        self.ranges = ranges
        if before is not None:  # a fine-tuned network is compared with what it was
            self.trail = before.trail
            self.test_fp32, self.selection_fp32 = before.test_fp32, before.selection_fp32
            return
        self.trail = []
        content = source.SerializeToString()
        self.test_fp32 = run(content, data.test_images)
        self.selection_fp32 = run(content, data.selection_images)

    def quantised(self, method: Method, **which: Any) -> onnx.ModelProto:
        """The model by ``method``; its ranges are computed once."""
        if self.flavour.activation != "none" and method not in self.ranges:
            self.ranges[method] = calibrate(
                self.source, self.images, method, percentile=self.config.percentile
            )
        quantise = QuantiseConfig(
            method=method,
            percentile=self.config.percentile,
            reduce_range=self.config.reduce_range,
        )
        return quantise_model(self.source, self.ranges.get(method), quantise, self.flavour, **which)

    def on_selection(self, model: onnx.ModelProto) -> Agreement:
        """Beside fp32 on the selection pictures."""
        outputs = self.run(model.SerializeToString(), self.data.selection_images)
        return compare(outputs, self.selection_fp32, self.data.selection_labels)

    def on_test(self, model: onnx.ModelProto) -> Agreement:
        """Beside fp32 on the test pictures."""
        outputs = self.run(model.SerializeToString(), self.data.test_images)
        return compare(outputs, self.test_fp32, self.data.test_labels)

    def note(self, step: str, started: float, **facts: Any) -> None:
        """One line of the trail."""
        self.trail.append({"step": step, **facts, "seconds": round(time.monotonic() - started, 3)})

    def choose_method(self) -> tuple[Method, onnx.ModelProto]:
        """The method that loses least on the selection pictures."""
        methods = self.config.methods if self.flavour.activation != "none" else ("minmax",)
        tried = []
        for method in methods:
            started = time.monotonic()
            model = self.quantised(method)
            found = self.on_selection(model)
            self.note(f"calibrate by {method}", started, selection=found.to_dict())
            lost = found.drop_points
            tried.append(((lost if lost is not None else 0.0, -found.signal_db), method, model))
        best = min(tried, key=lambda entry: entry[0])
        return best[1], best[2]

    def holds(self, test: Agreement) -> bool:
        """Whether the limit holds; rounding of a share is not a loss."""
        lost = test.drop_points
        return lost is None or lost <= self.config.max_drop_points + 1e-9

    def sensitivities(self, method: Method) -> list[str]:
        """Quantisable operators, the most sensitive first: signal to noise when quantised alone."""
        started = time.monotonic()
        images = self.data.selection_images[: self.config.sensitivity_images]
        reference = self.selection_fp32[: self.config.sensitivity_images]
        whole = self.quantised(method)
        names = quantised_nodes(self.source, whole)
        decibels = {}
        with self.progress.task("sensitivity of operators", total=len(names)) as task:
            for name in names:
                others = [n for n in names if n != name]
                if self.flavour.activation == "none":
                    alone = self.quantised(method, exclude=others)
                else:
                    alone = self.quantised(method, only=[name])
                outputs = self.run(alone.SerializeToString(), images)
                decibels[name] = compare(outputs, reference).signal_db
                task.advance(note=name)
        order = sorted(decibels, key=lambda name: decibels[name])
        self.note(
            "sensitivity",
            started,
            images=len(images),
            signal_db={name: round(decibels[name], 2) for name in order[:20]},
        )
        return order

    def repair(self, method: Method) -> tuple[onnx.ModelProto | None, list[str], Agreement | None]:
        """Leave the most sensitive operators in floats, twice as many each time."""
        order = self.sensitivities(method)
        most = int(len(order) * self.config.max_float_share + 1e-9)
        best = None
        left: list[str] = []
        for count in growing(most):
            started = time.monotonic()
            left = order[:count]
            model = self.quantised(method, exclude=left)
            test = self.on_test(model)
            self.note(
                f"leave {count} in floats",
                started,
                float_nodes=left,
                test=test.to_dict(),
                judged_again_on_test=True,
            )
            if best is None or (test.accuracy or 0) > (best.accuracy or 0):
                best = test
            if self.holds(test):
                return model, left, test
        return None, left, best


def growing(most: int) -> Iterator[int]:
    """1, 2, 4, ... and at last ``most``: how many operators to leave in higher precision."""
    count = 1
    while count <= most:
        yield count
        count = most + 1 if count == most else min(2 * count, most)


def gate_int8(
    source: onnx.ModelProto,
    data: GateData,
    config: GateConfig | None = None,
    flavour: Flavour = CPU_FLAVOUR,
    *,
    run: Run = run_model,
    progress: Progress = SILENT,
    ranges: dict[str, Any] | None = None,
    tuner: Tuner | None = None,
    no_tuner: str = "",
) -> GateResult:
    """Quantise ``source`` so that it loses no more than the limit, or refuse.

    Args:
        source: the fp32 model, shapes inferred.
        data: pictures to calibrate, to choose and to judge with.
        config: limit and methods.
        flavour: number types of the target's runtime.
        run: outputs of a model for pictures; by default on this machine's CPU.
        progress: where long work reports.
        ranges: method -> ranges of this very model for these pictures, where another flavour has
            calibrated it already; what is missing is added.
        tuner: fine-tunes the network for this flavour, where there is one to train.
        no_tuner: why there is none, for the trail.
    """
    config = config or GateConfig()
    gate = _Gate(source, data, config, flavour, run, progress, {} if ranges is None else ranges)
    method, model = gate.choose_method()
    started = time.monotonic()
    test = gate.on_test(model)
    gate.note(f"judge {method} on the test pictures", started, test=test.to_dict())
    told = "weights only" if flavour.activation == "none" else method

    def result(
        verdict: str,
        reason: str,
        kept: onnx.ModelProto | None = model,
        float_nodes: tuple[str, ...] = (),
        found: Agreement = test,
    ) -> GateResult:
        return GateResult(
            verdict=verdict,
            model=kept,
            method=told,
            float_nodes=float_nodes,
            test=found,
            reason=reason,
            config=config,
            data=data.name,
            trail=gate.trail,
        )

    lost = test.drop_points
    if lost is None:
        return result(
            "not judged",
            f"no labelled pictures: {test.signal_db:.1f} dB of signal to noise against fp32",
        )
    limit = config.max_drop_points
    if gate.holds(test):
        cost = f"{lost:.2f} of {limit:g} points lost" if lost >= 0 else f"{-lost:.2f} points won"
        return result("within the limit", f"{cost}, calibrated by {told}")
    repaired, left, after_repair = gate.repair(method)
    if repaired is not None and after_repair is not None:
        return result(
            "repaired",
            f"int8 lost {lost:.2f} points (limit {limit:g}); with {len(left)} operators in floats "
            f"{after_repair.drop_points:.2f}",
            repaired,
            tuple(left),
            after_repair,
        )
    best = after_repair or test
    story = f"int8 loses {lost:.2f} points (limit {limit:g})"
    if after_repair is not None:
        story += f"; with up to {len(left)} operators in floats still {best.drop_points:.2f}"
    if config.finetune_steps == 0 or tuner is None:
        why = "it is switched off" if config.finetune_steps == 0 else no_tuner or "nothing to train"
        gate.note("quantisation-aware fine-tuning", time.monotonic(), left_out=why)
        return result("refused", f"{story}; not fine-tuned: {why}", None, tuple(left), best)
    tuned = _fine_tuned(gate, tuner)
    if isinstance(tuned, str):
        return result("refused", f"{story}; {tuned}", None, tuple(left), best)
    tuned_model, method, kept_float, found = tuned
    told = "weights only" if flavour.activation == "none" else method
    story += f"; after {config.finetune_steps} steps of fine-tuning "
    story += f"with {len(kept_float)} operators in floats " if kept_float else ""
    verdict = "refused" if tuned_model is None else "fine-tuned"
    return result(verdict, f"{story}{found.drop_points:.2f}", tuned_model, tuple(kept_float), found)


def _fine_tuned(
    gate: _Gate, tuner: Tuner
) -> tuple[onnx.ModelProto | None, Method, list[str], Agreement] | str:
    """The int8 model of the fine-tuned network (None: over the limit), or why there is none."""
    started = time.monotonic()
    try:
        source, facts = tuner(gate.config.finetune_steps)
    except InputError as error:
        gate.note("quantisation-aware fine-tuning", started, left_out=str(error))
        return f"not fine-tuned: {error}"
    fp32 = compare(
        gate.run(source.SerializeToString(), gate.data.test_images),
        gate.test_fp32,
        gate.data.test_labels,
    )
    gate.note("quantisation-aware fine-tuning", started, **facts, fp32_after=fp32.to_dict())
    again = _Gate(
        source, gate.data, gate.config, gate.flavour, gate.run, gate.progress, {}, before=gate
    )
    method, model = again.choose_method()
    started = time.monotonic()
    test = again.on_test(model)
    again.note(
        f"judge {method} after fine-tuning", started, test=test.to_dict(), judged_again_on_test=True
    )
    if again.holds(test):
        return model, method, [], test
    repaired, left, after = again.repair(method)
    if repaired is None or after is None:
        best = max((t for t in (after, test) if t), key=lambda t: t.accuracy or 0.0)
        return None, method, left, best
    return repaired, method, left, after


def quantised_nodes(source: onnx.ModelProto, model: onnx.ModelProto) -> list[str]:
    """Names of the nodes of ``source`` that read a quantised value in ``model``."""
    dequantised = {
        out
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for out in node.output
    }
    names = {node.name for node in source.graph.node}
    return [
        node.name
        for node in model.graph.node
        if node.name in names and any(name in dequantised for name in node.input)
    ]
