import pytest

from factory.deployment.passes.clip_to_max_min import clip_to_max_min


@pytest.mark.parametrize(
    ("limits", "ops"),
    [
        ("float l = {0.25}, float h = {0.75}", ["Max", "Min"]),
        ("float l = {-0.75}, float h = {-0.25}", ["Max", "Min"]),
        ("float l = {0.0}, float h = {6.0}", ["Clip"]),
        ("float l = {-1.0}, float h = {1.0}", ["Clip"]),
    ],
)
def test_a_range_without_zero_is_written_out(rewrite, limits, ops):
    done = rewrite(f"net (float[2,8] x) => (float[2,8] y) <{limits}> {{ y = Clip(x, l, h) }}",
                   clip_to_max_min)  # fmt: skip
    assert done.ops == ops
    assert done.changed == (ops != ["Clip"])


def test_one_limit_alone(rewrite):
    text = "net (float[2,8] x) => (float[2,8] y) <float l = {0.5}> { y = Clip(x, l) }"
    assert rewrite(text, clip_to_max_min).ops == ["Max"]
