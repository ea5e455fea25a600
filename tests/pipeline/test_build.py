"""The whole line on a simulated chip: artefacts, going on after kill -9, what a change does."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from killing_build import Builds

from factory.core.files import sha256_file
from factory.core.reading import read_json
from factory.profiling.reference import GRAPHS
from factory.profiling.table import LatencyTable

pytestmark = pytest.mark.heavy
# One place in each stage, in the middle of its work.
KILLS = [
    "factory.profiling.table:LatencyTable.append:25",
    "factory.pipeline.stages.fit:resolve_budgets:1",
    "factory.search.bilevel:Bilevel._one_step:2",
    "factory.search.bilevel:Bilevel._one_step:5",
    "factory.pipeline.stages.search:finish_baseline:1",
    "factory.training.loop:_Run._one_step:7",
    "factory.deployment.manifest:ModelManifest.save:1",
    "factory.pipeline.stages.verify:_images_part:1",
    "factory.reporting.report:write_atomic_text:1",
]
INTERRUPTS = [
    "factory.profiling.table:LatencyTable.append:9:SIGINT",
    "factory.search.bilevel:Bilevel._one_step:4:SIGTERM",
    "factory.training.loop:_Run._one_step:5:SIGINT",
]
SET = len(GRAPHS)  # references beside every measurement
SAME = [
    "02-fit/budgets.json",
    "02-fit/simulated-a.predictor.json",
    "03-search/sim/genotype.json",
    "03-search/no-latency/genotype.json",
    "04-train/sim/weights.safetensors",
]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    builds = Builds(tmp_path_factory.mktemp("streams"))
    yield builds
    builds.close()


@pytest.fixture(scope="module")
def finished(build, tmp_path_factory, tiny_in):
    """A recipe and its finished run, shared by the tests of this file: copy before changing."""
    folder = tmp_path_factory.mktemp("build")
    recipe = tiny_in(folder)
    done = build(recipe, folder / "out")
    assert done.returncode == 0, done.stderr
    return recipe, folder / "out", json.loads(done.stdout)


def rows(run):
    (path,) = (run / "01-profile").glob("*.csv")
    return [(row.kind, row.key, row.median_ms) for row in LatencyTable.read(path).rows()]


def test_a_build_leaves_its_artefacts(finished):
    _, run, answer = finished
    assert answer["schema_version"] == 1
    assert answer["passed"] is True
    assert Path(answer["report"]).is_file()
    (tier,) = answer["tiers"]
    assert tier["verdict"] == "passed"
    assert tier["median_ms"] <= tier["max_latency_ms"]
    assert tier["macs"] <= tier["max_macs"]
    assert abs(tier["predicted_ms"] / tier["median_ms"] - 1) < 0.1
    verified = read_json(run / "06-verify/sim.json")
    assert verified["describe"]["simulated"] is True
    assert verified["parity"]["max_relative_difference"] <= 1e-3
    report = read_json(run / "07-report/report.json")
    assert [entry["name"] for entry in report["tiers"]] == ["sim"]
    assert report["missing"] == []
    record = read_json(run / "run.json")
    assert [entry["stage"] for entry in record["stages"]][:3] == ["profile", "fit", "search"]
    for stage in ("01-profile", "03-search", "06-verify", "07-report"):
        assert (run / stage / "DONE").is_file()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_in_every_stage_it_ends_the_same(build, finished, tmp_path):
    recipe, reference, _ = finished
    out = tmp_path / "out"
    for where in KILLS:
        killed = build(recipe, out, where)
        assert killed.returncode == -signal.SIGKILL, (where, killed.stderr)
    done = build(recipe, out)
    assert done.returncode == 0, done.stderr
    for name in SAME:
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    measured = [(kind, key) for kind, key, _ in rows(out) if kind != "reference"]
    assert len(measured) == len(set(measured))
    assert {r for r in rows(out) if r[0] != "reference"} == {
        r for r in rows(reference) if r[0] != "reference"
    }
    assert not (out / ".replaced").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupted_it_says_how_to_go_on_and_does(build, finished, tmp_path):
    recipe, reference, _ = finished
    out = tmp_path / "out"
    for where in INTERRUPTS:
        stopped = build(recipe, out, where)
        assert stopped.returncode == 130, (where, stopped.stderr)
        assert stopped.stdout == ""
        assert f"to go on: factory build {recipe} --out {out}" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    done = build(recipe, out)
    assert done.returncode == 0, done.stderr
    for name in SAME:
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name


def test_a_model_over_budget_as_measured_is_searched_again(finished, tmp_path, monkeypatch):
    """The chip is 30 % slower once the model is trained: a lower target, and it passes."""
    answer = _verified_again(finished, tmp_path / "out", monkeypatch, 1.3)
    assert answer["passed"] is True
    (tier,) = answer["tiers"]
    assert tier["median_ms"] <= tier["max_latency_ms"]
    entries = read_json(tmp_path / "out/03-search/targets.json")["tiers"]["sim"]
    assert [entry["kind"] for entry in entries] == ["budget", "verify"]
    assert entries[1]["measured_ms"] > entries[1]["limit_ms"]
    share = entries[1]["limit_ms"] / entries[1]["measured_ms"]
    assert entries[1]["target_ms"] <= share * entries[0]["target_ms"]
    assert read_json(tmp_path / "out/06-verify/sim.json")["rounds"] == 1


def test_a_model_that_stays_over_budget_fails_and_says_by_how_much(finished, tmp_path, monkeypatch):
    answer = _verified_again(finished, tmp_path / "out", monkeypatch, 20.0)
    assert answer["passed"] is False
    (tier,) = answer["tiers"]
    assert tier["verdict"] == "failed"
    over = 100 * (tier["median_ms"] / tier["max_latency_ms"] - 1)
    assert f"is {over:.1f} % over the budget" in tier["reasons"][0]
    assert Path(answer["report"]).is_file()


def test_a_busy_machine_decides_nothing_and_the_same_command_decides_later(
    finished, tmp_path, monkeypatch
):
    """Neither a failed tier nor a passed one; the report is written, the exit code is 3."""
    busy = [1.3, 1.7]  # in turn, a round each
    answer = _verified_again(
        finished, tmp_path / "out", monkeypatch, lambda timed: busy[timed // (1 + SET) % 2]
    )
    assert (answer["passed"], answer["exit_code"]) == (False, 3)
    (tier,) = answer["tiers"]
    assert (tier["verdict"], tier["median_ms"]) == ("undecided", None)
    assert "not decided: the machine was busy, 3 of 3 attempts" in tier["reasons"][0]
    assert "not decided: sim" in Path(answer["report"]).read_text()
    assert not (tmp_path / "out/06-verify/certificates/sim.certificate.json").exists()
    entries = read_json(tmp_path / "out/03-search/targets.json")["tiers"]["sim"]
    assert [entry["kind"] for entry in entries] == ["budget"], "no target rests on it"
    monkeypatch.undo()
    recipe, reference, before = finished
    from factory.api import build as verb

    answer = verb(str(recipe), out=tmp_path / "out")
    assert (answer["passed"], answer["exit_code"]) == (True, 0)
    assert answer["tiers"][0]["median_ms"] == before["tiers"][0]["median_ms"]
    weights = "04-train/sim/weights.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (reference / weights).read_bytes()


def _verified_again(finished, out, monkeypatch, drift):
    """A finished build whose verification is made anew, on a chip that is slower or drifts."""
    from factory.api import build as verb
    from factory.devices.simulated import SimulatedDevice

    recipe, reference, _ = finished
    shutil.copytree(reference, out)
    shutil.rmtree(out / "06-verify")
    factor = drift if callable(drift) else lambda timed: drift
    monkeypatch.setattr(
        "factory.pipeline.stages.verify.open_device",
        lambda profile: SimulatedDevice(profile, drift=factor),
    )
    return verb(str(recipe), out=out)


def _searched_again(finished, out, monkeypatch, factors):
    """A finished build whose finalists are measured anew: each network by the next factor.

    The references take what they always take: nothing says that the machine is disturbed.
    """
    from factory.api import build as verb
    from factory.devices.simulated import SimulatedDevice

    recipe, reference, _ = finished
    shutil.copytree(reference, out)
    shutil.rmtree(out / "03-search/sim")
    factors = iter(factors)

    class Odd(SimulatedDevice):
        def __init__(self, profile):
            super().__init__(profile)
            self.factor = next(factors, 1.0)

        def time_many(self, models, plan, *, rounds=1):
            own, beside = len(models) - plan.references, plan.references
            self.drift = lambda timed: self.factor
            timings = super().time_many(models[:own], plan, rounds=rounds)
            self.drift = None
            beside = super().time_many(models[own:], plan, rounds=rounds) if beside else []
            return [*timings, *beside]

    monkeypatch.setattr("factory.pipeline.search_finalists.open_device", Odd)
    answer = verb(str(recipe), out=out)
    targets = read_json(out / "03-search/targets.json")["tiers"]["sim"]
    return answer, targets


def test_a_target_lowered_by_a_wrong_measurement_is_taken_back(finished, tmp_path, monkeypatch):
    """The first finalist seems 1.7 times as slow, its successor and itself later do not."""
    answer, targets = _searched_again(finished, tmp_path / "out", monkeypatch, [1.7])
    assert [entry["kind"] for entry in targets] == ["budget", "finalist", "taken back"]
    assert targets[2]["target_ms"] == targets[0]["target_ms"]
    assert answer["passed"] is True
    name = "03-search/sim/genotype.json"
    assert (tmp_path / "out" / name).read_bytes() == (finished[1] / name).read_bytes()


def test_a_chip_that_is_slower_than_predicted_keeps_its_lower_target(
    finished, tmp_path, monkeypatch
):
    _, targets = _searched_again(finished, tmp_path / "out", monkeypatch, [1.2] * 100)
    assert [entry["kind"] for entry in targets][:2] == ["budget", "finalist"]
    assert "taken back" not in [entry["kind"] for entry in targets]


def test_much_of_a_budget_left_unused_is_searched_for_once(finished, tmp_path, monkeypatch):
    answer, targets = _searched_again(finished, tmp_path / "out", monkeypatch, [0.5] * 100)
    assert [entry["kind"] for entry in targets][:2] == ["budget", "unused"]
    assert [entry["kind"] for entry in targets].count("unused") == 1
    assert targets[1]["target_ms"] > 1.5 * targets[0]["target_ms"]
    predicted = answer["tiers"][0]["predicted_ms"]
    assert predicted >= finished[2]["tiers"][0]["predicted_ms"]


def test_a_finished_build_does_nothing_again(build, finished):
    recipe, run, answer = finished
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    again = build(recipe, run)
    assert json.loads(again.stdout) == answer
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    changed = [p.name for p in after if after[p] != before.get(p)]
    assert changed in ([], [".lock"])


def test_a_changed_recipe_is_refused(build, finished, tmp_path):
    recipe, run, _ = finished
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace("2e6", "3e6"))
    refused = build(other, run)
    assert refused.returncode == 2
    assert "max_macs" in refused.stderr
    assert "--out" in refused.stderr
    assert refused.stdout == ""


def test_what_depends_on_an_edited_artefact_is_made_again(build, finished, tmp_path):
    recipe, reference, _ = finished
    run = tmp_path / "out"
    shutil.copytree(reference, run)
    shutil.rmtree(run / "04-train/sim")
    table = sha256_file(next((run / "01-profile").glob("*.csv")))
    done = build(recipe, run)
    assert done.returncode == 0, done.stderr
    weights = "04-train/sim/weights.safetensors"
    assert (run / weights).read_bytes() == (reference / weights).read_bytes()
    assert sha256_file(next((run / "01-profile").glob("*.csv"))) == table


def test_a_budget_that_cannot_be_met_is_said_before_the_search(build, finished, tmp_path):
    recipe, _, _ = finished
    impossible = tmp_path / "impossible.toml"
    text = recipe.read_text().replace("latency_percentile = 40", "max_latency_ms = 0.01")
    impossible.write_text(text)
    failed = build(impossible, tmp_path / "out")
    assert failed.returncode == 1
    assert "the smallest network in this space needs" in failed.stderr
    assert "the budget is 0.01 ms" in failed.stderr
    assert not list((tmp_path / "out/03-search").rglob("checkpoint*"))


def test_an_unmet_accuracy_is_exit_code_1_and_still_a_report(build, finished, tmp_path):
    recipe, _, _ = finished
    strict = tmp_path / "strict.toml"
    text = recipe.read_text().replace("max_macs = 2e6", "max_macs = 2e6\nmin_accuracy = 0.999")
    strict.write_text(text.replace("epochs = 3", "epochs = 2"))
    failed = build(strict, tmp_path / "out")
    assert failed.returncode == 1
    answer = json.loads(failed.stdout)
    assert answer["passed"] is False
    assert "below the required 99.90%" in answer["tiers"][0]["reasons"][0]
    assert Path(answer["report"]).is_file()
