import pytest

from factory.deployment.passes.reshape_to_flatten import reshape_to_flatten


@pytest.mark.parametrize(
    ("target", "flat"), [("1, 12", True), ("1, -1", True), ("-1, 12", True), ("3, 4", False)]
)
def test_only_a_reshape_that_keeps_the_batch(rewrite, target, flat):
    shape = "1,12" if flat else "3,4"
    done = rewrite(
        f"""g (float[1,3,2,2] x) => (float[{shape}] y)
        <int64[2] target = {{{target}}}> {{ y = Reshape(x, target) }}""",
        reshape_to_flatten,
    )
    assert done.ops == (["Flatten"] if flat else ["Reshape"])
    assert done.changed == flat
