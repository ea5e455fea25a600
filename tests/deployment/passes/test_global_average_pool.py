import pytest

from factory.deployment.passes.global_average_pool import global_average_pool


@pytest.mark.parametrize("axes", ["2, 3", "-2, -1", "-1, 2"])
def test_a_spatial_mean_becomes_a_global_pool(rewrite, axes):
    done = rewrite(
        f"""g (float[1,3,4,5] x) => (float[1,3,1,1] y)
        <int64[2] axes = {{{axes}}}> {{ y = ReduceMean(x, axes) }}""",
        global_average_pool,
    )
    assert done.changed
    assert done.ops == ["GlobalAveragePool"]
    assert done.after.graph.output[0].name == "y"


def test_without_kept_axes_it_is_flattened(rewrite):
    done = rewrite(
        """g (float[1,3,4,5] x) => (float[1,3] y)
        <int64[2] axes = {2, 3}> { y = ReduceMean<keepdims = 0>(x, axes) }""",
        global_average_pool,
    )
    assert done.ops == ["GlobalAveragePool", "Flatten"]


def test_axes_as_an_attribute_of_older_operator_sets(rewrite):
    done = rewrite(
        "g (float[1,3,4,5] x) => (float[1,3,1,1] y) { y = ReduceMean<axes = [2, 3]>(x) }",
        global_average_pool,
        opset=17,
    )
    assert done.ops == ["GlobalAveragePool"]


def test_a_mean_over_channels_is_left(rewrite):
    done = rewrite(
        """g (float[1,3,4,5] x) => (float[1,1,1,5] y)
        <int64[2] axes = {1, 2}> { y = ReduceMean(x, axes) }""",
        global_average_pool,
    )
    assert not done.changed
