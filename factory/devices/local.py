"""This machine as a device: ONNX Runtime in a pinned child process, started when first needed.

A crash or a hang of the runtime is a failed Timing with its reason; the other models of the same
block are measured by a fresh child.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.frames import LONGEST_CONTENT, pack_arrays, unpack_arrays
from factory.core.process import Watch, WorkerLost, WorkerProcess
from factory.core.provenance import chip_fingerprint, machine_id
from factory.core.wire import Wrong, printable
from factory.devices.base import CHUNK_BYTES, Model, Timing, TimingPlan, answers_of, in_chunks
from factory.devices.environment import COMMAND, copy_worker, emulator, own_command
from factory.devices.messages import timings, worker_reply

if TYPE_CHECKING:  # the device agent takes this file where there is no pydantic
    from factory.devices.profile import DeviceProfile

EMPTY_RUN_PLAN = TimingPlan(min_runs=200, max_runs=200, min_time_ms=0.0, warmup_time_ms=5.0)
# A graph that does nothing with one number: what a run costs by itself (Identity, opset 18).
EMPTY_MODEL = bytes.fromhex(
    "08093a3b0a100a017812017922084964656e746974791205656d7074795a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001012"
)
HOW_TO_GET = {
    "OpenVINOExecutionProvider": "install onnxruntime-openvino in an environment of its own",
    "QNNExecutionProvider": "install onnxruntime-qnn",
    "CUDAExecutionProvider": "install onnxruntime-gpu in place of onnxruntime",
    "TensorrtExecutionProvider": "install onnxruntime-gpu in place of onnxruntime, and TensorRT",
    "DmlExecutionProvider": "install onnxruntime-directml on Windows",
    "CoreMLExecutionProvider": "use the macOS build of onnxruntime",
    "NnapiExecutionProvider": "use an Android build of ONNX Runtime on the phone",
    "XnnpackExecutionProvider": "use an Android or iOS build of ONNX Runtime",
}


def allowed_cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class LocalDevice(Closing):
    """ONNX Runtime on this machine.

    Args:
        profile: threads, execution provider and the rest.
        command: how the worker is started; tests put a misbehaving one here.
        memory_limit_mb: memory that the worker may take beyond what it starts with; None: any.
        longest_answer: most bytes of the outputs of one request.

    Attributes:
        watch: called while a request is waited for; what it raises ends the worker.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        command: Sequence[str] = COMMAND,
        memory_limit_mb: int | None = None,
        longest_answer: int = LONGEST_CONTENT,
    ) -> None:
        self.profile = profile
        self.watch: Watch | None = None
        self._command = tuple(command)
        self._memory_limit_mb, self._longest_answer = memory_limit_mb, longest_answer
        self._cores = allowed_cores()
        if profile.threads != "all":
            if profile.threads > len(self._cores):
                raise InputError(
                    f"{profile.threads} threads are asked for but only {len(self._cores)} cores "
                    "may be used",
                    where=f"device profile {profile.id!r}",
                    fix=f'set threads to at most {len(self._cores)} or to "all"',
                )
            self._cores = self._cores[-profile.threads :]
        self._worker: WorkerProcess | None = None
        self._hello: dict[str, Any] = {}
        self._loaded = ""  # hash of the model that the worker holds for run and run_batch
        self._empty_run_ms: float | None = None

    def start(self) -> WorkerProcess:
        """The worker, started and configured if it is not there; InputError if it cannot be."""
        if self._worker is not None and self._worker.alive:
            return self._worker
        own = own_command(self.profile)
        try:
            worker = WorkerProcess(
                own or self._command,
                copy_worker if own else None,
                longest_answer=self._longest_answer,
                read=worker_reply,
            )
        except OSError as error:
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=error.strerror or str(error),
                fix="check interpreter in its profile, and free memory and disk",
            ) from None
        options = getattr(self.profile, "local", None)
        config = {
            "execution_provider": self.profile.execution_provider,
            "provider_options": {k: str(v) for k, v in self.profile.provider_options.items()},
            "provider_library": options.provider_library if options is not None else "",
            "threads": len(self._cores),
        }
        request = {
            "command": "configure",
            "config": config,
            "cores": self._cores if self.profile.pin else None,
            "memory_limit_mb": self._memory_limit_mb,
        }
        timeout_s = max(30.0, self.profile.timeout_s)
        try:
            hello, _ = worker.request(request, timeout_s=timeout_s, watch=self.watch)
        except WorkerLost as lost:
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=lost.reason,
                fix="run `factory doctor`",
            ) from None
        provider = self.profile.execution_provider
        if hello["reply"] == "error":
            worker.close()
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=hello["reason"],
                fix="check [local] and provider_options of its profile",
            )
        if provider not in hello["providers"]:
            worker.close()
            raise InputError(
                f"this onnxruntime {hello['runtime_version']} has no {provider}",
                where=f"device profile {self.profile.id!r}",
                why="available: " + printable(", ".join(hello["providers"]), 300),
                fix=HOW_TO_GET.get(provider, "install a build of onnxruntime that has it"),
            )
        self._hello, self._worker, self._loaded = hello, worker, ""
        return worker

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.process.pid if self._worker and self._worker.alive else None

    def describe(self) -> dict[str, Any]:
        """Facts about this chip, its runtime and its load now."""
        self.start()
        if self._empty_run_ms is None:
            timing = self.time_many([EMPTY_MODEL], EMPTY_RUN_PLAN)[0]
            self._empty_run_ms = round(timing.median_ms, 5) if timing.ok else 0.0
        profile, emulated = self.profile, emulator(self.profile)
        notes = [emulated] if emulated else []
        if self._hello["pin_note"]:
            notes.append(self._hello["pin_note"])
        governor = _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
        if not governor:
            notes.append("the clock governor cannot be read: the clock may vary")
        load = _load_1min()
        if load is None:
            notes.append("the load of this machine cannot be read")
        elif load > 0.5 * (os.cpu_count() or 1):
            notes.append(f"the machine is busy (load {load:.1f}): timings will scatter")
        local = profile.chip == "local"
        return {
            "device": profile.id,
            "transport": profile.transport,
            "simulated": bool(emulated),
            "fingerprint": {
                "chip": chip_fingerprint() if local else profile.chip,
                "runtime": profile.runtime,
                "runtime_version": self._hello["runtime_version"],
                "execution_provider": profile.execution_provider,
                "provider_options": dict(profile.provider_options),
                "threads": len(self._cores),
                "precision": profile.precision,
            },
            "machine": machine_id(),
            "pinned": profile.pin and not self._hello["pin_note"],
            "cores": self._cores,
            "providers_available": self._hello["providers"],
            "governor": governor or None,
            "load_1min": load,
            "empty_run_ms": self._empty_run_ms,
            "notes": notes,
        }

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models, interleaved; a crash or hang costs only the culprit its numbers."""
        if emulated := emulator(self.profile):
            return [Timing.failed(emulated) for _ in models]
        results: dict[int, Timing] = {}
        self._time_block(models, list(range(len(models))), plan, rounds, results)
        return [results[index] for index in range(len(models))]

    def _time_block(
        self,
        models: Sequence[bytes],
        indices: list[int],
        plan: TimingPlan,
        rounds: int,
        results: dict[int, Timing],
    ) -> None:
        if not indices:
            return
        first = len(models) - plan.references
        here = replace(plan, references=sum(index >= first for index in indices))
        block = [models[index] for index in indices]
        given, values = _given(block)
        request = {"command": "time", "plan": asdict(here), "rounds": max(1, rounds)}
        try:
            reply, _ = self._request({**request, "given": given}, [*block, *values])
            try:
                found = timings(reply["timings"], len(indices))
            except Wrong as wrong:
                raise WorkerLost(f"the runtime's process answers {wrong}") from None
        except WorkerLost as lost:
            if len(indices) == 1:
                results[indices[0]] = Timing.failed(lost.reason)
            elif lost.timed_out and lost.suspect is not None and lost.suspect < len(indices):
                # A hang names its model; waiting for it a second time would cost the timeout.
                culprit = indices[lost.suspect]
                results[culprit] = Timing.failed(lost.reason)
                rest = [index for index in indices if index != culprit]
                self._time_block(models, rest, plan, rounds, results)
            else:
                # A crash may come from memory that an earlier model spoilt: each one alone.
                for index in indices:
                    self._time_block(models, [index], plan, rounds, results)
            return
        for index, timing in zip(indices, found, strict=True):
            results[index] = timing.placed_on(self.profile.execution_provider)

    def start_up(self, path: Path) -> dict[str, Any]:
        """Cold start and memory of the file, in a worker of its own that has run nothing before.

        Raises:
            InputError: the worker or the model does not start; the reason is in it.
        """
        if emulated := emulator(self.profile):
            raise InputError(emulated)
        with LocalDevice(self.profile, self._command) as fresh:
            fresh.start()
            try:
                request = {"command": "start_up", "path": str(path.absolute())}
                reply, _ = fresh._request(request, [])
            except WorkerLost as lost:
                raise self._cannot_run(lost.reason) from None
        if reply.pop("reply") == "error":
            raise self._cannot_run(reply["reason"])
        return reply

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name, computed by the worker."""
        with answers_of(self.profile.id):
            return self._run("run", model, feeds)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...], the loop being in the worker."""
        with answers_of(self.profile.id):
            return in_chunks(
                lambda chunk: self._run("run_batch", model, chunk), inputs, CHUNK_BYTES
            )

    def _run(
        self, command: str, model: bytes, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        facts, blobs = pack_arrays(arrays)
        key = hashlib.sha256(model).hexdigest()
        self.start()
        with_model = key != self._loaded
        request = {"command": command, "model": key, "with_model": with_model, "arrays": facts,
                   "weights_folder": _weights_folder(model)}  # fmt: skip
        self._loaded = ""
        try:
            reply, contents = self._request(request, [model, *blobs] if with_model else blobs)
        except WorkerLost as lost:
            raise self._cannot_run(lost.reason) from None
        if reply["reply"] == "error":
            raise self._cannot_run(reply["reason"])
        self._loaded = key
        return unpack_arrays(reply["arrays"], contents)

    def _cannot_run(self, reason: str) -> InputError:
        return InputError(
            f"the model does not run on device {self.profile.id!r}",
            why=reason,
            fix="check the model with `factory inspect` and the inputs' names, types and shapes",
        )

    def ask(self, command: str, model: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """What the worker answers to another command about one model ("place", "compile")."""
        try:
            folder = _weights_folder(model)
            return self._request({"command": command, "weights_folder": folder}, [model])
        except WorkerLost as lost:
            return {"reply": "error", "reason": lost.reason}, []

    def _request(
        self, header: Mapping[str, Any], blobs: Sequence[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        worker = self.start()
        if header["command"] == "time":
            self._loaded = ""  # the worker drops its session while the clock runs
        timeout_s = self.profile.timeout_s
        reply = worker.request(header, blobs, timeout_s=timeout_s, watch=self.watch)
        if reply[0]["reply"] == "error" and header["command"] == "time":
            raise WorkerLost(f"the worker failed: {reply[0]['reason']}")
        return reply

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _weights_folder(model: bytes) -> str:
    return model.weights_folder if isinstance(model, Model) else ""


def _given(models: Sequence[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """What goes with each model, for the header of a request, and the values as blobs."""
    facts: list[dict[str, Any]] = []
    values: list[bytes] = []
    for model in models:
        feeds = model.feeds if isinstance(model, Model) else None
        told, contents = ([], []) if feeds is None else pack_arrays(feeds)
        facts.append({"feeds": None if feeds is None else told,
                      "weights_folder": _weights_folder(model)})  # fmt: skip
        values += contents
    return facts, values


def _load_1min() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
