from factory.reporting.artefacts import read_run
from factory.reporting.comparison import (
    choice,
    difference,
    render_comparison,
    why,
    write_comparison,
)

A = "Conv(x=1x16x32x32,w=16x1x3x3,s=1,p=1,d=1,g=16,act=none,dtype=f32)"
A_INT8 = A.replace("f32", "i8")
B = "MaxPool(x=1x32x16x16,k=3,s=2,p=1,dtype=f32)"


def entry(kernel, count, ms):
    return {"kernel": kernel, "count": count, "predicted_ms": ms, "share": 0.1}


def test_kernels_are_joined_without_their_data_type():
    found = difference([entry(A, 4, 0.4), entry(B, 1, 0.1)], [entry(A_INT8, 2, 0.1)])
    assert (found["shared"], found["only_a"], found["only_b"]) == (1, 1, 0)
    first, second = found["rows"]
    assert (first["count_a"], first["count_b"]) == (4, 2)
    assert abs(first["delta_ms"] + 0.3) < 1e-12
    assert abs(second["delta_ms"] + 0.1) < 1e-12
    assert first["label"] == "3×3 depthwise conv"


def test_the_differences_add_up_to_that_of_the_sums():
    left = [entry(A.replace("16x32", f"16x{n}"), n, n / 7) for n in range(1, 30)]
    right = [entry(A.replace("16x32", f"16x{n}"), n, n / 5) for n in range(10, 40)]
    found = difference(left, right)
    total = sum(row["delta_ms"] for row in found["rows"]) + found["rest_ms"]
    expected = sum(e["predicted_ms"] for e in right) - sum(e["predicted_ms"] for e in left)
    assert abs(total - expected) < 1e-9


def test_a_page_for_every_pair(make_run):
    path = write_comparison(make_run())
    page = path.read_text()
    for shown in ("digits-all and digits-t1", "digits-t1 and digits-int8", "held to 1.9 ms"):
        assert shown in page, shown
    assert "no kernel at all <b>" not in page


def test_an_unfinished_run_has_a_page_too(make_run):
    run = make_run()
    for path in (run / "06-verify").glob("*.json"):
        path.unlink()
    page = render_comparison(read_run(run))
    assert "0 kernels in both" in page
    assert why({}, None) == "Nothing is known of it yet."


def test_the_sentence_tells_what_the_search_chose_between(make_run):
    tier = read_run(make_run()).tiers[0]
    tier.genotype = {"schema_version": 1, "normal": [["a", 0], ["b", 1]], "normal_concat": [2]}
    tier.search = {"repaired": False, "discretised": dict(tier.genotype)}
    assert "of all networks" in choice(tier)
    tier.search = {
        "repaired": True,
        "discretised": {**tier.genotype, "normal": [["a", 0], ["c", 1]]},
    }
    told = why(
        {"max_latency_ms": 2.0, "predicted_ms": 1.5}, None, choice(tier), {"baseline_ms": 3.0}
    )
    assert told.startswith("Of the networks within its budgets")
    assert "1 of 2 choices differ" in told
    assert "without the latency term the search takes one of 3 ms" in told
    tier.search = {}
    assert choice(tier) == ""
