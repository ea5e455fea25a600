"""Facts: what a latency table says, as a fit needs it (kernels, networks, repeat noise)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.profiling.fusion_rules import fusion_rules
from factory.profiling.reference import reference_rows, usual_reference_ms
from factory.profiling.rows import DISTURBED_MARKS

MAX_REORDER_SHARE = 0.9
ORDINARY_SCATTER = 0.05
REFERENCE_SHARE = 0.5  # of the reference's deviation that is taken off at least: it scatters itself
FEWEST_REFERENCES = 8  # to tell a chip that changed its speed from scatter
SUM_TOLERANCE = 0.05  # of a network's rows in place against the network
MIN_NETWORKS_TO_INFER = 20  # for times of kernels from networks alone
MOST_OF_ONE = 1e9  # occurrences of a kernel in a network
UNIT_FACTOR = 30.0  # sums of kernels alone were .4 to 2 of their network; units lie 1000 apart


@dataclass(frozen=True)
class NetworkFact:
    """One measured network: its kernels and its time."""

    key: str
    counts: Mapping[Kernel, float]
    median_ms: float


@dataclass(frozen=True)
class InPlaceFact:
    """What one occurrence of a kernel took within a network; ``count`` occurrences."""

    network: str
    kernel: Kernel
    count: float
    ms: float


@dataclass
class Facts:
    """All usable rows of one table, failures apart.

    Attributes:
        kernel_ms: time of each measured kernel without the reorders that only a single-kernel
            graph has; the median where a kernel was measured more than once.
        failed: kernel text -> why the device could not run it.
        in_place: times of kernels within the traces of whole networks.
        noise: repeat noise in percent, from the reference model and from p10-p90.
        fusion: the rules that the kernels of the networks were counted by.
    """

    device_id: str
    dtype: str
    kernel_ms: dict[Kernel, float]
    failed: dict[str, str]
    networks: list[NetworkFact]
    noise: dict[str, float] = field(default_factory=dict)
    in_place: list[InPlaceFact] = field(default_factory=list)
    fusion: FusionRules = NO_RULES


def parse_counts(text: str) -> dict[Kernel, float]:
    """'2*Conv(..);1*Add(..)' -> {kernel: 2, kernel: 1}."""
    counts: dict[Kernel, float] = {}
    for item in filter(None, text.split(";")):
        number, star, kernel_text = item.partition("*")
        try:
            if not star or not 0 < float(number) <= MOST_OF_ONE:
                raise ValueError
        except ValueError:
            raise InputError(
                f"{item!r} is not a kernel count", fix="write it as 2*Conv(...)"
            ) from None
        kernel = Kernel.parse(kernel_text)
        counts[kernel] = counts.get(kernel, 0.0) + float(number)
    return counts


def occurrence(row: Any) -> tuple[Kernel, float]:
    """The kernel of a row in place, and how often it occurs in its network."""
    counts = parse_counts(row.kernels)
    if len(counts) != 1:
        raise InputError(
            f"the row in place {row.key!r} is of {len(counts)} kernels, not of one",
            fix="take its line out of the table and profile again",
        )
    return next(iter(counts.items()))


def _kernel_ms(row: Any, quiet: float) -> float:
    share = min(max(float(row.reorder_share), 0.0), MAX_REORDER_SHARE)
    return undisturbed_ms(row, quiet) * (1.0 - share)


def quiet_ratio(rows: Iterable[Any]) -> float:
    """Median over p10 that an undisturbed row may have: what the chip's own scatter makes of it.

    The upper quartile of the rows, but no more than a little above the lower one.
    """
    ratios = [float(r.median_ms) / float(r.p10_ms) for r in rows if float(r.p10_ms) > 0]
    if not ratios:
        return 1.0
    low, high = np.quantile(ratios, [0.25, 0.75])
    return max(1.0, float(min(high, (1.0 + ORDINARY_SCATTER) * low)))


def reference_share(references_ms: Sequence[float]) -> float:
    """Share of the reference's deviation that is the chip's speed and not its own scatter.

    Half, but more where successive blocks agree better than blocks far apart: scatter is what
    neighbours differ by (half the mean square of successive differences, von Neumann 1941), the
    rest of the variance is a speed that moved. Measured: a browser at two threads that was 30 %
    slower for most of a profile, 79 % of unseen networks within 10 % at one half, 98 % at 0.8.
    """
    logs = np.log([ms for ms in references_ms if ms > 0])
    if len(logs) < FEWEST_REFERENCES or np.ptp(logs) == 0:
        return REFERENCE_SHARE
    scatter = float(np.mean(np.diff(logs) ** 2)) / 2
    return max(REFERENCE_SHARE, 1.0 - scatter / float(np.var(logs)))


def at_usual_speed(row: Any, usual_ms: float, share: float = REFERENCE_SHARE) -> float:
    """Factor from the speed that the chip had in this row's block to its usual speed.

    A clock that moves by 10 % between blocks moves the reference model and everything else.
    ``share`` of it (:func:`reference_share`) is taken off on the log scale. (Half, measured: it
    halved the scatter between passes over 169 networks on a steady machine; all of it did not help
    more than the reference's own scatter cost.)
    """
    here_ms = float(getattr(row, "reference_ms", 0.0))
    if usual_ms <= 0 or here_ms <= 0:
        return 1.0
    return float((usual_ms / here_ms) ** share)


def undisturbed_ms(row: Any, quiet: float) -> float:
    """The median, but no more than p10 times the table's quiet ratio.

    On a busy machine medians scatter where p10 stays put (other load took 7-9 ms for a model of
    7 ms, p10 1 %); on a quiet one the two agree and the median stands.
    """
    median, p10 = float(row.median_ms), float(row.p10_ms)
    return min(median, p10 * quiet) if p10 > 0 else median


def _usable(row: Any) -> bool:
    return bool(row.status == "ok" and float(row.median_ms) > 0)


def _noise(references: Iterable[Any], networks: list[Any], quiet: float) -> dict[str, float]:
    noise: dict[str, float] = {}
    medians = np.array([undisturbed_ms(r, quiet) for r in references if _usable(r)])
    if len(medians) > 1:
        middle = float(np.median(medians))
        noise["reference_spread_percent"] = float(
            100 * np.quantile(np.abs(medians / middle - 1.0), 0.9)
        )
        noise["reference_repeats"] = float(len(medians))
    spreads = [
        (float(r.p90_ms) - float(r.p10_ms)) / float(r.median_ms) for r in networks if _usable(r)
    ]
    noise["quiet_ratio"] = quiet
    if spreads:
        disturbed = [undisturbed_ms(r, quiet) < 0.95 * r.median_ms for r in networks if _usable(r)]
        noise["disturbed_networks"] = float(sum(disturbed))
        noise["network_p10_p90_percent"] = float(100 * np.median(spreads))
    return noise


def read_facts(table: Any) -> Facts:
    """The usable rows of a :class:`~factory.profiling.table.LatencyTable`.

    Raises InputError when it has no measured kernel or kernels of several precisions.
    """
    where = f"latency table {table.path}"
    times: dict[Kernel, list[float]] = defaultdict(list)
    failed: dict[str, str] = {}
    kernel_rows = list(table.rows("kernel"))
    usual_ms = usual_reference_ms(table) or 0.0
    references = reference_rows(table)
    share = reference_share([float(r.median_ms) for r in references])
    rows = _undisturbed(table.rows("network"))
    quiet = quiet_ratio(r for r in kernel_rows or rows if _usable(r))
    for row in kernel_rows:
        if _usable(row):
            times[Kernel.parse(row.key)].append(
                _kernel_ms(row, quiet) * at_usual_speed(row, usual_ms, share)
            )
        else:
            failed[str(row.key)] = str(row.reason) or "failed"
    whole_ms = {
        str(row.key): undisturbed_ms(row, quiet) * at_usual_speed(row, usual_ms, share)
        for row in rows
        if _usable(row)
    }
    shares = {
        str(row.key): whole_ms[str(row.key)] / float(row.median_ms) for row in rows if _usable(row)
    }
    in_place = _in_place(table, shares)
    merged: dict[str, tuple[Any, list[float]]] = {}
    for row in rows:
        if _usable(row) and row.kernels:
            merged.setdefault(str(row.key), (row, []))[1].append(whole_ms[str(row.key)])
    networks = [
        NetworkFact(key, parse_counts(row.kernels), float(np.median(medians)))
        for key, (row, medians) in sorted(merged.items())
    ]
    if not times and not in_place and len(networks) < MIN_NETWORKS_TO_INFER:
        raise InputError(
            "no measured kernel",
            where=where,
            why=_why_nothing(failed, len(networks)),
            fix="measure some with `factory profile`",
        )
    named = [*times, *(fact.kernel for fact in in_place)]
    named += [kernel for network in networks for kernel in network.counts]
    dtypes = sorted({kernel.dtype for kernel in named})
    if table.dtype == "f32" and dtypes != ["f32"]:
        raise InputError(
            f"kernels of several precisions ({', '.join(dtypes)})",
            where=where,
            why="a table belongs to one (device, runtime, execution provider, precision)",
            fix="profile each precision into a table of its own",
        )
    kernel_ms = {kernel: float(np.median(values)) for kernel, values in sorted(times.items())}
    for kernel in kernel_ms:
        failed.pop(str(kernel), None)
    held = {str(row.key).rpartition("@")[2] for row in getattr(table, "quarantined", ())}
    whole = [network for network in networks if network.key not in held]  # no row in quarantine
    _check_units(where, whole, kernel_ms, in_place)
    return Facts(
        device_id=str(table.device_id),
        dtype=table.dtype,
        kernel_ms=kernel_ms,
        failed=dict(sorted(failed.items())),
        networks=networks,
        noise=_noise(references, rows, quiet),
        in_place=in_place,
        fusion=fusion_rules(table),
    )


def _undisturbed(rows: Iterable[Any]) -> list[Any]:
    """Without the rows that a profile marked as disturbed, where half and more are not marked.

    A network that other programs interrupted in every run is slower by any factor, and its p10 too.
    """
    found = list(rows)
    calm = [row for row in found if not str(row.reason).startswith(DISTURBED_MARKS)]
    return calm if 2 * len(calm) >= len(found) else found


def _why_nothing(failed: Mapping[str, str], networks: int) -> str:
    if networks:
        return f"{networks} networks without a trace; it takes {MIN_NETWORKS_TO_INFER} to infer any"
    return f"{len(failed)} rows, all failed" if failed else "the table is empty"


def _check_units(
    where: str,
    networks: list[NetworkFact],
    kernel_ms: Mapping[Kernel, float],
    in_place: list[InPlaceFact],
) -> None:
    """Refuse kernels and networks that cannot be in the same unit, milliseconds."""
    fix = "times are milliseconds; remove these rows and run `factory profile` again"
    sums: dict[str, float] = defaultdict(float)
    for fact in in_place:
        sums[fact.network] += fact.count * fact.ms
    ratios = []
    for network in networks:
        total = sums.get(network.key)
        if total is not None and abs(total / network.median_ms - 1.0) > SUM_TOLERANCE:
            raise InputError(
                f"the kernels in place of network {network.key} sum to {total:.4g} ms, "
                f"the network took {network.median_ms:.4g} ms",
                where=where,
                why="they are parts of that time: units are mixed or rows are missing",
                fix=fix,
            )
        if network.counts and all(kernel in kernel_ms for kernel in network.counts):
            alone = sum(n * kernel_ms[kernel] for kernel, n in network.counts.items())
            ratios.append(alone / network.median_ms)
    middle = float(np.median(ratios)) if ratios else 1.0
    if not 1 / UNIT_FACTOR < middle < UNIT_FACTOR:
        raise InputError(
            f"the kernels of a network sum to {middle:.3g} times the network",
            where=where,
            why="kernels and networks cannot be in the same unit",
            fix=fix,
        )


def _in_place(table: Any, shares: Mapping[str, float]) -> list[InPlaceFact]:
    """The rows of kernels within networks; a row without a time was folded into a neighbour.

    They sum to the network's median and change with it: ``shares`` is by how much, by network.
    """
    found = []
    for row in table.rows("in_place"):
        if row.status == "ok":
            kernel, count = occurrence(row)
            network = str(row.key).rpartition("@")[2]
            if network in shares:
                ms = float(row.median_ms) * shares[network]
                found.append(InPlaceFact(network, kernel, count, ms))
    return sorted(found, key=lambda fact: (fact.network, fact.kernel))
