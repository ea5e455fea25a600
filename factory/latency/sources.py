"""Where a kernel's time comes from: measured alone, in place in traced networks, or inferred.

A fit takes the source that predicts networks it has not seen better; which one that is depends on
the execution provider. Times in place carry no bias of warm caches; where a provider shows no
trace there are none. There, kernels alone with a correction serve networks of one size and kind,
and times that are inferred from whole networks serve any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.facts import MIN_NETWORKS_TO_INFER, Facts
from factory.latency.features import family
from factory.latency.inferred import infer_times
from factory.latency.predictor import INFERRED

ISOLATED, IN_PLACE = "isolated", "in_place"
MIN_TRACED_NETWORKS = 3
ENOUGH_TIMED = 0.5  # of the networks' kernels, for times of kernels alone to say something


@dataclass(frozen=True)
class Source:
    """One way to read kernel times from facts.

    Attributes:
        name: "isolated", "inferred" or "in_place".
        facts: the facts of the table.
        changes: whether the times depend on which networks are left out.
    """

    name: str
    facts: Facts
    changes: bool

    @property
    def measures(self) -> bool:
        """Whether its times were measured, so that they may be looked up."""
        return self.name != INFERRED

    def times(self, left_out: Collection[str] = ()) -> dict[Kernel, float]:
        """Time of each measured kernel in ms, without what the networks ``left_out`` told."""
        if self.name == ISOLATED:
            return dict(self.facts.kernel_ms)
        if self.name == INFERRED:
            return dict(self._inferred) if not left_out else _infer(self.facts, left_out)
        total: dict[Kernel, float] = defaultdict(float)
        count: dict[Kernel, float] = defaultdict(float)
        hidden = set(left_out)
        for fact in self.facts.in_place:
            if fact.network not in hidden:
                total[fact.kernel] += fact.count * fact.ms
                count[fact.kernel] += fact.count
        found = {kernel: total[kernel] / count[kernel] for kernel in total}
        alone = self.facts.kernel_ms
        ratios = _ratios(found, alone)
        for kernel in alone.keys() - found.keys():
            found[kernel] = alone[kernel] * ratios.get(family(kernel), ratios[""])
        return dict(sorted(found.items()))

    @cached_property
    def _inferred(self) -> dict[Kernel, float]:
        """From all networks: a fit asks for it twice, for itself and to judge its folds by."""
        return _infer(self.facts, ())

    def sightings(self, left_out: Collection[str] = ()) -> Counter[Kernel]:
        """In how many networks each kernel was timed in place; none for kernels timed alone."""
        if self.name != IN_PLACE:
            return Counter()
        hidden = set(left_out)
        return Counter(fact.kernel for fact in self.facts.in_place if fact.network not in hidden)


def _infer(facts: Facts, left_out: Collection[str]) -> dict[Kernel, float]:
    known = [network for network in facts.networks if network.key not in left_out]
    measured_ms = np.array([network.median_ms for network in known])
    return infer_times([network.counts for network in known], measured_ms)


def sources(facts: Facts) -> list[Source]:
    """The sources that these facts allow, at least one; the one to be preferred last.

    Where nothing is traced that is kernels alone, if those of the networks were timed at all: a
    profile of one size times them, a profile for any network does not.
    """
    found = []
    traced = {fact.network for fact in facts.in_place}
    infers = not traced and len(facts.networks) >= MIN_NETWORKS_TO_INFER
    if infers:
        found.append(Source(INFERRED, facts, True))
    if facts.kernel_ms and not (infers and _timed_share(facts) < ENOUGH_TIMED):
        found.append(Source(ISOLATED, facts, False))
    if len(traced) >= MIN_TRACED_NETWORKS or not found:
        found.append(Source(IN_PLACE, facts, True))
    return found


def _timed_share(facts: Facts) -> float:
    """Share of the networks' kernels that were timed alone."""
    kernels = {kernel for network in facts.networks for kernel in network.counts}
    return sum(kernel in facts.kernel_ms for kernel in kernels) / max(len(kernels), 1)


def _ratios(in_place: dict[Kernel, float], alone: dict[Kernel, float]) -> dict[str, float]:
    """Family -> median of in place over alone; "" stands for every other family."""
    by_family: dict[str, list[float]] = defaultdict(list)
    for kernel in in_place.keys() & alone.keys():
        by_family[family(kernel)].append(in_place[kernel] / alone[kernel])
    ratios = {name: float(np.median(values)) for name, values in by_family.items()}
    everything = [value for values in by_family.values() for value in values]
    ratios[""] = float(np.median(everything)) if everything else 1.0
    return ratios
