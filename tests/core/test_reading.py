"""The reader of text: whatever a path or a file does wrong is one sentence."""

import os

import pytest

from factory.core.errors import InputError
from factory.core.reading import (
    DEEPEST,
    is_file,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_toml,
)

MARK = b"\xef\xbb\xbf"


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) <= 1000
    return text


def test_a_byte_order_mark_is_taken_off(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(MARK + b'a = "b"\n')
    assert read_toml(path) == {"a": "b"}
    path.write_bytes(MARK + b'{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(MARK + b"cat\ndog\n")
    assert read_text(path).split() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.json", "does not exist"),
        ("", "is a folder"),
        ("file.json/inside", "does not exist"),
        ("n" * 300, "name too long"),
        ("a\0b", "no file can have that name"),
        ("\ud800", "no file can have that name"),
        ("loop", "symbolic link"),
        ("pipe", "a device or a pipe"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name, says):
    (tmp_path / "file.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / name
    assert says in refusal(read_json, path, "certificate").lower()
    assert not is_file(path)


def test_a_forbidden_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_text("{}")

    def forbidden(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    assert "Permission denied" in refusal(read_json, path)


def test_a_giant_file_is_not_read(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as stream:
        stream.truncate(300_000_000)  # a hole: takes no room
    assert "300 MB, at most 256 MB are read" in refusal(read_bytes, path)
    assert "at most 4 MB" in refusal(read_toml, path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 column 2"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "inside each other"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "inside each other"),
        ("9" * 5000, "thousands of digits"),
        ('{"a": {"b": [0, %s]}}' % ("9" * 30), "beyond 64 bits at a.b[1]"),
        ("[1e999]", "not finite at [0]"),
        ('{"a": NaN}', "NaN is no number"),
        (r'{"a": "x\u0000"}', "a null character at a"),
        (r'{"a": [{"\ud800": 1}]}', "half of a surrogate pair at a[0]"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8 text (byte 0xff in line 1)"),
    ],
)
def test_json_that_nothing_can_use_is_refused(text, says):
    assert says in refusal(parse_json, text, "x.json")


def test_numbers_that_are_not_finite_are_taken_where_asked_for():
    assert parse_json("[NaN, 1.5]", "x", lenient=True) == [None, 1.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = [,]", "line 1"),
        ("a = " + "[" * 20_000, "inside each other"),
        ("a = " + "9" * 5000, "thousands of digits"),
        ("a = 0x" + "f" * 5000, "beyond 64 bits at a"),
        ('a = "\\u0000"', "a null character at a"),
    ],
)
def test_toml_that_nothing_can_use_is_refused(tmp_path, text, says):
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert says in refusal(read_toml, path, "recipe")
