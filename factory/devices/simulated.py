"""A device that is not there: deterministic times from a roofline.

For tests of everything above, and for chips without silicon, whose datasheet gives the roofline
(`[simulated]` of a device profile).

Ground truth of a network = sum over its canonical kernels of

    overhead_ms + max(MACs * ms_per_mmac / 1e6, bytes * ms_per_mb / 1e6)

(Williams, Waterman, Patterson 2009), MACs being `int8_speedup` times as fast in i8. It drifts,
fails, hangs, folds operators into others or compiles a model into one node on demand, and calls
itself simulated wherever it is described.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.devices.base import Timing, TimingPlan
from factory.devices.context import CONTEXT
from factory.devices.profile import DeviceProfile
from factory.graph.fusion import NO_RULES, FusionRules, folded
from factory.graph.kernel import Kernel
from factory.graph.opgraph import Node, OpGraph

SESSION_MS, SESSION_MS_A_NODE = 0.5, 0.1  # its made-up start: of a session, and for each node
FIRST_RUN_FACTOR = 3.0
COPIES_IN_MEMORY = 2.0


@dataclass(frozen=True)
class Roofline:
    """The three numbers of the simulated chip, and how much faster 8-bit arithmetic is."""

    overhead_ms: float = 0.005
    ms_per_mmac: float = 0.05
    ms_per_mb: float = 0.1
    int8_speedup: float = 2.0

    def kernel_ms(self, kernel: Kernel) -> float:
        """The true time of one kernel."""
        speed = self.int8_speedup if kernel.dtype == "i8" else 1.0
        compute_ms = kernel.macs * self.ms_per_mmac / 1e6 / speed
        moved = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
        return self.overhead_ms + max(compute_ms, moved * self.ms_per_mb / 1e6)

    @classmethod
    def of(cls, profile: DeviceProfile) -> Roofline:
        """From the datasheet in a device profile; a made-up chip without one."""
        sheet = profile.simulated
        peak = sheet.peak_gmacs_per_s(profile.precision) if sheet else None
        if sheet is None or peak is None:
            return cls()
        return cls(sheet.overhead_us / 1e3, 1.0 / peak, 1.0 / sheet.bandwidth_gb_per_s, 1.0)


class SimulatedDevice(Closing):
    """A device with known ground truth.

    Args:
        profile: its id, precision and so on; only "simulated" makes sense as transport.
        roofline: the truth; without it the profile's datasheet, or a made-up chip.
        noise: relative spread of p10 and p90 around the median, and of the median itself;
            0 gives the truth exactly. The same model always gets the same deviation.
        drift: factor on all times as a function of the number of models timed so far.
        fails_on: reason for a kernel that this device cannot run, None for all others.
        hangs_on: whether the device hangs on this kernel (answered at once as a timeout).
        fuses: operators that cost nothing where they follow others.
        compiles: whether a model is one node, as where a provider compiles it: it shows no graph.
    """

    def __init__(
        self,
        profile: DeviceProfile | None = None,
        *,
        roofline: Roofline | None = None,
        noise: float = 0.0,
        drift: Callable[[int], float] | None = None,
        fails_on: Callable[[Kernel], str | None] | None = None,
        hangs_on: Callable[[Kernel], bool] | None = None,
        fuses: FusionRules = NO_RULES,
        compiles: bool = False,
    ) -> None:
        self.profile = profile or DeviceProfile(
            id="simulated", chip="simulated", transport="simulated", threads=1
        )
        self.roofline = roofline or Roofline.of(self.profile)
        self.noise, self.drift = noise, drift
        self.fails_on, self.hangs_on = fails_on, hangs_on
        self.fuses, self.compiles = fuses, compiles
        self.timed = 0  # models timed so far

    def truth_ms(self, counts: Mapping[Kernel, int | float]) -> float:
        """True time of a network made of these kernels."""
        return sum(count * self.roofline.kernel_ms(kernel) for kernel, count in counts.items())

    def describe(self) -> dict[str, Any]:
        """Facts, labelled as simulated."""
        profile = self.profile
        return {
            "device": profile.id,
            "transport": profile.transport,
            "simulated": True,
            "fingerprint": {
                "chip": profile.chip_name if profile.simulated else f"simulated {self.roofline}",
                "runtime": profile.runtime,
                "runtime_version": self._version(),
                "execution_provider": profile.execution_provider,
                "provider_options": dict(profile.provider_options),
                "threads": profile.threads if profile.threads != "all" else 1,
                "precision": profile.precision,
            },
            "pinned": False,
            "cores": [],
            "load_1min": 0.0,
            "empty_run_ms": 0.0,
            "notes": [f"this device is simulated: its times are {self._source()}"],
        }

    def _version(self) -> str:
        """Of other figures another one, so that they have a table of their own."""
        sheet = self.profile.simulated
        digest = "-" + hashlib.sha256(str(sheet).encode()).hexdigest()[:6] if sheet else ""
        return f"0-simulated{digest}"

    def _source(self) -> str:
        return "its datasheet's" if self.profile.simulated else "made up"

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """The truth for each model, or its failure."""
        return [self._time(model, plan) for model in models]

    def _time(self, model: bytes, plan: TimingPlan) -> Timing:
        factor = self.drift(self.timed) if self.drift else 1.0
        self.timed += 1
        try:
            graph = _graph(model)
        except InputError as error:
            return Timing.failed(str(error))
        gone = folded(graph, self.fuses)
        nodes = [node for node in graph.nodes if node.output not in gone]
        kernels = [node.kernel() for node in nodes]
        for kernel in kernels:
            if self.hangs_on and self.hangs_on(kernel):
                return Timing.failed(f"timed out after {self.profile.timeout_s:g} s")
            reason = self.fails_on(kernel) if self.fails_on else None
            if reason:
                return Timing.failed(reason)
        parts_ms = [self.roofline.kernel_ms(kernel) for kernel in kernels]
        true_ms = sum(parts_ms)
        context_ms = sum(
            ms for node, ms in zip(nodes, parts_ms, strict=True) if node.output.startswith(CONTEXT)
        )
        median_ms = max(true_ms, 1e-6) * factor * (1 + self.noise * _deviation(model))
        runs = math.ceil(plan.min_time_ms / median_ms)
        traced = plan.profile_runs > 0
        provider = self.profile.execution_provider  # the one that is simulated
        return Timing(
            status="ok",
            median_ms=median_ms,
            p10_ms=median_ms * (1 - self.noise / 2),
            p90_ms=median_ms * (1 + self.noise),
            min_ms=median_ms * (1 - self.noise),
            runs=min(max(runs, plan.min_runs), plan.max_runs),
            reorder_share=context_ms / true_ms if traced and true_ms else 0.0,
            nodes=self._traced(nodes, parts_ms) if traced else (),
            traced_ms=median_ms if traced else 0.0,
            providers={provider: 1 if self.compiles else len(nodes)},
            optimised=_as_executed(nodes)
            if traced and plan.optimised_graph and not self.compiles
            else "",
            session_ms=SESSION_MS + SESSION_MS_A_NODE * len(nodes),
            first_run_ms=FIRST_RUN_FACTOR * median_ms,
            peak_memory_mb=COPIES_IN_MEMORY * len(model) / 1e6,
        )

    def _traced(
        self, nodes: Sequence[Node], parts_ms: Sequence[float]
    ) -> tuple[dict[str, Any], ...]:
        """What a trace shows of each operator, or of the one node that a model is compiled into."""
        provider, total = self.profile.execution_provider, sum(parts_ms)
        if self.compiles:
            return ({"name": "compiled", "op": "Compiled", "provider": provider, "share": 1.0},)
        return tuple(
            {"name": n.output, "op": n.op, "provider": provider, "share": ms / total}
            for n, ms in zip(nodes, parts_ms, strict=True)
        )

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs as ONNX Runtime computes them on this machine, node by node as written."""
        return self._run(self._session(model), feeds)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...]."""
        if len(inputs) == 0:
            raise InputError("an empty batch cannot be run", fix="give at least one input")
        session = self._session(model)
        taken = session.get_inputs()
        if len(taken) != 1:
            raise InputError(f"the model has {len(taken)} inputs, a batch needs exactly one")
        name, output = taken[0].name, session.get_outputs()[0].name
        with_batch = len(taken[0].shape) == inputs.ndim
        items = [self._run(session, {name: x[None] if with_batch else x})[output] for x in inputs]
        return np.concatenate(items) if with_batch else np.stack(items)

    def _session(self, model: bytes) -> Any:
        import onnxruntime

        from factory.graph.onnx_load import foreign_errors, parse_onnx

        parse_onnx(model, "what was given")  # refuses bytes that are no model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with foreign_errors(self._does_not_run()):
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _run(self, session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        from factory.graph.onnx_load import foreign_errors

        names = [output.name for output in session.get_outputs()]
        with foreign_errors(self._does_not_run()):
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    def _does_not_run(self) -> str:
        return f"the model does not run on device {self.profile.id!r}"

    def close(self) -> None:
        """Nothing to let go."""


def _graph(model: bytes) -> OpGraph:
    """Canonical operators of a model in order of execution."""
    from factory.graph.canonical import canonicalise
    from factory.graph.model_inputs import declared_inputs
    from factory.graph.onnx_check import unknown_operators
    from factory.graph.onnx_import import from_onnx
    from factory.graph.onnx_load import parse_onnx

    proto = parse_onnx(model, "what was given")
    if unknown := unknown_operators(proto):
        raise InputError(f"unknown operator {unknown[0].op_type!r}")
    if any(one.type and one.shape is None for one in declared_inputs(proto)):
        raise InputError("an input has a dynamic shape")
    return canonicalise(from_onnx(proto))


def _as_executed(nodes: Sequence[Node]) -> str:
    """The canonical graph, which this device executes as it is: ONNX without weights, base64."""
    from onnx import helper

    made = [helper.make_node(n.op, list(n.inputs), list(n.outputs), name=n.output) for n in nodes]
    model = helper.make_model(helper.make_graph(made, "simulated", [], []))
    return base64.b64encode(model.SerializeToString()).decode()


def _deviation(model: bytes) -> float:
    """A number in [-1, 1) that depends on the model alone."""
    return int.from_bytes(hashlib.sha256(model).digest()[:8], "big") / 2**63 - 1.0
