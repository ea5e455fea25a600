"""A machine of a Ray cluster as a device: an actor there holds the local transport.

Ray starts and finds the processes across hosts; the measuring is that of this machine, done over
there. An optional extra: pip install 'model-factory[ray]' on every host. An actor or a node that
dies is a lost device, whose work an equal one of the farm takes over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.frames import DTYPES
from factory.core.wire import Wrong, printable
from factory.devices.base import Timing, TimingPlan, answers_of, plain_models
from factory.devices.local import LocalDevice
from factory.devices.messages import DESCRIBE, TIMINGS, timings
from factory.devices.profile import DeviceProfile
from factory.devices.ray_options import RayOptions

ACTOR_WITHIN_S = 120.0


def import_ray() -> Any:
    """The ray package; InputError when it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "Ray is not installed", fix="pip install 'model-factory[ray]' here and on every host"
        ) from None
    return ray


def connect(address: str) -> Any:
    """The ray package, connected to the cluster at ``address``."""
    ray = import_ray()
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"there is no Ray cluster at {address!r}",
                why=" ".join(str(error).split())[:200],
                fix="start one with `ray start --head`, or give the address that it printed",
            ) from None
    return ray


def ray_profiles(profile: DeviceProfile, address: str) -> list[DeviceProfile]:
    """``profile``, which is local, for every living node of the cluster."""
    if profile.transport != "local":
        raise InputError(
            f"device {profile.id!r} is reached by {profile.transport!r}, not from a Ray node",
            fix="name local devices with --ray, and others in a call without it",
        )
    nodes = [node for node in connect(address).nodes() if node["Alive"]]
    named: list[DeviceProfile] = []
    for number, node in enumerate(sorted(nodes, key=lambda n: str(n["NodeID"]))):
        options = RayOptions(address=address, node=node["NodeID"])
        fields = {"id": f"{profile.id}-node{number}", "transport": "ray", "ray": options}
        named.append(profile.model_copy(update=fields))
    return named


class RayDevice(Closing):
    """The local transport on a node of a Ray cluster."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        options = profile.ray or RayOptions()
        self._ray = ray = connect(options.address)
        strategy: Any = "DEFAULT"
        if options.node:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(options.node, soft=False)
        actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=strategy)(_Host)
        local = profile.model_copy(update={"transport": "local", "ray": None})
        self._actor = actor.remote(local.model_dump())
        self._call("start", timeout_s=ACTOR_WITHIN_S)

    def describe(self) -> dict[str, Any]:
        """Facts about that machine now."""
        with answers_of(self.profile.id):
            facts: dict[str, Any] = DESCRIBE(self._call("describe"), "")
        return {**facts, "device": self.profile.id, "transport": self.profile.transport}

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models, interleaved, over there."""
        with answers_of(self.profile.id):
            given = list(plain_models(models, self.profile))
            told = TIMINGS(self._call("time_many", given, plan, rounds), "timings")
            return timings(told, len(models))

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name."""
        outputs = self._call("run", model, dict(feeds))
        with answers_of(self.profile.id):
            if not isinstance(outputs, dict):
                raise Wrong("the outputs are no table of arrays")
            return {str(name): _array(output) for name, output in outputs.items()}

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...]."""
        outputs = self._call("run_batch", model, inputs)
        with answers_of(self.profile.id):
            return _array(outputs)

    def _call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """The result of a method of the actor; InputError when it or its node is gone."""
        errors = self._ray.exceptions
        try:
            result = self._ray.get(getattr(self._actor, name).remote(*arguments), timeout=timeout_s)
        except (errors.RayActorError, errors.NodeDiedError, errors.GetTimeoutError) as error:
            raise InputError(
                f"the Ray node of device {self.profile.id!r} is lost",
                why=printable(str(error), 200),
                fix="look at `ray status` and run the same command again, it goes on",
            ) from None
        except errors.RayError as error:
            why = printable(str(getattr(error, "cause", None) or error), 300)
            raise InputError(
                f"the Ray node of device {self.profile.id!r} failed", why=why
            ) from None
        if isinstance(result, _Refused):
            said = (printable(str(text), 200) for text in (result.what, result.why, result.fix))
            what, why, fix = said
            raise InputError(what, why=why, fix=fix)
        return result

    def close(self) -> None:
        """End the actor and with it the child process."""
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)


def _array(output: Any) -> np.ndarray:
    if not isinstance(output, np.ndarray) or output.dtype.str not in DTYPES:
        raise Wrong(f"an output is {printable(str(type(output)), 60)}, not an array of numbers")
    return output


class _Refused:
    """An InputError on its way: exceptions with keywords do not travel well."""

    def __init__(self, error: InputError) -> None:
        self.what, self.why, self.fix = error.what, error.why, error.fix


class _Host:
    """The actor's side."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self._profile = DeviceProfile.model_validate(profile)
        self._device: LocalDevice | None = None

    def start(self) -> Any:
        return self._guarded(lambda: None)

    def describe(self) -> Any:
        return self._guarded(lambda: self._open().describe())

    def time_many(self, models: list[bytes], plan: TimingPlan, rounds: int) -> Any:
        return self._guarded(
            lambda: [one.to_dict() for one in self._open().time_many(models, plan, rounds=rounds)]
        )

    def run(self, model: bytes, feeds: dict[str, np.ndarray]) -> Any:
        return self._guarded(lambda: self._open().run(model, feeds))

    def run_batch(self, model: bytes, inputs: np.ndarray) -> Any:
        return self._guarded(lambda: self._open().run_batch(model, inputs))

    def _open(self) -> LocalDevice:
        if self._device is None:
            self._device = LocalDevice(self._profile)
        return self._device

    def _guarded(self, work: Any) -> Any:
        try:
            self._open().start()
            return work()
        except InputError as error:
            return _Refused(error)
