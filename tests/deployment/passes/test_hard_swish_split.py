import pytest

from factory.deployment.passes.hard_swish_split import hard_swish_to_clip, split_hard_swish

SWISH = "net (float[1,3,4,4] x) => (float[1,3,4,4] y) { a = Relu(x) b = HardSwish(a) y = Relu(b) }"
SIGMOID = """net (float[1,3,4,4] x) => (float[1,3,4,4] y)
    { y = HardSigmoid<alpha = 0.3, beta = 0.25>(x) }"""


def test_into_hard_sigmoid_and_mul(rewrite):
    result = rewrite(SWISH, split_hard_swish)
    assert result.changed
    assert result.ops == ["Relu", "HardSigmoid", "Mul", "Relu"]


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        (SWISH, ["Relu", "Add", "Clip", "Mul", "Mul", "Relu"]),
        (SIGMOID, ["Add", "Clip", "Mul"]),
    ],
)
def test_into_operators_that_every_phone_has(rewrite, text, ops):
    result = rewrite(text, hard_swish_to_clip)
    assert result.changed
    assert result.ops == ops


def test_nothing_to_do(rewrite):
    text = "net (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu(x) }"
    assert not rewrite(text, split_hard_swish).changed
    assert not rewrite(text, hard_swish_to_clip).changed
