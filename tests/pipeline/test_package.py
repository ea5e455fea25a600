"""The package of a tier runs by itself: the example as printed, with three packages only."""

import glob
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from factory.api import package, verify
from factory.core.errors import InputError
from factory.core.reading import read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_in):
    """A finished run of the tiny recipe on a chip of this machine's kind, in int8."""
    from factory.api import build

    folder = tmp_path_factory.mktemp("package")
    recipe = tiny_in(folder)
    device = folder / "simulated-a.toml"
    device.write_text(device.read_text().replace('"fp32"', '"int8"'))
    build(recipe, out=folder / "run")
    return folder / "run"


@pytest.mark.heavy
def test_what_is_inside_and_that_the_example_runs(finished, tmp_path):
    answer = package(finished, tier="sim", out=tmp_path / "sim")
    folder = tmp_path / "sim"
    for name in (
        "model.onnx", "model-fp32.onnx", "model.ort", "manifest.json", "certificate.json",
        "certificate.html", "int8-gate.json", "MODEL_CARD.md", "labels.txt", "example.py",
        "android/Classifier.kt", "ios/Classifier.swift", "LICENCES.md", "README.md", "SHA256SUMS",
        "model.required_operators_and_types.config",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
        assert name in answer["files"]
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (folder / "labels.txt").read_text().split() == [str(d) for d in range(10)]
    trail = read_json(folder / "int8-gate.json")
    assert trail["verdict"] in ("within the limit", "repaired", "fine-tuned", "refused")
    _run_alone(folder, tmp_path)
    _as_the_build_prepares_them(folder)
    packed = package(finished, out=tmp_path / "sim.zip")
    package(finished, out=tmp_path / "again" / "sim.zip")
    assert packed["files"] == answer["files"]
    one = zipfile.ZipFile(tmp_path / "sim.zip")
    two = zipfile.ZipFile(tmp_path / "again" / "sim.zip")
    assert one.namelist() == two.namelist()
    for name in one.namelist():  # the runtime's own converter orders its tables by address
        assert name in ("sim/model.ort", "sim/SHA256SUMS") or one.read(name) == two.read(name), name
    checked = verify(
        certificate=folder / "certificate.json",
        device=finished.parent / "simulated-a.toml",
        measure=False,
    )
    assert {c["name"]: c["ok"] for c in checked["checks"]}["model file"]
    (folder / "labels.txt").write_text("0\n1\n")
    checked = verify(
        certificate=folder / "certificate.json",
        device=finished.parent / "simulated-a.toml",
        measure=False,
    )
    assert not checked["holds"]
    assert "labels.txt: missing: '2'" in checked["reason"]


def _run_alone(folder, tmp_path):
    """python -I, with a folder that holds only what the example says it needs."""
    site = tmp_path / "site"
    site.mkdir()
    installed = onnxruntime.__path__[0].rsplit("/", 1)[0]
    for name in ("numpy", "onnxruntime", "PIL"):
        (site / name).symlink_to(f"{installed}/{name}", target_is_directory=True)
    for libs in glob.glob(f"{installed}/*.libs"):
        (site / libs.rsplit("/", 1)[1]).symlink_to(libs, target_is_directory=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.jpg")
    program = (folder / "example.py").read_text()
    assert len(program.splitlines()) <= 20
    runner = (
        "import sys; sys.path[:] = [p for p in sys.path if 'packages' not in p]; "
        f"sys.path.insert(0, {str(site)!r}); sys.argv = ['example.py', sys.argv[1]]; "
        "exec(compile(open('example.py').read(), 'example.py', 'exec'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", runner, str(tmp_path / "picture.jpg")],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\n", done.stdout)


def _as_the_build_prepares_them(folder):
    """The example's own preprocessing gives what the data room gives."""
    from factory.data.pictures import decode_picture
    from factory.deployment.make import prepare_picture
    from factory.deployment.metadata import Preprocessing

    pre = Preprocessing.model_validate(
        json.loads((folder / "manifest.json").read_text())["metadata"]["preprocessing"]
    )
    pixels = np.random.default_rng(1).integers(0, 256, (50, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "p.png")
    size = pre.size[0]
    ours = decode_picture(folder / "p.png", size).astype(np.float32) / 255
    want = ((ours - np.float32(pre.mean)) / np.float32(pre.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(prepare_picture(pixels, pre), want, atol=1e-6)
    lines = (folder / "example.py").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("picture ="))
    end = next(i for i, line in enumerate(lines) if line.startswith("(logits,)"))
    from PIL import ImageOps

    names = {"Image": Image, "ImageOps": ImageOps, "np": np}
    names["sys"] = type("sys", (), {"argv": ["example.py", str(folder / "p.png")]})
    exec("\n".join(lines[start:end]), names)
    np.testing.assert_allclose(names["pixels"][0], want, atol=1e-5)


@pytest.mark.heavy
def test_what_cannot_be_packed(finished, tmp_path):
    with pytest.raises(InputError, match="unknown tier 'sym'"):
        package(finished, tier="sym", out=tmp_path / "x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no package"):
        package(finished, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "06-verify")
    with pytest.raises(InputError, match="not verified yet"):
        package(copy, out=tmp_path / "y")


@pytest.mark.heavy
def test_a_certificate_takes_its_accuracy_from_the_run(finished, tmp_path):
    model, device = finished / "05-deploy" / "sim" / "model.onnx", finished.parent
    asked = {"device": device / "simulated-a.toml", "issue": tmp_path / "c.json"}
    verify(model, data=finished, **asked)
    accuracy = read_json(tmp_path / "c.json")["accuracy"]
    assert accuracy["value"] == read_json(finished / "06-verify" / "sim.json")["accuracy"]
    assert accuracy["data"].startswith("digits")
    other = onnx.load(model)
    onnx.helper.set_model_props(
        other, {p.key: p.value for p in other.metadata_props} | {"class_names": '["a", "b"]'}
    )
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="is not of the run"):
        verify(tmp_path / "other.onnx", data=finished, **asked)
