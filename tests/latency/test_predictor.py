"""The predictor against a synthetic chip whose true latencies are known."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.core.errors import InputError
from factory.devices.profile import load_profile
from factory.graph.kernel import Kernel
from factory.latency.features import family
from factory.latency.packed import pack
from factory.latency.predictor import LatencyPredictor
from factory.latency.trees import TreeEnsemble
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable, table_name


def conv(channels_in, channels_out, size, kernel, groups=1, stride=1, dtype="f32"):
    pad = kernel // 2
    text = (
        f"Conv(x=1x{channels_in}x{size}x{size},w={channels_out}x{channels_in // groups}x{kernel}x"
        f"{kernel},s={stride},p={pad},d=1,g={groups},act=relu,dtype={dtype})"
    )
    return Kernel.parse(text)


def all_kernels(dtype="f32"):
    found = []
    for size, channels in ((32, 16), (32, 24), (16, 32), (16, 48), (8, 64), (8, 96), (4, 128)):
        for kernel in (3, 5):
            for stride in (1, 2):
                found.append(conv(channels, channels, size, kernel, channels, stride, dtype))
        for factor in (1, 2, 4):
            found.append(conv(channels, channels * factor, size, 1, dtype=dtype))
            found.append(conv(channels, 16 * factor, size, 3, dtype=dtype))
        shape = f"1x{channels}x{size}x{size}"
        found.append(Kernel.parse(f"Add(x={shape}+{shape},dtype={dtype})"))
        found.append(Kernel.parse(f"MaxPool(x={shape},k=3,s=1,p=1,dtype={dtype})"))
        found.append(Kernel.parse(f"Relu(x={shape},dtype={dtype})"))
    return sorted(set(found))


def alone_ms(kernel):
    """The synthetic chip: depthwise at a tenth of the rate, 4 us to start a session."""
    rate = 2e6 if kernel.kind == "conv_depthwise" else 2e7  # MACs a millisecond
    traffic = kernel.input_bytes + kernel.weight_bytes + kernel.output_bytes
    return 0.004 + max(kernel.macs / rate, traffic / 1e7)


def network_ms(counts):
    """In a network: no session, caches less warm, Adds vanish, 20 us for the whole."""
    total = 0.02
    for kernel, number in counts.items():
        if kernel.op != "Add":
            total += number * (1.08 * (alone_ms(kernel) - 0.004) + 0.001)
    return total


def random_network(rng, kernels):
    chosen = rng.choice(len(kernels), size=int(rng.integers(8, 25)), replace=False)
    return {kernels[i]: int(rng.integers(1, 5)) for i in chosen}


def counts_text(counts):
    return ";".join(f"{number}*{kernel}" for kernel, number in counts.items())


class FakeTable:
    """What a fit needs of a latency table."""

    path = Path("fake-t1-fp32__onnxruntime-1.32__CPUExecutionProvider__fp32.csv")
    device_id = "fake-t1-fp32"
    dtype = "f32"

    def __init__(self, kernels=(), networks=(), noise=0.0, references=(), failed=()):
        rng = np.random.default_rng(1)
        self._rows = [
            self._row("kernel", str(k), alone_ms(k) * (1 + noise * rng.standard_normal()))
            for k in kernels
        ]
        self._rows += [
            self._row("kernel", str(k), 0.0, status="failed", reason="no implementation")
            for k in failed
        ]
        for number, counts in enumerate(networks):
            ms = network_ms(counts) * (1 + noise * rng.standard_normal())
            self._rows.append(self._row("network", f"net:{number:012d}", ms, counts_text(counts)))
        self._rows += [self._row("reference", "reference", ms) for ms in references]

    @staticmethod
    def _row(kind, key, ms, kernels="", status="ok", reason=""):
        return SimpleNamespace(
            kind=kind, key=key, kernels=kernels, median_ms=ms, p10_ms=0.98 * ms, p90_ms=1.03 * ms,
            min_ms=0.97 * ms, runs=50, reorder_share=0.0, status=status, reason=reason,
        )  # fmt: skip

    def rows(self, kind=None):
        return [row for row in self._rows if kind in (None, row.kind)]


KERNELS = all_kernels()
FEW = KERNELS[::3]  # of every kind, too few for trees: fitted in a tenth of the time


def networks(number, seed, kernels=KERNELS):
    rng = np.random.default_rng(seed)
    return [random_network(rng, kernels) for _ in range(number)]


def full_fit():
    table = FakeTable(KERNELS, networks(16, 0), references=[1.0, 1.01, 0.99])
    return LatencyPredictor.fit(table, seed=3)


@pytest.fixture(scope="module")
def predictor():
    return full_fit()


@pytest.fixture(scope="module")
def noisy():
    return LatencyPredictor.fit(FakeTable(KERNELS, networks(20, 0), noise=0.02))


def test_unseen_networks_within_five_percent():
    _within_five_percent(LatencyPredictor.fit(FakeTable(KERNELS, networks(10, 0))))


def test_unseen_networks_within_five_percent_with_noise(noisy):
    _within_five_percent(noisy)


def _within_five_percent(fitted):
    errors = [abs(fitted.predict(c).latency_ms / network_ms(c) - 1) for c in networks(60, seed=99)]
    assert np.median(errors) < 0.015
    assert np.quantile(errors, 0.95) < 0.05


def test_interval_covers_unseen_networks(noisy):
    inside = 0
    for counts in networks(60, seed=98):
        prediction = noisy.predict(counts)
        inside += prediction.low_ms <= network_ms(counts) <= prediction.high_ms
    assert inside >= 54
    assert noisy.half_width < 0.15


def test_report_beats_the_macs_line(predictor):
    report = predictor.report
    assert report["n_networks"] == 16
    assert report["held_out"]["median_percent"] < 2
    assert (
        report["baselines"]["macs_line"]["median_percent"]
        > 3 * report["held_out"]["median_percent"]
    )
    assert report["held_out"]["within_10_percent"] == 1.0
    assert report["noise"]["reference_spread_percent"] == pytest.approx(1.0, abs=0.2)


def test_never_worse_than_a_scaled_sum_when_networks_are_few():
    for number in (3, 5):
        fitted = LatencyPredictor.fit(FakeTable(FEW, networks(number, 3, FEW), noise=0.02))
        scores = fitted.report["correction"]["leave_one_out_mean_percent"]
        chosen = scores[fitted.correction.structure]
        assert chosen <= min(scores["none"], scores["scale"]) + 1e-9


def test_without_networks_the_correction_is_the_identity():
    fitted = LatencyPredictor.fit(FakeTable(FEW))
    counts = networks(1, 5, FEW)[0]
    prediction = fitted.predict(counts)
    assert prediction.latency_ms == pytest.approx(sum(n * alone_ms(k) for k, n in counts.items()))
    assert fitted.report["held_out"] is None
    assert "identity" in fitted.report["protocol"]
    assert any("no whole network" in text for text in prediction.warnings)
    assert prediction.high_ms > 1.29 * prediction.latency_ms


def test_unmeasured_kernels_come_from_regressors():
    held_out = KERNELS[::5]
    fitted = LatencyPredictor.fit(FakeTable([k for k in KERNELS if k not in held_out]))
    predicted = fitted.kernel_ms(held_out)
    truth = np.array([alone_ms(k) for k in held_out])
    assert np.median(np.abs(predicted / truth - 1)) < 0.25
    assert {fitted.source(k) for k in held_out} == {"regressor"}


def test_kernels_never_seen_are_named_and_widen_the_interval(predictor):
    known = {KERNELS[0]: 3, KERNELS[1]: 3, KERNELS[20]: 2}
    strange = conv(512, 512, 64, 3)
    plain, doubtful = predictor.predict(known), predictor.predict({**known, strange: 1})
    assert not [w for w in plain.warnings if "measure:" in w]
    assert any("outside the measured range" in w and str(strange) in w for w in doubtful.warnings)
    ratio = lambda p: p.high_ms / p.latency_ms  # noqa: E731
    assert ratio(doubtful) > ratio(plain)
    other = Kernel.parse("Concat(x=1x8x4x4+1x8x4x4,axis=1,dtype=f32)")
    assert predictor.source(other) == "roofline"
    assert predictor.predict({other: 1}).latency_ms > 0


def test_extrapolation_keeps_to_the_roofline_floor(predictor):
    huge = conv(2048, 2048, 128, 3)
    assert predictor.kernel_ms([huge])[0] > huge.macs / 2e7 / 3


def test_failed_kernel_is_told():
    failed = conv(24, 24, 32, 5, 24)
    kernels = [k for k in FEW if k != failed]
    table = FakeTable(kernels, networks(4, 1, kernels), failed=[failed])
    prediction = LatencyPredictor.fit(table).predict({failed: 1, kernels[2]: 1})
    assert any("failed on the device" in text for text in prediction.warnings)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(st.integers(0, 6), min_size=12, max_size=12),
    second=st.lists(st.integers(0, 6), min_size=12, max_size=12),
)
def test_non_negative_monotone_additive(predictor, first, second):
    kernels = [*KERNELS[:10], conv(56, 40, 12, 3), Kernel.parse("Softmax(x=1x10,dtype=f32)")]

    def predict(numbers):
        return predictor.predict(dict(zip(kernels, numbers, strict=True))).latency_ms

    both = [a + b for a, b in zip(first, second, strict=True)]
    weights, constant = predictor.linear_ms(kernels)
    assert (weights >= 0).all()
    assert constant >= 0
    assert predict(first) >= 0
    assert predict(both) >= predict(first) - 1e-12
    assert predict(both) == pytest.approx(predict(first) + predict(second) - constant)
    assert predict(first) == pytest.approx(constant + np.array(first) @ weights)
    many = predictor.predict_many(np.array([first, second]), kernels)
    assert many == pytest.approx([predict(first), predict(second)])


def test_rows_disturbed_by_other_load_do_not_mislead():
    table = FakeTable(FEW, networks(12, 0, FEW))
    rng = np.random.default_rng(0)
    for row in table.rows("network"):
        row.median_ms *= rng.uniform(1.0, 1.6)  # p10 stays where it was
    fitted = LatencyPredictor.fit(table)
    errors = [abs(fitted.predict(c).latency_ms / network_ms(c) - 1) for c in networks(30, 97, FEW)]
    assert np.median(errors) < 0.02
    assert fitted.report["noise"]["disturbed_networks"] > 6


def test_fits_a_real_table(tmp_path):
    profile = load_profile("local-cpu-t1-fp32")
    describe = {
        "device": profile.id,
        "fingerprint": {
            "chip": "fake",
            "runtime": "onnxruntime",
            "runtime_version": "1.32.0",
            "execution_provider": "CPUExecutionProvider",
            "precision": "fp32",
        },
    }
    with LatencyTable.open(tmp_path / table_name(describe), profile, describe) as table:
        for row in FakeTable(KERNELS[:20], networks(4, 0)).rows():
            table.append(Row(**vars(row), date="2026-01-01T00:00:00Z"))
    fitted = LatencyPredictor.fit(LatencyTable.read(table.path))
    assert fitted.device_id == profile.id
    assert fitted.report["n_networks"] == 4
    assert fitted.kernel_ms(KERNELS[:1])[0] == pytest.approx(alone_ms(KERNELS[0]), rel=0.02)


def test_parts_add_up(predictor):
    prediction = predictor.predict(networks(1, 11)[0])
    assert prediction.constant_ms + sum(p.ms for p in prediction.parts) == pytest.approx(
        prediction.latency_ms
    )
    assert [p.ms for p in prediction.parts] == sorted(
        (p.ms for p in prediction.parts), reverse=True
    )
    json.dumps(prediction.to_dict(), allow_nan=False)


def test_same_table_and_seed_give_the_same_file(predictor, tmp_path):
    predictor.save(tmp_path / "a.json")
    full_fit().save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


LOAD = """
import sys
from factory.graph.kernel import Kernel
from factory.latency.predictor import LatencyPredictor
predictor = LatencyPredictor.load(sys.argv[1])
kernels = [Kernel.parse(text) for text in sys.argv[2:]]
print(repr(predictor.predict({k: 2 for k in kernels}).latency_ms))
assert "sklearn" not in sys.modules and "torch" not in sys.modules, "heavy import"
"""


def test_loaded_predictor_is_the_same_and_needs_no_sklearn(predictor, tmp_path):
    assert any("trees" in r.model for r in predictor.regressors.values())
    predictor.save(tmp_path / "p.json")
    kernels = [KERNELS[0], conv(40, 40, 20, 3, 40), conv(40, 72, 20, 1)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "p.json", *map(str, kernels)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == predictor.predict(dict.fromkeys(kernels, 2)).latency_ms


def test_bad_input(tmp_path, predictor):
    with pytest.raises(InputError, match="no measured kernel"):
        LatencyPredictor.fit(FakeTable())
    with pytest.raises(InputError, match="2 rows, all failed"):
        LatencyPredictor.fit(FakeTable(failed=KERNELS[:2]))
    with pytest.raises(InputError, match="several precisions"):
        LatencyPredictor.fit(FakeTable(KERNELS + all_kernels("i8")))
    with pytest.raises(InputError, match="is i8, the predictor is for f32"):
        predictor.predict({conv(16, 16, 32, 3, dtype="i8"): 1})
    with pytest.raises(InputError, match="negative"):
        predictor.predict({KERNELS[0]: -1})
    with pytest.raises(InputError, match="2 kernels"):
        predictor.predict_many(np.zeros((1, 3)), KERNELS[:2])
    path = tmp_path / "p.json"
    for change, message in (
        ({"schema_version": 9}, "schema version 9"),
        ({"format": "other"}, "not a latency predictor"),
        ({"roofline": {}}, "damaged"),
        ({"correction": {**predictor.correction.to_dict(), "scales": [1.0]}}, "damaged"),
        ({"half_width": -1.0}, "half_width"),
        ({"kernel_ms": {"Relu(x=1,dtype=f32)": None}}, "kernel_ms"),
        ({"report": {"adapted": {"n": 1}}}, "report.adapted.from"),
        ({"report": {"start_up": {"session_ms": {"weights": {"x": 1}}}}}, "report.start_up"),
    ):
        path.write_text(json.dumps({**predictor.to_dict(), **change}))
        with pytest.raises(InputError, match=message):
            LatencyPredictor.load(path)


def _endless(trees):
    """A tree whose first node is its own child."""
    made = TreeEnsemble.from_dict(trees)
    left = made.left.copy()
    left[made.roots[0]] = made.roots[0]
    return {**trees, "left": pack(left)}


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {"center": r["center"][:-1]},
        lambda r: {"low": [*r["low"], 1.0]},
        lambda r: {"scale": [0.0] * len(r["scale"])},
        lambda r: {"coefficients": [None] * len(r["coefficients"])},
        lambda r: {"offset": 1e200},
        lambda r: {"trees": {**r["trees"], "value": pack(np.zeros(3))}},
        lambda r: {"trees": {**r["trees"], "roots": pack(np.array([10**6]))}},
        lambda r: {"trees": _endless(r["trees"])},
        lambda r: {"gaussian": {**r["gaussian"], "weights": pack(np.zeros(2))}},
        lambda r: {"gaussian": {**r["gaussian"], "length": 0.0}},
    ],
)
def test_a_regressor_whose_parts_do_not_fit_together_is_refused(tmp_path, predictor, change):
    value = predictor.to_dict()
    saved = value["regressors"]
    name = next(n for n, r in saved.items() if r["trees"] and r["gaussian"])
    saved[name] = {**saved[name], **change(saved[name])}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"p.json is damaged.*{name}"):
        LatencyPredictor.load(path).regressors[name]


def test_a_damaged_array_is_told_when_its_family_is_asked_for(tmp_path, predictor):
    value = predictor.to_dict()
    name = next(n for n, r in predictor.regressors.items() if r.trees is not None)
    value["regressors"][name]["trees"]["value"]["base64"] = "AAAA*"
    path = tmp_path / "p.json"
    path.write_text(json.dumps(value))
    loaded = LatencyPredictor.load(path)
    with pytest.raises(InputError, match=f"p.json is damaged.*{name}.*factory fit"):
        loaded.regressors[name]


def known_kernels():
    """Kernels of all operators that random networks hold, and of families nobody draws."""
    from factory.graph.canonical import canonicalise, kernel_counts
    from factory.spaces.mixed import random_mixed_network

    found = set(all_kernels())
    for seed in range(12):
        graph = canonicalise(random_mixed_network(np.random.default_rng(seed)))
        found |= set(kernel_counts(graph))
    more = (
        "GlobalAveragePool(x=1x96x7x7,dtype=f32)",
        "CumSum(x=1x16x8x8,dtype=f32)",
        "NonZero(x=9,y=1x9,dtype=f32)",
        "Gemm(x=1x640,w=1000x640,act=none,dtype=f32)",
        "Conv(x=1x640x1x1,w=64x640x1x1,s=1,p=0,d=1,g=1,act=none,dtype=f32)",
        "AveragePool(x=1x24x8x8,k=3,s=1,p=1,dtype=f32)",
        "DepthToSpace(x=1x64x8x8,blocksize=2,y=1x16x16x16,dtype=f32)",
    )
    return sorted(found | set(map(Kernel.parse, more)))


def test_a_written_predictor_answers_for_every_operator_as_before(predictor, tmp_path):
    """Whatever kinds of kernels were measured, and whatever kinds are asked for."""
    kernels = known_kernels()
    families = {family(kernel) for kernel in kernels}
    assert len(families) > 30
    path = tmp_path / "p.json"
    for names in (set(), {"conv_dense"}, {"binary", "max_pool"}, set(predictor.regressors)):
        kept = {name: one for name, one in predictor.regressors.items() if name in names}
        made = replace(predictor, regressors=kept, lookup=False, _cache={})
        made.save(path)
        loaded = LatencyPredictor.load(path).without_lookup()
        assert set(loaded.regressors) == set(kept)
        assert loaded.kernel_ms(kernels).tolist() == made.kernel_ms(kernels).tolist()
        for kernel in kernels[::7]:
            assert loaded.predict({kernel: 1}) == made.predict({kernel: 1})


def test_no_kernel_leaves_what_was_shown_of_a_mac_and_a_byte(predictor):
    """However far a kernel lies from those that were measured, and of whatever kind."""
    blind = predictor.without_lookup()
    for kernel in known_kernels():
        prediction = blind.predict({kernel: 1})
        assert 0 < prediction.low_ms < prediction.latency_ms < prediction.high_ms
        assert prediction.high_ms < 20 * prediction.low_ms
    for side in (28, 224, 1024):
        huge = conv(512, 512, side, 3)
        ratio = blind.kernel_ms([huge])[0] / alone_ms(huge)
        assert 0.5 < ratio < 2.0, "the rate of its family"


def test_a_predictor_of_quantised_networks_knows_kernels_in_floats():
    """Each precision has regressors of its own; what no profile holds is named and widens."""
    table = FakeTable(KERNELS + all_kernels("i8"))
    table.dtype = "i8"
    fitted = LatencyPredictor.fit(table)
    assert {"conv_dense", "conv_dense_i8"} <= set(fitted.regressors)
    unseen = [conv(40, 40, 20, 3, dtype=dtype) for dtype in ("f32", "i8")]
    floats, integers = (fitted.predict({kernel: 1}) for kernel in unseen)
    alone = FakeTable(KERNELS)
    expected = LatencyPredictor.fit(alone).predict({unseen[0]: 1}).latency_ms
    assert floats.latency_ms == pytest.approx(expected, rel=0.05)
    other = fitted.predict({conv(40, 40, 20, 3, dtype="s8"): 1})
    assert other.latency_ms == pytest.approx(integers.latency_ms)
    assert other.high_ms - other.low_ms > 2 * (integers.high_ms - integers.low_ms)
    assert any("of a like kind" in text for text in other.warnings)
    dynamic = Kernel.parse(
        "ConvInteger(x=1x40x20x20,w=40x40x3x3,s=1,p=1,d=1,g=1,act=none,dtype=i8)"
    )
    told = fitted.predict({dynamic: 1})
    assert any("integer operator that was not measured" in text for text in told.warnings)
    assert told.high_ms > 1.5 * told.latency_ms
