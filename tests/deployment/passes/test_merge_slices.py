from factory.deployment.passes.merge_slices import merge_slices

LIST = "int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] end = {99}"


def test_two_axes_are_cut_at_once(rewrite):
    done = rewrite(
        f"""g (float[1,2,4,5] x) => (float[1,2,3,4] y) <{LIST}>
        {{ a = Slice(x, one, end, two, one)  y = Slice(a, one, end, three, one) }}""",
        merge_slices,
    )
    assert done.changed
    assert done.ops == ["Slice"]


def test_slices_of_one_axis_are_left(rewrite):
    done = rewrite(
        f"""g (float[1,2,4,5] x) => (float[1,2,2,5] y) <{LIST}>
        {{ a = Slice(x, one, end, two, one)  y = Slice(a, one, end, two, one) }}""",
        merge_slices,
    )
    assert not done.changed


def test_a_slice_that_others_read_is_left(rewrite):
    done = rewrite(
        f"""g (float[1,2,4,5] x) => (float[1,2,3,4] y, float[1,2,3,5] z) <{LIST}>
        {{ a = Slice(x, one, end, two, one)  y = Slice(a, one, end, three, one)  z = Relu(a) }}""",
        merge_slices,
    )
    assert done.ops.count("Slice") == 2


def test_a_slice_of_everything_disappears(rewrite):
    done = rewrite(
        f"""g (float[1,2,4,5] x) => (float[1,2,4,5] y) <{LIST}, int64[1] zero = {{0}}>
        {{ a = Slice(x, zero, end, one, one)  y = Relu(a) }}""",
        merge_slices,
    )
    assert done.ops == ["Relu"]
