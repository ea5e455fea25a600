"""Two tables beside each other, of one chip or of two: the ratio of every kernel that both hold."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.graph.kernel import Kernel
from factory.latency.facts import occurrence
from factory.latency.features import family
from factory.profiling.table import LatencyTable

BIGGEST = 10


def compare(a: LatencyTable, b: LatencyTable, biggest: int = BIGGEST) -> dict[str, Any]:
    """Ratios b / a of what both tables measured, kernels in place before kernels alone.

    Where the tables differ in precision, kernels are joined without their data type.

    Raises:
        InputError: they have nothing in common.
    """
    mixed = a.dtype != b.dtype
    kinds: dict[str, Any] = {}
    for kind in ("in_place", "kernel", "network"):
        times_a, times_b = _times(a, kind, mixed), _times(b, kind, mixed)
        common = sorted(times_a.keys() & times_b.keys())
        if common:
            ratio = np.array([times_b[key] / times_a[key] for key in common])
            first = np.array([times_a[key] for key in common])
            kinds[kind] = {
                **_statistics(first, first * ratio),
                "only_a": len(times_a.keys() - times_b.keys()),
                "only_b": len(times_b.keys() - times_a.keys()),
                "families": [] if kind == "network" else _by_family(common, ratio),
                "biggest": _biggest(common, times_a, times_b, biggest),
                "ratios": dict(zip(common, ratio.tolist(), strict=True)),
            }
    if not kinds:
        raise InputError(
            f"{a.path.name} and {b.path.name} have no kernel or network in common",
            fix="profile both chips in the same way, with the same seed",
        )
    facts_a, facts_b = a.fingerprint, b.fingerprint
    return {
        "differing": {
            key: [facts_a.get(key), facts_b.get(key)]
            for key in sorted({*facts_a, *facts_b})
            if facts_a.get(key) != facts_b.get(key)
        },
        "kinds": kinds,
    }


def _times(table: LatencyTable, kind: str, mixed: bool) -> dict[str, float]:
    """Key -> ms; a kernel in place is the mean over its occurrences in all networks."""
    total: dict[str, float] = defaultdict(float)
    number: dict[str, float] = defaultdict(float)
    for row in table.rows(kind):
        if not row.ok or row.median_ms <= 0:
            continue
        key, count, ms = row.key, 1.0, row.median_ms
        if kind == "in_place":
            kernel, count = occurrence(row)
            key = str(kernel)
        elif kind == "kernel":
            ms *= 1.0 - min(row.reorder_share, 0.9)
        if kind != "network" and mixed:
            key = str(Kernel.parse(key).with_dtype("f32"))
        total[key] += count * ms
        number[key] += count
    return {key: total[key] / number[key] for key in total}


def _statistics(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    ratio = second / first
    low, middle, high = np.quantile(ratio, [0.1, 0.5, 0.9])
    return {
        "common": len(ratio),
        "median_ratio": float(middle),
        "p10_ratio": float(low),
        "p90_ratio": float(high),
        "spread_percent": float(100 * (high - low) / (2 * middle)),
        "rank_correlation": _spearman(first, second),
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3:
        return None
    ranks = [_ranks(values) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    length = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float(centred[0] @ centred[1]) / length if length > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(middle[position])


def _by_family(keys: list[str], ratio: np.ndarray) -> list[dict[str, Any]]:
    members: dict[str, list[float]] = defaultdict(list)
    for key, value in zip(keys, ratio.tolist(), strict=True):
        members[family(Kernel.parse(key))].append(value)
    return [
        {"family": name, "common": len(values), "median_ratio": float(np.median(values))}
        for name, values in sorted(members.items(), key=lambda item: -len(item[1]))
    ]


def _biggest(
    keys: list[str], a: dict[str, float], b: dict[str, float], number: int
) -> list[dict[str, Any]]:
    """The ratios that are farthest from the usual one."""
    usual = float(np.median([b[key] / a[key] for key in keys]))
    ordered = sorted(keys, key=lambda key: (-abs(np.log(b[key] / a[key] / usual)), key))
    return [
        {"key": key, "a_ms": a[key], "b_ms": b[key], "ratio": b[key] / a[key]}
        for key in ordered[:number]
    ]
