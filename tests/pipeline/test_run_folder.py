"""Units: done or not, gone on with, moved aside; the run's claim on its folder; the lock."""

import multiprocessing
import os

import pytest

from factory.core.errors import InputError
from factory.pipeline.lock import locked
from factory.pipeline.run_folder import RunFolder

RECIPE = {"recipe": {"name": "x", "seed": 0}, "tiers": [{"name": "a", "max_macs": 5.0}]}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    folder.claim(RECIPE, seed=0)
    return folder


def finished(run, inputs, content="weights"):
    unit = run.unit("train", "a", inputs)
    unit.begin()
    (unit.folder / "w").write_text(content)
    unit.finish([unit.folder / "w"], 1.0)
    return unit


def test_a_unit_is_done_only_with_its_inputs_and_outputs(run):
    unit = finished(run, {"genotype": "1"})
    assert unit.is_done()
    assert not run.unit("train", "a", {"genotype": "2"}).is_done()
    (unit.folder / "w").write_text("edited")
    assert not unit.is_done()
    (unit.folder / "w").unlink()
    assert not unit.is_done()


def test_an_interrupted_unit_keeps_what_it_left(run):
    unit = run.unit("train", "a", {"genotype": "1"})
    unit.begin()
    (unit.folder / "checkpoint").write_text("step 7")
    assert not unit.is_done()
    assert unit.begin() == []
    assert (unit.folder / "checkpoint").read_text() == "step 7"


def test_files_of_other_inputs_are_moved_aside_not_lost(run):
    finished(run, {"genotype": "1"})
    unit = run.unit("train", "a", {"genotype": "2"})
    assert unit.begin() == ["genotype"]
    assert not (unit.folder / "w").exists()
    assert (run.root / ".replaced/04-train-a-1/w").read_text() == "weights"
    finished(run, {"genotype": "2"})
    run.unit("train", "a", {"genotype": "3"}).begin()
    assert (run.root / ".replaced/04-train-a-2/w").exists()


def test_an_interrupted_unit_of_other_inputs_is_moved_aside_too(run):
    unit = run.unit("train", "a", {"genotype": "1"})
    unit.begin()
    (unit.folder / "checkpoint").write_text("step 7")
    assert run.unit("train", "a", {"genotype": "2"}).begin() == ["genotype"]
    assert not (unit.folder / "checkpoint").exists()


def test_units_that_share_a_folder_move_only_what_they_own(run):
    one = run.unit("verify", "a", {"model": "1"}, shared=True)
    two = run.unit("verify", "b", {"model": "1"}, shared=True)
    for unit, name in ((one, "a.json"), (two, "b.json")):
        unit.begin([unit.folder / name])
        (unit.folder / name).write_text("{}")
        unit.finish([unit.folder / name], 0.1)
    changed = run.unit("verify", "a", {"model": "2"}, shared=True)
    changed.begin([changed.folder / "a.json"])
    assert not (changed.folder / "a.json").exists()
    assert two.is_done()


def test_digest_follows_the_outputs(run):
    before = finished(run, {"genotype": "1"}).digest()
    assert finished(run, {"genotype": "1"}).digest() == before
    assert finished(run, {"genotype": "1"}, content="other").digest() != before


def test_a_done_file_cut_by_a_kill_is_not_done(run):
    unit = finished(run, {"genotype": "1"})
    unit.done_file.write_bytes(unit.done_file.read_bytes()[:20])
    assert not unit.is_done()


def test_a_changed_recipe_is_refused_with_the_keys(run):
    changed = {"recipe": {"name": "x", "seed": 1}, "tiers": [{"name": "a", "max_macs": 6.0}]}
    before = run.record_file.read_bytes()
    with pytest.raises(InputError, match=r"recipe\.seed \(0 -> 1\).*max_macs \(5\.0 -> 6\.0\)"):
        run.claim(changed, seed=1)
    assert run.record_file.read_bytes() == before
    assert run.claim(RECIPE, seed=0) is True


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        RunFolder(tmp_path).claim(RECIPE, seed=0)


def test_stage_done_names_its_units(run):
    unit = finished(run, {"genotype": "1"})
    assert not run.stage_is_current("train", [unit])
    run.finish_stage("train", [unit], 0.0)
    assert run.stage_is_current("train", [unit])
    again = finished(run, {"genotype": "1"}, content="other")
    assert not run.stage_is_current("train", [again])
    assert [entry["stage"] for entry in run.record()["stages"]] == ["train"]


def _hold(folder, ready, release):
    with locked(folder):
        ready.set()
        release.wait(200)


@pytest.mark.skipif(os.name == "nt", reason="advisory locks are POSIX")
def test_two_builds_do_not_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    try:
        assert ready.wait(120)
        with (
            pytest.raises(InputError, match=rf"process {holder.pid}\) is working"),
            locked(tmp_path),
        ):
            pass
    finally:
        release.set()
        holder.join(120)
    with locked(tmp_path):
        pass
