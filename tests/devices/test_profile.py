"""Device profiles: the shipped ones load; a wrong one is told in one sentence."""

from __future__ import annotations

import pytest

from factory.core.errors import InputError
from factory.devices.profile import DeviceProfile, list_profiles, load_profile

GOOD = 'id = "mine"\nthreads = 1\n'


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def fault(path) -> str:
    with pytest.raises(InputError) as caught:
        load_profile(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["all-fp32", "t1-fp32", "t1-int8"])
def test_shipped_profiles_load(name):
    profile = load_profile(f"local-cpu-{name}")
    assert profile.id == f"local-cpu-{name}"
    assert profile.dtype == ("i8" if name.endswith("int8") else "f32")
    assert profile.threads == ("all" if name.startswith("all") else 1)


def test_every_profile_of_the_repository_is_valid():
    for name, path in list_profiles().items():
        assert load_profile(path).id == name


def test_own_profiles_win(tmp_path, monkeypatch):
    (tmp_path / "device_profiles").mkdir()
    text = 'id = "local-cpu-t1-fp32"\nthreads = 1\nnotes = "mine"\n'
    (tmp_path / "device_profiles" / "local-cpu-t1-fp32.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load_profile("local-cpu-t1-fp32").notes == "mine"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD + "thraeds = 2", ["unknown key 'thraeds'", "did you mean 'threads'", "mine.toml"]),
        ('id = "mine"\nthreads = "four"', ["threads = 'four'", "'all'"]),
        ('id = "mine"\nthreads = 0', ["threads = 0", "greater than or equal to 1"]),
        ('id = "mine"\nthreads = true', ["threads = True"]),
        (GOOD + 'precision = "fp64"', ["precision = 'fp64'", "int8"]),
        (GOOD + "timeout_s = -1", ["timeout_s = -1"]),
        (GOOD + "pin = 3", ["pin = 3"]),
        (GOOD + "schema_version = 2", ["schema_version = 2"]),
        (GOOD + "provider_options = 3", ["provider_options = 3"]),
        ("threads = 1", ["'id' is missing"]),
        ('id = "a b"', ["id = 'a b'"]),
        ('id = "other"', ["differs from the file's name", "other.toml"]),
        ("id = \nx", ["not valid TOML", "line 1"]),
    ],
)
def test_wrong_profiles(tmp_path, text, parts):
    said = fault(write(tmp_path, text))
    for part in parts:
        assert part in said


def test_profiles_that_are_not_there(tmp_path):
    assert "did you mean 'local-cpu-t1-fp32'" in fault("local-cpu-t1-fp23")
    assert "does not exist" in fault(tmp_path / "none.toml")
    assert "is a folder" in fault(tmp_path)


def test_a_profile_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        DeviceProfile(id="x").threads = 3
