"""What is measured on a chip for networks of given sizes: kernels, and random networks as ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from factory.core.errors import unknown_name
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, mirrored
from factory.graph.canonical import canonicalise
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.profiling.profiler import profile_kernels, profile_networks
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable
from factory.spaces.base import SearchSpace
from factory.spaces.config import Spec, space_of

A = TypeVar("A")  # architecture of a space

EFFORTS = {
    # The networks are traced too: what that takes is saved on each kernel alone.
    "quick": ProfileSettings(min_time_ms=180.0, network_time_ms=500.0),
    "full": ProfileSettings(
        rounds=8,
        min_runs=40,
        min_time_ms=400.0,
        warmup_time_ms=60.0,
        network_time_ms=1000.0,
    ),
}


def effort_settings(effort: str) -> ProfileSettings:
    """The settings of "quick" or "full"."""
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    return EFFORTS[effort]


def kernels_of(specs: Sequence[Spec], dtype: str) -> list[Kernel]:
    """Every kernel that some network of these sizes runs, each once, sorted."""
    found = {kernel for spec in specs for kernel in space_of(spec).all_kernels(dtype)}
    return sorted(found)


def spread_genotypes(space: SearchSpace[A], count: int, pool: int, seed: int) -> list[A]:
    """``count`` random genotypes, spread evenly over the MACs of a random ``pool``.

    MACs stand for the latency here: nothing is measured yet, and the choice must be the same when
    an interrupted profile goes on.
    """
    rng = np.random.default_rng([seed, 7])
    genotypes = [space.random(rng) for _ in range(max(pool, count))]
    presence = space.presence()
    macs = np.array([kernel.macs for kernel in presence.kernels], dtype=float)
    totals = presence.counts(space.one_hot_many(genotypes)) @ macs
    order = np.argsort(totals, kind="stable")
    chosen = np.linspace(0, len(order) - 1, count).round().astype(int)
    return [genotypes[order[i]] for i in dict.fromkeys(chosen.tolist())]


def random_networks(
    specs: Sequence[Spec], dtype: str, count: int, pool: int, seed: int
) -> list[tuple[Counter[Kernel], bytes]]:
    """Random networks of each size, ``count`` in all, as kernel counts and ONNX bytes."""
    networks = []
    for number, spec in enumerate(specs):
        share = count // len(specs) + (number < count % len(specs))
        if not share:
            continue
        space = space_of(spec)
        for index, genotype in enumerate(spread_genotypes(space, share, pool, seed + number)):
            networks.append(network_bytes(space, genotype, dtype, seed + index))
    return networks


def network_bytes(
    space: SearchSpace[A], genotype: A, dtype: str, seed: int = 0
) -> tuple[Counter[Kernel], bytes]:
    """Kernel counts of a network and its ONNX file with random weights."""
    model = to_onnx(canonicalise(space.lower(genotype)), dtype, seed)
    content: bytes = model.SerializeToString(deterministic=True)
    return space.kernels(genotype, dtype), content


@dataclass(frozen=True)
class Measured:
    """What one call of :func:`measure_chip` did."""

    kernels: ProfileSummary
    networks: ProfileSummary

    @property
    def seconds(self) -> float:
        """Time spent in both parts."""
        return self.kernels.seconds + self.networks.seconds

    @property
    def failed(self) -> int:
        """Rows that failed."""
        return self.kernels.failed + self.networks.failed


def measure_chip(
    device: Device,
    table: LatencyTable,
    specs: Sequence[Spec],
    *,
    networks: int,
    pool: int,
    effort: str,
    seed: int,
    progress: Progress = SILENT,
) -> Measured:
    """Measure what the table does not hold yet; a killed call goes on when called again."""
    settings = effort_settings(effort)
    progress = mirrored(device, progress)
    dtype = device.profile.dtype
    kernels = profile_kernels(device, kernels_of(specs, dtype), table, settings, progress)
    samples = random_networks(specs, dtype, networks, pool, seed)
    return Measured(kernels, profile_networks(device, samples, table, settings, progress))
