"""The work of the device agent: requests from the wire, checked, done by the local transport.

One :class:`Jobs` holds one :class:`factory.devices.local.LocalDevice`, whose child process has a
memory limit here. Part of the device agent: standard library, numpy and onnxruntime only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from factory.core.errors import FactoryError, InputError
from factory.core.frames import pack_arrays, unpack_arrays
from factory.core.wire import Wrong, printable
from factory.devices.agent_facts import machine_facts, temperature_c
from factory.devices.agent_gate import Gate
from factory.devices.agent_models import RefusedModel, check_wire_model
from factory.devices.base import Timing, TimingPlan
from factory.devices.environment import COMMAND
from factory.devices.local import LocalDevice
from factory.devices.messages import AGENT_REQUEST, MOST_MODELS

Say = Callable[[Mapping[str, Any]], None]
SAY_EVERY_S = 0.25


class BadRequest(Exception):
    """The request does not make sense; the text says why."""


class OverLimit(Exception):
    """The request took longer than one may take, or the agent ends."""


class ClientGone(Exception):
    """Whoever asked does not listen any more."""


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
    def of(cls, config: Mapping[str, Any]) -> AgentProfile:
        """The profile of a request; BadRequest when one of its options names a file."""
        for key, value in config["provider_options"].items():
            text = str(value).lower()
            if any(mark in text for mark in ("/", "\\", ".so", ".dll", ".dylib")):
                raise BadRequest(
                    f"the provider option {printable(key, 40)!r} names a file, which is not "
                    "accepted from the network (for QNN give backend_type, not backend_path)"
                )
        return cls(**config)


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
        self.ending = False  # what is at work then ends soon

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

        When the client is gone (an OSError of ``say``), the work and the child process end with
        :class:`ClientGone`.
        """
        try:
            header = AGENT_REQUEST(header, "")
        except Wrong as wrong:
            raise BadRequest(str(wrong)) from None
        device = self._device_for(AgentProfile.of(header["config"]))
        deadline = time.monotonic() + self.limits.request_s

        def tell(event: Mapping[str, Any]) -> None:
            if self.ending:
                raise OverLimit("the agent is being stopped")
            try:
                say(event)
            except OSError as error:
                raise ClientGone(str(error)) from None

        def watch(model: int | None, phase: str) -> None:
            if time.monotonic() > deadline:
                raise OverLimit(f"the request took more than {self.limits.request_s:g} s")
            if self.ending or time.monotonic() - self._last_said > SAY_EVERY_S:
                self._last_said = time.monotonic()
                tell({"event": "tick", "model": model, "phase": phase})

        device.watch = watch
        handlers = {"describe": self._describe, "time": self._time, "run": self._run}
        try:
            return handlers[header["command"]](device, header, blobs, tell)
        except OverLimit as error:
            return {"event": "error", "what": str(error), "why": "", "fix": ""}, []
        except FactoryError as error:
            return {"event": "error", "what": error.what, "why": error.why, "fix": error.fix}, []
        except (BadRequest, ClientGone):
            raise
        except Exception as error:  # a fault of ours: told, and the next request starts afresh
            self.close()
            why = f"{type(error).__name__}: {printable(str(error), 300)}"
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
                    longest_answer=self.limits.body_mb << 20,
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
        plan, rounds = _plan(header["plan"]), header.get("rounds", 1)
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
        except Wrong as wrong:
            raise BadRequest(str(wrong)) from None
        if header.get("batch"):
            if set(arrays) != {"inputs"} or not arrays["inputs"].ndim:
                raise BadRequest("a batch is one array called inputs")
            outputs = {"outputs": device.run_batch(model, arrays["inputs"])}
        else:
            outputs = device.run(model, arrays)
        facts, parts = pack_arrays(outputs)
        return {"event": "outputs", "arrays": facts, "sizes": [len(part) for part in parts]}, parts


def _plan(data: Mapping[str, Any]) -> TimingPlan:
    try:
        return TimingPlan(**data)
    except ValueError as error:
        raise BadRequest(printable(str(error), 300)) from None
