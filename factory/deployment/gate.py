"""The gate of int8 files: one costs at most so much, or it does not leave.

Two things are asked of a file: every output lies within a bound of the fp32 one's (signal to noise
and worst element, :data:`factory.deployment.agreement.BOUNDS`), and where there are labels, the
accuracy falls by no more than the limit.

1. Every calibration method makes a file; the one that loses least on the selection samples is
   taken (ties: the one whose outputs lie closest to fp32). A method that fails is left out.
2. It is judged on the test samples. Bound and limit hold: done.
3. Otherwise each operator is quantised alone; by how much that disturbs the outputs is its
   sensitivity. The most sensitive 1, 2, 4, ... stay in floats until both hold.
4. If half of the operators in floats do not help and the network can be trained, it is fine-tuned
   with simulated rounding (:mod:`factory.deployment.fine_tuning`); the fp32 file of the tuned
   network goes through 1 and 2 again, and through 3 where that helps. What is lost counts against
   the network as it was, signal to noise against the tuned one.
5. If that does not help either, the file is refused, its worst operators named.

The selection samples are training pictures that were not used for calibration, so that the test
pictures judge and do not choose; where the test set has to decide a second time (step 3), the
trail says so. Every attempt is in the trail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import onnx

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.deployment.agreement import BOUNDS, Agreement, Outputs, compare
from factory.deployment.calibration import Method
from factory.deployment.flavours import CPU_FLAVOUR, Flavour
from factory.deployment.gate_contract import GateConfig, GateData, GateResult
from factory.deployment.quantise import QuantiseConfig, Quantiser
from factory.deployment.run_here import Samples, count, part, run_model

Run = Callable[[bytes, Samples], Outputs]
Tuner = Callable[[int], tuple[onnx.ModelProto, dict[str, Any]]]
"""From a number of training steps to the fine-tuned fp32 model and what was done."""
BOUND = BOUNDS["int8"]
NAMED = 3  # worst operators in a refusal


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
        ranges: dict[str, Any] | None,
        before: _Gate | None = None,
    ) -> None:
        self.data, self.config, self.flavour = data, config, flavour
        self.run, self.progress = run, progress
        options = QuantiseConfig(percentile=config.percentile, reduce_range=config.reduce_range)
        self.quantiser = Quantiser(
            source, data.calibration, options, flavour, ranges=ranges, where="the int8 gate"
        )
        self.source = self.quantiser.source
        self.decibels: dict[str, float] = {}
        content = source.SerializeToString()
        self.test_fp32 = run(content, data.test_images)
        self.selection_fp32 = run(content, data.selection_images)
        # A fine-tuned network's answers may differ from what it was; what it loses may not.
        self.trail: list[dict[str, Any]] = [] if before is None else before.trail
        self.accuracy_before: float | None = None
        if before is not None:
            was = compare(before.test_fp32, before.test_fp32, data.test_labels)
            self.accuracy_before = before.accuracy_before or was.accuracy

    def on_selection(self, model: onnx.ModelProto) -> Agreement:
        """Beside fp32 on the selection pictures."""
        outputs = self.run(model.SerializeToString(), self.data.selection_images)
        return compare(outputs, self.selection_fp32, self.data.selection_labels)

    def on_test(self, model: onnx.ModelProto) -> Agreement:
        """Beside fp32 on the test pictures."""
        outputs = self.run(model.SerializeToString(), self.data.test_images)
        found = compare(outputs, self.test_fp32, self.data.test_labels)
        if self.accuracy_before is None:
            return found
        return replace(found, accuracy_fp32=self.accuracy_before, lost=None, won=None)

    def note(self, step: str, started: float, **facts: Any) -> None:
        """One line of the trail."""
        self.trail.append({"step": step, **facts, "seconds": round(time.monotonic() - started, 3)})

    def choose_method(self) -> tuple[Method, onnx.ModelProto]:
        """The method that loses least on the selection pictures."""
        methods = self.config.methods if self.flavour.activation != "none" else ("minmax",)
        tried: list[tuple[tuple[bool, float, float], Method, onnx.ModelProto]] = []
        failed: InputError | None = None
        for method in methods:
            started = time.monotonic()
            try:
                model = self.quantiser.model(method)
                found = self.on_selection(model)
            except InputError as error:
                failed = failed or error
                self.note(f"calibrate by {method}", started, left_out=str(error))
                continue
            self.note(f"calibrate by {method}", started, selection=found.to_dict())
            lost = found.drop_points or 0.0
            tried.append(((bool(found.lacks(BOUND)), lost, -found.signal_db), method, model))
        if not tried:
            assert failed is not None
            raise failed
        if self.quantiser.floats:
            self.note("no int8 form", time.monotonic(), float_nodes=self.quantiser.floats)
        best = min(tried, key=lambda entry: entry[0])
        return best[1], best[2]

    def lacks(self, test: Agreement) -> str:
        """Which of bound and limit does not hold, in words; rounding of a share is not a loss."""
        lost, limit = test.drop_points, self.config.max_drop_points
        if lost is not None and lost > limit + 1e-9:
            return f"{lost:.2f} points lost (limit {limit:g})"
        return test.lacks(BOUND)

    def sensitivities(self, method: Method) -> list[str]:
        """Quantisable operators, the most sensitive first: signal to noise when quantised alone."""
        started = time.monotonic()
        few = slice(self.config.sensitivity_images)
        samples = part(self.data.selection_images, few)
        reference = {name: values[few] for name, values in self.selection_fp32.items()}
        names = quantised_nodes(self.source, self.quantiser.model(method))
        self.decibels = {}
        with self.progress.task("sensitivity of operators", total=len(names)) as task:
            for name in names:
                alone = self.quantiser.model(method, only=[name])
                outputs = self.run(alone.SerializeToString(), samples)
                self.decibels[name] = compare(outputs, reference).signal_db
                task.advance(note=name)
        order = sorted(self.decibels, key=lambda name: self.decibels[name])
        self.note(
            "sensitivity",
            started,
            images=count(samples),
            signal_db={name: round(self.decibels[name], 2) for name in order[:20]},
        )
        return order

    def worst(self) -> str:
        """The most sensitive operators, for people."""
        order = sorted(self.decibels, key=lambda name: self.decibels[name])[:NAMED]
        if not order:
            return ""
        return "; alone in int8 worst: " + ", ".join(
            f"{name} ({self.decibels[name]:.1f} dB)" for name in order
        )

    def repair(self, method: Method) -> tuple[onnx.ModelProto | None, list[str], Agreement | None]:
        """Leave the most sensitive operators in floats, twice as many each time."""
        order = self.sensitivities(method)
        most = int(len(order) * self.config.max_float_share + 1e-9)
        best = None
        left: list[str] = []
        for number in growing(most):
            started = time.monotonic()
            left = order[:number]
            model = self.quantiser.model(method, exclude=left)
            test = self.on_test(model)
            self.note(
                f"leave {number} in floats",
                started,
                float_nodes=left,
                test=test.to_dict(),
                judged_again_on_test=True,
            )
            if best is None or _rank(test) > _rank(best):
                best = test
            if not self.lacks(test):
                return model, left, test
        return None, left, best


def _rank(found: Agreement) -> tuple[float, float]:
    return found.accuracy or 0.0, found.signal_db


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
    gate = _Gate(source, data, config, flavour, run, progress, ranges)
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

    limit = config.max_drop_points
    if not gate.lacks(test):
        return result("within the limit", f"{_cost(test, limit)}, calibrated by {told}")
    repaired, left, after_repair = gate.repair(method)
    if repaired is not None and after_repair is not None:
        return result(
            "repaired",
            f"int8 throughout: {gate.lacks(test)}; with {len(left)} operators in floats "
            f"{_cost(after_repair, limit)}",
            repaired,
            tuple(left),
            after_repair,
        )
    best = after_repair or test
    story = f"int8: {gate.lacks(test)}"
    if after_repair is not None:
        story += f"; with up to {len(left)} operators in floats still {gate.lacks(best)}"
    if config.finetune_steps == 0 or tuner is None or test.drop_points is None:
        why = "it is switched off" if config.finetune_steps == 0 else no_tuner or "nothing to train"
        if test.drop_points is None and config.finetune_steps and tuner is not None:
            why = "no labelled pictures"
        gate.note("quantisation-aware fine-tuning", time.monotonic(), left_out=why)
        story += f"{gate.worst()}; not fine-tuned: {why}"
        return result("refused", story, None, tuple(left), best)
    tuned = _fine_tuned(gate, tuner)
    if isinstance(tuned, str):
        return result("refused", f"{story}{gate.worst()}; {tuned}", None, tuple(left), best)
    tuned_model, method, kept_float, found = tuned
    told = "weights only" if flavour.activation == "none" else method
    story += f"; after {config.finetune_steps} steps of fine-tuning "
    story += f"with {len(kept_float)} operators in floats " if kept_float else ""
    story += _cost(found, limit)
    if tuned_model is None:
        return result("refused", story + gate.worst(), None, tuple(kept_float), found)
    return result("fine-tuned", story, tuned_model, tuple(kept_float), found)


def _cost(found: Agreement, limit: float) -> str:
    """What a file costs, in words."""
    signal = f"{found.signal_db:.1f} dB of signal to noise"
    lost = found.drop_points
    if lost is None:
        return f"no labelled pictures: {signal} against fp32 ({BOUND.signal_db:g} are asked for)"
    cost = f"{lost:.2f} of {limit:g} points lost" if lost >= 0 else f"{-lost:.2f} points won"
    return f"{cost}, {signal}"


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
    again = _Gate(
        source, gate.data, gate.config, gate.flavour, gate.run, gate.progress, None, before=gate
    )
    fp32 = compare(again.test_fp32, gate.test_fp32, gate.data.test_labels)
    gate.note("quantisation-aware fine-tuning", started, **facts, fp32_after=fp32.to_dict())
    method, model = again.choose_method()
    started = time.monotonic()
    test = again.on_test(model)
    again.note(
        f"judge {method} after fine-tuning", started, test=test.to_dict(), judged_again_on_test=True
    )
    if not again.lacks(test):
        return model, method, [], test
    repaired, left, after = again.repair(method)
    if repaired is None or after is None:
        best = max((t for t in (after, test) if t), key=_rank)
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
