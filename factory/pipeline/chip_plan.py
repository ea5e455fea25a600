"""Profile a chip once, for any network: random networks of every space, traced where they run.

A traced network gives the times of all its kernels in place, and of enough networks without a trace
they are inferred (a provider that compiles a network shows none), so there are no single kernels to
plan: the planner chooses networks. It starts with random ones; after each round it fits, says how
wrong it is on networks it has not seen, and takes the next ones half at random and half where the
predictor is least sure, until the wanted error or the budget of time or networks is reached.
Without traces all are random. Each round is half as long again as all before it, so that the fits
between them take a small part of the time. A device that does not show the graph it runs is tested
for what it folds before its first network.
Networks are named by numbers, so that a killed profile goes on where it was.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from factory.core.errors import InputError, unknown_name
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device
from factory.graph.canonical import kernel_counts
from factory.graph.fusion import FusionRules
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import OpGraph
from factory.latency.facts import MIN_NETWORKS_TO_INFER, read_facts
from factory.latency.features import family
from factory.latency.fitting import held_out_error, quick_predictor
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.network_samples import SAMPLERS, quantised_sample, sample_network
from factory.profiling.fusion_rules import settled_row
from factory.profiling.fusion_tests import measure_fusion
from factory.profiling.profiler import first_networks_again, network_key, profile_networks
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable

PLAN_SEED = 1  # first part of the numbers of the networks that profiles draw
CANDIDATES = 4  # candidates a place that goes by doubt
FIXED_SECONDS, TIMES_AS_LONG = 0.8, 2.2  # what a network took on a core: so much, and its time run
KERNELS_A_NETWORK = 50  # new ones: 57 of each of the first 20 networks, 47 of 240
GROWTH = 0.5  # of what was measured before, in the next round
TURNS = ("mixed", "mobile", "mixed", "mobile", "mixed", "cell")  # whose network is next
FEWEST = 5  # networks, however little time there is: of fewer no error can be told
WORTH_A_FIT = 0.1  # of a round; fewer networks are not worth the choice and the fit they cost
SURE = 0.01
ADDED = (  # counts and seconds of a summary
    "measured", "skipped", "failed", "in_place",
    "repeated_blocks", "remeasured_blocks", "marked_blocks", "waited_s",
)  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """Budgets of one way to profile; whichever is reached first ends it.

    Attributes:
        max_seconds: time, the fits between rounds included.
        untraced_seconds: the same for a device that shows no trace of its kernels: each of its
            networks is one equation, where a traced one tells of fifty kernels. 0: as max_seconds.
        max_networks: networks that are measured.
        wanted_percent: mean error on unseen networks at which to stop.
        round_size: networks measured before the first fit, and between any two at least.
    """

    max_seconds: float
    max_networks: int
    wanted_percent: float
    round_size: int
    settings: ProfileSettings = field(default_factory=ProfileSettings)
    untraced_seconds: float = 0.0

    def untraced(self) -> Effort:
        """The effort for a device that shows no trace."""
        return replace(self, max_seconds=self.untraced_seconds or self.max_seconds)


EFFORTS = {
    "quick": Effort(
        150,
        150,
        3.0,
        40,
        ProfileSettings(rounds=4, network_time_ms=240.0, longest_wait_s=5.0),
        untraced_seconds=570,
    ),
    "full": Effort(1100, 1000, 1.5, 60, ProfileSettings(rounds=5, network_time_ms=240.0)),
}


def effort_of(name: str) -> Effort:
    """The budgets of "quick" or "full"."""
    if name not in EFFORTS:
        raise unknown_name("effort", name, EFFORTS)
    return EFFORTS[name]


def forecast(effort: Effort) -> dict[str, Any]:
    """About how much would be measured, and the most time that it may take; for a dry run."""
    a_network = FIXED_SECONDS + TIMES_AS_LONG * effort.settings.network_time_ms / 1e3
    networks = min(effort.max_networks, round(effort.max_seconds / a_network))
    return {
        "networks": networks,
        "kernels": networks * KERNELS_A_NETWORK,
        "seconds": round(min(effort.max_seconds, networks * a_network)),
        "most_seconds": effort.max_seconds,
        "wanted_percent": effort.wanted_percent,
    }


@dataclass
class ChipProfile:
    """What a profile did: its summary, why it stopped, and its error round by round."""

    summary: ProfileSummary
    stopped: str = ""
    rounds: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A network that may be measured; its file is only made when it is asked for."""

    counts: Counter[Kernel]
    graph: OpGraph
    dtype: str

    @cached_property
    def model(self) -> bytes:
        """The ONNX file."""
        content: bytes = to_onnx(self.graph, self.dtype).SerializeToString(deterministic=True)
        return content


class _Draw:
    """Networks of all spaces in turn, by number."""

    def __init__(self, table: LatencyTable, dtype: str, seed: int, fusion: FusionRules) -> None:
        self._table, self._dtype, self._seed, self._fusion = table, dtype, seed, fusion
        self._numbers = self._all()

    def _all(self) -> Iterator[tuple[str, int]]:
        numbers = dict.fromkeys(SAMPLERS, 0)
        for space in itertools.cycle(TURNS):
            yield space, numbers[space]
            numbers[space] += 1

    def candidates(self, wanted: int) -> list[_Candidate]:
        """The next networks, whether the table holds them or not."""
        found = []
        for space, number in itertools.islice(self._numbers, wanted):
            graph = sample_network(space, PLAN_SEED, self._seed, number)
            if self._dtype == "i8":
                graph = quantised_sample(graph, PLAN_SEED, self._seed, number)
            counts = kernel_counts(graph, self._dtype, self._fusion)
            found.append(_Candidate(counts, graph, self._dtype))
        return found

    def new(self, wanted: int) -> list[_Candidate]:
        """The next networks that the table does not hold."""
        found: list[_Candidate] = []
        while len(found) < wanted:
            found += self.without_measured(self.candidates(wanted - len(found)))
        return found

    def without_measured(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Those that the table does not hold."""
        has = self._table.has
        return [one for one in candidates if not has(network_key(one.model), kind="network")]


def profile_chip(
    device: Device,
    table: LatencyTable,
    effort: Effort,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ChipProfile:
    """Measure until the effort's error or one of its budgets is reached."""
    started = time.monotonic()
    result = ChipProfile(ProfileSummary())
    settings = effort.settings
    fusion = measure_fusion(device, table, progress)
    effort = effort if settled_row(table) is None else effort.untraced()
    draw = _Draw(table, device.profile.dtype, seed, fusion)
    predictor: LatencyPredictor | None = None
    fit_seconds = 0.0
    first: list[tuple[Counter[Kernel], bytes]] = []
    while True:
        spent = time.monotonic() - started
        measured = len(table.rows("network"))
        round_size = max(effort.round_size, round(measured * GROWTH))
        left = min(round_size, effort.max_networks - measured)
        per_second = result.summary.measured / result.summary.seconds if result.rounds else 1.0
        seconds_left = effort.max_seconds - spent - (1 + GROWTH) * fit_seconds
        affordable = int(seconds_left * per_second)
        if result.rounds and result.rounds[-1]["error_percent"] <= effort.wanted_percent:
            result.stopped = f"the wanted error of {effort.wanted_percent:g} % is reached"
        elif left <= 0:
            result.stopped = f"the budget of {effort.max_networks} networks is spent"
        elif result.rounds and affordable < min(left, WORTH_A_FIT * effort.round_size):
            result.stopped = f"the budget of {effort.max_seconds:g} s is spent"
        if result.stopped:
            break
        chosen = _next(draw, predictor, left)
        fewest = FEWEST if settled_row(table) is None else MIN_NETWORKS_TO_INFER
        batch = [(one.counts, one.model) for one in chosen[: max(fewest, affordable)]]
        first = first or batch[: settings.network_block_size]
        _add(result.summary, profile_networks(device, batch, table, settings, progress))
        fit_started = time.monotonic()
        _check_enough(device, table)
        facts = read_facts(table)
        error = held_out_error(facts)
        if facts.in_place:
            predictor = quick_predictor(facts, trees=False)
        else:
            settings = settings.model_copy(update={"network_trace_runs": 0})
        fit_seconds = time.monotonic() - fit_started
        result.rounds.append(
            {
                "networks": float(len(facts.networks)),
                "kernels": float(len(_kernels(table))),
                "error_percent": round(100 * error, 3),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        progress.message(
            f"{device.profile.id}: {len(facts.networks)} networks, mean error on unseen ones "
            f"{100 * error:.1f} %"
        )
    if first:
        _add(result.summary, first_networks_again(device, first, table, settings, progress))
    return result


def _check_enough(device: Device, table: LatencyTable) -> None:
    """Refuse to go on where neither traces nor enough networks tell anything about kernels."""
    rows = table.rows("network")
    good = sum(row.ok for row in rows)
    if table.rows("in_place") or good >= MIN_NETWORKS_TO_INFER:
        return
    reasons = Counter(row.reason for row in rows if not row.ok).most_common(1)
    raise InputError(
        f"device {device.profile.id!r} shows no trace of its kernels and only {good} networks were "
        f"measured",
        why=reasons[0][0]
        if 2 * good < len(rows)
        else f"it takes {MIN_NETWORKS_TO_INFER} to infer kernels",
        fix="run the same command again, it goes on; `factory devices explain` says what it takes",
    )


def _next(draw: _Draw, predictor: LatencyPredictor | None, wanted: int) -> list[_Candidate]:
    """Random networks; once there is a predictor, every second one by its doubt."""
    if predictor is None:
        return draw.new(wanted)
    by_doubt = wanted // 2
    random = draw.new(wanted - by_doubt)
    pool = draw.candidates(by_doubt * CANDIDATES)
    order = np.argsort(-doubts(predictor, [one.counts for one in pool]), kind="stable")
    return [*random, *draw.without_measured([pool[i] for i in order[:by_doubt]])]


def doubts(predictor: LatencyPredictor, networks: Sequence[Counter[Kernel]]) -> np.ndarray:
    """How unsure the predictor is of each network: share-weighted deviation of its kernels."""
    kernels = list(dict.fromkeys(kernel for counts in networks for kernel in counts))
    ms = dict(zip(kernels, predictor.kernel_ms(kernels).tolist(), strict=True))
    unsure = dict.fromkeys(kernels, 0.0)
    by_family: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if predictor.source(kernel) != "measured":
            by_family.setdefault(family(kernel), []).append(kernel)
    for name, members in by_family.items():
        regressor = predictor.regressors.get(name)
        deviation = np.ones(len(members)) if regressor is None else regressor.deviation(members)
        unsure.update(zip(members, np.maximum(deviation, SURE).tolist(), strict=True))
    return np.array(
        [
            sum(n * ms[k] * unsure[k] for k, n in counts.items())
            / max(sum(n * ms[k] for k, n in counts.items()), 1e-9)
            for counts in networks
        ]
    )


def _kernels(table: LatencyTable) -> set[str]:
    keys = {row.key for row in table.rows("kernel")}
    return keys | {row.key.rpartition("@")[0] for row in table.rows("in_place")}


def _add(total: ProfileSummary, part: ProfileSummary) -> None:
    for name in ADDED:
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.seconds += part.seconds
    total.reasons.update(part.reasons)
    total.reference_ms += part.reference_ms
    total.drift = part.drift or total.drift
