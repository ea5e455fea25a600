from factory.deployment.passes.fold_batch_norm_into_concat import fold_batch_norm_into_concat

WEIGHTS = """float[2,1,1,1] w1 = {1.5, -2.0}, float[1,1,1,1] w2 = {0.7}, float[1] b2 = {0.4},
    float[3] g = {1.5, 0.5, -1.0}, float[3] s = {0.1, -0.2, 0.3}, float[3] m = {0.3, 0.4, 0.5},
    float[3] v = {0.9, 2.0, 0.1}"""


def test_each_convolution_takes_its_channels(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,3,2,2] y) <{WEIGHTS}>
        {{ a = Conv(x, w1)  b = Conv(x, w2, b2)  c = Concat<axis = 1>(a, b)
           y = BatchNormalization<epsilon = 0.001>(c, g, s, m, v) }}""",
        fold_batch_norm_into_concat,
    )
    assert done.changed
    assert done.ops == ["Conv", "Conv", "Concat"]
    assert done.after.graph.output[0].name == "y"


def test_a_concat_with_something_else_in_it_is_left(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,3,2,2] y) <{WEIGHTS}>
        {{ a = Conv(x, w1)  c = Concat<axis = 1>(a, x)
           y = BatchNormalization(c, g, s, m, v) }}""",
        fold_batch_norm_into_concat,
    )
    assert not done.changed


def test_a_concat_that_others_read_is_left(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,3,2,2] y, float[1,3,2,2] c) <{WEIGHTS}>
        {{ a = Conv(x, w1)  b = Conv(x, w2, b2)  c = Concat<axis = 1>(a, b)
           y = BatchNormalization(c, g, s, m, v) }}""",
        fold_batch_norm_into_concat,
    )
    assert not done.changed
