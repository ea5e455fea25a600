"""Times of kernels in place: what a trace's nodes are charged to."""

import base64
import dataclasses

import onnx
import pytest
from onnx import helper

from factory.devices.base import Timing, TimingPlan, open_device
from factory.devices.profile import load_profile
from factory.devices.simulated import SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_build import named_after_outputs, to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling.in_place import calibration_model, in_place_times, trace_overhead_ms
from factory.profiling.profiler import profile_networks
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

TRACED = TimingPlan(profile_runs=10, optimised_graph=True)


def shuffled():
    """conv_0 -> relu_1, conv_2; add_3 of both; its channels shuffled; a pool and a classifier."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("image", (1, 3, 16, 16)), 16, 3, padding=1))
    x = b.add(b.conv(x, 16, 1), x)
    x = b.unary("Reshape", x, (("y", "1x2x8x16x16"),))
    x = b.unary("Transpose", x, (("perm", "0x2x1x3x4"), ("y", "1x8x2x16x16")))
    x = b.unary("Reshape", x, (("y", "1x16x16x16"),))
    return canonicalise(b.finish([b.linear(b.global_avg_pool(x), 10)]))


def executed(*nodes):
    """The graph as a runtime executes it: (operator, name, inputs, outputs) a node."""
    made = [helper.make_node(op, ins, outs, name=name) for op, name, ins, outs in nodes]
    model = helper.make_model(helper.make_graph(made, "executed", [], []))
    return base64.b64encode(model.SerializeToString()).decode()


BLOCKED = executed(
    ("Conv", "relu_1_nchwc", ["image"], ["r1"]),
    ("Conv", "conv_2_nchwc", ["r1"], ["r2"]),  # with the Add inside
    ("ReorderOutput", "ReorderOutput_token_7", ["r2"], ["add_3"]),
    ("Reshape", "reshape_4__Reshape", ["add_3"], ["reshape_4"]),
    ("Transpose", "transpose_5__Transpose", ["reshape_4"], ["transpose_5"]),
    ("Reshape", "reshape_6__Reshape", ["transpose_5"], ["reshape_6"]),
    ("ReorderInput", "ReorderInput", ["reshape_6"], ["r3"]),
    ("GlobalAveragePool", "globalaveragepool_7_nchwc", ["r3"], ["r4"]),
    ("", "", ["r4"], ["nameless"]),
    ("FusedGemm", "fused gemm_9__Gemm", ["nameless"], ["gemm_9"]),
)
SHARES_MS = {
    "relu_1_nchwc": 0.4,
    "conv_2_nchwc": 0.2,
    "ReorderOutput_token_7": 0.05,
    "reshape_4__Reshape": 0.01,
    "transpose_5__Transpose": 0.04,
    "reshape_6__Reshape": 0.01,
    "ReorderInput": 0.06,
    "globalaveragepool_7_nchwc": 0.02,
    "Squeeze_44": 0.03,
    "fused gemm_9__Gemm": 0.08,
}


def timing(median_ms, added_ms=0.0, graph=BLOCKED):
    spent = {name: ms + added_ms for name, ms in SHARES_MS.items()}
    total = sum(spent.values())
    nodes = tuple(
        {"name": name, "op": "" if "_44" in name else "Op", "share": ms / total}
        for name, ms in spent.items()
    )
    return Timing("ok", median_ms=median_ms, runs=9, nodes=nodes, traced_ms=total, optimised=graph)


def model():
    return to_onnx(shuffled()).SerializeToString()


def by_operator(found):
    return {f"{one.kernel.op}{one.kernel.attr('act')}": one.ms for one in found[:]}


@pytest.mark.parametrize("added_ms", [0.0, 0.003])
def test_fused_and_added_nodes_are_charged_to_their_operators(added_ms):
    found = in_place_times(model(), timing(0.9, added_ms), added_ms)
    assert sum(one.count * one.ms for one in found) == pytest.approx(0.9)
    ms = {str(one.kernel).partition(",")[0]: one.ms for one in found}
    assert ms["Add(x=1x16x16x16+1x16x16x16"] == 0.0  # inside the convolution
    convs = sorted(one.ms for one in found if one.kernel.op == "Conv")
    assert convs == pytest.approx([0.2, 0.4])
    assert ms["Reshape(x=1x16x16x16"] == pytest.approx(0.06)  # leaves the blocked layout
    assert ms["Reshape(x=1x8x2x16x16"] == pytest.approx(0.07)  # and goes back into it
    assert ms["GlobalAveragePool(x=1x16x16x16"] == pytest.approx(0.05)  # with the nameless node


def test_the_sum_is_the_untraced_time_whatever_the_trace_adds():
    for median_ms in (0.3, 0.9, 2.0):
        found = in_place_times(model(), timing(median_ms, 0.004), 0.002)
        assert sum(one.count * one.ms for one in found) == pytest.approx(median_ms)
        assert min(one.ms for one in found) >= 0.0


def test_overhead_of_a_trace():
    chain = Timing("ok", median_ms=0.03, traced_ms=0.31, nodes=({"name": "a"},) * 140)
    assert trace_overhead_ms(chain) == pytest.approx(0.002)
    assert trace_overhead_ms(Timing.failed("no")) == 0.0
    assert trace_overhead_ms(Timing("ok", median_ms=1.0)) == 0.0
    assert len(onnx.load_from_string(calibration_model()).graph.node) == 128


def test_simulated_device_gives_its_truth_in_place():
    device = SimulatedDevice()
    (measured,) = device.time_many([model()], TRACED)
    for one in in_place_times(model(), measured):
        assert one.ms == pytest.approx(device.roofline.kernel_ms(one.kernel))


@pytest.mark.parametrize("device_id", ["local-cpu-t1-fp32", "local-cpu-t1-int8"])
def test_the_local_runtime_is_charged_whole(device_id):
    dtype = "i8" if device_id.endswith("int8") else "f32"
    content = to_onnx(shuffled(), dtype).SerializeToString()
    with open_device(load_profile(device_id)) as device:
        plan = TimingPlan(min_runs=5, min_time_ms=1, profile_runs=8, optimised_graph=True)
        (measured,) = device.time_many([content], plan)
    assert measured.ok, measured.reason
    found = in_place_times(content, measured)
    assert {one.kernel: one.count for one in found} == kernel_counts(shuffled(), dtype)
    assert sum(one.count * one.ms for one in found) == pytest.approx(measured.median_ms)
    convs = [one for one in found if one.kernel.op == "Conv"]
    assert all(one.ms > 0 for one in convs)


def test_changes_of_type_are_charged_by_themselves():
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("x", (1, 8, 32, 32)), 16, 3, padding=1))
    y = b.unary("Erf", b.unary("Sqrt", x))
    graph = canonicalise(b.finish([b.add(b.conv(y, 16, 3, padding=1), x)]))
    content = named_after_outputs(to_onnx(graph, "i8")).SerializeToString()
    with open_device(load_profile("local-cpu-t1-int8")) as device:
        plan = TimingPlan(min_runs=5, min_time_ms=1, profile_runs=8, optimised_graph=True)
        (measured,) = device.time_many([content], plan)
    times = in_place_times(content, measured)
    assert sum(one.count * one.ms for one in times) == pytest.approx(measured.median_ms)
    found = {one.kernel.op: one for one in times}
    for op in ("DequantizeLinear", "QuantizeLinear", "Sqrt", "Erf"):
        assert found[op].kernel.dtype == "f32"
        assert found[op].ms > 0


def test_rows_in_place_come_with_their_network(tmp_path):
    device = SimulatedDevice()
    graph = shuffled()
    counts, path = kernel_counts(graph), tmp_path / "t.csv"
    with LatencyTable.open(path, device.profile, device.describe()) as table:
        summary = profile_networks(device, [(counts, model())], table, ProfileSettings())
        again = profile_networks(device, [(counts, model())], table, ProfileSettings())
    assert (summary.measured, summary.in_place, again.skipped) == (1, len(counts), 1)
    table = LatencyTable.read(path)
    (network,) = table.rows("network")
    rows = table.rows("in_place")
    assert {row.key.rpartition("@")[2] for row in rows} == {network.key}
    total = sum(float(row.kernels.partition("*")[0]) * row.median_ms for row in rows)
    assert total == pytest.approx(network.median_ms, rel=1e-5)
    assert [row.kind for row in table.rows()][-4:] == ["network", *["reference"] * 3]


def test_changes_of_layout_and_what_ran_elsewhere_are_told():
    plain = timing(0.9)
    nodes = tuple(
        {**node, "provider": "Slow" if node["name"].startswith("globalaverage") else "Fast"}
        for node in plain.nodes
    )
    traced = dataclasses.replace(plain, nodes=nodes)
    found = in_place_times(model(), traced, 0.0, "Fast")
    assert {one.kernel.op for one in found if one.elsewhere} == {"GlobalAveragePool"}
    assert {one.elsewhere for one in found} == {"", "Slow"}
    shares = {str(one.kernel).partition(",dtype")[0]: one.reorder_share for one in found}
    layouts = {text: share for text, share in shares.items() if share}
    assert sorted(layouts.values()) == pytest.approx([0.05 / 0.06, 0.06 / 0.07])
    assert all(text.startswith("Reshape") for text in layouts)
    assert {one.elsewhere for one in in_place_times(model(), traced)} == {""}


def heads():
    """A linear layer's result as queries and keys: a Transpose, split behind it."""
    b = GraphBuilder()
    y = b.dense(b.input("x", (1, 49, 64)), 128)
    y = b.transpose(b.reshape(y, (1, 49, 2, 4, 16)), (2, 0, 3, 1, 4))
    q, k = (b.reshape(part, (1, 4, 49, 16)) for part in b.split(y, (1, 1), axis=0))
    y = b.operator("MatMul", (q, b.transpose(k, (0, 1, 3, 2))))
    return canonicalise(b.finish([b.unary("Gelu", y)]))


def test_a_transpose_that_was_moved_is_charged_to_itself():
    """A runtime moves it behind the Split, where it has a name that says nothing."""
    names = [node.output for node in heads().nodes]
    linear, reshaped, _, split, turned, product, gelu = names
    graph = executed(
        ("Gemm", f"{linear}_product__MatMul/MatMulAddFusion", ["x"], ["g"]),
        ("Reshape", f"{reshaped}__Reshape", ["g"], ["r"]),
        ("Split", f"{split}__Split", ["r"], ["s0", "s1"]),
        ("Transpose", "Transpose", ["s0"], ["t0"]),
        ("Transpose", "Transpose_token_2", ["s1"], ["t1"]),
        ("Transpose", f"{turned}__Transpose", ["t1"], ["t2"]),
        ("FusedMatMul", f"{product}_product__MatMul/MatMulScaleFusion/", ["t0", "t2"], ["p"]),
        ("Gelu", "Gelu", ["p"], [gelu]),
    )
    ms = [0.5, 0.01, 0.02, 0.1, 0.2, 0.04, 0.08, 0.05]
    nodes = tuple(
        {"name": node.name, "op": node.op_type, "share": one / sum(ms)}
        for node, one in zip(
            onnx.load_from_string(base64.b64decode(graph)).graph.node, ms, strict=True
        )
    )
    timed = Timing("ok", median_ms=1.0, runs=9, nodes=nodes, traced_ms=1.0, optimised=graph)
    found = {
        one.kernel.op + one.kernel.attr("perm"): one.ms
        for one in in_place_times(to_onnx(heads()).SerializeToString(), timed)
    }
    assert found == pytest.approx(
        {
            "Gemm": 0.5, "Reshape": 0.01, "Split": 0.02, "Transpose2x0x3x1x4": 0.3,
            "Transpose0x1x3x2": 0.04, "MatMul": 0.08, "Gelu": 0.05,
        }
    )  # fmt: skip


def test_the_local_runtime_charges_attention_to_its_operators():
    content = to_onnx(heads()).SerializeToString()
    with open_device(load_profile("local-cpu-t1-fp32")) as device:
        plan = TimingPlan(min_runs=5, min_time_ms=1, profile_runs=8, optimised_graph=True)
        (measured,) = device.time_many([content], plan)
    found = in_place_times(content, measured)
    assert {one.kernel: one.count for one in found} == kernel_counts(heads())
    timed = {one.kernel.op for one in found if one.ms > 0}
    assert {"Gemm", "Transpose", "Split", "MatMul", "Gelu"} <= timed
