"""Operators without a 16-bit form stay in 32 bits, and the file stays valid and near."""

import numpy as np
import onnx
import pytest

from factory.deployment.agreement import compare
from factory.deployment.run_here import run_model
from factory.deployment.targets.onnx_fp16 import half_model

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
X = np.random.default_rng(0).standard_normal((4, 4, 6, 6)).astype(np.float32)
PER_CHANNEL = "float[4] one = {1.0, 1.0, 1.0, 1.0}, float[4] zero = {0.0, 0.0, 0.0, 0.0}"
NETS = {
    "an operator defined for 32 bits alone": "{ a = Celu(x)  y = Relu(a) }",
    "integers in between": "{ a = Cast <to = 6> (x)  b = Cast <to = 1> (a)  y = Add(b, x) }",
    "scales of a resize": "<float[4] s = {1.0, 1.0, 1.0, 1.0}>"
    ' { a = Resize <mode = "linear"> (x, , s)  y = Relu(a) }',
    "a normalisation of groups": f"<{PER_CHANNEL}>"
    " { a = GroupNormalization <num_groups = 2> (x, one, zero)  y = Relu(a) }",
    "graphs inside": """<float z = {0.0}> {
        a = Relu(x)  m = ReduceMean <keepdims = 0> (a)  q = Greater(m, z)
        b = If (q) <then_branch = yes () => (float[1,4,6,6] t) { t = Relu(a) },
                    else_branch = no () => (float[1,4,6,6] e) { e = Neg(a) }>
        y = Mul(b, a) }""",
}


def parsed(body: str, outputs: str = "float[1,4,6,6] y") -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEAD}net (float[1,4,6,6] x) => ({outputs}) {body}")
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


@pytest.mark.parametrize("what", NETS)
def test_what_has_no_16_bit_form(what):
    model = parsed(NETS[what])
    want = run_model(model.SerializeToString(), X)
    half = half_model(onnx.ModelProto.FromString(model.SerializeToString()))
    found = compare(run_model(half.SerializeToString(), X), want)
    assert found.signal_db > 40, found


def test_a_weight_that_is_an_output():
    model = parsed("<float[2] w = {0.5, 0.25}> { y = Relu(x)  z = Identity(x) }",
                   "float[1,4,6,6] y, float[2] w")  # fmt: skip
    half = half_model(onnx.ModelProto.FromString(model.SerializeToString()))
    assert run_model(half.SerializeToString(), X)["w"].tolist() == [[0.5, 0.25]] * 4


def test_an_output_of_an_operator_in_32_bits_does_not_pass_through_16():
    model = parsed("<float k = {1000000.0}> { a = Relu(x)  y = Mul(a, k) }")
    half = half_model(onnx.ModelProto.FromString(model.SerializeToString()), ["Mul_1"])
    assert np.isfinite(run_model(half.SerializeToString(), X)["y"]).all()
