"""A chip behind a device agent: the same Device as the local one, over HTTP.

An agent that is killed, restarted or cut off in the middle of a block is waited for, and the
block is asked for again: no row is lost, and none fails but for what the model did. Only a model
that is alone and loses the agent three times is given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.frames import pack_arrays, unpack_arrays
from factory.devices.agent_client import AgentClient, Event, RequestCut
from factory.devices.agent_token import load_token
from factory.devices.base import Timing, TimingPlan, answers_of, in_chunks, plain_models
from factory.devices.messages import timings
from factory.devices.profile import DeviceProfile

MOST_CUTS = 3  # of one request before it is divided, and of a single model before it fails


class AgentDevice(Closing):
    """ONNX Runtime behind a device agent.

    Args:
        profile: its [agent] table says where.
        token: the agent's token; None: the one that is kept for the device.
    """

    def __init__(self, profile: DeviceProfile, token: str | None = None) -> None:
        if profile.agent is None:
            raise InputError(
                "the table [agent] is missing",
                where=f"device profile {profile.id!r}",
                fix="add it with `factory devices add http://host:port --id " + profile.id + "`",
            )
        self.profile = profile
        self.client = AgentClient(
            profile.id,
            profile.agent,
            load_token(profile.id) if token is None else token,
            answer_timeout_s=max(30.0, profile.timeout_s + 10.0),
        )
        self._config = {
            "execution_provider": profile.execution_provider,
            "provider_options": dict(profile.provider_options),
            "threads": profile.threads,
            "pin": profile.pin,
            "timeout_s": profile.timeout_s,
            "precision": profile.precision,
        }

    @classmethod
    def connect(cls, profile: DeviceProfile) -> AgentDevice:
        """The device, once its agent has answered and is the right chip."""
        device = cls(profile)
        device.check_chip(device.client.facts())
        return device

    def check_chip(self, facts: Mapping[str, Any]) -> None:
        """Raise InputError when another chip answers at the address."""
        if self.profile.chip not in ("local", facts.get("chip")):
            raise InputError(
                f"another chip answers for device {self.profile.id!r}",
                why=f"the profile says {self.profile.chip!r}, the agent {facts.get('chip')!r}",
                fix="check the address, or add the new chip with `factory devices add`",
            )

    def describe(self) -> dict[str, Any]:
        """Facts about the chip behind the agent, its runtime and its load now."""
        event, _ = self._work("describe", {}, [])
        facts: dict[str, Any] = event["describe"]
        machine = facts["agent"]
        self.check_chip({"chip": facts["fingerprint"]["chip"]})
        notes = list(facts["notes"])
        if machine["temperature_c"] is None:
            notes.append("the temperature cannot be read: the chip may throttle unseen")
        return {
            **facts,
            "device": self.profile.id,
            "transport": self.profile.transport,
            "notes": notes,
        }

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models, interleaved, there."""
        models = plain_models(models, self.profile)
        if not models:
            return []
        cuts = 0
        while True:
            try:
                return self._time(models, plan, rounds)
            except RequestCut as cut:
                cuts += 1
                if cuts >= MOST_CUTS:
                    reason = f"the agent was lost {cuts} times while this model was measured: {cut}"
                    break
        if len(models) == 1:
            return [Timing.failed(reason)]
        alone = replace(plan, references=0)
        return [self.time_many([model], alone, rounds=rounds)[0] for model in models]

    def _time(self, models: Sequence[bytes], plan: TimingPlan, rounds: int) -> list[Timing]:
        header = {"plan": asdict(plan), "rounds": max(1, rounds)}
        event, _ = self._exchange("time", header, models)
        if event["event"] == "error":
            if len(models) == 1:
                why = f" ({event['why']})" if event.get("why") else ""
                return [Timing.failed(event["what"] + why)]
            alone = replace(plan, references=0)
            return [self._time([model], alone, rounds)[0] for model in models]
        with answers_of(self.profile.id):
            return timings(event["timings"], len(models))

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name, computed there."""
        with answers_of(self.profile.id):
            return self._run(model, feeds, batch=False)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...], the loop being there."""
        with answers_of(self.profile.id):
            return in_chunks(lambda chunk: self._run(model, chunk, batch=True), inputs)

    def _run(
        self, model: bytes, arrays: Mapping[str, np.ndarray], batch: bool
    ) -> dict[str, np.ndarray]:
        facts, blobs = pack_arrays(arrays)
        event, content = self._work("run", {"arrays": facts, "batch": batch}, [model, *blobs])
        parts, start = [], 0
        for size in event["sizes"]:
            parts.append(memoryview(content)[start : start + size])
            start += size
        return unpack_arrays(event["arrays"], parts)

    def _work(
        self, command: str, header: Mapping[str, Any], blobs: Sequence[bytes]
    ) -> tuple[Event, bytes]:
        """A request that may be asked again; InputError with the agent's own words."""
        for attempt in range(MOST_CUTS):
            try:
                event, content = self._exchange(command, header, blobs)
                break
            except RequestCut as cut:
                if attempt == MOST_CUTS - 1:
                    raise InputError(
                        f"the agent of device {self.profile.id!r} was lost {MOST_CUTS} times",
                        why=str(cut),
                        fix="look at what it printed there",
                    ) from None
        if event["event"] == "error":
            raise InputError(
                event["what"].replace("'agent'", repr(self.profile.id)),
                why=event.get("why", ""),
                fix=event.get("fix", ""),
            )
        return event, content

    def _exchange(
        self, command: str, header: Mapping[str, Any], blobs: Sequence[bytes]
    ) -> tuple[Event, bytes]:
        return self.client.work({"command": command, "config": self._config, **header}, blobs)

    def close(self) -> None:
        """Nothing is kept open."""
