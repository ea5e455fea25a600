"""Profiling a chip for any network, on the simulated device whose truth is known."""

import dataclasses

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.core.progress import SILENT
from factory.devices.simulated import SimulatedDevice
from factory.graph.canonical import kernel_counts
from factory.graph.fusion import parse_rules
from factory.latency.facts import read_facts
from factory.latency.fitting import held_out_error, quick_predictor
from factory.latency.predictor import LatencyPredictor
from factory.latency.sources import sources
from factory.pipeline import chip_plan
from factory.pipeline.chip_plan import EFFORTS, Effort, effort_of, forecast, profile_chip
from factory.pipeline.network_samples import sample_network
from factory.profiling.fusion_rules import fusion_rules
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

TINY = Effort(10_000, 12, 0.01, 6, ProfileSettings(longest_wait_s=0.0))


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    monkeypatch.setattr(chip_plan, "sample_network", small)


def small(space, *seed):
    """Any of the space's networks, but small ones: building weights takes the time here."""
    number = seed[-1]
    while True:
        graph = sample_network(space, number)
        if sum(k.params * n for k, n in kernel_counts(graph).items()) < 4e5:
            return graph
        number += 1000


def profiled(path, effort, device=None):
    device = device or SimulatedDevice()
    with LatencyTable.open(path, device.profile, device.describe()) as table:
        return profile_chip(device, table, effort)


def test_rounds_until_a_budget_then_goes_on(tmp_path):
    path = tmp_path / "t.csv"
    first = profiled(path, TINY)
    assert first.stopped == "the budget of 12 networks is spent"
    assert [row["networks"] for row in first.rounds] == [6, 12]
    table = LatencyTable.read(path)
    assert len(table.rows("network")) == 12
    facts = read_facts(table)
    device = SimulatedDevice()
    predictor = quick_predictor(facts)
    for kernel, ms in sources(facts)[-1].times().items():
        assert ms == pytest.approx(device.roofline.kernel_ms(kernel), rel=1e-5)
    unseen = kernel_counts(small("mobile", 77))
    predicted = predictor.predict(unseen).latency_ms
    assert predicted == pytest.approx(device.truth_ms(unseen), rel=0.25)
    more = profiled(path, dataclasses.replace(TINY, max_networks=14))
    assert more.summary.measured == 2
    assert len(LatencyTable.read(path).rows("network")) == 14


def test_stops_at_the_wanted_error_and_at_networks(tmp_path):
    easy = dataclasses.replace(TINY, wanted_percent=1e6)
    assert "wanted error" in profiled(tmp_path / "a.csv", easy).stopped
    few = dataclasses.replace(TINY, max_networks=5)
    assert profiled(tmp_path / "b.csv", few).stopped == "the budget of 5 networks is spent"


def test_rounds_grow_with_what_was_measured(tmp_path):
    many = dataclasses.replace(TINY, round_size=2, max_networks=9)
    rounds = profiled(tmp_path / "t.csv", many).rounds
    assert [round["networks"] for round in rounds] == [2, 4, 6, 9]


def test_a_drifting_clock_is_noticed_and_said(tmp_path):
    said = []

    class Says:
        def message(self, text):
            said.append(text)

        def task(self, *_args, **_more):
            return SILENT.task("", total=1)

    device = SimulatedDevice(drift=lambda timed: 1.2 if timed > 12 else 1.0)
    with LatencyTable.open(tmp_path / "t.csv", device.profile, device.describe()) as table:
        result = profile_chip(device, table, TINY, progress=Says())
    assert result.summary.repeated_blocks > 0
    assert result.summary.marked_blocks > 0
    assert any("reference took +20%" in text for text in said)
    reasons = [row.reason for row in LatencyTable.read(tmp_path / "t.csv").rows("network")]
    assert any("reference took +20% while this was measured" in reason for reason in reasons)


def test_a_round_that_no_time_is_left_for_is_not_begun(tmp_path):
    hurried = dataclasses.replace(TINY, max_seconds=0.001)
    none_left = profiled(tmp_path / "a.csv", hurried)
    assert none_left.stopped == "the budget of 0.001 s is spent"
    assert [row["networks"] for row in none_left.rounds] == [5]


def test_doubt_is_larger_for_strange_networks(tmp_path):
    profiled(tmp_path / "t.csv", TINY)
    predictor = quick_predictor(read_facts(LatencyTable.read(tmp_path / "t.csv")), trees=False)
    known = kernel_counts(small("mobile", 0))
    fresh = [kernel_counts(small("mobile", number)) for number in range(300, 306)]
    doubts = chip_plan.doubts(predictor, [known, *fresh])
    assert doubts[0] < np.mean(doubts[1:])
    alone = [chip_plan.doubts(predictor, [counts])[0] for counts in fresh]
    assert doubts[1:] == pytest.approx(alone)


RULES = parse_rules(["conv_pointwise+Add", "conv_dense+Add", "Add+Relu", "Add+Clip"])


def test_of_a_device_that_compiles_networks_the_kernels_are_inferred(tmp_path):
    """No trace, no kernel alone: the truth is additive and is found from the networks' times."""
    device = SimulatedDevice(fuses=RULES, compiles=True)
    effort = dataclasses.replace(TINY, max_networks=60, round_size=40)
    result = profiled(tmp_path / "t.csv", effort, device)
    assert [row["networks"] for row in result.rounds] == [40, 60]
    assert result.rounds[-1]["error_percent"] < 10
    table = LatencyTable.read(tmp_path / "t.csv")
    assert fusion_rules(table) == RULES
    assert not table.rows("in_place")
    assert not table.rows("kernel")
    measured = {row.key: row.median_ms for row in table.rows("network")}
    for network in read_facts(table).networks:  # folded operators are not among the kernels
        truth_ms = device.truth_ms(network.counts)
        assert truth_ms == pytest.approx(measured[network.key], rel=1e-6)
    predictor = LatencyPredictor.fit(table)
    assert predictor.infers
    assert predictor.fusion == RULES
    assert not predictor.measured_ms
    errors = []
    for number in range(200, 212):
        unseen = kernel_counts(small("mobile", number), fusion=predictor.fusion)
        prediction = predictor.predict(unseen)
        assert {part.source for part in prediction.parts} == {"regressor"}
        errors.append(abs(prediction.latency_ms / device.truth_ms(unseen) - 1))
    assert np.mean(errors) < 0.1


def test_too_few_networks_of_a_device_that_compiles_are_told(tmp_path):
    with pytest.raises(InputError, match="no trace of its kernels and only 6 networks"):
        profiled(tmp_path / "t.csv", TINY, SimulatedDevice(compiles=True))
    more = dataclasses.replace(TINY, max_networks=24, round_size=18)
    goes_on = profiled(tmp_path / "t.csv", more, SimulatedDevice(compiles=True))
    assert goes_on.summary.measured == 18


def _refused(kernel):
    image = kernel.inputs[0][1] == 3 and kernel.inputs[0][2] != 32  # the reference's is 32x32
    return "out of memory" if image else None


def test_why_most_networks_failed_is_told(tmp_path):
    device = SimulatedDevice(compiles=True, fails_on=_refused)
    with pytest.raises(InputError, match=r"only \d+ networks") as told:
        profiled(tmp_path / "t.csv", dataclasses.replace(TINY, max_networks=24), device)
    assert "out of memory" in str(told.value)


def test_a_device_without_traces_has_more_time():
    effort = EFFORTS["quick"]
    assert effort.max_seconds < effort.untraced().max_seconds <= 600
    assert TINY.untraced() == TINY


def test_forecasts_and_names():
    for name, effort in EFFORTS.items():
        assert effort_of(name) is effort
        assert forecast(effort)["seconds"] <= effort.max_seconds
    assert forecast(EFFORTS["quick"])["networks"] < forecast(EFFORTS["full"])["networks"]
    with pytest.raises(InputError, match="effort"):
        effort_of("quik")


def test_a_dry_run_says_how_much_and_how_long_and_measures_nothing(tmp_path, monkeypatch, capsys):
    from factory.cli.main import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    arguments = ["profile", "--device", "local-cpu-t1-fp32", "--dry-run"]
    assert run([*arguments, "--quick"]) == 0
    quick, full, folder = capsys.readouterr().out.splitlines()
    assert "--quick: about 113 networks with 5650 kernels" in quick
    assert "2.5 min (at most 2.5)" in quick
    assert "--full: about" in full
    assert str(tmp_path) in folder
    assert run([*arguments, "--channels", "8", "--layers", "5"]) == 0
    said, *efforts = capsys.readouterr().out.splitlines()
    assert "(0 of them measured before) and 16 networks" in said
    assert [line.partition(":")[0] for line in efforts] == ["--effort quick", "--effort full"]
    assert list(tmp_path.iterdir()) == []


def test_folds_on_several_cores_say_the_same(tmp_path, monkeypatch):
    profiled(tmp_path / "t.csv", TINY)
    facts = read_facts(LatencyTable.read(tmp_path / "t.csv"))
    alone = held_out_error(facts)
    monkeypatch.setattr("factory.latency.uncorrected.ROWS_FOR_ONE_CORE", 0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    assert held_out_error(facts) == pytest.approx(alone, rel=1e-9)
