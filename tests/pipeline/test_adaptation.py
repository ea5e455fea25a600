"""`factory adapt` on simulated chips: a new one known from others and a few measured networks."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_recipe import write_tiny
from typer.testing import CliRunner

from factory import api
from factory.cli.app import app
from factory.core.errors import InputError
from factory.devices.profile import load_profile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.graph.fusion import NO_RULES, PAIRS
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.adaptation import adapt_table, candidates_of_spaces
from factory.pipeline.build import run_build
from factory.pipeline.recipe_loading import load_recipe
from factory.pipeline.shapes import cell_space
from factory.pipeline.tables import predictor_for
from factory.profiling.rows import RULES, Row
from factory.profiling.table import LatencyTable

SIZE = {"channels": 4, "layers": 3, "input": "3x16x16"}
CHIPS = {  # the truth of each
    "slow-arithmetic": Roofline(0.002, 4.0, 0.3),
    "slow-memory": Roofline(0.003, 0.2, 4.0),
    "new": Roofline(0.004, 2.0, 2.0),
}


def _write(folder, device_id, roofline, precision="fp32"):
    (folder / f"{device_id}.toml").write_text(
        f'schema_version = 1\nid = "{device_id}"\nchip = "simulated {roofline}"\n'
        'transport = "simulated"\nexecution_provider = "SimulatedExecutionProvider"\n'
        f'threads = 1\nprecision = "{precision}"\n'
    )


def _opener(noise=0.0, fails_on=None):
    def open_it(profile):
        return SimulatedDevice(profile, roofline=CHIPS[profile.id], noise=noise, fails_on=fails_on)

    return open_it


def _no_pooling(kernel):
    """What every network of the space has and the reference model has not."""
    return "no operator" if kernel.op == "Concat" else None


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A home with two chips that have been profiled for one size of networks."""
    home = tmp_path_factory.mktemp("home")
    (home / "device_profiles").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTORY_HOME", str(home))
        patch.setattr("factory.pipeline.verbs.profile.open_device", _opener())
        for device_id, roofline in CHIPS.items():
            _write(home / "device_profiles", device_id, roofline)
            if device_id != "new":
                api.profile(device_id, networks=6, **SIZE)
                api.fit(device_id)
    return home


@pytest.fixture
def home(profiled, tmp_path, monkeypatch):
    copied = tmp_path / "home"
    shutil.copytree(profiled, copied)
    monkeypatch.setenv("FACTORY_HOME", str(copied))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("factory.pipeline.verbs.adapt.open_device", _opener(noise=0.01))
    return copied


def _errors(device_id="new", count=60):
    """Relative errors on networks that nobody measured."""
    predictor, _ = predictor_for(load_profile(device_id), None)
    space = cell_space(4, 3, "3x16x16", "cifar", 10)
    rng = np.random.default_rng(99)
    device = SimulatedDevice(roofline=CHIPS["new"])
    errors, covered = [], []
    for _ in range(count):
        counts = space.kernels(space.random(rng), "f32")
        truth = device.truth_ms(counts)
        found = predictor.predict(counts)
        errors.append(abs(found.latency_ms / truth - 1))
        covered.append(found.low_ms <= truth <= found.high_ms)
    return np.array(errors), np.mean(covered), predictor


def test_ten_networks_make_known_chips_speak_for_a_new_one(home):
    answer = api.adapt("new", ["slow-arithmetic", "slow-memory"], measurements=10, **SIZE)
    assert answer["networks"] == 10
    errors, covered, predictor = _errors()
    assert predictor.device_id == "new"
    assert str(predictor.table).startswith("new__")
    report = answer["report"]
    scaled = next(iter(report["baselines"].values()))
    assert report["held_out"]["mean_percent"] < 0.5 * scaled["mean_percent"]
    assert 100 * errors.mean() < 0.5 * scaled["mean_percent"]
    assert errors.mean() < 0.03
    assert covered > 0.85
    assert any("adapted from" in text for text in predictor.predict({}).warnings)


def test_one_known_runtime_is_enough(home):
    """Another runtime on one chip: a pool of one, with its error shown."""
    answer = api.adapt("new", ["slow-memory"], measurements=8, **SIZE)
    assert answer["report"]["adapted"]["from"] == "slow-memory"
    errors, covered, _ = _errors()
    assert errors.mean() < 0.05
    assert covered > 0.8


def test_an_interrupted_adaptation_goes_on(home):
    api.adapt("new", ["slow-memory"], measurements=6, **SIZE)
    again = api.adapt("new", ["slow-memory"], measurements=6, **SIZE)
    assert (again["networks"], again["skipped"]) == (0, 6)


def test_the_rules_of_a_known_chip_are_not_the_new_one_s(home):
    """Measured networks and candidates of the new chip are counted without rules."""
    answer = api.adapt("new", ["slow-memory"], measurements=6, **SIZE)
    known, _ = predictor_for(load_profile("slow-memory"), None)
    folding = dataclasses.replace(known, fusion=frozenset(PAIRS))
    spec = cell_space(4, 3, "3x16x16", "cifar", 10)
    table = LatencyTable.read(answer["table"])
    found = adapt_table(table, [folding], candidates_of_spaces([spec], "f32", 0))
    assert found.predictor.fusion == NO_RULES


def test_a_chip_that_was_profiled_without_traces_is_not_adapted(home):
    path = Path(api.adapt("new", ["slow-memory"], measurements=6, **SIZE)["table"])
    row = Row("fusion", RULES, "conv_dense+Add", runs=30)
    path.write_text(path.read_text() + row.text())
    with pytest.raises(InputError, match="has been profiled"):
        api.adapt("new", ["slow-memory"], measurements=6, **SIZE)


def test_the_verb_prints_its_error_and_predict_uses_it(home, tmp_path):
    runner = CliRunner()
    options = ["--from", "slow-memory", "--from", "slow-arithmetic", "--quiet"]
    size = ["--channels", "4", "--layers", "3", "--input", "3x16x16"]
    planned = runner.invoke(app, ["adapt", "--device", "new", *options, *size, "--dry-run"])
    assert "10 networks of" in planned.output
    done = runner.invoke(app, ["adapt", "--device", "new", *options, *size])
    assert done.exit_code == 0, done.output
    assert "each measured network predicted from the others" in done.output
    assert "90 % interval: +-" in done.output
    from factory.graph.canonical import canonicalise
    from factory.graph.onnx_build import to_onnx

    space = cell_space(4, 3, "3x16x16", "cifar", 10)
    model = to_onnx(canonicalise(space.lower(space.random(np.random.default_rng(5)))), "f32", 0)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    shown = runner.invoke(app, ["predict", str(tmp_path / "net.onnx"), "--device", "new", "--json"])
    answer = json.loads(shown.stdout)
    text = json.dumps(answer)
    assert "adapted from slow-" in text
    assert '"n_failed"' not in text or shown.exit_code == 0


def test_networks_that_fail_are_said(home, monkeypatch):
    monkeypatch.setattr("factory.pipeline.verbs.adapt.open_device", _opener(fails_on=_no_pooling))
    with pytest.raises(InputError, match="only 0 networks were measured on device 'new'"):
        api.adapt("new", ["slow-memory"], measurements=5, **SIZE)


def test_wrong_input(home):
    with pytest.raises(InputError, match="no known chip was named"):
        api.adapt("new", [])
    with pytest.raises(InputError, match="'new' is to be adapted from itself"):
        api.adapt("new", ["new"])
    with pytest.raises(InputError, match="'slow-memory' is named twice"):
        api.adapt("new", ["slow-memory", "slow-memory"])
    with pytest.raises(InputError, match="2 measurements are not accepted"):
        api.adapt("new", ["slow-memory"], measurements=2, **SIZE)
    _write(home / "device_profiles", "eight-bits", Roofline(), "int8")
    with pytest.raises(InputError, match="'new' runs fp32, known device 'eight-bits' runs int8"):
        api.adapt("new", ["eight-bits"])
    CHIPS.setdefault("unknown", Roofline())
    _write(home / "device_profiles", "unknown", Roofline())
    with pytest.raises(InputError, match="no latency table of device 'unknown'"):
        api.adapt("new", ["unknown"])
    with pytest.raises(InputError, match="'slow-memory' has been profiled"):
        api.adapt("slow-memory", ["slow-arithmetic"], measurements=5, **SIZE)


def test_a_run_searches_on_an_adapted_chip(home, tmp_path, monkeypatch):
    """The stages profile and fit of a recipe with known devices; the budget is in its terms."""
    monkeypatch.setattr("factory.pipeline.stages.profile.open_device", _opener(noise=0.01))
    recipe = write_tiny(tmp_path)
    text = recipe.read_text().replace(str(tmp_path / "simulated-a.toml"), "new")
    known = 'known_devices = ["slow-memory", "slow-arithmetic"]'
    recipe.write_text(text.replace("networks = 6", f"networks = 8\n{known}"))
    run_build(load_recipe(recipe)[0], tmp_path / "run", until="fit")
    predictor = LatencyPredictor.load(tmp_path / "run" / "02-fit" / "new.predictor.json")
    assert predictor.report["adapted"]["tried"] == ["slow-memory", "slow-arithmetic"]
    assert predictor.report["held_out"]["mean_percent"] < 6
    (table,) = (tmp_path / "run" / "01-profile").glob("new__*.csv")
    rows = LatencyTable.read(table)
    assert (len(rows.rows("network")), len(rows.rows("kernel"))) == (8, 0)
    budgets = json.loads((tmp_path / "run" / "02-fit" / "budgets.json").read_text())
    assert budgets["tiers"]["sim"]["max_latency_ms"] > 0
