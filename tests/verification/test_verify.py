"""The judge, with a device whose times are told and with this machine."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from factory.core.errors import InputError
from factory.core.progress import SilentProgress
from factory.devices.base import Timing, TimingPlan, open_device
from factory.devices.profile import DeviceProfile
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import parse_rules
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling import trust
from factory.profiling.reference import GRAPHS
from factory.verification import rounds as verify_rounds
from factory.verification import verify as judge
from factory.verification.model_file import read_model
from factory.verification.parity import check_parity
from factory.verification.verify import verify_model

PLAN = TimingPlan(min_runs=5, max_runs=20, min_time_ms=5.0)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(verify_rounds, "PATIENCE_S", 0.0)
    monkeypatch.setattr(verify_rounds, "BETWEEN_S", 0.0)


USUAL = trust.Usual(dict.fromkeys(GRAPHS, 0.1))


@pytest.fixture(scope="module")
def model():
    b = GraphBuilder("small")
    x = b.input("image", (1, 3, 16, 16))
    x = b.relu(b.conv(x, 8, 3, padding=1))
    x = b.relu(b.conv(x, 16, 3, stride=2, padding=1))
    x = b.linear(b.global_avg_pool(x), 10)
    return to_onnx(b.finish([x])).SerializeToString()


class FakeDevice:
    """Tells one median after the other; providers and failures as asked."""

    def __init__(self, medians, providers=None, failure="", references=(0.1,), stolen=(0.0,)):
        self.profile = SimpleNamespace(
            transport="local",
            id="fake",
            precision="fp32",
            execution_provider="CPUExecutionProvider",
            dtype="f32",
        )
        self.references, self.stolen = list(references), list(stolen)
        self.medians, self.calls = list(medians), 0
        self.providers = {"CPUExecutionProvider": 4} if providers is None else providers
        self.failure = failure

    def describe(self):
        return {"fingerprint": {"chip": "fake"}}

    def time_many(self, models, plan, *, rounds=1):
        if self.failure:
            return [Timing.failed(self.failure)] * len(models)
        reference_ms = self.references[min(self.calls, len(self.references) - 1)]
        ms = self.medians[min(self.calls, len(self.medians) - 1)]
        nodes = ()
        if plan.profile_runs:
            provider = list(self.providers or ["?"])[-1]
            nodes = ({"name": "conv", "op": "Conv", "provider": provider, "share": 1.0},)
        else:
            self.calls += 1
        beyond = self.stolen[min(self.calls - 1, len(self.stolen) - 1)]
        times = [ms] * (len(models) - plan.references) + [reference_ms] * plan.references
        return [
            Timing("ok", "", t, 0.9 * t, 1.2 * t, 0.8 * t, 30, nodes=nodes,
                   providers=self.providers, session_ms=1.0, mean_ms=(1 + beyond) * t)
            for t in times
        ]  # fmt: skip


def fake(model, device, **options):
    return verify_model(model, device, pause_s=0.0, **options)


def test_verdicts(model):
    holds = fake(model, FakeDevice([2.0]), max_latency_ms=2.5)
    assert (holds.verdict, holds.exit_code, holds.reasons) == ("holds", 0, ())
    assert holds.margin_percent == pytest.approx(20.0)
    over = fake(model, FakeDevice([2.0]), max_latency_ms=1.6)
    assert (over.verdict, over.exit_code) == ("over budget", 1)
    assert over.margin_percent == pytest.approx(-25.0)
    assert "25.0 % over the budget of 1.6 ms" in over.reasons[0]
    measured = fake(model, FakeDevice([2.0]))
    assert (measured.verdict, measured.margin_percent, measured.exit_code) == ("measured", None, 0)
    exact = fake(model, FakeDevice([2.0]), max_latency_ms=2.0)
    assert exact.verdict == "holds"


def test_one_burst_of_load_does_not_decide(model):
    device = FakeDevice([2.0, 2.0, 9.0, 2.0, 2.0])
    result = fake(model, device, max_latency_ms=2.5, rounds=5)
    assert result.verdict == "holds"
    assert result.median_ms == 2.0
    assert len(result.rounds) == 10, "rounds that disagree ask for more"
    assert any("unsteady" in note for note in result.notes)


def test_rounds_on_a_disturbed_machine_are_repeated_and_left_out(model):
    device = FakeDevice([3.0, 3.1, 2.0], references=[0.15, 0.14, 0.1])
    result = fake(model, device, max_latency_ms=2.5, rounds=4, usual=USUAL)
    assert (result.verdict, result.median_ms) == ("holds", 2.0)
    assert [r["disturbed"] for r in result.rounds] == [True, True, False, False, False, False]
    assert [r["kept"] for r in result.rounds] == [False, False, True, True, True, True]
    assert result.spread_percent == 0.0


class SlowSpell(FakeDevice):
    """As slow as it is told until it was looked at a few times."""

    def __init__(self, *args, looks_ms, **more):
        super().__init__(*args, **more)
        self.looks_ms = list(looks_ms)

    def time_many(self, models, plan, *, rounds=1):
        if len(models) == plan.references:
            ms = self.looks_ms.pop(0)
            return [Timing("ok", "", ms, ms, ms, ms, 30, mean_ms=ms)] * len(models)
        return super().time_many(models, plan, rounds=rounds)


def test_a_slow_spell_is_waited_for(model, monkeypatch):
    monkeypatch.setattr(verify_rounds, "PATIENCE_S", 60.0)
    monkeypatch.setattr(trust, "PAUSE_S", 0.0)
    looks_ms = [0.15, 0.1, 0.1, 0.13, 0.1, 0.1, 0.1]  # three in a row are an end
    device = SlowSpell([3.0, 2.0], references=[0.15, 0.1], looks_ms=looks_ms)
    result = fake(model, device, max_latency_ms=2.5, rounds=4, usual=USUAL)
    assert (result.verdict, result.median_ms) == ("holds", 2.0)
    assert [r["disturbed"] for r in result.rounds] == [True, False, False, False, False]
    assert not device.looks_ms


def test_the_patience_of_an_attempt_is_for_all_its_rounds(model, monkeypatch):
    monkeypatch.setattr(verify_rounds, "PATIENCE_S", 0.2)
    monkeypatch.setattr(trust, "PAUSE_S", 0.02)
    device = SlowSpell([3.0], references=[0.15], looks_ms=[0.15] * 1000)
    result = fake(model, device, max_latency_ms=2.5, rounds=3, usual=USUAL)
    assert (result.verdict, len(result.rounds)) == ("undecided", 3 * 6)
    assert 9 <= 1000 - len(device.looks_ms) <= 36


def test_a_machine_that_stays_busy_decides_nothing(model):
    """Neither over the budget nor within it, whatever was measured."""
    for median_ms in (3.0, 2.0):
        device = FakeDevice([median_ms], references=[0.15])
        result = fake(model, device, max_latency_ms=2.5, rounds=3, usual=USUAL)
        assert (result.verdict, result.exit_code, result.ok) == ("undecided", 3, False)
        assert (result.median_ms, result.margin_percent) == (None, None)
        assert result.reasons[0].startswith("not decided: the machine was busy, 3 of 3 attempts")
        assert "took +50%" in result.reasons[0]
        assert "profile it again" in result.reasons[0], "it was alike all the time"
        assert len(result.rounds) == 3 * 6
        assert not any(r["kept"] for r in result.rounds)


def test_before_another_attempt_on_a_busy_machine_there_is_a_message(model):
    said = []
    progress = SimpleNamespace(message=said.append)
    device = FakeDevice([3.0], references=[0.15])
    fake(model, device, rounds=3, usual=USUAL, progress=progress)
    assert len(said) == 2
    assert "the machine is busy" in said[0]
    assert "attempt 2 of 3" in said[0]
    one = fake(model, device, rounds=3, usual=USUAL, attempts=1, progress=progress)
    assert (one.verdict, len(one.rounds), len(said)) == ("undecided", 6, 2)
    assert "1 of 1 attempts" in one.reasons[0]


def test_time_that_other_programs_take_decides_nothing(model):
    device = FakeDevice([2.0], stolen=[0.8, 0.5])
    result = fake(model, device, max_latency_ms=2.5, rounds=3, usual=USUAL)
    assert result.verdict == "undecided"
    assert "other programs took 50% of the core's time" in result.reasons[0]


def test_the_same_model_is_decided_when_the_machine_is_quiet_again(model):
    """In the last of three attempts, by its undisturbed rounds alone."""
    device = FakeDevice([3.0] * 12 + [2.0], references=[0.15] * 12 + [0.1])
    result = fake(model, device, max_latency_ms=2.5, rounds=3, usual=USUAL)
    assert (result.verdict, result.median_ms) == ("holds", 2.0)
    assert [r["kept"] for r in result.rounds] == [False] * 12 + [True] * 3


def test_undisturbed_rounds_on_both_sides_of_the_budget_decide_nothing(model):
    device = FakeDevice([2.0, 3.0] * 20)
    result = fake(model, device, max_latency_ms=2.5, rounds=4, usual=USUAL)
    assert result.verdict == "undecided"
    assert "undisturbed rounds took 2 to 3 ms" in result.reasons[0]
    for limit_ms, verdict in ((1.5, "over budget"), (3.5, "holds")):
        device = FakeDevice([2.0, 3.0] * 20)
        assert fake(model, device, max_latency_ms=limit_ms, usual=USUAL).verdict == verdict


def test_a_simulated_chip_that_is_slower_than_it_was_is_judged(model):
    """Nobody else runs there: 1.3 times over is over."""
    device = FakeDevice([3.25], references=[0.13])
    device.profile.transport = "simulated"
    result = fake(model, device, max_latency_ms=2.5, rounds=3, usual=USUAL)
    assert (result.verdict, result.exit_code, result.median_ms) == ("over budget", 1, 3.25)


class Predictor:
    """Says 2 ms, 1.8 to 2.2."""

    fusion = None

    def predict(self, counts):
        return SimpleNamespace(
            latency_ms=2.0, low_ms=1.8, high_ms=2.2, warnings=(), to_dict=lambda: {"kernels": []}
        )


@pytest.mark.parametrize(
    ("medians", "said", "taken"),
    [
        ([2.1], 0, 2.1),
        ([3.4, 2.1], 1, 2.1),  # the first was wrong, whatever disturbed it
        ([3.4, 3.3], 1, 3.3),  # the predictor is
        ([3.4, 2.5, 3.0], 2, 3.0),
        ([3.4, 2.5, 2.0], 2, 2.0),
    ],
)
def test_a_surprising_result_is_measured_again_later(model, monkeypatch, medians, said, taken):
    monkeypatch.setattr(judge, "kernel_counts", lambda graph, fusion: {})
    times = [ms for ms in medians for _ in range(judge.ROUNDS)]
    monkeypatch.setattr(judge, "PAUSE_S", 0.0)
    lines = Said()
    result = judge.verify_with_prediction(
        model, FakeDevice(times), predictor=Predictor(), max_latency_ms=2.5,
        usual=USUAL, later_s=0.0, progress=lines,
    )  # fmt: skip
    assert result.median_ms == taken
    assert result.verdict == ("holds" if taken <= 2.5 else "over budget")
    assert len(lines.lines) == said
    assert all("it is measured again" in line for line in lines.lines)


@pytest.mark.parametrize(("before_ms", "said"), [(2.05, 0), (1.5, 1), (None, 0)])
def test_a_result_unlike_the_one_before_is_measured_again(model, monkeypatch, before_ms, said):
    monkeypatch.setattr(judge, "kernel_counts", lambda graph, fusion: {})
    monkeypatch.setattr(judge, "PAUSE_S", 0.0)
    lines = Said()
    result = judge.verify_with_prediction(
        model, FakeDevice([2.0]), predictor=Predictor(), usual=USUAL,
        before_ms=before_ms, later_s=0.0, progress=lines,
    )  # fmt: skip
    assert (result.median_ms, len(lines.lines)) == (2.0, said)


class Said(SilentProgress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def test_without_a_table_the_fastest_round_says_what_is_usual(model):
    device = FakeDevice([2.0, 4.0, 2.0], references=[0.1, 0.2, 0.1])
    result = fake(model, device, rounds=3)
    assert result.median_ms == 2.0
    assert result.usual_reference_ms == 0.1
    assert [r["disturbed"] for r in result.rounds] == [False, True, False, False]


def test_nodes_on_another_provider_fail(model):
    device = FakeDevice([1.0], providers={"CPUExecutionProvider": 3, "OtherProvider": 1})
    result = fake(model, device, max_latency_ms=100)
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "1 on OtherProvider (first: conv)" in result.reasons[0]
    unknown = fake(model, FakeDevice([1.0], providers={}), max_latency_ms=100)
    assert unknown.verdict == "holds"
    assert any("which provider" in note for note in unknown.notes)


def test_a_model_that_does_not_run_is_a_value(model):
    result = fake(model, FakeDevice([1.0], failure="no kernel for Conv"), max_latency_ms=1)
    assert (result.verdict, result.reasons) == ("failed", ("no kernel for Conv",))
    assert result.median_ms is None
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_absurd_budgets(model, budget):
    with pytest.raises(InputError, match="not a latency budget"):
        fake(model, FakeDevice([1.0]), max_latency_ms=budget)


def test_bad_models(tmp_path, model):
    device = FakeDevice([1.0])
    with pytest.raises(InputError):
        fake(tmp_path / "missing.onnx", device)
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError):
        fake(tmp_path / "text.onnx", device)
    with pytest.raises(InputError):
        fake(b"not a model", device)
    with pytest.raises(InputError, match="no fixed size: length"):
        fake(_one_node("Relu", [1, "length"]), device)
    with pytest.raises(InputError, match="Frobnicate"):
        fake(_one_node("Frobnicate", [1, 4]), device)


def test_weights_beside_the_file_travel_with_it(model, tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save_model(
        onnx.load_from_string(model), path, save_as_external_data=True, size_threshold=0
    )
    assert len(read_model(path).content) > path.stat().st_size
    assert read_model(model).content == model


def _one_node(op, shape):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name="only")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def local(any_load):
    with open_device(DeviceProfile(id="here-t1-fp32", threads=1)) as device:
        yield device


def test_on_this_machine(model, local, tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(model)
    result = verify_model(path, local, max_latency_ms=10_000, plan=PLAN, rounds=2, pause_s=0.01)
    assert result.verdict == "holds"
    assert 0 < result.min_ms <= result.median_ms <= result.p90_ms
    assert result.margin_percent > 90
    assert set(result.providers) == {"CPUExecutionProvider"}
    assert sum(node["share"] for node in result.nodes) == pytest.approx(1.0, abs=0.01)
    assert result.model_bytes == len(model)
    value = result.to_dict()
    assert value["schema_version"] == 1
    json.dumps(value, allow_nan=False)
    tight = verify_model(model, local, max_latency_ms=1e-6, plan=PLAN, rounds=1)
    assert (tight.verdict, tight.exit_code) == ("over budget", 1)


def test_parity_with_the_reference_evaluator_on_this_machine(model, local):
    from onnx.reference import ReferenceEvaluator

    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    evaluator = ReferenceEvaluator(onnx.load_from_string(model))
    name = evaluator.input_names[0]
    expected = np.concatenate([evaluator.run(None, {name: x[None]})[0] for x in images])
    parity = check_parity(model, local, images, expected)
    assert parity.holds
    assert parity.images == 3


def test_cold_start_and_memory_are_told_where_the_device_tells_them(model):
    from factory.devices.simulated import SimulatedDevice

    known = verify_model(model, SimulatedDevice(), pause_s=0.0, rounds=1).to_dict()
    assert known["first_run_ms"] == pytest.approx(3 * known["median_ms"])
    assert known["peak_memory_mb"] == pytest.approx(2 * len(model) / 1e6)
    assert known["session_ms"] > 0
    unknown = fake(model, FakeDevice([2.0])).to_dict()
    assert (unknown["first_run_ms"], unknown["peak_memory_mb"]) == (None, None)


def test_the_prediction_counts_kernels_as_the_chip_folds_them():
    """The prediction beside a measurement leaves out what the chip's fusion tests found."""
    b = GraphBuilder("residual")
    x = b.input("image", (1, 8, 16, 16))
    graph = canonicalise(b.finish([b.add(b.conv(x, 8, 3, padding=1), x)]))
    rules = parse_rules(["conv_dense+Add"])

    class Predictor:
        fusion = rules

        def predict(self, counts):
            assert counts == kernel_counts(graph, fusion=rules)
            assert all(kernel.op != "Add" for kernel in counts)
            raise InputError("it was asked for the kernels without the addition")

    device = FakeDevice([1.0] * 9)
    result = verify_model(to_onnx(graph).SerializeToString(), device, predictor=Predictor())
    assert "it was asked for the kernels without the addition" in " ".join(result.notes)
