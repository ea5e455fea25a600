from factory.deployment.passes.share_unary import share_unary


def test_equal_unary_operators_are_shared_and_chains_follow(rewrite):
    done = rewrite(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y)
        { a = Relu(x)  b = Relu(x)
          c = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(a)
          d = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(b)  y = Add(c, d) }""",
        share_unary,
    )
    assert done.changed
    assert done.ops == ["Relu", "MaxPool", "Add"]


def test_other_attributes_are_another_operator(rewrite):
    done = rewrite(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y)
        { c = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(x)
          d = MaxPool<kernel_shape = [1,1]>(x)  y = Add(c, d) }""",
        share_unary,
    )
    assert not done.changed


def test_adds_and_convolutions_never_merge(rewrite):
    done = rewrite(
        """g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {0.5}>
        { a = Conv(x, w)  b = Conv(x, w)  c = Add(a, b)  d = Add(a, b)  y = Mul(c, d) }""",
        share_unary,
    )
    assert not done.changed
    assert done.ops.count("Conv") == done.ops.count("Add") == 2
