"""Atomic files: the old content or the new one, and a full disk said in one sentence."""

import errno
import os

import pytest

from factory.core.errors import InputError
from factory.core.files import sha256_file, write_atomic_text, write_json
from factory.core.reading import read_json


def test_round_trip_and_hash(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": [1, 2]})
    assert read_json(path) == {"x": [1, 2]}
    first = sha256_file(path)
    write_json(path, {"x": [1, 3]})
    assert sha256_file(path) != first


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch, fault):
    path = tmp_path / "kept.txt"
    write_atomic_text(path, "old")

    def refuse(handle):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError) as caught:
        write_atomic_text(path, "new")
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"latency_ms": float("nan")})
    assert not (tmp_path / "x.json").exists()
