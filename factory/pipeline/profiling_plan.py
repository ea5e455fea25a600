"""What is measured on a chip for networks of given sizes: kernels, and random networks as ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from factory.core.errors import unknown_name
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, mirrored
from factory.graph.canonical import canonicalise
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.latency.design import d_optimal
from factory.profiling.fusion_tests import measure_fusion
from factory.profiling.profiler import (
    first_networks_again,
    profile_kernels,
    profile_networks,
)
from factory.profiling.settings import ProfileSettings, ProfileSummary
from factory.profiling.table import LatencyTable
from factory.spaces.base import SearchSpace

A = TypeVar("A")  # architecture of a space
DESIGN_POOL = 8  # times as many random networks for the designed half to be chosen from
DESIGN_RIDGE = 1e-4  # shares are small numbers

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


def kernels_of(
    spaces: Sequence[SearchSpace[Any]], dtype: str, activations: tuple[str, ...] = ()
) -> list[Kernel]:
    """Every kernel that some network of these spaces runs, each once, sorted."""
    found = {kernel for space in spaces for kernel in space.all_kernels(dtype, activations)}
    return sorted(found)


def planned_genotypes(space: SearchSpace[A], count: int, pool: int, seed: int) -> list[A]:
    """``count`` random genotypes: half by design, half spread evenly over the MACs of ``pool``.

    The designed ones are the D-optimal choice among DESIGN_POOL times as many, on the share that
    each kernel has in an assumed time: networks in which few kernels take most of the time, as a
    search under a budget finds them, and a random choice does not. Nothing is measured yet, and the
    choice must be the same when an interrupted profile goes on.
    """
    rng = np.random.default_rng([seed, 7])
    genotypes = [space.random(rng) for _ in range(DESIGN_POOL * max(pool, count))]
    presence = space.presence()
    counts_NK = presence.counts(space.one_hot_many(genotypes))
    macs = np.array([kernel.macs for kernel in presence.kernels], dtype=float)
    order = np.argsort(counts_NK[: max(pool, count)] @ macs, kind="stable")
    spread = np.linspace(0, len(order) - 1, count - count // 2).round().astype(int)
    chosen = order[spread].tolist()
    if count // 2:
        times_NK = counts_NK * np.array([_assumed_us(kernel) for kernel in presence.kernels])
        shares_NK = times_NK / times_NK.sum(axis=1, keepdims=True)
        chosen += d_optimal(shares_NK, count // 2, ridge=DESIGN_RIDGE).tolist()
    return [genotypes[i] for i in dict.fromkeys(chosen)]


def _assumed_us(kernel: Kernel) -> float:
    """A time for the design only: 20 G MACs/s, 10 GB/s and 3 us a kernel."""
    moved = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
    return 3.0 + kernel.macs / 20e3 + moved / 10e3


def random_networks(
    spaces: Sequence[SearchSpace[Any]],
    dtype: str,
    count: int,
    pool: int,
    seed: int,
    fusion: FusionRules = NO_RULES,
) -> list[tuple[Counter[Kernel], bytes]]:
    """Random networks of each space, ``count`` in all, as kernel counts and ONNX bytes.

    ``fusion`` are the rules by which the device's kernels are counted.
    """
    networks = []
    for number, space in enumerate(spaces):
        share = count // len(spaces) + (number < count % len(spaces))
        if not share:
            continue
        for index, genotype in enumerate(planned_genotypes(space, share, pool, seed + number)):
            model = network_bytes(space, genotype, dtype, seed + index)
            networks.append((space.kernels(genotype, dtype, fusion), model))
    return networks


def network_bytes(space: SearchSpace[A], genotype: A, dtype: str, seed: int = 0) -> bytes:
    """A network's ONNX file with random weights."""
    model = to_onnx(canonicalise(space.lower(genotype)), dtype, seed)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


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
    spaces: Sequence[SearchSpace[Any]],
    *,
    networks: int,
    pool: int,
    effort: str,
    seed: int,
    activations: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> Measured:
    """Measure what the table does not hold yet; a killed call goes on when called again."""
    settings = effort_settings(effort)
    progress = mirrored(device, progress)
    dtype = device.profile.dtype
    fusion = measure_fusion(device, table, progress)
    wanted = kernels_of(spaces, dtype, activations)
    kernels = profile_kernels(device, wanted, table, settings, progress)
    samples = random_networks(spaces, dtype, networks, pool, seed, fusion)
    done = profile_networks(device, samples, table, settings, progress)
    if done.measured:
        again = first_networks_again(device, samples, table, settings, progress)
        done.drift = again.drift or done.drift
        done.seconds += again.seconds
    return Measured(kernels, done)
