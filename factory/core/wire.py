"""What came over a wire, looked at before it is believed: JSON within bounds, then its form.

A form is a function of a value and the name of its field: it gives the value back, cleaned, or
raises :class:`Wrong`. The forms of all messages are in messages.py. Standard library only: the
device agent and the worker take this file with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

Form = Callable[[Any, str], Any]
LARGEST_INT = 2**53  # beyond it JSON's readers do not agree
LONGEST_JSON = 1 << 26
MOST_VALUES = 1 << 21  # in one message: a few hundred bytes each once they are read
DEEPEST = 16  # of what is handed on without a form


class Wrong(ValueError):
    """A message that cannot be used; one line that names the field."""


def parse_json(content: bytes, longest: int = LONGEST_JSON, most_values: int = MOST_VALUES) -> Any:
    """The value of a JSON text; Wrong when it is none, or larger than any honest one."""
    if len(content) > longest:
        raise Wrong(f"a message of {len(content)} bytes, {longest} are accepted")
    if sum(map(content.count, (b",", b"[", b"{"))) >= most_values:
        raise Wrong(f"a message of more than {most_values} values")
    try:
        return json.loads(content.decode(), parse_constant=_no_number)
    except RecursionError:
        raise Wrong("a message that is nested too deep") from None
    except Wrong:
        raise
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        raise Wrong(f"not JSON: {printable(str(error), 120)}") from None


def _no_number(name: str) -> None:
    raise Wrong(f"{name} is no number")


def printable(text: str, longest: int) -> str:
    """A text as one printable line, cut where it is longer than ``longest``."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def digits(text: str) -> int | None:
    """The number that a text of ASCII digits stands for; None for any other or a longer one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def not_as(field: str, value: Any, wanted: str) -> Wrong:
    """``field`` holds ``value`` and should be ``wanted``."""
    names = {dict: "a table", list: "a list", type(None): "nothing"}
    if isinstance(value, str):
        shown = repr(printable(value, 40))
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        shown = "a number too large"
    else:
        shown = names.get(type(value)) or printable(repr(value), 40)
    return Wrong(f"{field or 'the message'} is {shown}, not {wanted}")


def text(longest: int = 200, least: int = 0) -> Form:
    """A text of ``least`` to ``longest`` characters, without null bytes and lone surrogates."""

    def form(value: Any, field: str) -> str:
        if not isinstance(value, str) or not least <= len(value) <= longest or "\0" in value:
            raise not_as(field, value, f"a text of {least} to {longest} characters")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise not_as(field, value, "a text of whole characters")
        return value

    return form


def word(longest: int = 200, least: int = 0) -> Form:
    """A text that can stand in a sentence as it is: a name, a version."""
    plain = text(longest, least)

    def form(value: Any, field: str) -> str:
        checked: str = plain(value, field)
        if not checked.isprintable():
            raise not_as(field, value, "a text that can be printed")
        return checked

    return form


def line(longest: int = 400) -> Form:
    """A text that is only ever shown: whatever it holds, it becomes one line and is cut."""

    def form(value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise not_as(field, value, "a text")
        return printable(value, longest)

    return form


def number(least: float = 0.0, most: float = 1e9, *, above: bool = False) -> Form:
    """A finite number from ``least`` (``above``: more than it) to ``most``, as a float."""

    def form(value: Any, field: str) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not least <= value <= most or (above and value == least):
            bounds = f"{'above' if above else 'from'} {least:g} to {most:g}"
            raise not_as(field, value, f"a number {bounds}")
        return float(value)

    return form


def whole(least: int = 0, most: int = LARGEST_INT) -> Form:
    """A whole number from ``least`` to ``most``."""

    def form(value: Any, field: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise not_as(field, value, f"a whole number from {least} to {most}")
        return value

    return form


def flag(value: Any, field: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise not_as(field, value, "true or false")
    return value


def choice(*values: str) -> Form:
    """One of some texts."""

    def form(value: Any, field: str) -> str:
        if not isinstance(value, str) or value not in values:
            raise not_as(field, value, "one of " + ", ".join(values))
        return value

    return form


def maybe(inner: Form) -> Form:
    """``inner``, or null for what is not known."""
    return lambda value, field: None if value is None else inner(value, field)


def unless_wrong(inner: Form) -> Form:
    """``inner``, or None where the value is wrong: for what may as well be missing."""

    def form(value: Any, field: str) -> Any:
        try:
            return inner(value, field)
        except Wrong:
            return None

    return form


def list_of(inner: Form, most: int, least: int = 0) -> Form:
    """A list of ``least`` to ``most`` entries."""

    def form(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise not_as(field, value, f"a list of {least} to {most} entries")
        return [inner(entry, f"{field}[{index}]") for index, entry in enumerate(value)]

    return form


def map_of(inner: Form, most: int, longest_key: int = 200) -> Form:
    """A table of any keys, ``most`` of them."""
    key_form = word(longest_key)

    def form(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise not_as(field, value, f"a table of at most {most} keys")
        return {
            key_form(key, f"a key of {field}"): inner(entry, f"{field}.{printable(key, 40)}")
            for key, entry in value.items()
        }

    return form


def table(
    fields: Mapping[str, Form], optional: Mapping[str, Form] | None = None, more: str = "drop"
) -> Form:
    """A table with ``fields`` and perhaps the ``optional`` ones.

    ``more``: what becomes of any other key: "drop" (its writer may know more than this reader),
    "keep" (a plain value within bounds) or "refuse".
    """
    known = {**fields, **(optional or {})}
    other = anything()

    def form(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise not_as(field, value, "a table")
        inside = f"{field}." if field else ""
        made: dict[str, Any] = {}
        for key, entry in value.items():
            if key in known:
                made[key] = known[key](entry, inside + key)
            elif more == "keep":
                made[printable(key, 100)] = other(entry, inside + printable(key, 40))
            elif more == "refuse":
                raise Wrong(f"{inside}{printable(key, 40)} is not one of {', '.join(known)}")
        if missing := [key for key in fields if key not in value]:
            raise Wrong(f"{inside}{missing[0]} is missing")
        return made

    return form


def tagged(tag: str, forms: Mapping[str, Form]) -> Form:
    """A table whose field ``tag`` says which of ``forms`` it has."""
    names = choice(*forms)

    def form(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise not_as(field, value, "a table")
        name = names(value.get(tag), f"{field}.{tag}" if field else tag)
        made: dict[str, Any] = forms[name](value, field)
        return {tag: name, **made}

    return form


def anything(deepest: int = DEEPEST) -> Form:
    """Any plain value: finite numbers, whole ones within bounds, not nested too deep."""

    def form(value: Any, field: str, depth: int = 0) -> Any:
        if depth > deepest:
            raise Wrong(f"{field} is nested too deep")
        if isinstance(value, dict):
            return {
                printable(key, 200): form(entry, field, depth + 1) for key, entry in value.items()
            }
        if isinstance(value, list):
            return [form(entry, field, depth + 1) for entry in value]
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode().replace("\0", " ")
        if isinstance(value, float) and not math.isfinite(value):
            raise not_as(field, value, "a finite number")
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise not_as(field, value, f"a whole number within {LARGEST_INT}")
        return value

    return form
