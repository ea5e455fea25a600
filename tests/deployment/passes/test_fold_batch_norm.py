from factory.deployment.passes.fold_batch_norm import fold_batch_norm

NORM = """float[2] g = {1.5, 0.5}, float[2] s = {0.1, -0.2}, float[2] m = {0.3, 0.4},
          float[2] v = {0.9, 2.0}"""
CONV = "float[2,1,1,1] w = {1.5, -2.0}"


def test_it_folds_into_the_convolution_before_it(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,2,2,2] y) <{CONV}, {NORM}>
        {{ a = Conv(x, w)  b = BatchNormalization(a, g, s, m, v)  y = Relu(b) }}""",
        fold_batch_norm,
    )
    assert done.changed
    assert done.ops == ["Conv", "Relu"]


def test_convolutions_that_share_weights_get_their_own(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,2,2,2] y) <{CONV}, {NORM}>
        {{ r = Relu(x)  a = Conv(x, w)  b = BatchNormalization(a, g, s, m, v)
           c = Conv(r, w)  d = BatchNormalization(c, g, s, m, v)  e = Conv(r, w)
           f = Add(b, d)  y = Add(e, f) }}""",
        fold_batch_norm,
    )
    assert "BatchNormalization" not in done.ops
    assert done.ops.count("Conv") == 3


def test_a_convolution_that_others_read_is_left(rewrite):
    done = rewrite(
        f"""net (float[1,1,2,2] x) => (float[1,2,2,2] y) <{CONV}, {NORM}>
        {{ a = Conv(x, w)  b = BatchNormalization(a, g, s, m, v)  y = Add(a, b) }}""",
        fold_batch_norm,
    )
    assert not done.changed
    assert "BatchNormalization" in done.ops


def test_it_folds_into_a_transposed_convolution_of_groups(rewrite):
    done = rewrite(
        f"""net (float[1,4,2,2] x) => (float[1,2,4,4] y)
        <float[4,1,1,1] w = {{1.5, -2.0, 0.5, 3.0}}, float[2] c = {{0.5, -0.5}}, {NORM}>
        {{ a = ConvTranspose <group = 2, strides = [2, 2], output_padding = [1, 1]> (x, w, c)
           y = BatchNormalization(a, g, s, m, v) }}""",
        fold_batch_norm,
    )
    assert done.ops == ["ConvTranspose"]
