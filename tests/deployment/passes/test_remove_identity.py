from factory.deployment.passes.remove_identity import remove_identity


def test_a_chain_of_identities_disappears(rewrite):
    done = rewrite(
        """g (float[1,2] x) => (float[1,2] y)
        { a = Identity(x)  b = Identity(a)  c = Relu(b)  y = Identity(c) }""",
        remove_identity,
    )
    assert done.changed
    assert done.ops == ["Relu"]
    assert [v.name for v in done.after.graph.output] == ["y"]


def test_a_cast_to_the_same_type_disappears(rewrite):
    done = rewrite(
        "g (float[1,2] x) => (float[1,2] y) { a = Cast<to = 1>(x)  y = Relu(a) }",
        remove_identity,
    )
    assert done.ops == ["Relu"]


def test_from_input_to_output_it_stays(rewrite):
    done = rewrite("g (float[1,2] x) => (float[1,2] y) { y = Identity(x) }", remove_identity)
    assert done.ops == ["Identity"]
