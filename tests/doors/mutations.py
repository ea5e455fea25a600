"""Valid inputs made wrong: in their bytes, and where their form is known, at any node of it."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 2_000_000
DEEP = 3000
# As they stand in JSON or TOML text: what json.dumps cannot write is written all the same.
ODD_NUMBERS = (
    "0", "-1", "1e999", "-1e999", "1e-999", "NaN", "-Infinity", "nan", "inf", "9" * 400,
    "9" * 5000, "-" + "9" * 5000, str(2**31), str(2**63), str(-(2**63) - 1), "0.1", "1e308",
    "-0.0", "true", "0x10", "1e5", "1_000",
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "\udc80x", "x" * 300, "y" * 5000, "../" * 40, "/", ".", "~",
    "\n", "a\nb\r\nc", "\ufeff", "é" * 200, "-1", "1e999", "9" * 5000, "None", "{}", "{{x}}",
    "{% x %}", "%s", "\x1b[31m", "CON", "a,b;c", '"', "\\", "\u2028",
)  # fmt: skip
WRONG_TYPES = (None, True, False, 0, -1, 1.5, "", "x", [], {}, [[]], [None], {"": None}, [0] * 300)


class Raw(str):
    """Text that stands in a document as it is."""


def mutated(rng: random.Random, seeds: Sequence[bytes], form: str) -> bytes:
    """One input, made from one of the seeds by one to three changes."""
    content = rng.choice(seeds)
    if rng.random() < 0.02:
        return b""
    by_form = _FORMS.get(form)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if by_form is not None and rng.random() < 0.7:
            content = by_form(rng, content)
        else:
            content = rng.choice(_BYTES)(rng, content, seeds)
        content = content[:MOST_BYTES]
    return content


# -- bytes --------------------------------------------------------------------------------------


def _flip(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice((content[:start], content[start:], content[:start] + content[end:]))


def _double(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    times = rng.choice((1, 2, 50)) if end - start < 2000 else 1
    return content[:end] + content[start:end] * times + content[end:]


def _splice(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def _insert(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(content) + 1)
    what = rng.choice(
        (
            b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"'", b"\\", b",",
            b"[" * 100_000, b'{"a":' * 20_000, b"[[" * 500, b"x" * 100_000, b"\x80", b"#", b"=",
            rng.randbytes(rng.randrange(1, 40)),
        )
    )  # fmt: skip
    return content[:at] + what + content[at:]


def _number(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """One number of the text replaced by an odd one."""
    import re

    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[:200_000]))
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(ODD_NUMBERS).encode() + content[match.end() :]


def _mark(rng: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A byte-order mark, or the text in another encoding."""
    which = rng.randrange(4)
    if which == 0:
        return b"\xef\xbb\xbf" + content
    if which == 1:
        return b"\xff\xfe" + content
    text = content.decode("utf-8", "replace")
    return text.encode("utf-16" if which == 2 else "utf-32")


_BYTES = (_flip, _cut, _double, _splice, _insert, _number, _mark)


# -- documents ----------------------------------------------------------------------------------


def _odd_value(rng: random.Random) -> Any:
    which = rng.randrange(5)
    if which == 0:
        return Raw(rng.choice(ODD_NUMBERS))
    if which == 1:
        return rng.choice(ODD_TEXTS)
    if which == 2:
        depth = rng.choice((20, 200, DEEP))
        return Raw("[" * depth + "]" * depth)
    return rng.choice(WRONG_TYPES)


def _nodes(value: Any, into: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        into.append((value, key))
        if isinstance(inner, dict | list):
            _nodes(inner, into)
    return into


def change_document(rng: random.Random, value: Any) -> Any:
    """The parsed document with one node replaced, removed, doubled, renamed or added."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.03:
        return _odd_value(rng)
    value = json.loads(json.dumps(value))
    container, key = rng.choice(_nodes(value, []))
    which = rng.randrange(8)
    if which == 0:
        del container[key]
    elif which == 1 and isinstance(container, dict):
        container[rng.choice((*ODD_TEXTS, "unknown"))] = _odd_value(rng)
    elif which == 2 and isinstance(container, dict):
        container[rng.choice(ODD_TEXTS)] = container.pop(key)
    elif which == 3 and isinstance(container, list):
        container.insert(key, rng.choice((container[key], _odd_value(rng))))
    elif which == 4:
        other, from_key = rng.choice(_nodes(value, []))
        container[key] = json.loads(json.dumps(other[from_key]))
    else:
        container[key] = _odd_value(rng)
    return value


def _json_text(value: Any) -> str:
    """JSON, with raw texts as they are; lone surrogates become escapes."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    return json.dumps(value)


def _json(rng: random.Random, content: bytes) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return _json_text(change_document(rng, value)).encode()


def _toml_value(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return "nil" if value is None else json.dumps(value)


def _toml(rng: random.Random, content: bytes) -> bytes:
    try:
        value = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        return content
    try:
        value = change_document(rng, value)
    except TypeError:  # a date, which JSON has not
        return content
    if not isinstance(value, dict):
        return _toml_value(value).encode()
    lines = [f"{json.dumps(key)} = {_toml_value(inner)}" for key, inner in value.items()]
    return "\n".join(lines).encode() + b"\n"


def _lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    which = rng.randrange(6)
    if which == 0:
        del lines[at]
    elif which == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    else:
        lines[at] = _json(rng, lines[at])
    return b"\n".join(lines)


def _csv(rng: random.Random, content: bytes) -> bytes:
    """A line of a table: one of its cells, its `# key: json` value, its place."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    line = lines[at]
    which = rng.randrange(8)
    if which == 0:
        del lines[at]
    elif which == 1:
        lines.insert(rng.randrange(len(lines) + 1), line)
    elif line.startswith(b"# ") and b": " in line:
        key, _, value = line.partition(b": ")
        lines[at] = key + b": " + _json(rng, value)
    else:
        cells = line.split(b",")
        cell = rng.randrange(len(cells))
        odd = rng.choice((*ODD_NUMBERS, *ODD_TEXTS)).encode("utf-8", "surrogatepass")
        if which == 2:
            del cells[cell]
        elif which == 3:
            cells.insert(cell, odd)
        else:
            cells[cell] = odd
        lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _words(rng: random.Random, content: bytes) -> bytes:
    """One word of a command line changed, removed, doubled or moved."""
    words = content.split(b"\0")
    at = rng.randrange(len(words))
    which = rng.randrange(6)
    if which == 0:
        del words[at]
    elif which == 1:
        words.insert(rng.randrange(len(words) + 1), words[at])
    else:
        odd = rng.choice((*ODD_NUMBERS, *ODD_TEXTS)).replace("\0", "\x01")
        words[at] = odd.encode("utf-8", "surrogateescape" if "\udc80" in odd else "surrogatepass")
    return b"\0".join(words)


def _header(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file: a length in eight bytes, a JSON header of that length, the data."""
    length = int.from_bytes(content[:8], "little")
    header = _json(rng, content[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


_FORMS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "json": _json,
    "toml": _toml,
    "lines": _lines,
    "csv": _csv,
    "words": _words,
    "header": _header,
}
