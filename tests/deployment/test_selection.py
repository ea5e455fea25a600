import onnx
import pytest

from factory.deployment.passes.hard_swish_split import split_hard_swish
from factory.deployment.selection import judge_pass, select_passes
from factory.devices.base import Timing, TimingPlan

PLAN = TimingPlan(min_runs=1, max_runs=1, min_time_ms=0)
TEXT = """<ir_version: 9, opset_import: ["" : 20]>
net (float[1,3,4,4] x) => (float[1,48] y) { a = HardSwish(x) y = Flatten(a) }"""


class FakeDevice:
    """Times a model by its number of nodes, with ``per_node`` deciding who is faster."""

    def __init__(self, per_node):
        self.per_node = per_node

    def time_many(self, models, plan, *, rounds=1):
        nodes = [len(onnx.load_from_string(m).graph.node) for m in models]
        return [Timing("ok", median_ms=1.0 + self.per_node * n) for n in nodes]

    def run_batch(self, model, inputs):
        from factory.deployment.run_here import run_images

        return run_images(model, inputs)


@pytest.fixture
def model():
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT))


def test_kept_only_where_the_chip_says_so(model):
    faster, trials = select_passes(model, FakeDevice(-0.1), passes=[split_hard_swish], plan=PLAN)
    assert [t.status for t in trials] == ["kept"]
    assert trials[0].gain_percent == pytest.approx(100 * 0.1 / 0.8)
    assert [n.op_type for n in faster.graph.node] == ["HardSigmoid", "Mul", "Flatten"]
    same, trials = select_passes(model, FakeDevice(0.1), passes=[split_hard_swish], plan=PLAN)
    assert [t.status for t in trials] == ["not faster"]
    assert trials[0].gain_percent < 0
    assert same is model


def test_a_tie_or_a_lucky_round_is_not_enough():
    assert judge_pass("p", [(1.0, 0.999)] * 10).status == "not faster"
    mixed = [(1.0, 0.9)] * 7 + [(1.0, 1.1)] * 3
    assert judge_pass("p", mixed).status == "not faster"
    nine = [(1.0, 0.9)] * 9 + [(1.0, 1.1)]
    assert judge_pass("p", nine).status == "kept"


def test_nothing_to_do_a_failure_and_other_numbers(model):
    def nothing(_):
        return False

    def breaks(graph):
        next(n for n in graph.graph if n.op_type == "HardSwish").op_type = "Relu"
        return True

    class Failing(FakeDevice):
        def time_many(self, models, plan, *, rounds=1):
            return [Timing.failed("no kernel")] * len(models)

    same, trials = select_passes(model, FakeDevice(-0.1), passes=[nothing, breaks], plan=PLAN)
    assert [t.status for t in trials] == ["nothing to do", "changes the numbers"]
    assert same is model
    _, trials = select_passes(model, Failing(0), passes=[split_hard_swish], plan=PLAN)
    assert (trials[0].status, trials[0].reason) == ("failed", "no kernel")
