"""Rows of a latency table that disagree with their neighbours or with an earlier run.

For each family of kernels, alone and in place apart, a ridge on the logarithm of the time (refitted
with Huber's weights, so that no outlier pulls it) takes out the trend, and a Gaussian process what
bends; it is fitted to the rows of other networks, cut off at CUT deviations. What is left of a row
is compared with the weighted median of its nearest neighbours in feature space, rows of its own
network left out: where the same kernel was timed in other networks, these are nearest. A row
disagrees when it is off by more than SIGMAS robust deviations, by a factor of more than FACTOR, and
by more than what the clock can tell. A row without near neighbours is not judged: nothing speaks
against it.

The kernels of a network sum to its time. Where that sum is off as a whole, the network was
disturbed and none of its rows is believed; where a single kernel is off, only that one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.facts import SUM_TOLERANCE, at_usual_speed, occurrence, reference_share
from factory.latency.features import FeatureSpace, family
from factory.latency.gaussian import fit_gaussian
from factory.profiling.reference import reference_rows, usual_reference_ms
from factory.profiling.rows import Row

SIGMAS = 5.0
FACTOR = 1.5  # a kernel that is off by less may simply be different
NETWORK_FACTOR = 1.25  # sums of many kernels scatter less
RUN_FACTOR = 1.2  # of the same kernel measured twice, at the chip's usual speed
LEAST_MS = 0.005  # what a trace in whole microseconds and a session's start can tell
LEAST_MS_A_NODE = 0.002  # the same, of a whole network
LEAST_SIGMA = 0.03
NEIGHBOURS = 9
FEWEST_ROWS = 12
FAR = 3.0  # how many times farther than usual the nearest neighbour may be
RIDGE = 1.0
HUBER = 1.345
ROUNDS = 6
SPOILT_SHARE = 0.2  # of a network's time in doubtful kernels: the others got what these did not
LEAST_WEIGHT = 0.05
MOST_WEIGHT = 0.25  # of all neighbours in one: a single one may be wrong itself
CUT = 3.0
FOLDS = 5
PASSES = 5
WORST = 0.7  # doubts of at least this share of the worst are left out in a pass
CHUNK = 512


@dataclass(frozen=True)
class Doubt:
    """A row that is not to be believed, and why."""

    row: Row
    expected_ms: float
    by: str  # "neighbours", "earlier run" or "network"
    reason: str


@dataclass
class Judgement:
    """The doubts, and how much could be judged at all."""

    doubts: list[Doubt] = field(default_factory=list)
    judged: int = 0
    unjudged: int = 0


@dataclass
class _Point:
    """One timed kernel at the chip's usual speed."""

    row: Row
    kernel: Kernel
    ms: float
    count: float
    network: str  # "" where it was timed alone
    expected_ms: float = 0.0  # 0: cannot be said
    off: float = 0.0  # log of measured over expected
    limit: float = np.inf

    @property
    def doubtful(self) -> bool:
        return abs(self.off) > self.limit and abs(self.ms - self.expected_ms) > LEAST_MS


def judge(table: Any, believed: frozenset[str] | set[str] = frozenset()) -> Judgement:
    """Compare the rows of a :class:`~factory.profiling.table.LatencyTable` with one another.

    Args:
        table: rows in quarantine are compared too, so that a second look finds the same.
        believed: ids of rows that a person has released; they are never doubted.
    """
    from factory.profiling.quarantine import row_id

    usual_ms = usual_reference_ms(table) or 0.0
    share = reference_share([row.median_ms for row in reference_rows(table)])
    rows = [row for row in table.all_rows() if row.ok]
    speeds = {id(row): at_usual_speed(row, usual_ms, share) for row in rows}
    points = _points(rows, speeds)
    for group in _groups(points).values():
        _expect(group)
    result = Judgement(
        judged=sum(p.expected_ms > 0 for p in points),
        unjudged=sum(p.expected_ms <= 0 for p in points),
    )
    found = _repeated(rows, points, speeds)
    found += _networks(rows, points)
    found += [_doubt(point) for point in points if point.doubtful]
    told: set[int] = set()
    for doubt in found:
        if id(doubt.row) not in told and row_id(doubt.row) not in believed:
            told.add(id(doubt.row))
            result.doubts.append(doubt)
    return result


def _points(rows: Sequence[Row], speeds: Mapping[int, float]) -> list[_Point]:
    found = []
    for row in rows:
        if row.kind not in ("kernel", "in_place") or row.median_ms <= 0:
            continue
        speed = speeds[id(row)]
        if row.kind == "kernel":
            ms = row.median_ms * (1.0 - min(row.reorder_share, 0.9)) * speed
            found.append(_Point(row, Kernel.parse(row.key), ms, 1.0, ""))
        else:
            kernel, count = occurrence(row)
            found.append(
                _Point(row, kernel, row.median_ms * speed, count, row.key.rpartition("@")[2])
            )
    return found


def _groups(points: Sequence[_Point]) -> dict[tuple[str, str], list[_Point]]:
    groups: dict[tuple[str, str], list[_Point]] = defaultdict(list)
    for point in points:
        groups[point.row.kind, family(point.kernel)].append(point)
    return groups


def _expect(points: list[_Point]) -> None:
    """What the other rows of a family make of each of its rows.

    Rows that are far off speak for no other: the worst are left out and all are judged again, so
    that a row is not doubted for standing beside a wrong one.
    """
    if len(points) < FEWEST_ROWS:
        return
    kernels = list(dict.fromkeys(point.kernel for point in points))
    position = {kernel: index for index, kernel in enumerate(kernels)}
    features = FeatureSpace.of(kernels).matrix(kernels)
    scale = features.std(axis=0)
    standard = (features - features.mean(axis=0))[:, scale > 1e-9] / scale[scale > 1e-9]
    z_ND = standard[[position[point.kernel] for point in points]]
    log_N = np.log([point.ms for point in points])
    networks = np.array([point.network or str(i) for i, point in enumerate(points)])
    speaks_N = np.ones(len(points), dtype=bool)
    for _ in range(PASSES):
        _compare(points, z_ND, log_N, networks, speaks_N)
        excess_N = np.array([abs(p.off) / p.limit if p.doubtful else 0.0 for p in points])
        worst_N = (excess_N > 0) & (excess_N >= WORST * excess_N.max()) & speaks_N
        if not worst_N.any() or (speaks_N & ~worst_N).sum() < FEWEST_ROWS:
            break
        speaks_N &= ~worst_N


def _compare(
    points: list[_Point],
    z_ND: np.ndarray,
    log_N: np.ndarray,
    networks: np.ndarray,
    speaks_N: np.ndarray,
) -> None:
    """Set ``expected_ms``, ``off`` and ``limit`` of each point from those that may speak."""
    rest_N = log_N - _trend(z_ND, log_N, speaks_N)
    rest_N = rest_N - _bend(z_ND, rest_N, networks, speaks_N)
    around_N, spread_N, nearest_N = _around(z_ND, rest_N, networks, speaks_N)
    off_N = rest_N - around_N
    known_N = np.isfinite(off_N) & np.isfinite(nearest_N)
    if not known_N.any():
        return
    reach = max(FAR * float(np.median(nearest_N[known_N])), 0.5)
    sigma = max(LEAST_SIGMA, _sigma(off_N[known_N & speaks_N]))
    for index, point in enumerate(points):
        point.expected_ms, point.off, point.limit = 0.0, 0.0, np.inf
        if known_N[index] and nearest_N[index] <= reach:
            point.off = float(off_N[index])
            point.expected_ms = float(point.ms * np.exp(-point.off))
            point.limit = max(float(np.log(FACTOR)), SIGMAS * max(sigma, float(spread_N[index])))


def _trend(z_ND: np.ndarray, log_N: np.ndarray, speaks_N: np.ndarray) -> np.ndarray:
    """A ridge that outliers do not pull: reweighted least squares with Huber's weights."""
    columns = np.hstack([np.ones((len(log_N), 1)), z_ND])
    prior = RIDGE * np.eye(columns.shape[1])
    prior[0, 0] = 1e-9
    weights = speaks_N.astype(float)
    fitted = np.zeros(len(log_N))
    for _ in range(ROUNDS):
        weighted = columns * weights[:, None]
        solution = np.linalg.solve(weighted.T @ columns + prior, weighted.T @ log_N)
        fitted = columns @ solution
        rest = np.abs(log_N - fitted)
        sigma = max(_sigma((log_N - fitted)[speaks_N]), 1e-6)
        weights = speaks_N * np.minimum(1.0, HUBER * sigma / (rest + 1e-12))
    return fitted


def _bend(
    z_ND: np.ndarray, rest_N: np.ndarray, networks: np.ndarray, speaks_N: np.ndarray
) -> np.ndarray:
    """What a Gaussian process fitted to other networks' rows makes of each row."""
    names = list(dict.fromkeys(networks.tolist()))
    order = np.random.default_rng(0).permutation(len(names))
    fold_of = {names[i]: number % FOLDS for number, i in enumerate(order)}
    folds_N = np.array([fold_of[name] for name in networks.tolist()])
    sigma = _sigma(rest_N[speaks_N])
    cut_N = np.clip(rest_N, -CUT * sigma, CUT * sigma)
    standard = np.clip(z_ND, -4.0, 4.0)
    bend = np.zeros(len(rest_N))
    for number in range(FOLDS):
        out = folds_N == number
        others = ~out & speaks_N
        if out.any() and others.sum() >= FEWEST_ROWS and sigma > 0:
            model = fit_gaussian(standard[others], cut_N[others], seed=0)
            bend[out] = model.predict(standard[out])
    return bend


def _sigma(values: np.ndarray) -> float:
    """Robust standard deviation, from the median of the absolute deviations."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def _around(
    z_ND: np.ndarray, rest_N: np.ndarray, networks: np.ndarray, speaks_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted median and spread of the neighbours of each row, and how far the nearest is."""
    number = len(rest_N)
    few = min(NEIGHBOURS, number - 1)
    squares = (z_ND**2).sum(axis=1)
    near = np.full((number, few), np.inf)
    index = np.zeros((number, few), dtype=int)
    for start in range(0, number, CHUNK):
        part = slice(start, min(start + CHUNK, number))
        far = squares[part, None] + squares[None] - 2.0 * z_ND[part] @ z_ND.T
        far[networks[part, None] == networks[None]] = np.inf
        far[:, ~speaks_N] = np.inf
        chosen = np.argpartition(far, few - 1, axis=1)[:, :few]
        index[part] = chosen
        near[part] = np.sqrt(np.maximum(np.take_along_axis(far, chosen, axis=1), 0.0))
    nearest = near.min(axis=1)
    middle_N = np.sort(near, axis=1)[:, few // 2]
    reached = middle_N[np.isfinite(middle_N)]
    usual = max(float(np.median(reached)), 0.25) if len(reached) else 0.25
    weights = np.where(np.isfinite(near), np.exp(-0.5 * (near / usual) ** 2) + LEAST_WEIGHT, 0.0)
    weights = np.minimum(weights, MOST_WEIGHT * weights.sum(axis=1, keepdims=True))
    values = rest_N[index]
    middle = _weighted_median(values, weights)
    spread = 1.4826 * _weighted_median(np.abs(values - middle[:, None]), weights)
    alone = ~np.isfinite(nearest)
    middle[alone] = np.nan
    return middle, spread, nearest


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each row: the value at which half of the weight is reached."""
    order = np.argsort(values, axis=1)
    sums = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    at = (sums >= 0.5 * sums[:, -1:]).argmax(axis=1)
    return np.asarray(np.take_along_axis(values, order, axis=1)[np.arange(len(values)), at])


def _repeated(
    rows: Sequence[Row], points: Sequence[_Point], speeds: Mapping[int, float]
) -> list[Doubt]:
    """Of two runs of one kernel or network that disagree: the one that the others contradict."""
    expected = {id(point.row): point for point in points}
    runs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind in ("kernel", "network", "in_place") and row.median_ms > 0:
            runs[row.kind, row.key].append(row)
    found = []
    for repeats in runs.values():
        while len(repeats) > 1:
            ms = np.array([row.median_ms * speeds[id(row)] for row in repeats])
            low, high = int(ms.argmin()), int(ms.argmax())
            near = ms[high] <= RUN_FACTOR * ms[low] or ms[high] - ms[low] <= LEAST_MS
            if near:
                break
            offs = [_off(row, expected.get(id(row)), ms) for row in repeats]
            worst = int(np.argmax(offs))  # the later one of equals: see _off
            row = repeats.pop(worst)
            other = float(np.median(np.delete(ms, worst)))
            found.append(
                Doubt(
                    row,
                    other,
                    "earlier run",
                    f"{row.median_ms:.4g} ms, another run of it took {other:.4g} ms",
                )
            )
    return found


def _off(row: Row, point: _Point | None, ms: np.ndarray) -> float:
    """How little a run is to be believed: off its neighbours, off the median of many runs."""
    if len(ms) > 2:
        return abs(float(np.log(row.median_ms / np.median(ms))))
    if point is not None and point.expected_ms > 0:
        return abs(point.off)
    return 1e-9 * (row.block + 1)  # nothing else tells: the later one


def _networks(rows: Sequence[Row], points: Sequence[_Point]) -> list[Doubt]:
    """Networks whose kernels are off as a whole, and those that one kernel's trace has spoilt."""
    by_network: dict[str, list[_Point]] = defaultdict(list)
    for point in points:
        if point.network:
            by_network[point.network].append(point)
    whole = {row.key: row for row in rows if row.kind == "network"}
    offs: dict[str, float] = {}
    found = []
    for key, parts in by_network.items():
        if key in whole and (fault := _sum_fault(whole[key], parts)):
            told = [Doubt(p.row, p.expected_ms, "network", fault) for p in parts]
            found += [Doubt(whole[key], sum(_spent(p) for p in parts), "network", fault), *told]
            continue
        known = [p for p in parts if p.expected_ms > 0]
        shares = np.array([[p.count * p.expected_ms for p in known]])
        shares = np.minimum(shares, MOST_WEIGHT * shares.sum())
        took = sum(p.count * p.ms for p in known)
        if key in whole and known and took >= 0.5 * sum(p.count * p.ms for p in parts):
            offs[key] = float(_weighted_median(np.array([[p.off for p in known]]), shares)[0])
    sigma = max(LEAST_SIGMA, _sigma(np.array(list(offs.values()))))
    limit = max(float(np.log(NETWORK_FACTOR)), SIGMAS * sigma)
    for key, parts in by_network.items():
        off = offs.get(key, 0.0)
        expected = whole[key].median_ms * float(np.exp(-off)) if key in whole else 0.0
        least_ms = LEAST_MS_A_NODE * sum(p.count for p in parts)
        if abs(off) > limit and abs(whole[key].median_ms - expected) > least_ms:
            row = whole[key]
            reason = (
                f"the network took {row.median_ms:.4g} ms, its kernels as timed elsewhere make "
                f"{expected:.4g} ms"
            )
            found.append(Doubt(row, expected, "neighbours", reason))
            found += [
                Doubt(p.row, p.expected_ms or p.ms * float(np.exp(-off)), "network", reason)
                for p in parts
            ]
            continue
        doubtful = sum(p.count * p.ms for p in parts if p.doubtful)
        if doubtful > SPOILT_SHARE * sum(p.count * p.ms for p in parts):
            reason = "kernels with a large share of its network's time are not believed"
            found += [_doubt(p) for p in parts if p.doubtful]
            found += [Doubt(p.row, p.expected_ms, "network", reason) for p in parts]
    return found


def _spent(point: _Point) -> float:
    """Time of all occurrences, as measured."""
    return point.count * point.row.median_ms


def _sum_fault(row: Row, parts: Sequence[_Point]) -> str:
    """Why rows in place cannot be parts of their network's time; "" when they can."""
    if len({p.row.block for p in parts} | {row.block}) > 1:  # of several runs
        return ""
    total = sum(_spent(p) for p in parts)
    if abs(total / row.median_ms - 1.0) <= SUM_TOLERANCE:
        return ""
    return (
        f"its kernels in place sum to {total:.4g} ms, the network took {row.median_ms:.4g} ms: "
        "another unit, or rows are missing"
    )


def _doubt(point: _Point) -> Doubt:
    ratio = point.ms / point.expected_ms
    unit = ""
    if 300 < ratio < 3000 or 300 < 1 / ratio < 3000:
        unit = "; a factor of about 1000: is it in milliseconds?"
    return Doubt(
        point.row,
        point.expected_ms,
        "neighbours",
        f"{point.ms:.4g} ms, kernels like it make {point.expected_ms:.4g} ms "
        f"({ratio:.3g} times){unit}",
    )
