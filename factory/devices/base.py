"""What every device can do, whatever its transport: describe itself, time models, run one.

A measurement that fails is a value (:class:`Timing` with status "failed" and its reason), never
an exception: one kernel that a runtime refuses must not end a profile of a thousand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from factory.core.errors import InputError
from factory.core.registry import Registry
from factory.core.wire import Wrong

if TYPE_CHECKING:  # the device agent takes this file where there is no pydantic
    from typing import Self

    from factory.core.progress import Progress
    from factory.devices.profile import DeviceProfile

CPU = "CPUExecutionProvider"
DISTURBED = 0.10  # a machine that is slower than usual by more is disturbed: nothing rests on that
CHUNK_BYTES = 32 << 20  # of inputs that travel to a device at once


@dataclass(frozen=True)
class TimingPlan:
    """How often a model is run; the same meaning on every transport.

    A model gets enough runs for ``min_time_ms``, at least ``min_runs`` and at most ``max_runs``,
    spread evenly over the rounds; ``max_time_ms`` wins over ``min_runs`` (at least 3 runs).
    Before that it is warmed up in windows of ``warmup_runs`` until two successive window medians
    agree within ``warmup_tolerance``, or ``warmup_time_ms`` has passed.

    The last ``references`` models are no candidates: they show what the machine did meanwhile. They
    get a third of the time, are not traced, and rounds in which one of them took longer than in the
    quieter rounds by more than ``disturbed`` count for no model, as long as half of them are left.
    """

    min_runs: int = 20
    max_runs: int = 400
    min_time_ms: float = 60.0
    max_time_ms: float = 4000.0
    warmup_runs: int = 5
    warmup_time_ms: float = 40.0
    warmup_tolerance: float = 0.03
    profile_runs: int = 0  # most runs of a second, traced session; 0: no node shares
    optimised_graph: bool = False  # whether the traced session also tells the graph as it runs
    references: int = 0  # the last so many models are references
    disturbed: float = DISTURBED  # slow-down of the references that makes a round not count

    def __post_init__(self) -> None:
        """A plan that cannot be carried out is a programming error."""
        if not 1 <= self.min_runs <= self.max_runs or self.warmup_runs < 1:
            raise ValueError(f"impossible numbers of runs in {self}")
        times = (self.min_time_ms, self.max_time_ms, self.warmup_time_ms, self.warmup_tolerance)
        if min(times) < 0 or min(self.profile_runs, self.references) < 0:
            raise ValueError(f"negative time or number of runs in {self}")


class Model(bytes):
    """ONNX bytes with what goes with them where a device is this machine.

    Attributes:
        feeds: values of its inputs; None: the device makes them up.
        weights_folder: where the files lie that hold its weights; "": there are none.
    """

    feeds: Mapping[str, np.ndarray] | None = None
    weights_folder: str = ""

    @classmethod
    def of(
        cls,
        content: bytes,
        feeds: Mapping[str, np.ndarray] | None = None,
        weights_folder: str = "",
    ) -> Model:
        """``content`` with the rest."""
        model = cls(content)
        model.feeds, model.weights_folder = feeds, weights_folder
        return model


def plain_models(models: Sequence[bytes], profile: DeviceProfile) -> Sequence[bytes]:
    """``models`` where their bytes are all there is to them; InputError where more has to come."""
    for model in models:
        if isinstance(model, Model) and model.feeds is not None:
            raise InputError(
                f"device {profile.id!r} makes up the inputs of a model itself",
                why=f"its transport {profile.transport!r} takes no values for them",
                fix="leave --inputs out, or give shapes with --input",
            )
        if isinstance(model, Model) and model.weights_folder:
            raise InputError(
                "a model with more than 2 GB of weights is measured on this machine only",
                why=f"device {profile.id!r} is reached by transport {profile.transport!r}",
                fix="name a local device",
            )
    return models


@dataclass(frozen=True)
class Timing:
    """The result of timing one model, also of a failure.

    Attributes:
        status: "ok" or "failed"; ``reason`` says why it failed, in one line.
        median_ms: with p10, p90, min and mean, over ``runs`` unprofiled runs; mean_ms is 0 where
            the device does not tell.
        reorder_share: share of the traced time in nodes that graphs of one kernel add: layout
            reorders, transposes, and nodes marked as context; 0 without a trace.
        nodes: what the trace saw: name, op, provider, share (sums to 1), in order of execution.
        traced_ms: sum of the traced node times of one run (profiling inflates it).
        providers: execution provider -> number of nodes.
        session_ms: time to make the session, in a process that has made others.
        first_run_ms: the first run of that session; 0 where the device does not tell.
        peak_memory_mb: most memory that session and first run took beyond what the process had
            before, millions of bytes; 0 where the system does not tell.
        optimised: the graph as the runtime executes it, an ONNX file without weights in base64;
            "" where the plan does not ask for it or the device cannot tell.
    """

    status: str
    reason: str = ""
    median_ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    min_ms: float = 0.0
    runs: int = 0
    reorder_share: float = 0.0
    nodes: tuple[Mapping[str, Any], ...] = ()
    traced_ms: float = 0.0
    providers: Mapping[str, int] | None = None
    session_ms: float = 0.0
    optimised: str = ""
    first_run_ms: float = 0.0
    peak_memory_mb: float = 0.0
    mean_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are numbers."""
        return self.status == "ok"

    @classmethod
    def failed(cls, reason: str) -> Timing:
        """A failure with its reason, squeezed into one line."""
        return cls(status="failed", reason=" ".join(reason.split()) or "no reason given")

    def placed_on(self, provider: str, cpu: str = CPU) -> Timing:
        """This timing; a failure where no node ran on ``provider`` but all fell back to ``cpu``.

        A missing backend or an unknown SoC only logs, and the session runs on the CPU while the
        provider is still listed: so who ran the nodes is asked, never who was asked for.
        """
        ran = set(self.providers or {})
        if not self.ok or provider == cpu or ran - {cpu}:
            return self
        who = "the CPU took the whole model" if ran else "the runtime does not say where it ran"
        return Timing.failed(f"no node ran on {provider}: {who}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timing:
        """The timing that :meth:`to_dict` wrote."""
        return cls(**{**data, "nodes": tuple(data.get("nodes", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "nodes": [dict(node) for node in self.nodes]}


@runtime_checkable
class Device(Protocol):
    """A chip that can be measured. Not thread-safe; close it, or use it in a ``with``."""

    profile: DeviceProfile

    def describe(self) -> dict[str, Any]:
        """Facts about the chip now.

        ``fingerprint`` (what a latency table must agree with), ``simulated``, ``pinned``,
        ``load_1min``, ``empty_run_ms``, ``notes``.
        """

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several ONNX models, interleaved over ``rounds``; one Timing a model, in order."""

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name; InputError with the reason when it cannot run."""

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...] through a batch-1 model, stacked [N, ...].

        ``inputs[i]`` may come with or without the model's leading batch dimension of 1.
        """

    def close(self) -> None:
        """Let the chip go; closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@contextlib.contextmanager
def answers_of(device_id: str, fix: str = "") -> Iterator[None]:
    """An answer of the device that is Wrong becomes an InputError with its name and the field."""
    try:
        yield
    except Wrong as wrong:
        raise InputError(
            f"device {device_id!r} sent an answer that cannot be used", why=str(wrong), fix=fix
        ) from None


def in_chunks(
    run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    inputs: np.ndarray,
    chunk_bytes: int = CHUNK_BYTES,
) -> np.ndarray:
    """First outputs of ``run({"inputs": part})`` over parts of ``inputs`` [N, ...], joined.

    Raises InputError for an empty batch, and Wrong where the outputs are not those of N inputs.
    """
    if len(inputs) == 0:
        raise InputError("an empty batch cannot be run", fix="give at least one input")
    step = max(1, chunk_bytes // max(inputs[0].nbytes, 1))
    starts = range(0, len(inputs), step)
    joined: list[np.ndarray] = []
    for at in starts:
        part = inputs[at : at + step]
        output = next(iter(run({"inputs": part}).values()), None)
        if output is None or output.ndim == 0 or len(output) % len(part):
            shape = None if output is None else list(output.shape)
            raise Wrong(f"the output of {len(part)} inputs is of the shape {shape}")
        if joined and output.shape[1:] != joined[0].shape[1:]:
            raise Wrong(f"outputs of the shapes {joined[0].shape} and {output.shape}")
        joined.append(output)
    return np.concatenate(joined)


def mirrored(device: Device, progress: Progress) -> Progress:
    """``progress``, shown on the device too where that has a screen for it."""
    mirror = getattr(device, "mirrored", None)
    shown: Progress = mirror(progress) if mirror is not None else progress
    return shown


TRANSPORTS: Registry[Callable[[DeviceProfile], Device]] = Registry("transport")


@TRANSPORTS.register("local")
def _open_local(profile: DeviceProfile) -> Device:
    from factory.devices.local import LocalDevice

    device = LocalDevice(profile)
    try:
        device.start()
    except BaseException:
        device.close()
        raise
    return device


@TRANSPORTS.register("agent")
def _open_agent(profile: DeviceProfile) -> Device:
    from factory.devices.agent import AgentDevice

    return AgentDevice.connect(profile)


@TRANSPORTS.register("adb")
def _open_adb(profile: DeviceProfile) -> Device:
    from factory.devices.adb import AdbDevice

    return AdbDevice.connect(profile)


@TRANSPORTS.register("ray")
def _open_ray(profile: DeviceProfile) -> Device:
    from factory.devices.ray_device import RayDevice

    return RayDevice(profile)


@TRANSPORTS.register("simulated")
def _open_simulated(profile: DeviceProfile) -> Device:
    from factory.devices.simulated import SimulatedDevice

    return SimulatedDevice(profile)


@TRANSPORTS.register("browser")
def _open_browser(profile: DeviceProfile) -> Device:
    from factory.devices.browser import BrowserDevice

    device = BrowserDevice(profile)
    try:
        device.start()
    except BaseException:
        device.close()
        raise
    return device


@TRANSPORTS.register("table")
def _open_table(profile: DeviceProfile) -> Device:
    raise InputError(
        f"device {profile.id!r} is known from an imported table only: it cannot be reached",
        fix="predict for it; to measure it, write a profile of another id with its transport",
    )


def open_device(profile: DeviceProfile) -> Device:
    """The device of that profile, reached and ready; InputError says why it cannot be."""
    transport = TRANSPORTS.get(profile.transport, where=f"device profile {profile.id!r}")
    return transport(profile)
