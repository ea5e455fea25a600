"""What came over a wire: JSON within bounds, and forms that name the field that is wrong."""

from __future__ import annotations

import pytest

from factory.core import wire
from factory.core.wire import Wrong, parse_json


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b"[" + b"7" * 5000 + b"]", "not JSON"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b'"\xff"', "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b"", "not JSON"),
        (b'"' + b"x" * 3000 + b'"', "3002 bytes, 2000 are accepted"),
        (b"[" + b"0," * 200 + b"0]", "more than 100 values"),
    ],
)
def test_json_that_is_none_or_too_large_is_refused_in_one_line(content, reason):
    longest = 2000 if content.startswith(b'"x') else 1 << 20
    with pytest.raises(Wrong, match=reason) as error:
        parse_json(content, longest, most_values=100 if b"0,0" in content else 1 << 20)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), -1, True, "1", None, []])
def test_a_number_is_finite_and_within_its_bounds(value):
    with pytest.raises(Wrong, match=r"^time_ms is .* not a number from 0 to 1e\+09$"):
        wire.number()(value, "time_ms")


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 201, 5, None])
def test_a_text_is_bounded_and_whole(value):
    with pytest.raises(Wrong, match=r"^chip is "):
        wire.text()(value, "chip")
    assert wire.text()("Größe", "chip") == "Größe"


def test_what_is_only_shown_becomes_one_line():
    assert wire.line(12)("a\nb\x1b[31m\0c\ud800" + "d" * 100, "reason") == "a b [31m ..."


def test_a_table_names_the_field_inside_of_it():
    inner = wire.table({"share": wire.number(0, 1)}, more="refuse")
    form = wire.table({"nodes": wire.list_of(inner, most=3)}, {"note": wire.line()})
    assert form({"nodes": [{"share": 1}], "newer": [1]}, "") == {"nodes": [{"share": 1.0}]}
    for value, said in (
        ({}, "^nodes is missing"),
        ({"nodes": {}}, "^nodes is a table, not a list"),
        ({"nodes": [{"share": 1}, {"share": 2}]}, r"^nodes\[1\]\.share is 2, not a number"),
        ({"nodes": [{"share": 1, "x": 1}]}, r"^nodes\[0\]\.x is not one of share"),
        ([], "^the message is a list, not a table"),
    ):
        with pytest.raises(Wrong, match=said):
            form(value, "")


def test_what_is_kept_without_a_form_is_plain_and_bounded():
    keep = wire.table({}, more="keep")
    assert keep({"a": [1, None, {"b": "c\0"}]}, "") == {"a": [1, None, {"b": "c "}]}
    deep: list = []
    for _ in range(40):
        deep = [deep]
    for value in (deep, 2**60, float("inf")):
        with pytest.raises(Wrong, match=r"^a"):
            keep({"a": value}, "")


@pytest.mark.parametrize("text", ["²", "٣", "-1", "1" * 16, "", "1_0", " 1"])
def test_digits_are_ascii_and_few(text):
    assert wire.digits(text) is None
    assert wire.digits("0042") == 42
