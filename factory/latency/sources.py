"""Where a kernel's time comes from: measured alone, or in place within traced networks.

A fit takes the source that predicts networks it has not seen better; which one that is depends on
the execution provider. Times in place carry no bias of warm caches; where a provider shows no
trace there are none, and kernels alone with a correction have to do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.facts import Facts
from factory.latency.features import family

ISOLATED, IN_PLACE = "isolated", "in_place"
MIN_TRACED_NETWORKS = 3


@dataclass(frozen=True)
class Source:
    """One way to read kernel times from facts.

    Attributes:
        name: "isolated" or "in_place".
        facts: the facts of the table.
        changes: whether the times depend on which networks are left out.
    """

    name: str
    facts: Facts
    changes: bool

    def times(self, left_out: Collection[str] = ()) -> dict[Kernel, float]:
        """Time of each measured kernel in ms, without what the networks ``left_out`` told."""
        if self.name == ISOLATED:
            return dict(self.facts.kernel_ms)
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

    def sightings(self, left_out: Collection[str] = ()) -> Counter[Kernel]:
        """In how many networks each kernel was timed in place; none for kernels timed alone."""
        if self.name == ISOLATED:
            return Counter()
        hidden = set(left_out)
        return Counter(fact.kernel for fact in self.facts.in_place if fact.network not in hidden)


def sources(facts: Facts) -> list[Source]:
    """The sources that these facts allow, at least one."""
    found = []
    if facts.kernel_ms:
        found.append(Source(ISOLATED, facts, False))
    if len({fact.network for fact in facts.in_place}) >= MIN_TRACED_NETWORKS or not found:
        found.append(Source(IN_PLACE, facts, True))
    return found


def _ratios(in_place: dict[Kernel, float], alone: dict[Kernel, float]) -> dict[str, float]:
    """Family -> median of in place over alone; "" stands for every other family."""
    by_family: dict[str, list[float]] = defaultdict(list)
    for kernel in in_place.keys() & alone.keys():
        by_family[family(kernel)].append(in_place[kernel] / alone[kernel])
    ratios = {name: float(np.median(values)) for name, values in by_family.items()}
    everything = [value for values in by_family.values() for value in values]
    ratios[""] = float(np.median(everything)) if everything else 1.0
    return ratios
