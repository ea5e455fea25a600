import pytest

from factory.reporting.kernel_view import kernel_rows, node_rows


def test_rows_are_readable_sorted_and_summed_by_kind():
    view = kernel_rows(
        [
            {"kernel": "Relu(x=1x8x4x4,dtype=f32)", "count": 3, "predicted_ms": 0.1, "share": 0.2},
            {
                "kernel": "Conv(x=1x8x4x4,w=16x8x1x1,s=2,p=0,d=1,g=1,act=relu,dtype=i8)",
                "count": 2, "predicted_ms": 0.3, "share": 0.7,
            },
            {"kernel": "mystery", "count": 1, "share": 0.1},
            {"kernel": "no share"},
        ]
    )  # fmt: skip
    top = view["top"]
    assert [row["share"] for row in top] == [0.7, 0.2, 0.1]
    assert top[0]["label"] == "1×1 pointwise conv"
    assert top[0]["detail"] == "8×4×4 → 16, stride 2, + relu"
    assert top[2]["label"] == "mystery"
    assert [k["kind"] for k in view["kinds"]] == ["conv_pointwise", "elementwise", "other"]
    assert view["rest"] == {"count": 0, "share": 0}


def test_the_tail_is_summed():
    kernels = [{"kernel": f"k{i}", "share": 0.05} for i in range(20)]
    view = kernel_rows(kernels)
    assert len(view["top"]) == 12
    assert view["rest"]["count"] == 8
    assert view["rest"]["share"] == pytest.approx(0.4)


@pytest.mark.parametrize("bad", [None, 3, "x", [1, None], {}])
def test_odd_values_give_nothing(bad):
    assert kernel_rows(bad)["top"] == []
    assert node_rows(bad) == []


def test_nodes_of_one_operator_are_added():
    nodes = [
        {"op": "Conv", "share": 0.5},
        {"op": "Relu", "share": 0.6},
        {"op": "Conv", "share": 0.2},
    ]
    rows = node_rows(nodes)
    assert [(r["op"], r["count"]) for r in rows] == [("Conv", 2), ("Relu", 1)]
