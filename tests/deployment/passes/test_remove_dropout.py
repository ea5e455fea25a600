from factory.deployment.passes.remove_dropout import remove_dropout


def test_dropout_disappears(rewrite):
    done = rewrite(
        "g (float[1,4] x) => (float[1,4] y) { a, mask = Dropout(x)  y = Relu(a) }", remove_dropout
    )
    assert done.changed
    assert done.ops == ["Relu"]


def test_dropout_whose_mask_is_read_stays(rewrite):
    done = rewrite(
        "g (float[1,4] x) => (float[1,4] y, bool[1,4] mask) { a, mask = Dropout(x)  y = Relu(a) }",
        remove_dropout,
    )
    assert not done.changed
    assert "Dropout" in done.ops
