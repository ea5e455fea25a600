import pytest

from factory.deployment.passes.plain_gemm import plain_gemm

B = "float[3,2] b = {1.5, -2.0, 0.5, 0.25, -1.0, 2.0}"
BT = "float[2,3] b = {1.5, -2.0, 0.5, 0.25, -1.0, 2.0}"


def net(inputs: str, weights: str, gemm: str) -> str:
    return f"net ({inputs}) => (float[4,2] y) <{weights}> {{ y = {gemm} }}"


@pytest.mark.parametrize(
    ("gemm", "weights", "ops"),
    [
        ("Gemm(x, b, c)", f"{B}, float[1,2] c = {{1.0, 2.0}}", ["Gemm"]),
        ("Gemm(x, b, c)", f"{B}, float[1] c = {{1.0}}", ["Gemm"]),
        ("Gemm(x, b, c)", f"{B}, float c = {{1.0}}", ["Gemm"]),
        ("Gemm <alpha = 0.5, beta = 2.0> (x, b, c)", f"{B}, float[2] c = {{1.0, 2.0}}", ["Gemm"]),
        ("Gemm <alpha = 0.5, transB = 1> (x, b)", BT, ["Gemm"]),
        (
            "Gemm <beta = 2.0> (x, b, c)",
            f"{B}, float[4,1] c = {{1.0, 2.0, 3.0, 4.0}}",
            ["Gemm", "Mul", "Add"],
        ),
    ],
)
def test_the_bias_is_one_a_column_and_factors_lie_in_the_weights(rewrite, gemm, weights, ops):
    done = rewrite(net("float[4,3] x", weights, gemm), plain_gemm)
    assert done.changed
    assert done.ops == ops
    for node in done.after.graph.node:
        if node.op_type == "Gemm":
            assert {a.name for a in node.attribute} == {"transB"}


def test_a_transposed_input_is_transposed_before(rewrite):
    done = rewrite(net("float[3,4] x", B, "Gemm <transA = 1> (x, b)"), plain_gemm)
    assert done.ops == ["Transpose", "Gemm"]


def test_a_bias_that_is_computed_is_added_behind(rewrite):
    done = rewrite(net("float[4,3] x, float[1,2] c", B, "Gemm(x, b, c)"), plain_gemm)
    assert done.ops == ["Gemm", "Add"]


def test_a_plain_one_and_one_of_two_computed_matrices_stay(rewrite):
    plain = rewrite(
        net("float[4,3] x", f"{B}, float[2] c = {{1.0, 2.0}}", "Gemm(x, b, c)"), plain_gemm
    )
    assert not plain.changed
    two = rewrite(net("float[4,3] x, float[3,2] b", "float z = {0}", "Gemm(x, b, z)"), plain_gemm)
    assert not two.changed
