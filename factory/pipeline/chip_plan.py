"""Profile a chip once, for any network: random networks of every space, traced where they run.

A traced network gives the times of all its kernels in place, so there are no single kernels to
plan: the planner chooses networks. It starts with random ones; after each round it fits, says how
wrong it is on networks it has not seen, and takes the next ones half at random and half where the
predictor is least sure, until the wanted error or the budget of time or networks is reached. Each
round is half as long again as all before it, so that the fits between them take a small part of the
time.
Networks are named by numbers, so that a killed profile goes on where it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory.core.errors import InputError, unknown_name
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device
from factory.graph.canonical import kernel_counts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.latency.facts import read_facts
from factory.latency.features import family
from factory.latency.fitting import held_out_error, quick_predictor
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.network_samples import SAMPLERS, sample_network
from factory.profiling.profiler import network_key, profile_networks
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable

PLAN_SEED = 1  # first part of the numbers of the networks that profiles draw
CANDIDATES = 4  # candidates a place that goes by doubt
FIXED_SECONDS, TIMES_AS_LONG = 0.8, 2.2  # what a network took on a core: so much, and its time run
KERNELS_A_NETWORK = 50  # new ones: 57 of each of the first 20 networks, 47 of 240
GROWTH = 0.5  # of what was measured before, in the next round
SURE = 0.01


@dataclass(frozen=True)
class Effort:
    """Budgets of one way to profile; whichever is reached first ends it.

    Attributes:
        max_seconds: time, the fits between rounds included.
        max_networks: networks that are measured.
        wanted_percent: mean error on unseen networks at which to stop.
        round_size: networks measured before the first fit, and between any two at least.
    """

    max_seconds: float
    max_networks: int
    wanted_percent: float
    round_size: int
    settings: ProfileSettings = field(default_factory=ProfileSettings)


EFFORTS = {
    "quick": Effort(150, 150, 3.0, 40, ProfileSettings(rounds=4, network_time_ms=240.0)),
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
    """A network that may be measured."""

    counts: Counter[Kernel]
    model: bytes
    key: str


class _Draw:
    """Networks of all spaces in turn, by number, without those that the table holds."""

    def __init__(self, table: LatencyTable, dtype: str, seed: int) -> None:
        self._table, self._dtype, self._seed = table, dtype, seed
        self._numbers = self._all()

    def _all(self) -> Iterator[tuple[str, int]]:
        number = 0
        while True:
            for space in SAMPLERS:
                yield space, number
            number += 1

    def __call__(self, wanted: int) -> list[_Candidate]:
        found: list[_Candidate] = []
        while len(found) < wanted:
            space, number = next(self._numbers)
            graph = sample_network(space, PLAN_SEED, self._seed, number)
            model = to_onnx(graph, self._dtype).SerializeToString(deterministic=True)
            key = network_key(model)
            if not self._table.has(key, kind="network"):
                found.append(_Candidate(kernel_counts(graph, self._dtype), model, key))
        return found


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
    draw = _Draw(table, device.profile.dtype, seed)
    predictor: LatencyPredictor | None = None
    fit_seconds = 0.0
    while True:
        spent = time.monotonic() - started
        measured = len(table.rows("network"))
        round_size = max(effort.round_size, round(measured * GROWTH))
        left = min(round_size, effort.max_networks - measured)
        if result.rounds and result.rounds[-1]["error_percent"] <= effort.wanted_percent:
            result.stopped = f"the wanted error of {effort.wanted_percent:g} % is reached"
        elif spent >= effort.max_seconds:
            result.stopped = f"the budget of {effort.max_seconds:g} s is spent"
        elif left <= 0:
            result.stopped = f"the budget of {effort.max_networks} networks is spent"
        if result.stopped:
            break
        chosen = _next(draw, predictor, left)
        per_second = result.summary.measured / result.summary.seconds if result.rounds else 1.0
        seconds_left = effort.max_seconds - spent - (1 + GROWTH) * fit_seconds
        affordable = max(1, int(seconds_left * per_second))
        batch = [(one.counts, one.model) for one in chosen[:affordable]]
        _add(result.summary, profile_networks(device, batch, table, effort.settings, progress))
        if not table.rows("in_place"):
            raise InputError(
                f"device {device.profile.id!r} shows no trace of its kernels",
                why="a profile for any network needs times in place",
                fix="profile one size of networks: `factory profile --channels C --layers L`",
            )
        fit_started = time.monotonic()
        facts = read_facts(table)
        predictor = quick_predictor(facts, trees=False)
        error = held_out_error(facts)
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
    return result


def _next(draw: _Draw, predictor: LatencyPredictor | None, wanted: int) -> list[_Candidate]:
    """Random networks; once there is a predictor, every second one by its doubt."""
    if predictor is None:
        return draw(wanted)
    by_doubt = wanted // 2
    random = draw(wanted - by_doubt)
    pool = draw(by_doubt * CANDIDATES)
    doubts = [doubt(predictor, one.counts) for one in pool]
    order = np.argsort([-value for value in doubts], kind="stable")[:by_doubt]
    return [*random, *(pool[i] for i in order)]


def doubt(predictor: LatencyPredictor, counts: Counter[Kernel]) -> float:
    """How unsure the predictor is of a network: the share-weighted deviation of its kernels."""
    kernels = [kernel for kernel in counts if predictor.source(kernel) != "measured"]
    total = float(sum(predictor.kernel_ms([k])[0] * n for k, n in counts.items()))
    unsure = 0.0
    for name in {family(kernel) for kernel in kernels}:
        members = [kernel for kernel in kernels if family(kernel) == name]
        ms = predictor.kernel_ms(members) * np.array([counts[k] for k in members])
        regressor = predictor.regressors.get(name)
        deviation = np.ones(len(members)) if regressor is None else regressor.deviation(members)
        unsure += float(ms @ np.maximum(deviation, SURE))
    return unsure / max(total, 1e-9)


def _kernels(table: LatencyTable) -> set[str]:
    keys = {row.key for row in table.rows("kernel")}
    return keys | {row.key.rpartition("@")[0] for row in table.rows("in_place")}


def _add(total: ProfileSummary, part: ProfileSummary) -> None:
    for name in ("measured", "skipped", "failed", "in_place", "repeated_blocks", "marked_blocks"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.seconds += part.seconds
    total.reasons.update(part.reasons)
    total.reference_ms += part.reference_ms
    total.drift = part.drift or total.drift
