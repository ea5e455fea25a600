"""Fusion tests against devices whose truth is known, and the graph that a runtime really runs."""

import base64

import onnx
import pytest

from factory.core.errors import InputError
from factory.devices.base import TimingPlan, open_device
from factory.devices.profile import load_profile
from factory.devices.simulated import SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import NO_RULES, PAIRS, parse_rules
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.latency.facts import read_facts
from factory.latency.table_summary import summarise_table
from factory.profiling.fusion_rules import KIND, fusion_rules, fusion_tests
from factory.profiling.fusion_tests import fusion_models, measure_fusion
from factory.profiling.merging import merge_rows
from factory.profiling.profiler import profile_kernels, profile_networks
from factory.profiling.quarantine import row_id
from factory.profiling.rows import RULES
from factory.profiling.table import LatencyTable

TRUTHS = [
    [],
    ["conv_pointwise+Add", "conv_dense+Add", "conv_depthwise+Silu", "Add+Relu", "Concat+Tanh"],
    [str(pair) for pair in PAIRS],
]


def residual_network():
    b = GraphBuilder("residual")
    x = b.input("x", (1, 8, 9, 9))
    graph = canonicalise(b.finish([b.add(b.conv(x, 8, 1), x)]))
    return kernel_counts(graph), to_onnx(graph).SerializeToString()


def table_of(device, path):
    return LatencyTable.open(path, device.profile, device.describe())


@pytest.mark.parametrize("truth", TRUTHS, ids=["nothing", "some", "everything"])
@pytest.mark.parametrize("noise", [0.0, 0.004])
def test_the_rules_of_a_compiling_device_are_found(tmp_path, truth, noise):
    rules = parse_rules(truth)
    device = SimulatedDevice(fuses=rules, compiles=True, noise=noise)
    with table_of(device, tmp_path / "t.csv") as table:
        assert measure_fusion(device, table) == rules
    again = LatencyTable.read(tmp_path / "t.csv")
    assert fusion_rules(again) == rules
    assert len(fusion_tests(again)) == len(PAIRS)


def test_a_device_that_shows_its_graph_is_not_tested(tmp_path):
    device = SimulatedDevice(fuses=frozenset(PAIRS))
    with table_of(device, tmp_path / "t.csv") as table:
        assert measure_fusion(device, table) == NO_RULES
        assert not table.rows()


def test_a_killed_test_goes_on_with_what_is_left(tmp_path):
    rules = parse_rules(TRUTHS[1])
    device = SimulatedDevice(fuses=rules, compiles=True)
    with table_of(device, tmp_path / "t.csv") as table:
        measure_fusion(device, table)
    path = tmp_path / "t.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    with table_of(device, path) as table:
        held, before = len(table.rows(KIND)), device.timed
        assert 0 < held < len(fusion_models("f32"))
        assert fusion_rules(table) == NO_RULES  # not settled yet
        assert measure_fusion(device, table) == rules
        assert device.timed - before < 1.5 * (len(fusion_models("f32")) - held)


def test_networks_keep_the_rules_that_they_were_counted_by(tmp_path):
    """A table of before has networks with every operator counted: it is not tested any more."""
    device = SimulatedDevice(fuses=parse_rules(["conv_pointwise+Add"]), compiles=True)
    with table_of(device, tmp_path / "t.csv") as table:
        profile_networks(device, [residual_network()], table)
        assert measure_fusion(device, table) == NO_RULES


def test_what_fails_is_no_rule(tmp_path):
    device = SimulatedDevice(
        fuses=frozenset(PAIRS),
        compiles=True,
        fails_on=lambda kernel: "no Tanh here" if kernel.op == "Tanh" else None,
    )
    with table_of(device, tmp_path / "t.csv") as table:
        found = measure_fusion(device, table)
    assert found == frozenset(pair for pair in PAIRS if pair.second != "Tanh")


def test_tables_of_different_rules_are_not_merged(tmp_path):
    paths = []
    for name, rules in (("a", ["Add+Relu"]), ("b", [])):
        device = SimulatedDevice(fuses=parse_rules(rules), compiles=True)
        paths.append(tmp_path / f"{name}.csv")
        with table_of(device, paths[-1]) as table:
            measure_fusion(device, table)
    tables = [LatencyTable.read(path) for path in paths]
    with pytest.raises(InputError, match=r"fusion rules \['Add\+Relu'\] and \[\]"):
        merge_rows(tables, tmp_path / "c.csv")


def test_facts_say_by_which_rules_networks_were_counted(tmp_path):
    rules = parse_rules(["conv_pointwise+Add"])
    device = SimulatedDevice(fuses=rules, compiles=True)
    with table_of(device, tmp_path / "t.csv") as table:
        measure_fusion(device, table)
        profile_kernels(device, [Kernel.parse("Relu(x=1x8x8x8,dtype=f32)")], table)
        assert read_facts(table).fusion == rules


def test_on_the_real_runtime_the_two_orders_differ_in_nothing_but_the_fusion():
    """ONNX Runtime shows its graph: a residual addition is in the convolution only when chained."""
    models = fusion_models("f32")
    plan = TimingPlan(min_runs=1, max_runs=3, min_time_ms=0, profile_runs=2, optimised_graph=True)
    keys = [f"{pair}:{order}" for pair in ("conv_pointwise+Add", "Concat+Relu", "Add+Tanh")
            for order in ("chained", "apart")]  # fmt: skip
    with open_device(load_profile("local-cpu-t1-fp32")) as device:
        timings = device.time_many([models[key]() for key in keys], plan)
    nodes = {}
    for key, timing in zip(keys, timings, strict=True):
        assert timing.ok, timing.reason
        graph = onnx.load_from_string(base64.b64decode(timing.optimised)).graph
        nodes[key] = [node.op_type for node in graph.node]
    assert "Add" not in nodes["conv_pointwise+Add:chained"]
    assert nodes["conv_pointwise+Add:apart"].count("Add") == 1
    for pair, op in (("Concat+Relu", "Relu"), ("Add+Tanh", "Tanh")):
        for order in ("chained", "apart"):
            assert op in nodes[f"{pair}:{order}"]


def test_a_device_that_cannot_run_the_models_has_no_rules(tmp_path):
    device = SimulatedDevice(
        fuses=frozenset(PAIRS),
        fails_on=lambda kernel: "no pools" if kernel.op == "AveragePool" else None,
    )
    with table_of(device, tmp_path / "t.csv") as table:
        assert measure_fusion(device, table) == NO_RULES
        before = device.timed
        assert measure_fusion(device, table) == NO_RULES  # settled: it is not tested again
        assert device.timed == before


def test_the_rules_of_a_table_stay_what_its_networks_were_counted_by(tmp_path, monkeypatch):
    """Neither another threshold nor unfinished tests change them."""
    device = SimulatedDevice(fuses=parse_rules(TRUTHS[1]), compiles=True)
    with table_of(device, tmp_path / "t.csv") as table:
        rules = measure_fusion(device, table)
    monkeypatch.setattr("factory.profiling.fusion_rules.ENOUGH", 5.0)
    again = LatencyTable.read(tmp_path / "t.csv")
    assert fusion_rules(again) == rules
    told = summarise_table(again)["fusion"]  # what `factory table show` says
    assert {test["pair"] for test in told if test["folded"]} == set(TRUTHS[1])
    unfinished = LatencyTable.read(tmp_path / "t.csv").without(
        [row_id(row) for row in table.rows(KIND) if row.key == RULES]
    )
    assert fusion_rules(unfinished) == NO_RULES


def test_few_networks_without_a_trace_are_told(tmp_path):
    device = SimulatedDevice(compiles=True)
    with table_of(device, tmp_path / "t.csv") as table:
        profile_networks(device, [residual_network()], table)
        with pytest.raises(InputError, match="1 networks without a trace; it takes 20 to infer"):
            read_facts(table)
