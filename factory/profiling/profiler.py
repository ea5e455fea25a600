"""The profiler: kernels and networks to rows of a latency table, in interleaved blocks.

Every block carries the reference model along. A block in which it is slower than its running
median by more than the drift limit was measured on a busy or throttled machine: it is measured
again, and marked if that does not help. So is one in which the medians lie farther above the p10
than usual: other load on the core takes it away for milliseconds at a time, which the short
reference model hardly feels. At the end the blocks that were measured at another speed
than most are measured once more: a chip that changes its speed half way leaves one half of the
table, not two. Nothing is normalised: each row keeps its reference time.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.core.provenance import now_utc
from factory.devices.base import Device, Timing, TimingPlan
from factory.graph.kernel import Kernel
from factory.profiling.attempts import Attempt, wait_for_speed
from factory.profiling.drift import NOTICED, clock_drift
from factory.profiling.in_place import calibration_model, in_place_times, trace_overhead_ms
from factory.profiling.kernel_model import kernel_model
from factory.profiling.reference import KEY, reference_model
from factory.profiling.rows import Row
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable, check_fingerprint

REFERENCES_REMEMBERED = 9
FIRST_REFERENCES = 3
ORDER_SEED = 0
SPREAD = ("p10_ms", "p90_ms", "min_ms")
Build = Callable[[], bytes]


@dataclass(frozen=True)
class _Job:
    """One row to be measured."""

    kind: str
    key: str
    kernels: str
    build: Build


def profile_kernels(
    device: Device,
    kernels: Sequence[Kernel],
    table: LatencyTable,
    settings: ProfileSettings | None = None,
    progress: Progress = SILENT,
) -> ProfileSummary:
    """Measure every kernel that is not in the table yet; rows are on disk block by block.

    The order is shuffled with a fixed seed, so that a slow drift of the machine does not fall
    on one kind of kernel.
    """
    settings = settings or ProfileSettings()
    for kernel in kernels:
        if kernel.dtype != table.dtype:
            raise InputError(
                f"kernel {kernel} is {kernel.dtype} but the table is {table.dtype}",
                where=f"latency table {table.path}",
                fix="profile each precision into a table of its own",
            )
    jobs = [_kernel_job(kernel) for kernel in dict.fromkeys(kernels)]
    random.Random(ORDER_SEED).shuffle(jobs)
    return _measure_single(device, jobs, table, settings, progress, f"profile {device.profile.id}")


def profile_networks(
    device: Device,
    networks: Sequence[tuple[Mapping[Kernel, int], bytes]],
    table: LatencyTable,
    settings: ProfileSettings | None = None,
    progress: Progress = SILENT,
) -> ProfileSummary:
    """Measure whole networks, given as canonical kernel counts and ONNX bytes."""
    settings = settings or ProfileSettings()
    jobs: dict[str, _Job] = {}
    for counts, model in networks:
        job = _network_job(counts, model)
        jobs.setdefault(job.key, job)
    run = _Run(device, table, settings, settings.network_plan(), settings.network_block_size)
    return run.measure(list(jobs.values()), progress, f"networks on {device.profile.id}")


def measure_models(
    device: Device,
    kind: str,
    models: Mapping[str, Build],
    table: LatencyTable,
    settings: ProfileSettings,
    progress: Progress,
    label: str,
) -> ProfileSummary:
    """Measure any models, by the key of their rows, as single kernels are; in the order given."""
    jobs = [_Job(kind, key, "", build) for key, build in models.items()]
    return _measure_single(device, jobs, table, settings, progress, label)


def network_key(model: bytes) -> str:
    """Key of a network's row."""
    return "net:" + hashlib.sha256(model).hexdigest()[:12]


def counts_text(counts: Mapping[Kernel, int]) -> str:
    """'2*Conv(..);1*Add(..)', kernels in order."""
    return ";".join(f"{counts[kernel]}*{kernel}" for kernel in sorted(counts))


def _measure_single(
    device: Device,
    jobs: Sequence[_Job],
    table: LatencyTable,
    settings: ProfileSettings,
    progress: Progress,
    label: str,
) -> ProfileSummary:
    run = _Run(device, table, settings, settings.kernel_plan(), settings.block_size)
    return run.measure(jobs, progress, label)


def _kernel_job(kernel: Kernel) -> _Job:
    return _Job("kernel", str(kernel), "", lambda: kernel_model(kernel))


def _network_job(counts: Mapping[Kernel, int], model: bytes) -> _Job:
    return _Job("network", network_key(model), counts_text(counts), lambda: model)


class _Run:
    """One call of the profiler."""

    def __init__(
        self,
        device: Device,
        table: LatencyTable,
        settings: ProfileSettings,
        plan: TimingPlan,
        block_size: int,
    ) -> None:
        self.device, self.table, self.settings = device, table, settings
        self.plan, self.block_size = plan, block_size
        self.reference = reference_model(table.dtype)
        self.summary = ProfileSummary()
        self.overhead_ms: float | None = None  # what tracing adds to a node, when first needed
        rows = table.rows()
        self.references_ms = [row.median_ms for row in table.rows("reference") if row.ok]
        begun = bool(rows) and len(self.references_ms) < FIRST_REFERENCES
        self.next_block = max((row.block for row in rows), default=-1) + (not begun)
        self.spreads: list[float] = []  # of the blocks of this call
        self.kept_ms = list(self.references_ms)  # without those of blocks measured again

    def measure(self, jobs: Sequence[_Job], progress: Progress, label: str) -> ProfileSummary:
        """Measure the jobs that the table does not hold."""
        started = time.monotonic()
        todo = [job for job in jobs if self._is_new(job)]
        self.summary.skipped = len(jobs) - len(todo)
        if todo:
            check_fingerprint(self.table, self.device.describe())
            with progress.task(label, total=len(jobs), done=self.summary.skipped) as task:
                self._first_references()
                measured: list[tuple[list[_Job], Attempt]] = []
                for start in range(0, len(todo), self.block_size):
                    block = todo[start : start + self.block_size]
                    measured.append(self._block(block, progress))
                    task.advance(len(block), note=self._note())
                self._once_more(measured, progress)
        self.summary.seconds = round(time.monotonic() - started, 3)
        return self.summary

    def _is_new(self, job: _Job) -> bool:
        row = self.table.get(job.kind, job.key)
        return row is None or (self.settings.retry_failed and not row.ok)

    def _first_references(self) -> None:
        """What the reference takes, before anything is measured for the first time."""
        if len(self.references_ms) >= FIRST_REFERENCES:
            return
        while len(self.references_ms) < FIRST_REFERENCES:
            timing = self.device.time_many([self.reference], self.plan)[0]
            self._reference_row(timing, self.next_block)
            if not timing.ok:
                raise InputError(
                    f"the reference model does not run on device {self.device.profile.id!r}",
                    why=timing.reason,
                    fix="check the device with `factory doctor`",
                )
        self.next_block += 1

    def _once_more(
        self, measured: Sequence[tuple[list[_Job], Attempt]], progress: Progress
    ) -> None:
        """Measure the blocks again that ran at another speed than most of this call's.

        Only while the machine runs at the usual speed now; new rows take the place of the old ones
        where the reference model came nearer to what it usually takes.
        """
        speeds_ms = [was.reference_ms for _, was in measured if was.reference_ms > 0]
        if len(speeds_ms) < FIRST_REFERENCES:
            return
        usual_ms = statistics.median_low(speeds_ms)
        others = [block for block in measured if block[1].off(usual_ms) > NOTICED]
        if not others or measured[-1][1].off(usual_ms) > NOTICED:
            return
        progress.message(
            f"{self.device.profile.id}: {len(others)} of {len(measured)} blocks were measured "
            "while the machine had another speed than most of the time; they are measured once more"
        )
        for jobs, was in others:
            again = self._attempted([job.build() for job in jobs], progress)
            with self.table.block():
                if again.off(usual_ms) < was.off(usual_ms):
                    timed = [pair for pair in zip(jobs, again.timings, strict=True) if pair[1].ok]
                    self._write(timed, again)
                    self.summary.remeasured_blocks += 1
                self._reference_row(again.reference, self.next_block)
            self.next_block += 1

    def _block(self, jobs: Sequence[_Job], progress: Progress) -> tuple[list[_Job], Attempt]:
        """Measure a block, again while the machine is slower than before, and write its rows."""
        models: dict[_Job, bytes] = {}
        unbuilt: dict[_Job, Timing] = {}
        for job in jobs:
            try:
                models[job] = job.build()
            except InputError as error:
                unbuilt[job] = Timing.failed(str(error))
        best = self._attempted(list(models.values()), progress)
        self.summary.repeated_blocks += best.number > 1
        self.summary.marked_blocks += bool(best.mark)
        timed = [*zip(models, best.timings, strict=True), *unbuilt.items()]
        with self.table.block():
            self.summary.in_place += self._write(timed, best)
            self._reference_row(best.reference, self.next_block)
        for job, timing in timed:
            self.summary.measured += 1
            if not timing.ok:
                self.summary.failed += 1
                self.summary.reasons[job.key] = timing.reason
        self.summary.reference_ms.append(best.reference_ms)
        self._watch_clock(progress)
        self.next_block += 1
        return list(models), replace(best, timings=())  # they hold whole graphs

    def _attempted(self, models: Sequence[bytes], progress: Progress) -> Attempt:
        """The steadiest measurement of a block; its ``number`` tells how many were made."""
        attempts = [self._time(models)]
        while self._is_disturbed(attempts[-1]) and len(attempts) <= self.settings.max_repeats:
            progress.message(
                f"{self.device.profile.id}: {attempts[-1].sentence()}, "
                f"block {self.next_block} is measured again"
            )
            slow = attempts[-1].slower > self.settings.drift_limit
            if not (slow and self._wait()):
                self._remember(attempts[-1].reference)
            attempts.append(self._time(models))
        best = min(attempts, key=lambda attempt: attempt.disturbed)
        mark = ""
        if self._is_disturbed(best):
            mark = f"drift: {best.sentence()} while this was measured"
        self.spreads.append(best.spread)
        return replace(best, number=len(attempts), mark=mark)

    def _wait(self) -> bool:
        """Until the chip is as fast as it was; whether it is."""
        highest_ms = (1.0 + self.settings.drift_limit) * self._usual_ms()
        longest_s = self.settings.longest_wait_s
        waited = wait_for_speed(self.device, self.reference, self.plan, highest_ms, longest_s)
        self.summary.waited_s += waited.seconds
        return waited.fast

    def _write(self, timed: Sequence[tuple[_Job, Timing]], measured: Attempt) -> int:
        """The rows of a block; how many of them are of kernels in place."""
        in_place = 0
        for job, timing in timed:
            mark = measured.mark if timing.ok else ""
            if job.kind == "network" and timing.ok and timing.optimised:
                in_place += self._in_place_rows(job, timing, measured.reference_ms, mark)
            self._row(job, timing, measured.reference_ms, mark)
        return in_place

    def _watch_clock(self, progress: Progress) -> None:
        """Say once that the clock moved slowly: no block then differs from the one before it."""
        drift = clock_drift(self.kept_ms)
        if drift is None or not drift.noticed:
            return
        if not self.summary.drift:
            progress.message(f"{self.device.profile.id}: {drift.sentence()}")
        self.summary.drift = drift.sentence()

    def _time(self, models: Sequence[bytes]) -> Attempt:
        """Time a block together with the reference model."""
        *timings, reference = self.device.time_many(
            [*models, self.reference], self.plan, rounds=self.settings.rounds
        )
        attempt = Attempt(timings, reference, 0.0, 0.0)
        slower = reference.median_ms / self._usual_ms() - 1.0 if reference.ok else 0.0
        known = self.spreads[-REFERENCES_REMEMBERED:]
        usual = statistics.median(known) if len(known) >= FIRST_REFERENCES else math.inf
        return replace(attempt, slower=slower, uneven=attempt.spread / usual - 1.0)

    def _usual_ms(self) -> float:
        """What the reference model took of late."""
        return statistics.median(self.references_ms[-REFERENCES_REMEMBERED:])

    def _is_disturbed(self, attempt: Attempt) -> bool:
        return attempt.disturbed > self.settings.drift_limit

    def _remember(self, reference: Timing) -> None:
        if reference.ok:
            self.references_ms.append(reference.median_ms)

    def _reference_row(self, timing: Timing, block: int) -> None:
        self._remember(timing)
        if timing.ok:
            self.kept_ms.append(timing.median_ms)
        self.table.append(Row(**self._cells("reference", KEY, timing, timing.median_ms, block)))

    def _row(self, job: _Job, timing: Timing, reference_ms: float, mark: str) -> None:
        cells = self._cells(job.kind, job.key, timing, reference_ms, self.next_block)
        cells["reason"] = timing.reason or mark
        if job.kind == "network" and timing.ok:
            cells.update(self._started(timing, job.build()))
        self.table.append(Row(**cells, kernels=job.kernels))

    def _in_place_rows(self, job: _Job, timing: Timing, reference_ms: float, mark: str) -> int:
        """The network's kernels."""
        cells = self._cells("in_place", job.key, timing, reference_ms, self.next_block)
        if self.overhead_ms is None:
            calibration = self.device.time_many([calibration_model()], self.plan)[0]
            self.overhead_ms = trace_overhead_ms(calibration)
        asked = self.device.profile.execution_provider
        asked = asked if asked in (timing.providers or {}) else ""  # else: it has other names
        times_in_place = in_place_times(job.build(), timing, self.overhead_ms, asked)
        for found in times_in_place:
            spread = {name: cells[name] / timing.median_ms for name in SPREAD}
            times = {name: found.ms * ratio for name, ratio in spread.items()}
            fallback = f"fallback: it ran on {found.elsewhere}" if found.elsewhere else ""
            cells["reason"] = "; ".join(filter(None, [mark, fallback]))
            cells["reorder_share"] = found.reorder_share
            kernels = f"{found.count}*{found.kernel}"
            key = f"{found.kernel}@{job.key}"
            self.table.append(
                Row(**{**cells, **times, "key": key, "median_ms": found.ms}, kernels=kernels)
            )
        return len(times_in_place)

    @staticmethod
    def _cells(
        kind: str, key: str, timing: Timing, reference_ms: float, block: int
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "key": key,
            "median_ms": timing.median_ms,
            "p10_ms": timing.p10_ms,
            "p90_ms": timing.p90_ms,
            "min_ms": timing.min_ms,
            "runs": timing.runs,
            "reorder_share": timing.reorder_share,
            "status": timing.status,
            "reason": timing.reason,
            "block": block,
            "reference_ms": reference_ms,
            "date": now_utc(),
        }

    @staticmethod
    def _started(timing: Timing, model: bytes) -> dict[str, float]:
        """The cells of a network about its start, memory and size."""
        return {
            "session_ms": timing.session_ms,
            "first_run_ms": timing.first_run_ms,
            "peak_memory_mb": timing.peak_memory_mb,
            "model_mb": len(model) / 1e6,
        }

    def _note(self) -> str:
        note = f"reference {self.references_ms[-1]:.3f} ms"
        return note + (f", {self.summary.failed} failed" if self.summary.failed else "")
