"""The work of the device agent: requests from the wire, checked, done by the local transport.

One :class:`Jobs` holds one :class:`factory.devices.local.LocalDevice`, whose child process has a
memory limit here. Part of the device agent: standard library, numpy and onnxruntime only.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from factory.core.errors import FactoryError, InputError
from factory.core.frames import pack_arrays, unpack_arrays
from factory.devices.agent_facts import machine_facts, temperature_c
from factory.devices.agent_gate import Gate
from factory.devices.agent_models import RefusedModel, check_wire_model
from factory.devices.base import Timing, TimingPlan
from factory.devices.environment import COMMAND
from factory.devices.local import LocalDevice

Say = Callable[[Mapping[str, Any]], None]
SAY_EVERY_S = 0.25
MOST_MODELS = 256
MOST_RUNS = 1_000_000
LONGEST_MODEL_MS = 600_000.0


class BadRequest(Exception):
    """The request does not make sense; the text says why."""


class OverLimit(Exception):
    """The request took longer than one may take."""


@dataclass(frozen=True)
class AgentProfile:
    """The part of a device profile that comes with each request."""

    execution_provider: str
    provider_options: Mapping[str, Any]
    threads: int | str
    pin: bool
    timeout_s: float
    precision: str
    id: str = "agent"
    chip: str = "local"
    transport: str = "agent"
    runtime: str = "onnxruntime"

    @classmethod
    def parse(cls, data: Any) -> AgentProfile:
        """The profile in a request; BadRequest when it is wrong or names a file."""
        names = ("execution_provider", "provider_options", "threads", "pin", "timeout_s")
        if not isinstance(data, dict) or set(data) != {*names, "precision"}:
            raise BadRequest("config must hold " + ", ".join((*names, "precision")))
        threads, timeout_s, options = data["threads"], data["timeout_s"], data["provider_options"]
        if threads != "all" and not (type(threads) is int and 1 <= threads <= 1024):
            raise BadRequest(f"threads = {threads!r} is neither a number of cores nor 'all'")
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 3600:
            raise BadRequest(f"timeout_s = {timeout_s!r} is not between 0 and 3600")
        if type(data["pin"]) is not bool or not isinstance(data["execution_provider"], str):
            raise BadRequest("pin must be true or false, execution_provider a text")
        if data["precision"] not in ("fp32", "int8") or not isinstance(options, dict):
            raise BadRequest("precision must be fp32 or int8, provider_options a table")
        for key, value in options.items():
            text = str(value).lower()
            if any(mark in text for mark in ("/", "\\", ".so", ".dll", ".dylib")):
                raise BadRequest(
                    f"the provider option {key!r} names a file, which is not accepted from the "
                    "network (for QNN give backend_type in place of backend_path)"
                )
        return cls(**{name: data[name] for name in (*names, "precision")})


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    body_mb: int = 512
    memory_mb: int = 2048
    request_s: float = 3600.0


class Jobs:
    """Carries out one request after the other; the caller sees to it that it is one at a time."""

    def __init__(self, limits: Limits, gate: Gate, command: Sequence[str] = COMMAND) -> None:
        self.limits, self.gate, self._command = limits, gate, tuple(command)
        self._device: LocalDevice | None = None
        self._last_said = 0.0

    def facts(self) -> dict[str, Any]:
        """The machine, its runtime and what a request may take; nothing is started."""
        import onnxruntime as ort

        return {
            **machine_facts(),
            "runtime": "onnxruntime",
            "runtime_version": ort.__version__,
            "providers": ort.get_available_providers(),
            "limits": {name.name: getattr(self.limits, name.name) for name in fields(Limits)},
        }

    def handle(
        self, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The last event of a request, and contents that follow it; ``say`` hears the others.

        An exception of ``say`` (the client is gone) ends the work and the child process.
        """
        handlers = {"describe": self._describe, "time": self._time, "run": self._run}
        handler = handlers.get(str(header.get("command")))
        if handler is None:
            raise BadRequest(f"the command is not one of {', '.join(handlers)}")
        device = self._device_for(AgentProfile.parse(header.get("config")))
        deadline = time.monotonic() + self.limits.request_s

        def watch(model: int | None, phase: str) -> None:
            if time.monotonic() > deadline:
                raise OverLimit(f"the request took more than {self.limits.request_s:g} s")
            if time.monotonic() - self._last_said > SAY_EVERY_S:
                self._last_said = time.monotonic()
                say({"event": "tick", "model": model, "phase": phase})

        device.watch = watch
        try:
            return handler(device, header, blobs, say)
        except OverLimit as error:
            return {"event": "error", "what": str(error), "why": "", "fix": ""}, []
        except FactoryError as error:
            return {"event": "error", "what": error.what, "why": error.why, "fix": error.fix}, []
        except (BadRequest, OSError):
            raise
        except Exception as error:  # a fault of ours: told, and the next request starts afresh
            self.close()
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return {"event": "error", "what": "the agent itself failed", "why": why, "fix": ""}, []
        finally:
            device.watch = None

    def close(self) -> None:
        """End the child process."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _device_for(self, profile: AgentProfile) -> LocalDevice:
        if self._device is None or self._device.profile != profile:
            self.close()
            try:
                self._device = LocalDevice(
                    profile,  # type: ignore[arg-type]
                    command=self._command,
                    memory_limit_mb=self.limits.memory_mb,
                )
            except InputError as error:
                raise BadRequest(str(error)) from None
        return self._device

    def _describe(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        return {"event": "described", "describe": {**device.describe(), "agent": self.facts()}}, []

    def _time(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        plan, rounds = _plan(header)
        if len(blobs) > MOST_MODELS:
            raise BadRequest(f"{len(blobs)} models at once, {MOST_MODELS} may be sent")
        timings: list[Timing | None] = []
        for model in blobs:
            try:
                check_wire_model(model)
                timings.append(None)
            except RefusedModel as refused:
                timings.append(Timing.failed(str(refused)))
        accepted = [i for i, timing in enumerate(timings) if timing is None]
        left = self.gate.wait(lambda why: say({"event": "wait", "why": why}))
        measured = device.time_many([blobs[i] for i in accepted], plan, rounds=rounds)
        for index, timing in zip(accepted, measured, strict=True):
            timings[index] = timing
        return {
            "event": "timings",
            "timings": [timing.to_dict() for timing in timings if timing is not None],
            "gate": left,
            "temperature_c": temperature_c(),
        }, []

    def _run(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        model, *contents = blobs or [b""]
        try:
            check_wire_model(model)
        except RefusedModel as refused:
            return {"event": "error", "what": "the model does not run", "why": str(refused)}, []
        try:
            arrays = unpack_arrays(header["arrays"], contents)
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(
                f"the arrays cannot be read ({' '.join(str(error).split())})"
            ) from None
        if header.get("batch"):
            if set(arrays) != {"inputs"} or not arrays["inputs"].ndim:
                raise BadRequest("a batch is one array called inputs")
            outputs = {"outputs": device.run_batch(model, arrays["inputs"])}
        else:
            outputs = device.run(model, arrays)
        facts, parts = pack_arrays(outputs)
        return {"event": "outputs", "arrays": facts, "sizes": [len(part) for part in parts]}, parts


def _plan(header: Mapping[str, Any]) -> tuple[TimingPlan, int]:
    """The plan and the rounds of a request, within what a model may take."""
    data, rounds = header.get("plan"), header.get("rounds", 1)
    names = {entry.name for entry in fields(TimingPlan)}
    if not isinstance(data, dict) or not set(data) <= names:
        raise BadRequest(f"the plan holds something else than {', '.join(sorted(names))}")
    numbers = [value for value in data.values() if type(value) in (int, float, bool)]
    if len(numbers) < len(data) or not all(map(math.isfinite, numbers)):
        raise BadRequest(f"the plan holds something that is no number: {json.dumps(data)[:200]}")
    runs = ("min_runs", "max_runs", "warmup_runs", "profile_runs")
    if any(type(data[name]) is not int for name in runs if name in data):
        raise BadRequest(f"{', '.join(runs)} are whole numbers")
    try:
        plan = TimingPlan(**data)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    longest_ms = max(plan.max_time_ms, plan.warmup_time_ms)
    most = max(plan.max_runs, plan.warmup_runs, plan.profile_runs)
    if type(rounds) is not int or not 1 <= rounds <= 1000:
        raise BadRequest(f"rounds = {rounds!r} is not between 1 and 1000")
    if longest_ms > LONGEST_MODEL_MS or most > MOST_RUNS:
        raise BadRequest(f"a model may take {LONGEST_MODEL_MS:g} ms and {MOST_RUNS} runs")
    return plan, rounds
