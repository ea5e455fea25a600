"""What a table says, and what it must not say: times in place, mixed units."""

from types import SimpleNamespace

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.graph.kernel import Kernel
from factory.latency.facts import REFERENCE_SHARE, occurrence, read_facts, reference_share
from factory.latency.sources import sources
from factory.profiling.rows import Row

CONV = "Conv(x=1x16x32x32,w=32x16x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)"
ADD = "Add(x=1x32x32x32+1x32x32x32,dtype=f32)"
MORE = "Conv(x=1x32x32x32,w=32x32x1x1,s=1,p=0,d=1,g=1,act=none,dtype=f32)"


def row(kind, key, ms, kernels="", p10=None):
    return SimpleNamespace(
        kind=kind, key=key, kernels=kernels, median_ms=ms, p10_ms=p10 or ms, p90_ms=ms,
        reorder_share=0.0, status="ok", reason="",
    )  # fmt: skip


class Table:
    path, device_id, dtype = "t.csv", "some-chip", "f32"

    def __init__(self, *rows):
        self._rows = rows

    def rows(self, kind):
        return [one for one in self._rows if one.kind == kind]


def traced(number, conv_ms, add_ms, whole_ms=None, p10=None):
    key = f"net:{number:012d}"
    whole = whole_ms or 2 * conv_ms + add_ms
    return [
        row("in_place", f"{CONV}@{key}", conv_ms, f"2*{CONV}"),
        row("in_place", f"{ADD}@{key}", add_ms, f"1*{ADD}"),
        row("network", key, whole, f"2*{CONV};1*{ADD}", p10),
    ]


def test_times_in_place_are_means_over_the_networks_that_may_speak():
    rows = [*traced(0, 1.0, 0.0), *traced(1, 1.1, 0.3), *traced(2, 1.2, 0.0)]
    facts = read_facts(Table(*rows, row("kernel", MORE, 0.5), row("kernel", CONV, 2.2)))
    isolated, in_place = sources(facts)
    conv, add, more = map(Kernel.parse, (CONV, ADD, MORE))
    assert isolated.times() == {conv: 2.2, more: 0.5}
    assert in_place.times()[conv] == pytest.approx(1.1)
    assert in_place.times()[add] == pytest.approx(0.1)  # the runtime folds two of three away
    assert in_place.times()[more] == pytest.approx(0.5 * 1.1 / 2.2)  # alone it is biased
    assert in_place.times({"net:000000000001"})[add] == 0.0


def test_a_disturbed_network_brings_its_kernels_down_with_it():
    quiet = [line for number in range(9) for line in traced(number, 1.0, 0.2, p10=2.2)]
    facts = read_facts(Table(*quiet, *traced(9, 2.0, 0.4, p10=2.2)))
    assert [network.median_ms for network in facts.networks] == pytest.approx([2.2] * 10)
    assert {round(fact.ms, 6) for fact in facts.in_place} == {1.0, 0.2}


def test_mixed_units_are_refused():
    with pytest.raises(InputError, match=r"sum to 2\.1 ms, the network took 0\.0021 ms"):
        read_facts(Table(*traced(0, 1.0, 0.1, whole_ms=0.0021)))
    alone = [row("kernel", CONV, 1000.0), row("kernel", ADD, 100.0)]
    network = row("network", "net:0", 2.1, f"2*{CONV};1*{ADD}")
    with pytest.raises(InputError, match="cannot be in the same unit"):
        read_facts(Table(*alone, network))


def test_rows_of_two_precisions_are_refused():
    with pytest.raises(InputError, match="several precisions"):
        read_facts(Table(*traced(0, 1.0, 0.1), row("kernel", MORE.replace("f32", "i8"), 1.0)))


def test_half_of_the_drift_of_the_reference_is_taken_off():
    rows = [*traced(0, 1.0, 0.2), *traced(1, 1.0, 0.2)]
    for one in rows[:3]:
        one.reference_ms = 1.0
    for one in rows[3:]:
        one.reference_ms = 1.21
    references = [row("reference", "reference", ms) for ms in (1.0, 1.0, 1.21)]
    facts = read_facts(Table(*rows, *references))
    first, second = facts.networks
    assert (first.median_ms, second.median_ms) == pytest.approx((2.2, 2.0))
    by_network = {(fact.network, fact.kernel.op): fact.ms for fact in facts.in_place}
    assert by_network[second.key, "Conv"] == pytest.approx(1.0 / 1.1)


def test_more_of_a_speed_that_moved_is_taken_off_than_of_scatter():
    rng = np.random.default_rng(0)
    scatter = np.exp(0.03 * rng.standard_normal(40))
    assert reference_share(list(scatter)) == REFERENCE_SHARE
    slower = scatter * np.where(np.arange(40) < 20, 1.0, 1.3)
    assert 0.85 < reference_share(list(slower)) < 1.0
    assert reference_share([1.0, 1.3, 1.3]) == REFERENCE_SHARE  # too few to tell
    assert reference_share([1.0] * 40) == REFERENCE_SHARE
    # A row of the slow half comes close to its time at the usual speed.
    rows = [row("kernel", CONV, 1.3), row("kernel", ADD, 1.0)]
    rows[0].reference_ms, rows[1].reference_ms = 1.3, 1.0
    steps = [1.0] * 21 + [1.3] * 20
    facts = read_facts(Table(*rows, *(row("reference", "reference", ms) for ms in steps)))
    assert facts.kernel_ms[Kernel.parse(CONV)] == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("text", ["", "0*K", "-1*K", "nan*K", "1e999*K", "K", "2*K;1*L"])
def test_a_row_in_place_is_of_one_kernel_that_occurs(text):
    kernels = {"K": "Relu(x=1x8,dtype=f32)", "L": "Relu(x=1x9,dtype=f32)"}
    for name, kernel in kernels.items():
        text = text.replace(name, kernel)
    with pytest.raises(InputError, match=r"not of one|not a kernel count"):
        occurrence(Row("in_place", "k@net:1", kernels=text, median_ms=1.0, runs=1))
