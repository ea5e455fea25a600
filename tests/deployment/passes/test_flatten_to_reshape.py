import pytest

from factory.deployment.passes.flatten_to_reshape import flatten_to_reshape


@pytest.mark.parametrize(("axis", "rows"), [(0, 1), (1, 2), (2, 6), (-1, 24)])
def test_the_same_numbers_in_the_same_shape(rewrite, axis, rows):
    text = f"""net (float[2,3,4,5] x) => (float[{rows},{120 // rows}] y)
        {{ a = Relu(x) y = Flatten<axis = {axis}>(a) }}"""
    result = rewrite(text, flatten_to_reshape)
    assert result.changed
    assert result.ops == ["Relu", "Reshape"]


def test_nothing_to_do(rewrite):
    text = "net (float[1,3] x) => (float[1,3] y) { y = Relu(x) }"
    assert not rewrite(text, flatten_to_reshape).changed
