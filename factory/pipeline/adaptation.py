"""Few-shot adaptation of a device: candidate networks, the few that are measured, the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, mirrored
from factory.devices.profile import DeviceProfile, load_profile
from factory.graph.canonical import kernel_counts
from factory.graph.onnx_build import to_onnx
from factory.latency.chip_transfer import (
    LEAST_MEASUREMENTS,
    Counts,
    Transfer,
    bases,
    choose_networks,
    transfer,
)
from factory.latency.facts import parse_counts, quiet_ratio, undisturbed_ms
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.network_samples import SAMPLERS, sample_network
from factory.pipeline.profiling_plan import network_bytes
from factory.pipeline.tables import predictor_for
from factory.profiling.profiler import profile_networks
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable
from factory.spaces.base import SearchSpace

CANDIDATES = 160
ADAPT_SEED = 3  # first part of the numbers of the candidate networks
MOST_MEASUREMENTS = 200
# A network of ten decides a weight: each is timed for longer than in a profile, and not traced.
SETTINGS = ProfileSettings(network_time_ms=1000.0, network_trace_runs=0)


@dataclass(frozen=True)
class Candidate:
    """A network that may be measured; its ONNX bytes are made when it is."""

    counts: Counts
    build: Callable[[], bytes]


def known_predictors(
    device: DeviceProfile, known: Sequence[str | Path]
) -> tuple[list[LatencyPredictor], list[Path]]:
    """(predictors, their files) of the known devices, each with a latency table of its own.

    Raises:
        InputError: none is named, one twice, the new device itself, one without a table, or one of
            another precision.
    """
    if not known:
        raise InputError("no known chip was named", fix="name one or more with --from DEVICE")
    predictors, paths, seen = [], [], set()
    for name in known:
        profile = load_profile(name)
        if profile.id == device.id:
            raise InputError(
                f"device {device.id!r} is to be adapted from itself",
                fix="name other devices with --from, or profile it with `factory profile`",
            )
        if profile.id in seen:
            raise InputError(f"known device {profile.id!r} is named twice", fix="name it once")
        if profile.dtype != device.dtype:
            raise InputError(
                f"device {device.id!r} runs {device.precision}, "
                f"known device {profile.id!r} runs {profile.precision}",
                why="a table belongs to one precision",
                fix="name known devices of the same precision (`factory devices` lists them)",
            )
        seen.add(profile.id)
        predictor, path = predictor_for(profile, None)
        predictors.append(predictor)
        paths.append(path)
    return predictors, paths


def candidates_of_any(dtype: str, seed: int, count: int = CANDIDATES) -> list[Candidate]:
    """Random networks of every space at random sizes."""
    found = []
    for number in range(count):
        graph = sample_network(list(SAMPLERS)[number % len(SAMPLERS)], ADAPT_SEED, seed, number)

        def build(graph: object = graph) -> bytes:
            return bytes(to_onnx(graph, dtype).SerializeToString(deterministic=True))  # type: ignore[arg-type]

        found.append(Candidate(kernel_counts(graph, dtype), build))
    return found


def candidates_of_spaces(
    spaces: Sequence[SearchSpace[Any]], dtype: str, seed: int, count: int = CANDIDATES
) -> list[Candidate]:
    """Random networks of some spaces, as many of each."""
    found = []
    for number, space in enumerate(spaces):
        rng = np.random.default_rng([ADAPT_SEED, seed, number])
        for index in range(-(-count // len(spaces))):
            genotype = space.random(rng)

            def build(
                space: object = space, genotype: object = genotype, index: int = index
            ) -> bytes:
                return network_bytes(space, genotype, dtype, seed + index)  # type: ignore[arg-type]

            found.append(Candidate(space.kernels(genotype, dtype), build))
    return found


def choose_candidates(
    predictors: Sequence[LatencyPredictor],
    candidates: Sequence[Candidate],
    count: int,
    seed: int,
) -> list[Candidate]:
    """The networks to measure, chosen by what the known chips imply."""
    if not LEAST_MEASUREMENTS <= count <= min(MOST_MEASUREMENTS, len(candidates)):
        raise InputError(
            f"{count} measurements are not accepted",
            fix=f"give a number from {LEAST_MEASUREMENTS} to "
            f"{min(MOST_MEASUREMENTS, len(candidates))}, about ten",
        )
    known = bases(predictors, [one.counts for one in candidates])
    return [candidates[int(i)] for i in choose_networks(known, count, seed=seed)]


def measure(
    device: Device,
    table: LatencyTable,
    chosen: Sequence[Candidate],
    progress: Progress = SILENT,
) -> ProfileSummary:
    """Measure the chosen networks that the table does not hold yet."""
    batch = [(one.counts, one.build()) for one in chosen]
    return profile_networks(device, batch, table, SETTINGS, mirrored(device, progress))  # type: ignore[arg-type]


def adapt_table(
    table: LatencyTable,
    predictors: Sequence[LatencyPredictor],
    candidates: Sequence[Candidate],
) -> Transfer:
    """The predictor of a table's device from its measured networks and the known chips'.

    The candidates tell what networks look like; they are not measured here.
    """
    rows = [row for row in table.rows("network") if row.ok and row.kernels]
    quiet = quiet_ratio(rows)
    networks = [parse_counts(row.kernels) for row in rows]
    known = bases(predictors, [*networks, *(one.counts for one in candidates)])
    measured_ms = np.array([undisturbed_ms(row, quiet) for row in rows])
    return transfer(known, np.arange(len(rows)), measured_ms, table.device_id, table.path.name)
