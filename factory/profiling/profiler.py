"""The profiler: kernels and networks to rows of a latency table, in interleaved blocks.

Every block carries the references along. A block in which they say that the machine was disturbed
(:mod:`factory.profiling.trust`) is waited for and measured again, and marked if that does not help.
At the end the blocks that were marked, or measured at another speed than most, are measured once
more: a chip that changes its speed half way leaves one half of the table, not two. A whole profile
then measures its first networks again (:func:`first_networks_again`): what no reference feels shows
as a drift of these. Nothing is normalised: each row keeps its reference time.
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
from factory.devices.base import DISTURBED, Device, Timing, TimingPlan
from factory.graph.kernel import Kernel
from factory.profiling.drift import drifts_of
from factory.profiling.in_place import calibration_model, in_place_times, trace_overhead_ms
from factory.profiling.kernel_model import kernel_model
from factory.profiling.reference import GRAPHS, KEY
from factory.profiling.rows import DISTURBED_MARKS, Row
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable, check_fingerprint
from factory.profiling.trust import Attempt, Speed, SteadyTimer, recent

REFERENCES_REMEMBERED = 9
FIRST_REFERENCES = 3
WAITS = 4  # that may be as long as they get, before a profile's waiting counts against its time
ORDER_SEED = 0
SPREAD = ("p10_ms", "p90_ms", "min_ms", "mean_ms")
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


def first_networks_again(
    device: Device,
    networks: Sequence[tuple[Mapping[Kernel, int], bytes]],
    table: LatencyTable,
    settings: ProfileSettings,
    progress: Progress = SILENT,
) -> ProfileSummary:
    """Measure the networks again that a profile began with; ``drift`` of the summary tells of it.

    Not more of them than fit into a block, and none that the table has no time of. Their new times
    are rows of kind "reference": the old ones stay what the networks took.
    """
    jobs = [_network_job(counts, model) for counts, model in networks]
    known = [job for job in jobs if (row := table.get(job.kind, job.key)) is not None and row.ok]
    plan = replace(settings.network_plan(), profile_runs=0, optimised_graph=False)
    run = _Run(device, table, settings, plan, settings.network_block_size)
    return run.again(known[: settings.network_block_size], progress) if known else run.summary


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


@dataclass(frozen=True)
class _Block:
    """What was measured together."""

    jobs: Sequence[_Job]
    measured: Attempt
    mark: str

    def off(self, usual_ms: float) -> float:
        """By how much the chip's speed differed from the usual one; infinite where unknown."""
        small_ms = self.measured.speed.median_ms(KEY)
        return abs(small_ms / usual_ms - 1.0) if small_ms > 0 else math.inf


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
        self.summary = ProfileSummary()
        self.overhead_ms: float | None = None  # what tracing adds to a node, when first needed
        rows = table.rows()
        self.speeds = _speeds_of(table)
        begun = bool(rows) and len(self.speeds) < FIRST_REFERENCES
        self.next_block = max((row.block for row in rows), default=-1) + (not begun)
        self.timer = SteadyTimer(
            device,
            repeats=settings.max_repeats,
            threshold=settings.drift_limit,
            noticed=self._measured_again,
            stayed=self._believed,
        )
        self.progress: Progress = SILENT
        self.started = time.monotonic()
        self.said_of = -1  # the block that was last told of

    def measure(self, jobs: Sequence[_Job], progress: Progress, label: str) -> ProfileSummary:
        """Measure the jobs that the table does not hold."""
        self.progress = progress
        todo = [job for job in jobs if self._is_new(job)]
        self.summary.skipped = len(jobs) - len(todo)
        if todo:
            check_fingerprint(self.table, self.device.describe())
            with progress.task(label, total=len(jobs), done=self.summary.skipped) as task:
                self._first_references()
                blocks: list[_Block] = []
                for start in range(0, len(todo), self.block_size):
                    block = todo[start : start + self.block_size]
                    blocks.append(self._block(block))
                    task.advance(len(block), note=self._note())
                self._once_more(blocks)
            self._say_disturbed(len(todo))
            self._say_drift()
        return self._timed()

    def _timed(self) -> ProfileSummary:
        self.summary.waited_s = self.timer.waited_s
        self.summary.seconds = round(time.monotonic() - self.started, 3)
        return self.summary

    def _is_new(self, job: _Job) -> bool:
        row = self.table.get(job.kind, job.key)
        return row is None or (self.settings.retry_failed and not row.ok)

    def _first_references(self) -> None:
        """What the references take, before anything is measured for the first time."""
        if len(self.speeds) >= FIRST_REFERENCES:
            return
        while len(self.speeds) < FIRST_REFERENCES:
            attempt = self.timer.once([], self.plan)
            if attempt.failed:
                raise InputError(
                    f"the reference model does not run on device {self.device.profile.id!r}",
                    why=attempt.failed,
                    fix="check the device with `factory doctor`",
                )
            with self.table.block():
                self._reference_rows(attempt)
        self.next_block += 1

    def _block(self, jobs: Sequence[_Job]) -> _Block:
        """Measure a block, again while the machine is disturbed, and write its rows."""
        models: dict[_Job, bytes] = {}
        unbuilt: dict[_Job, Timing] = {}
        for job in jobs:
            try:
                models[job] = job.build()
            except InputError as error:
                unbuilt[job] = Timing.failed(str(error))
        block = self._steadiest(list(models), list(models.values()))
        self.summary.repeated_blocks += block.measured.number > 1
        self.summary.marked_blocks += bool(block.mark)
        timed = [*zip(models, block.measured.timings, strict=True), *unbuilt.items()]
        with self.table.block():
            self.summary.in_place += self._write(timed, block)
            self._reference_rows(block.measured)
        for job, timing in timed:
            self.summary.measured += 1
            if not timing.ok:
                self.summary.failed += 1
                self.summary.reasons[job.key] = timing.reason
        self.summary.reference_ms.append(block.measured.speed.median_ms(KEY))
        self.next_block += 1
        # timings hold whole graphs
        return replace(block, measured=replace(block.measured, timings=()))

    def _steadiest(self, jobs: Sequence[_Job], models: Sequence[bytes]) -> _Block:
        """The steadiest measurement of a block, and its mark where it is a disturbed one."""
        self.timer.usual = recent(self.speeds[-REFERENCES_REMEMBERED:])
        longest_s = self.settings.longest_wait_s
        self.timer.patience_s = min(longest_s, max(0.0, self._waiting_left_s()))
        # on a machine that is always busy neither waiting nor repeating helps
        spent = longest_s > 0 and not self.timer.patience_s
        self.timer.repeats = 0 if spent else self.settings.max_repeats
        best = self.timer.time(models, self.plan, self.settings.rounds)
        mark = ""
        if self.timer.disturbed(best):
            mark = f"{DISTURBED_MARKS[0]}: {best.slower.sign} while this was measured"
        return _Block(jobs, best, mark)

    def _waiting_left_s(self) -> float:
        """Of a profile no more than a third is spent waiting, but for some waits at its begin."""
        spent_s = time.monotonic() - self.started
        measuring_s = spent_s - self.timer.waited_s
        return WAITS * self.settings.longest_wait_s + measuring_s / 2 - self.timer.waited_s

    def _measured_again(self, attempt: Attempt) -> None:
        if self.said_of != self.next_block:
            self.said_of = self.next_block
            self.progress.message(
                f"{self.device.profile.id}: {attempt.slower.sign}, "
                f"block {self.next_block} is measured again"
            )

    def _believed(self, attempt: Attempt) -> None:
        """What a chip takes that stays slow becomes what is usual."""
        self._remember(attempt.speed)
        self.timer.usual = recent(self.speeds[-REFERENCES_REMEMBERED:])

    def _once_more(self, blocks: Sequence[_Block]) -> None:
        """Measure the blocks again that were disturbed or ran at another speed than most did.

        Only while the machine runs at the usual speed now; new rows take the place of the old ones
        where the references came nearer to what they usually take.
        """
        speeds_ms = [block.measured.speed.median_ms(KEY) for block in blocks]
        speeds_ms = [ms for ms in speeds_ms if ms > 0]
        if len(speeds_ms) < FIRST_REFERENCES:
            return
        usual_ms = statistics.median_low(speeds_ms)
        others = [b for b in blocks if b.mark or b.off(usual_ms) > DISTURBED]
        if not others or blocks[-1].off(usual_ms) > DISTURBED:
            return
        self.timer.patience_s = self.settings.longest_wait_s
        marked = any(block.mark for block in others) and self.settings.longest_wait_s > 0
        if marked and not self.timer.wait(self.plan):
            return
        self.progress.message(
            f"{self.device.profile.id}: {len(others)} of {len(blocks)} blocks were measured "
            "while the machine was disturbed or had another speed than most of the time; they are "
            "measured once more"
        )
        for was in others:
            again = self._steadiest(was.jobs, [job.build() for job in was.jobs])
            with self.table.block():
                if (bool(again.mark), again.off(usual_ms)) < (bool(was.mark), was.off(usual_ms)):
                    timings = zip(was.jobs, again.measured.timings, strict=True)
                    self._write([(job, timing) for job, timing in timings if timing.ok], again)
                    self.summary.remeasured_blocks += 1
                    self.summary.marked_blocks -= bool(was.mark) and not again.mark
                self._reference_rows(again.measured)
            self.next_block += 1

    def again(self, jobs: Sequence[_Job], progress: Progress) -> ProfileSummary:
        """Measure one block of networks again, as rows beside the references'."""
        self.progress = progress
        self._first_references()
        block = self._steadiest(jobs, [job.build() for job in jobs])
        with self.table.block():
            for job, timing in zip(jobs, block.measured.timings, strict=True):
                if timing.ok and not block.mark:
                    self._row(replace(job, kind="reference", kernels=""), timing, block)
            self._reference_rows(block.measured)
        self._say_drift()
        return self._timed()

    def _say_disturbed(self, models: int) -> None:
        if self.summary.marked_blocks:
            blocks = math.ceil(models / self.block_size)
            self.progress.message(
                f"{self.device.profile.id}: {self.summary.marked_blocks} of {blocks} blocks stayed "
                "disturbed and are marked; measure on a quieter machine for predictions to rely on"
            )

    def _say_drift(self) -> None:
        """Slow changes, which no block shows against the one before it."""
        for drift in drifts_of(self.table):
            self.progress.message(f"{self.device.profile.id}: {drift.sentence()}")
            self.summary.drift = drift.sentence()

    def _write(self, timed: Sequence[tuple[_Job, Timing]], block: _Block) -> int:
        """The rows of a block; how many of them are of kernels in place."""
        in_place = 0
        for job, timing in timed:
            if job.kind == "network" and timing.ok and timing.optimised:
                in_place += self._in_place_rows(job, timing, block)
            self._row(job, timing, block)
        return in_place

    def _remember(self, speed: Speed) -> None:
        if speed.timings:
            self.speeds.append(speed)

    def _reference_rows(self, attempt: Attempt) -> None:
        self._remember(attempt.speed)
        """The smallest comes last: with its row a block is whole."""
        small_ms = attempt.speed.median_ms(KEY)
        for key, timing in reversed(list(attempt.speed.timings.items())):
            self.table.append(
                Row(**self._cells("reference", key, timing, small_ms, self.next_block))
            )

    def _row(self, job: _Job, timing: Timing, block: _Block) -> None:
        small_ms = block.measured.speed.median_ms(KEY)
        cells = self._cells(job.kind, job.key, timing, small_ms, self.next_block)
        cells["reason"] = timing.reason or block.mark
        if job.kind == "network" and timing.ok:
            cells.update(self._started(timing, job.build()))
        self.table.append(Row(**cells, kernels=job.kernels))

    def _in_place_rows(self, job: _Job, timing: Timing, block: _Block) -> int:
        """The network's kernels."""
        small_ms = block.measured.speed.median_ms(KEY)
        cells = self._cells("in_place", job.key, timing, small_ms, self.next_block)
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
            cells["reason"] = "; ".join(filter(None, [block.mark, fallback]))
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
            "mean_ms": timing.mean_ms,
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
        note = f"reference {self.speeds[-1].median_ms(KEY):.3f} ms"
        return note + (f", {self.summary.failed} failed" if self.summary.failed else "")


def _speeds_of(table: LatencyTable) -> list[Speed]:
    """What the references took beside each measurement of a table so far, in order."""
    found: list[Speed] = []
    beside: dict[str, Timing] = {}
    for row in table.rows("reference"):
        if row.ok and row.key in GRAPHS:
            timing = Timing("ok", median_ms=row.median_ms, mean_ms=row.mean_ms, runs=row.runs)
            beside[row.key] = timing
        if row.key == KEY:  # the last of them
            found.append(Speed(beside))
            beside = {}
    return found
