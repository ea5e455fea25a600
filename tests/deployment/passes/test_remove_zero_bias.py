import pytest

from factory.deployment.passes.remove_zero_bias import remove_zero_bias


@pytest.mark.parametrize(("bias", "left"), [("0.0, 0.0", 2), ("0.0, 0.5", 3)])
def test_only_a_bias_of_zeros_goes(rewrite, bias, left):
    done = rewrite(
        f"""g (float[1,1,2,2] x) => (float[1,2,2,2] y)
        <float[2,1,1,1] w = {{1.5, -2.0}}, float[2] b = {{{bias}}}> {{ y = Conv(x, w, b) }}""",
        remove_zero_bias,
    )
    assert done.changed == (left == 2)
    assert len(done.after.graph.node[0].input) == left
