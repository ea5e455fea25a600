from factory.deployment.passes.deduplicate_initialisers import deduplicate_initialisers


def test_equal_weights_are_stored_once_and_others_kept(rewrite):
    done = rewrite(
        """g (float[1,2] x) => (float[1,2] y)
        <float[2] a = {1.0, 2.0}, float[2] b = {1.0, 2.0}, float[2] c = {1.0, 2.5}>
        { p = Mul(x, a)  q = Mul(p, b)  y = Add(q, c) }""",
        deduplicate_initialisers,
    )
    assert done.changed
    assert len(done.after.graph.initializer) == 2
