"""`make web`: only the pinned release is unpacked, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "fetch_ort_web.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("fetch_ort_web", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def release(folder, names):
    path = folder / "release.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return path, digest


def test_the_files_are_put_in_place_with_their_hashes(tool, tmp_path):
    path, digest = release(tmp_path, [*tool.FILES, "ort.all.js"])
    target = tmp_path / "web" / "ort"
    tool.unpack(path, target, digest)
    assert {file.name for file in target.iterdir()} == {*tool.FILES, "files.json"}
    listing = json.loads((target / "files.json").read_text())
    assert listing["version"] == tool.VERSION
    assert tool.is_there(target)
    (target / tool.FILES[0]).write_bytes(b"changed")
    assert not tool.is_there(target)


def test_another_release_is_refused(tool, tmp_path):
    path, _ = release(tmp_path, tool.FILES)
    with pytest.raises(tool.Refused, match="is not the release that is expected"):
        tool.unpack(path, tmp_path / "ort")
    assert not (tmp_path / "ort").exists()


def test_a_release_without_a_file_leaves_nothing(tool, tmp_path):
    path, digest = release(tmp_path, tool.FILES[1:])
    with pytest.raises(KeyError):
        tool.unpack(path, tmp_path / "ort", digest)
    assert not (tmp_path / "ort").exists()


def test_no_npm_says_what_to_do(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    with pytest.raises(tool.Refused, match=r"npm is not installed.*--tarball"):
        tool.download(tmp_path)
