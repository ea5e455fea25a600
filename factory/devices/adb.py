"""An Android phone as a device: models pushed over adb, run there, results pulled, all cleaned up.

The runner is tools/android_runner (everything that a device can do) or the user's own
onnxruntime_perf_test (times only). A phone that is disconnected on the way is waited for, and
the block is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.wire import Form, Wrong, printable
from factory.devices import adb_perf_test
from factory.devices.adb_client import Adb, PhoneGone, find_phone
from factory.devices.adb_facts import battery_facts, fastest_cores, phone_facts
from factory.devices.adb_job import (
    JOB,
    WRITTEN,
    file_names,
    job_text,
    outputs_of,
    read_results,
    timing_of,
)
from factory.devices.adb_link import AdbLink, RunnerFailed, runner_path
from factory.devices.adb_options import AdbOptions
from factory.devices.agent_gate import Gate
from factory.devices.base import (
    CHUNK_BYTES,
    CPU,
    Timing,
    TimingPlan,
    answers_of,
    in_chunks,
    plain_models,
)
from factory.devices.local import EMPTY_MODEL, EMPTY_RUN_PLAN
from factory.devices.messages import RUNNER_RAN, RUNNER_TIMED, RUNNER_VERSION, read
from factory.devices.profile import DeviceProfile


class AdbDevice(Closing):
    """ONNX Runtime on an Android phone; made by :meth:`connect`."""

    def __init__(self, profile: DeviceProfile, adb: Adb, facts: Mapping[str, Any]) -> None:
        self.profile, self.facts = profile, dict(facts)
        self.options = profile.adb or AdbOptions()
        cores = facts["cores"] or [{"core": 0, "max_mhz": None}]
        wanted = len(cores) if profile.threads == "all" else profile.threads
        if wanted > len(cores):
            raise InputError(
                f"{wanted} threads are asked for but the phone has {len(cores)} cores",
                where=f"device profile {profile.id!r}",
                fix=f'set threads to at most {len(cores)} or to "all"',
            )
        self.cores = fastest_cores(cores, wanted)
        runner = runner_path(self.options, profile.id, facts["abi"])
        self.perf_test = adb_perf_test.PROGRAM in runner.name
        libraries = [Path(name).expanduser() for name in self.options.libraries]
        self.link = AdbLink(adb, self.options, [runner, *libraries])
        self.gate = Gate(
            max_temperature_c=self.options.max_temperature_c,
            longest_wait_s=self.options.longest_wait_s,
            temperature=self._battery_c,
            busy=lambda: None,
        )
        self._pin_note = ""
        self._gate_note = ""
        self._empty_run_ms: float | None = None
        self._version: dict[str, Any] = {}

    @classmethod
    def connect(cls, profile: DeviceProfile) -> AdbDevice:
        """The phone, its runner in place and of a version that is known."""
        options = profile.adb or AdbOptions()
        adb = Adb(find_phone(options.serial).serial)
        try:
            facts = phone_facts(adb)
        except PhoneGone as gone:
            raise InputError(
                f"phone {adb.serial!r} does not answer",
                why=str(gone),
                fix="connect it again, see `adb devices`",
            ) from None
        if profile.chip not in ("local", facts["chip"]):
            raise InputError(
                f"another phone answers for device {profile.id!r}",
                why=f"the profile says {profile.chip!r}, the phone {facts['chip']!r}",
                fix="check the serial number, or add the phone with `factory devices add adb`",
            )
        device = cls(profile, adb, facts)
        try:
            device.start()
        except BaseException:
            device.close()
            raise
        return device

    def start(self) -> None:
        """Put the runner on the phone and ask it for its version and providers."""
        try:
            if self.perf_test:
                self.link.patiently(lambda: None)
                self._version = {"runtime_version": self.options.runtime_version or "unknown"}
                return
            self._version = read(
                self.link.patiently(self.link.tell_version).encode(), RUNNER_VERSION
            )
        except RunnerFailed as failed:
            raise InputError(
                f"device {self.profile.id!r} cannot be set up", why=failed.reason
            ) from None
        except Wrong as wrong:
            raise InputError(
                f"{self.link.program!r} is no runner of the factory",
                where=f"device {self.profile.id!r}",
                why=str(wrong),
                fix="see tools/android_runner",
            ) from None
        provider, known = self.profile.execution_provider, self._version["providers"]
        if provider not in known:
            raise InputError(
                f"onnxruntime {self._version['runtime_version']} on the phone has no {provider}",
                where=f"device profile {self.profile.id!r}",
                why="available: " + printable(", ".join(known), 300),
                fix="use a build of libonnxruntime.so that has it",
            )

    def describe(self) -> dict[str, Any]:
        """Facts about the phone, its runtime, its temperature and battery now."""
        if self._empty_run_ms is None:
            timing = self.time_many([EMPTY_MODEL], EMPTY_RUN_PLAN)[0]
            self._empty_run_ms = round(timing.median_ms, 5) if timing.ok else 0.0
        profile = self.profile
        with contextlib.suppress(PhoneGone):
            self.facts.update(battery_facts(self.link.adb))
        serial = hashlib.sha256(self.link.adb.serial.encode()).hexdigest()[:16]
        return {
            "device": profile.id,
            "transport": profile.transport,
            "simulated": self.facts["emulated"],
            "fingerprint": {
                "chip": self.facts["chip"],
                "runtime": profile.runtime,
                "runtime_version": self._version["runtime_version"],
                "execution_provider": profile.execution_provider,
                "provider_options": dict(profile.provider_options),
                "threads": len(self.cores),
                "precision": profile.precision,
            },
            "machine": serial,
            "pinned": profile.pin and not self._pin_note and not self.perf_test,
            "cores": self.cores,
            "runner": "onnxruntime_perf_test" if self.perf_test else "factory_runner",
            "load_1min": None,
            "empty_run_ms": self._empty_run_ms,
            "phone": self.facts,
            "notes": self._notes(),
        }

    def _notes(self) -> list[str]:
        notes = [note for note in (self._pin_note, self._gate_note) if note]
        if self.facts["emulated"]:
            notes.append("this phone is simulated: its times are not those of a phone")
        if self.perf_test:
            notes.append("onnxruntime_perf_test neither pins nor returns outputs: times only")
        if all(core["governor"] != "performance" for core in self.facts["cores"]):
            notes.append("the clock is not held (no core's governor is performance): it may vary")
        percent = self.facts["battery_percent"]
        if percent is not None and percent < 20:
            notes.append(f"the battery is at {percent} %: phones slow down to save it")
        return notes

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models, interleaved, on the phone."""
        models = plain_models(models, self.profile)
        if self.profile.execution_provider != CPU:
            plan = replace(plan, profile_runs=max(plan.profile_runs, 1))  # says who ran what
        results: dict[int, Timing] = {}
        self._time_block(models, list(range(len(models))), plan, max(1, rounds), results)
        provider = self.profile.execution_provider
        return [results[index].placed_on(provider) for index in range(len(models))]

    def _time_block(
        self,
        models: Sequence[bytes],
        indices: list[int],
        plan: TimingPlan,
        rounds: int,
        results: dict[int, Timing],
    ) -> None:
        """As the local device: a hang costs its culprit, after a crash each model runs alone."""
        if not indices:
            return
        block = [models[index] for index in indices]
        time_block = self._time_perf_test if self.perf_test else self._time
        try:
            timings = self.link.patiently(lambda: time_block(block, plan, rounds))
        except RunnerFailed as failed:
            if len(indices) == 1:
                results[indices[0]] = Timing.failed(failed.reason)
            elif failed.timed_out and failed.suspect is not None and failed.suspect < len(indices):
                culprit = indices[failed.suspect]
                results[culprit] = Timing.failed(failed.reason)
                rest = [index for index in indices if index != culprit]
                self._time_block(models, rest, plan, rounds, results)
            else:
                for index in indices:
                    self._time_block(models, [index], plan, rounds, results)
            return
        results.update(zip(indices, timings, strict=True))

    def _time(self, models: Sequence[bytes], plan: TimingPlan, rounds: int) -> list[Timing]:
        names = [f"m{index}.onnx" for index in range(len(models))]
        text = self._job("time", names, plan=plan, rounds=rounds)
        self._gate_note = self.gate.wait(lambda why: None)
        with self.link.job({**dict(zip(names, models, strict=True)), JOB: text}) as here:
            self.link.run_job(self.profile.timeout_s, here)
            with _damaged_results():
                results = self._results(here, len(models), RUNNER_TIMED)
                names = [name for kind in WRITTEN for name in file_names(kind, results, kind)]
                self.link.fetch(names, here)
                return [timing_of(result, here, plan.profile_runs) for result in results]

    def _time_perf_test(
        self, models: Sequence[bytes], plan: TimingPlan, rounds: int
    ) -> list[Timing]:
        """One call a model and round, the order turned from round to round."""
        names = [f"m{index}.onnx" for index in range(len(models))]
        failed: dict[int, str] = {}
        runs: dict[int, int] = {}
        self._gate_note = self.gate.wait(lambda why: None)

        def call(index: int, output: str, count: int, trace: str = "") -> None:
            if index in failed:
                return
            words = adb_perf_test.arguments(
                self.profile, len(self.cores), names[index], output, count, trace
            )
            program = [f"../{self.link.program}", *words]
            try:
                self.link.call(program, self._call_timeout_s(plan), says_done=False)
            except RunnerFailed as error:
                failed[index] = error.reason

        with self.link.job(dict(zip(names, models, strict=True))) as here:
            for index in range(len(models)):
                call(index, f"probe{index}.csv", adb_perf_test.PROBE_RUNS)
                if index not in failed:
                    self.link.fetch([f"probe{index}.csv"], here)
                    with _damaged_results():
                        probe = adb_perf_test.parse_results(here / f"probe{index}.csv")
                    runs[index] = adb_perf_test.runs_per_round(probe, plan, rounds)
            for number in range(rounds):
                order = list(runs)
                for index in order if number % 2 == 0 else reversed(order):
                    call(index, f"r{index}.csv", runs[index])
            results: list[dict[str, Any]] = []
            for index in range(len(models)):
                trace = f"trace{index}" if plan.profile_runs else ""
                if trace:
                    call(index, f"t{index}.csv", plan.profile_runs + 2, trace)
                if index in failed:
                    results.append({"status": "failed", "reason": failed[index]})
                    continue
                self.link.fetch([f"r{index}.csv"], here)
                found = self._traces(trace, here) if trace else ""
                with _damaged_results():
                    samples = adb_perf_test.parse_results(here / f"r{index}.csv")
                results.append(
                    {"status": "ok", "session_ms": 0.0, "samples_ns": samples, "trace": found}
                )
            with _damaged_results():
                return [timing_of(result, here, plan.profile_runs) for result in results]

    def _traces(self, prefix: str, here: Path) -> str:
        """Pull the trace whose name begins with ``prefix``; its name."""
        _, listed = self.link.adb.shell("ls", f"{self.link.root}/job")
        names = [n for n in listed.split() if n.startswith(prefix + "_")][:1]
        with _damaged_results():
            file_names("trace", [{"trace": name} for name in names], "trace")
        self.link.fetch(names, here)
        return names[0] if names else ""

    def _call_timeout_s(self, plan: TimingPlan) -> float:
        """A call of onnxruntime_perf_test is silent until it ends."""
        return self.profile.timeout_s + 2 * plan.max_time_ms / 1e3

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name, computed on the phone."""
        return self._run("run", model, feeds)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...], the loop being on the phone."""
        with answers_of(self.profile.id):
            return in_chunks(lambda chunk: self._run("batch", model, chunk), inputs, CHUNK_BYTES)

    def _run(
        self, kind: str, model: bytes, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        if self.perf_test:
            raise InputError(
                "onnxruntime_perf_test does not return outputs",
                where=f"device profile {self.profile.id!r}",
                fix="build tools/android_runner and set runner in the [adb] table to it",
            )
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        files = {f"in{i}.bin": array.tobytes() for i, array in enumerate(plain.values())}
        inputs = [(n, a, f) for (n, a), f in zip(plain.items(), files, strict=True)]
        text = self._job(kind, ["m0.onnx"], inputs=inputs)

        def work() -> dict[str, np.ndarray]:
            with self.link.job({"m0.onnx": model, **files, JOB: text}) as here:
                self.link.run_job(self.profile.timeout_s, here)
                with _damaged_results():
                    [result] = self._results(here, 1, RUNNER_RAN)
                    if result["status"] != "ok":
                        raise RunnerFailed(result["reason"])
                    self.link.fetch(file_names("out", result["outputs"], "file"), here)
                    return outputs_of(result, here)

        try:
            return self.link.patiently(work)
        except RunnerFailed as failed:
            raise InputError(
                f"the model does not run on device {self.profile.id!r}",
                why=failed.reason,
                fix="check the model with `factory inspect` and the inputs' names, types, shapes",
            ) from None

    def _job(self, kind: str, models: Sequence[str], **more: Any) -> bytes:
        memory_mb = self.options.memory_mb
        return job_text(kind, self.profile, self.cores, memory_mb, models, **more).encode()

    def _results(self, here: Path, count: int, form: Form) -> list[dict[str, Any]]:
        self._pin_note, results = read_results(here, form)
        if len(results) != count:
            raise Wrong(f"{len(results)} results for {count} models")
        return results

    def _battery_c(self) -> float | None:
        degrees: float | None = battery_facts(self.link.adb)["battery_c"]
        return degrees

    def close(self) -> None:
        """Remove everything of ours from the phone."""
        self.link.clean_up()


@contextlib.contextmanager
def _damaged_results() -> Iterator[None]:
    """What cannot be read of a runner's results costs the model, not the profile."""
    try:
        yield
    except Wrong as wrong:
        raise RunnerFailed(f"the results are damaged ({wrong})") from None
