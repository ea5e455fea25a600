from factory.deployment.passes.remove_unused import remove_unused


def test_what_nothing_reads_goes(rewrite):
    done = rewrite(
        """g (float[1,2] x) => (float[1,2] y) <float[2] w = {1.0, 2.0}, float[2] dead = {3.0, 4.0}>
        { a = Mul(x, dead)  b = Relu(a)  y = Mul(x, w) }""",
        remove_unused,
    )
    assert done.changed
    assert done.ops == ["Mul"]
    assert [w.name for w in done.after.graph.initializer] == ["w"]
