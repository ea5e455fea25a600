from factory.deployment.passes.fold_constants import fold_constants


def test_a_constant_chain_becomes_an_initialiser(rewrite):
    done = rewrite(
        """g (float[1,4] x) => (float[2,2] y)
        { a = Constant<value_ints = [2]>()  b = Concat<axis = 0>(a, a)
          c = Cast<to = 7>(b)  y = Reshape(x, c) }""",
        fold_constants,
    )
    assert done.changed
    assert done.ops == ["Reshape"]
    assert len(done.after.graph.initializer) == 1


def test_a_single_constant_becomes_an_initialiser(rewrite):
    done = rewrite(
        """g (float[1,2] x) => (float[1,2] y)
        { a = Constant<value_float = 2.0>()  y = Mul(x, a) }""",
        fold_constants,
    )
    assert done.ops == ["Mul"]


def test_equal_adds_of_the_image_are_not_merged(rewrite):
    done = rewrite(
        """g (float[1,2] x) => (float[1,2] y)
        { r = Relu(x)  a = Add(x, r)  b = Add(x, r)  y = Mul(a, b) }""",
        fold_constants,
    )
    assert done.ops.count("Add") == 2
