#!/usr/bin/env python3
"""Device agent of the model factory: lets it measure models on this machine.

Needs Python 3.10 or newer, numpy and onnxruntime, and nothing else:

    pip install numpy onnxruntime
    python device_agent.py                    # only this machine may ask
    python device_agent.py --host 0.0.0.0     # the network; says which token to use
    python device_agent.py --help

Written by `factory agent --write`; the modules below are those of the package, unchanged.
"""
# ruff: noqa
# mypy: ignore-errors

import importlib.abc
import importlib.util
import linecache
import os
import sys

if sys.version_info < (3, 10):
    sys.exit("error: the device agent needs Python 3.10 or newer")

SOURCES = {}

SOURCES['factory'] = r'''"""Model Factory: profile each chip, search the network that fits it, ship an ONNX model per tier.

Every verb of the command line is a Python function of the same name with the same options:
``import factory; factory.build("recipes/demo.toml", out="runs/demo")``. Two verbs share their name
with a room of the package (search, devices); all of them are in :mod:`factory.api`. Importing the
package is light: a verb's dependencies are loaded when it is first used.
"""

from typing import Any

__all__ = [
    "api",
    "build",
    "doctor",
    "export",
    "fit",
    "inspect",
    "new",
    "predict",
    "profile",
    "report",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'factory' has no attribute {name!r}")
    import importlib

    api = importlib.import_module("factory.api")
    return api if name == "api" else getattr(api, name)
'''

SOURCES['factory.core'] = r'''"""core: words everyone shares (errors, units, registry, atomic files, provenance, progress)."""
'''

SOURCES['factory.core.closing'] = r'''"""What is closed at the end of a ``with``: one class to inherit from."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the device agent takes this file to Python 3.10
    from typing import Self


class Closing:
    """Enters as itself and calls :meth:`close` on the way out."""

    def close(self) -> None:
        """Let go of what is held; closing twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
'''

SOURCES['factory.core.errors'] = r'''"""Errors that a user reads: one sentence with what, where, why and what to do next.

Every error of the factory derives from :class:`FactoryError`; the command line prints its
message without a traceback and exits with its ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_DOES_NOT_HOLD = 1
EXIT_WRONG_INPUT = 2
EXIT_UNDECIDED = 3  # the machine was too busy to tell: the same command decides later
EXIT_INTERRUPTED = 130
LONGEST_MESSAGE = 900  # characters; a longer one has its parts cut to these
_LONGEST_PART = {"what": 300, "where": 200, "why": 200, "fix": 180}
_LONGEST_WORD = 300
_LONGEST_NAME = 200  # of which the nearest known one is looked for
_MOST_KNOWN = 30  # names that a message lists


class FactoryError(Exception):
    """A problem told in one sentence, on one line of at most LONGEST_MESSAGE characters.

    Line breaks become spaces, what cannot be printed becomes an escape, and what is too long loses
    its middle: parts of a message often quote input that nobody has looked at yet.

    Args:
        what: what is wrong ("the recipe has an unknown key 'lattency'").
        where: the file, line or object it is wrong in.
        why: the reason, where it is not obvious.
        fix: what to do or run next.
    """

    exit_code = EXIT_WRONG_INPUT

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        parts = {"what": what, "where": where, "why": why, "fix": fix}
        parts = {name: on_one_line(part) for name, part in parts.items()}
        if sum(map(len, parts.values())) > LONGEST_MESSAGE - 20:
            parts = {name: shortened(part, _LONGEST_PART[name]) for name, part in parts.items()}
        self.what, self.where, self.why, self.fix = parts.values()
        text = self.what.rstrip(".")
        if self.where:
            text += f" in {self.where}"
        if self.why:
            text += f" ({self.why.rstrip('.')})"
        if self.fix:
            text += f"; {self.fix.rstrip('.')}"
        super().__init__(text + ".")


class InputError(FactoryError):
    """The input is wrong: recipe, option, file, device or data (exit code 2)."""


class BudgetError(FactoryError):
    """A budget or a certificate does not hold (exit code 1)."""

    exit_code = EXIT_DOES_NOT_HOLD


def on_one_line(text: str) -> str:
    """The text without line breaks, and printable: anything else as an escape, words cut."""
    words = []
    for word in str(text).split():
        word = shortened(word, _LONGEST_WORD)
        if not word.isprintable():
            shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in word)
            word = "".join(shown)
        words.append(word)
    return " ".join(words)


def shortened(text: str, most: int) -> str:
    """The text, of at most ``most`` characters: what is too long loses its middle."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 3]}...{text[-end:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names and the nearest one, as a phrase for an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=1, cutoff=0.4)
    listed = ", ".join(names[:_MOST_KNOWN]) if names else "none"
    if len(names) > _MOST_KNOWN:
        listed += f" and {len(names) - _MOST_KNOWN} more"
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed}"


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """An :class:`InputError` for a name that is not among the known ones."""
    return InputError(f"unknown {kind} {name!r}", where=where, fix=nearest(name, known))
'''

SOURCES['factory.core.registry'] = r'''"""A registry: one name, one object; a duplicate raises, an unknown name lists the known ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from factory.core.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Named objects of one kind ("operator", "transport", "data set")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item`` under ``name``; a second item of that name is a programming error."""
        if name in self._items:
            raise ValueError(f"duplicate {self.kind} {name!r}")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda item: self.add(name, item)

    def get(self, name: str, where: str = "") -> T:
        """The item called ``name``; raises InputError naming the known ones otherwise."""
        try:
            return self._items[name]
        except KeyError:
            raise unknown_name(self.kind, name, self._items, where) from None

    def names(self) -> list[str]:
        """All registered names, in order of registration."""
        return list(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)
'''

SOURCES['factory.core.provenance'] = r'''"""Provenance: which versions, on which machine, when; without importing what it reports."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "scikit-learn", "numpy")


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def factory_version() -> str:
    """Version of this package ("0+unknown" when run from an uninstalled tree)."""
    return package_version("model-factory") or "0+unknown"


def cpu_name() -> str:
    """The CPU's marketing name where the system tells it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware", "cpu model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def chip_fingerprint() -> str:
    """Identity of the local chip: architecture, name, family/model and core count.

    Two machines with the same fingerprint may share a latency table; a table with another
    fingerprint is refused where "local" is meant.
    """
    family = model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("cpu family", "CPU implementer"):
                family = family or value.strip()
            elif key.strip() in ("model", "CPU part"):
                model = model or value.strip()
    cores = os.cpu_count() or 1
    return f"{platform.machine()}/{cpu_name()}/{family}.{model}/{cores}c"


def machine_id() -> str | None:
    """The same for all processes of one machine until it is started anew; tells no name."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None


def now_utc() -> str:
    """Current time, ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def provenance() -> dict[str, object]:
    """Versions, machine and date, for the header of a run, a table or a report."""
    return {
        "factory": factory_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "chip": chip_fingerprint(),
        "date": now_utc(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }
'''

SOURCES['factory.core.wire'] = r'''"""What came over a wire, looked at before it is believed: JSON within bounds, then its form.

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
'''

SOURCES['factory.core.frames'] = r'''"""Frames between the factory and its worker: a JSON header and raw bytes, over a pipe.

Layout of a frame: 8 bytes b"factory1", 4 bytes big-endian length of the header, the header (JSON,
with the lengths of the blobs under "blobs"), the blobs. Nothing is taken into memory because a
frame announces it, only what really comes. Imported by the worker: standard library and numpy only.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from factory.core.wire import Wrong, choice, list_of, parse_json, table, text, whole

MAGIC = b"factory1"
FOLDER_VARIABLE = "FACTORY_WORKER_FOLDER"  # the worker's own folder, in its environment
LONGEST_HEADER = 1 << 26
LONGEST_CONTENT = 1 << 32  # of all blobs together
MOST_BLOBS = 1 << 16
_PIECE = 1 << 22
DTYPES = (
    "|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8",
)  # fmt: skip
ARRAY = table(
    {
        "name": text(1000),
        "dtype": choice(*DTYPES),
        "shape": list_of(whole(0, 2**31), most=32),
    }
)
ARRAYS = list_of(ARRAY, most=MOST_BLOBS)
_SIZES = list_of(whole(), most=MOST_BLOBS)


class BrokenFrame(Exception):
    """The stream ended inside a frame, or something else wrote into it."""


def write_frame(stream: BinaryIO, header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one frame and flush it."""
    content = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(MAGIC + struct.pack(">I", len(content)) + content)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_frame(
    stream: BinaryIO, longest_header: int = LONGEST_HEADER, longest_content: int = LONGEST_CONTENT
) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame; None at the end of the stream; BrokenFrame when it is cut or foreign."""
    start = stream.read(len(MAGIC) + 4)
    if not start:
        return None
    if len(start) < len(MAGIC) + 4 or not start.startswith(MAGIC):
        raise BrokenFrame(f"not a frame: {start!r}")
    (length,) = struct.unpack(">I", start[len(MAGIC) :])
    if length > longest_header:
        raise BrokenFrame(f"a header of {length} bytes")
    try:
        header = parse_json(_exactly(stream, length), longest_header)
        if not isinstance(header, dict):
            raise Wrong("the header is no table")
        sizes = _SIZES(header.pop("blobs", None), "blobs")
    except Wrong as wrong:
        raise BrokenFrame(str(wrong)) from None
    if sum(sizes) > longest_content:
        raise BrokenFrame(f"contents of {sum(sizes)} bytes, {longest_content} are accepted")
    return header, [_exactly(stream, size) for size in sizes]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """``size`` bytes, in pieces: a stream may take the whole of what it is asked for at once."""
    if size <= _PIECE:
        content = stream.read(size)
    else:
        whole_content = io.BytesIO()
        while whole_content.tell() < size and (
            part := stream.read(min(_PIECE, size - whole_content.tell()))
        ):
            whole_content.write(part)
        content = whole_content.getvalue()
    if len(content) < size:
        raise BrokenFrame(f"the stream ended after {len(content)} of {size} bytes")
    return content


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Names, types and shapes for the header, and the contents as blobs.

    ValueError for an array of a type that does not travel (texts, objects).
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.str not in DTYPES:
            raise ValueError(f"the array {name!r} is of type {array.dtype}, which cannot be sent")
    facts = [
        {"name": name, "dtype": array.dtype.str, "shape": list(np.shape(arrays[name]))}
        for name, array in plain.items()
    ]
    return facts, [array.tobytes() for array in plain.values()]


def unpack_arrays(facts: Any, blobs: Sequence[bytes | memoryview]) -> dict[str, np.ndarray]:
    """The arrays that :func:`pack_arrays` packed; Wrong when facts and contents do not agree."""
    facts = ARRAYS(facts, "arrays")
    if len(facts) != len(blobs):
        raise Wrong(f"arrays describes {len(facts)} arrays, {len(blobs)} came")
    arrays: dict[str, np.ndarray] = {}
    for index, (fact, blob) in enumerate(zip(facts, blobs, strict=True)):
        dtype, shape = np.dtype(fact["dtype"]), fact["shape"]
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise Wrong(f"arrays[{index}] is {shape} of {dtype}, and {len(blob)} bytes came")
        if fact["name"] in arrays:
            raise Wrong(f"arrays[{index}].name is there twice")
        flat = np.frombuffer(blob, dtype=dtype)
        try:
            arrays[fact["name"]] = flat.reshape(shape).copy()
        except ValueError as error:  # no element, and too large all the same
            raise Wrong(f"arrays[{index}].shape is impossible ({error})") from None
    return arrays
'''

SOURCES['factory.core.made_up'] = r'''"""Made-up values for the inputs of models: of the right type and range, the same at every call.

Floats are standard normal, bytes cover their whole range, truth values are both. Wider whole
numbers are 0 or 1: what they mean (an index, a length, a mask, a shape) is not known, and most
models run with that; :func:`feeds` says what else to try, :func:`first_of` tries it. Standard
library and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

TYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "float": "f4", "float16": "f2", "double": "f8", "bool": "?",
        "uint8": "u1", "int8": "i1", "uint16": "u2", "int16": "i2",
        "uint32": "u4", "int32": "i4", "uint64": "u8", "int64": "i8",
    }.items()
}  # fmt: skip
"""Element types of inputs that are made up, by the runtime's names."""
MOST_ELEMENTS = 2**31
_CONSTANTS = (1, 0)  # of whole numbers, where the model does not run with drawn ones
Feeds = Mapping[str, np.ndarray]
Result = TypeVar("Result")
Inputs = Mapping[str, tuple[np.dtype, Sequence[int]]]


def values(
    name: str,
    dtype: np.dtype,
    shape: Sequence[int],
    rng: np.random.Generator,
    whole: int | None = None,
) -> np.ndarray:
    """Values of the input ``name``; ``whole`` is what each whole number wider than a byte is.

    Raises:
        ValueError: more elements than are made.
    """
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"input {name!r} is too large to be made here: {list(shape)}")
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    if whole is not None:
        return np.full(shape, whole, dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def feeds(inputs: Inputs, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Values of all inputs, best first: a model that does not run with one may with the next.

    There is more than one only where there are whole numbers, which may be what a model cannot
    take: a length of 0, or an index of 1 into one row.
    """
    wide = any(dtype.kind in "iu" and dtype.itemsize > 1 for dtype, _ in inputs.values())
    for whole in (None, *_CONSTANTS) if wide else (None,):
        rng = np.random.default_rng(seed)
        yield {
            name: values(name, dtype, shape, rng, whole) for name, (dtype, shape) in inputs.items()
        }


def first_of(run: Callable[[Feeds], Result], tries: Iterable[Feeds]) -> tuple[Feeds, Result]:
    """The first inputs that a model runs with, and what ``run`` of them gives.

    Raises what the first ones raised, where it runs with none.
    """
    first: Exception | None = None
    for inputs in tries:
        try:
            return inputs, run(inputs)
        except Exception as error:  # the runtime's, of many kinds
            first = first or error
    assert first is not None
    raise first
'''

SOURCES['factory.core.temporary'] = r'''"""Folders in the system's temporary folder that do not outlive the command that made them.

A folder is removed when its ``with`` ends, when its object goes or when the interpreter ends. Its
owner holds a lock on a file in it, which the system lets go however the owner ends: the next
command removes the folders whose lock is free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: that is the lock
    fcntl = None  # type: ignore[assignment]

PREFIX = "factory-"
LOCK = ".factory-lock"
LOG_PREFIX, LOG_SUFFIX = f"{PREFIX}error-", ".log"
LOG_DAYS = 7.0
"""The log of a fault is kept so long."""
UNLOCKED_DAYS = 1.0
"""A folder without a lock file is being made, or older than such files."""


class TemporaryFolder:
    """A new folder ``factory-<purpose>-...``; as a context manager it gives the path."""

    def __init__(self, purpose: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-"))
        lock = (self.path / (LOCK if fcntl is None else f"{LOCK}-free")).open("wb")
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, self.path / LOCK)  # nobody sees it unlocked
        self._finalizer = weakref.finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove it with all that is in it; removing it twice is fine."""
        self._finalizer()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _remove(path: Path, lock: IO[bytes]) -> None:
    lock.close()
    shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of commands that were killed, and logs older than LOG_DAYS."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX) or entry.is_symlink():
                continue
            with contextlib.suppress(OSError):
                _remove_abandoned(entry)


def _remove_abandoned(entry: os.DirEntry[str]) -> None:
    days = (time.time() - entry.stat().st_mtime) / 86_400
    if not entry.is_dir():
        log = entry.name.startswith(LOG_PREFIX) and entry.name.endswith(LOG_SUFFIX)
        if log and days > LOG_DAYS:
            os.unlink(entry.path)
        return
    try:
        lock = open(os.path.join(entry.path, LOCK), "rb+")  # noqa: SIM115 (closed by _remove)
    except FileNotFoundError:
        if days > UNLOCKED_DAYS:
            shutil.rmtree(entry.path, ignore_errors=True)
        return
    if fcntl is None:
        lock.close()
        os.unlink(os.path.join(entry.path, LOCK))  # fails while its owner has it open
        shutil.rmtree(entry.path, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
    else:
        _remove(Path(entry.path), lock)
'''

SOURCES['factory.core.process'] = r'''"""The parent's side of a child process: start it, talk to it, notice when it dies or hangs, end it.

The child is started in its own session, so that Ctrl-C reaches the factory alone, and it ends by
itself when its stdin ends: also when the factory is killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from factory.core.frames import (
    FOLDER_VARIABLE,
    LONGEST_CONTENT,
    BrokenFrame,
    read_frame,
    write_frame,
)
from factory.core.temporary import TemporaryFolder
from factory.core.wire import Wrong, printable

Frame = tuple[dict[str, Any], list[bytes]]
Read = Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]]
Watch = Callable[[int | None, str], None]
WATCH_EVERY_S = 0.5


class WorkerLost(Exception):
    """The worker died or hung; ``suspect`` is the model it had announced, where known."""

    def __init__(self, reason: str, *, timed_out: bool = False, suspect: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.timed_out, self.suspect = reason, timed_out, suspect


class WorkerProcess:
    """One child process. A request that fails leaves it dead; make a new one then."""

    def __init__(
        self,
        command: Sequence[str],
        code: Callable[[Path], Path] | None = None,
        *,
        name: str = "the runtime's process",
        scratch: bool = True,
        longest_answer: int = LONGEST_CONTENT,
        read: Read = lambda request, reply: reply,
    ) -> None:
        """A child that runs ``command``.

        Args:
            command: the program and its arguments.
            code: copies the child's source into the folder it is given (another Python).
            name: what an error calls the child.
            scratch: whether it gets a temporary folder, ``folder``.
            longest_answer: most bytes of the arrays that it may send.
            read: the child's reply to a request as it may be used; Wrong says what it is not.
        """
        self.name, self._read = name, read
        temporary = TemporaryFolder("worker") if scratch or code is not None else None
        self.folder = "" if temporary is None else str(temporary.path)
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives with the child)
        options: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        try:
            environment = _environment(None if code is None else code(Path(self.folder)))
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**environment, FOLDER_VARIABLE: self.folder},
                **options,
            )
        except BaseException:
            self.errors.close()
            if temporary is not None:
                temporary.remove()
            raise
        self._frames: queue.SimpleQueue[Frame | str] = queue.SimpleQueue()
        stdout = cast(BinaryIO, self.process.stdout)
        pumped = (stdout, self._frames, longest_answer)
        threading.Thread(target=_pump, args=pumped, daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self.process, temporary, self.errors)

    @property
    def alive(self) -> bool:
        """Whether the child still runs and was not given up."""
        return self._finalizer.alive and self.process.poll() is None

    def request(
        self,
        header: Mapping[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        timeout_s: float,
        watch: Watch | None = None,
    ) -> Frame:
        """Send a request and wait for its reply; ticks of life restart the clock.

        ``watch(model, phase)`` is called at every tick, and while there is none.
        Raises WorkerLost when the child dies or is silent for ``timeout_s``. Whatever interrupts
        this ends the child: a late answer must not be taken for the next one.
        """
        try:
            return self._exchange(header, blobs, timeout_s, watch)
        except BaseException:
            self.kill()
            raise

    def _exchange(
        self,
        header: Mapping[str, Any],
        blobs: Sequence[bytes],
        timeout_s: float,
        watch: Watch | None,
    ) -> Frame:
        silence = f"timed out after {timeout_s:g} s"
        if not self._send(header, blobs, timeout_s):
            raise WorkerLost(silence, timed_out=True)
        suspect: int | None = None
        phase = ""
        while True:
            try:
                frame = self._next(timeout_s, watch, suspect, phase)
            except queue.Empty:
                while_ = f" while {phase}" if phase else ""
                raise WorkerLost(silence + while_, timed_out=True, suspect=suspect) from None
            if isinstance(frame, str):
                raise WorkerLost(frame or self._death(), suspect=suspect)
            try:
                reply = self._read(header, frame[0])
            except Wrong as wrong:
                raise WorkerLost(f"{self.name} answers {wrong}") from None
            if reply["reply"] != "tick":
                return reply, frame[1]
            index = reply["index"]
            if reply["phase"] or index < 0:
                suspect, phase = (index if index >= 0 else None), reply["phase"]

    def _next(
        self, timeout_s: float, watch: Watch | None, suspect: int | None, phase: str
    ) -> Frame | str:
        """The next frame, or what :func:`_pump` says in its place.

        Raises queue.Empty after ``timeout_s`` of silence.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if watch is not None:
                watch(suspect, phase)
            left_s = max(deadline - time.monotonic(), 0.0)
            try:
                return self._frames.get(
                    timeout=left_s if watch is None else min(left_s, WATCH_EVERY_S)
                )
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise

    def _send(self, header: Mapping[str, Any], blobs: Sequence[bytes], timeout_s: float) -> bool:
        """Write the request; False when the child did not read it in time."""
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            self.process.kill()

        watchdog = threading.Timer(timeout_s, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            write_frame(cast(BinaryIO, self.process.stdin), header, blobs)
        except OSError:  # the child is gone; how it ended is read below
            if expired.is_set():
                return False
            raise WorkerLost(self._death()) from None
        finally:
            watchdog.cancel()
        return not expired.is_set()

    def _death(self) -> str:
        """How the child ended, in words."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"{self.name} closed its connection"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"{self.name} died of {name}"
        said = self.last_words()
        return f"{self.name} ended with exit code {code}" + (f": {said}" if said else "")

    def last_words(self) -> str:
        """The last line that the child wrote to stderr."""
        with contextlib.suppress(OSError, ValueError):
            end = self.errors.seek(0, os.SEEK_END)
            self.errors.seek(max(0, end - 2000))
            lines = self.errors.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
        return ""

    def kill(self) -> None:
        """End the child at once."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self._finalizer()

    def close(self) -> None:
        """Let the child end by itself, then make sure."""
        self._finalizer()


def _environment(code: Path | None) -> dict[str, str]:
    """The parent's environment, in which the child finds this same package, or only ``code``."""
    environment = dict(os.environ)
    if code is not None:
        environment["PYTHONPATH"] = str(code)
        environment.pop("PYTHONHOME", None)
        return environment
    root = str(Path(__file__).resolve().parents[2])
    known = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = root + (os.pathsep + known if known else "")
    return environment


def _pump(stdout: BinaryIO, frames: queue.SimpleQueue[Frame | str], longest: int) -> None:
    """Move frames from the pipe to the queue; then why there are no more, "" at its end."""
    reason = ""
    try:
        while (frame := read_frame(stdout, longest_content=longest)) is not None:
            frames.put(frame)
    except BrokenFrame as broken:
        reason = f"the answer of the runtime's process is damaged: {printable(str(broken), 200)}"
    except MemoryError:
        reason = "there is no memory for the answer of the runtime's process"
    except (OSError, ValueError):  # closed meanwhile
        pass
    finally:
        frames.put(reason)


def _end(
    process: subprocess.Popen[bytes], scratch: TemporaryFolder | None, errors: IO[bytes]
) -> None:
    """Close the child's stdin, wait a moment, kill it; remove its folder."""
    with contextlib.suppress(OSError, ValueError):
        cast(BinaryIO, process.stdin).close()
    deadline = time.monotonic() + 1.0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if process.poll() is None:
        process.kill()
        process.wait()
    errors.close()
    if scratch is not None:
        scratch.remove()
'''

SOURCES['factory.devices'] = r'''"""devices: how to reach a chip and run a model on it; the device profile."""
'''

SOURCES['factory.devices.context'] = r'''"""The mark of a node that is in a measured model only to give its neighbour the usual layout.

The worker imports this: no imports.
"""

CONTEXT = "factory_context_"
'''

SOURCES['factory.devices.memory'] = r'''"""Most memory that a piece of work takes beyond what this process had before; Linux only.

The kernel's own high-water mark of the resident memory (VmHWM) is set back before the work. What
earlier work has freed is given back to the system first, or the work would find it and seem small.
Elsewhere, and where /proc is not there, nothing is known. Imports: standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim, which gives freed memory back."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None


def begin() -> int:
    """Resident memory in kB, with the high-water mark set back to it; 0 where that cannot be."""
    gc.collect()
    trim = _trim()
    try:
        if trim is not None:
            trim(0)
        CLEAR_REFS.write_text(RESET_HIGH_WATER)
        return status_kb("VmRSS")
    except OSError:
        return 0


def peak_mb(before_kb: int) -> float:
    """Millions of bytes that were taken at most since :func:`begin` answered ``before_kb``."""
    if not before_kb:
        return 0.0
    return max(0.0, (status_kb("VmHWM") - before_kb) * 1024 / 1e6)


def status_kb(name: str) -> int:
    """A line of this process's status in kB; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
'''

SOURCES['factory.devices.measure'] = r'''"""Timing models with ONNX Runtime, inside the worker: sessions, warm-up, rounds, the trace.

Runs in the child process only: standard library, numpy and onnxruntime.
All the rules are those of :class:`factory.devices.base.TimingPlan`, which arrives as a dictionary.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from factory.core import made_up
from factory.devices import memory
from factory.devices.context import CONTEXT

REORDERS = ("ReorderInput", "ReorderOutput", "Transpose")
TRACE_WARMUP_RUNS = 3
FEWEST_TRACE_RUNS = 10
FEWEST_RUNS = 3
REFERENCE_TIME = 1 / 3  # of the time and runs of a candidate
QUIET_ROUNDS = 0.25  # quantile of the rounds that says what the references take undisturbed
Tick = Callable[[int, str], None]
Given = tuple[Mapping[str, np.ndarray] | None, str]
NOTHING_GIVEN: Given = (None, "")


def one_line(error: BaseException) -> str:
    """An exception as one line of bounded length, without the runtime's boilerplate."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:400]


def make_session(
    model: bytes | str,
    config: Mapping[str, Any],
    trace_prefix: str | None = None,
    optimised_path: str | None = None,
) -> ort.InferenceSession:
    """A session with every optimisation on the one execution provider, never another instead.

    ``model``: its content, or the path of its file.
    ``optimised_path``: where the graph as it will run is written, its weights in a file beside it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = config["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = config.get("log_severity", 4)
    if config["threads"] > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in config.get("session_entries", {}).items():
        options.add_session_config_entry(key, value)
    if trace_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = trace_prefix
    if optimised_path is not None:
        options.optimized_model_filepath = optimised_path
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", "weights.bin")
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "64")
    if config.get("provider_library"):  # a plug-in is chosen by its devices, not by its name
        name = config["execution_provider"]
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        options.add_provider_for_devices(devices, config["provider_options"])
        return ort.InferenceSession(model, options, enable_fallback=0)
    provider = (config["execution_provider"], config["provider_options"])
    return ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)


def with_weights(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The settings for a model whose weights lie in files of ``folder``; "": in itself."""
    if not folder:
        return dict(config)
    key = "session.model_external_initializers_file_folder_path"
    return {**config, "session_entries": {**config.get("session_entries", {}), key: folder}}


def register_plugin(name: str, library: str) -> list[str]:
    """Load a plug-in execution provider; the providers that are there then.

    ``library`` is the path of its library, or a Python package that has get_library_path().
    """
    path = library
    if not library.endswith((".so", ".dll", ".dylib")):
        path = importlib.import_module(library).get_library_path()
    ort.register_execution_provider_library(name, path)
    found = [*ort.get_available_providers(), *(device.ep_name for device in ort.get_ep_devices())]
    return list(dict.fromkeys(found))


class Candidate:
    """One model of a block: its session, its bound buffers and its samples."""

    def __init__(
        self,
        model: bytes,
        config: Mapping[str, Any],
        trace: str | None = None,
        optimised_path: str | None = None,
        given: Given = NOTHING_GIVEN,
    ) -> None:
        feeds, folder = given
        config = with_weights(config, folder)
        before_kb = memory.begin()
        started = time.perf_counter()
        self.session = make_session(model, config, trace, optimised_path)
        self.session_ms = (time.perf_counter() - started) * 1e3
        self.samples_ns: list[list[int]] = []  # by round
        self.runs_per_round = 1
        tries = made_up_feeds(self.session) if feeds is None else [feeds]
        _, self.first_run_ms = made_up.first_of(self._bind_and_run, tries)
        self.peak_memory_mb = memory.peak_mb(before_kb)

    def _bind_and_run(self, feeds: Mapping[str, np.ndarray]) -> float:
        self.feeds = feeds  # keeps the bound buffers alive
        self.binding = self.session.io_binding()
        for name, array in feeds.items():
            self.binding.bind_cpu_input(name, array)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)
        return self.run(1)[0] / 1e6

    def run(self, runs: int) -> list[int]:
        """Nanoseconds of each of ``runs`` runs."""
        run, binding, clock = self.session.run_with_iobinding, self.binding, time.perf_counter_ns
        taken_ns = []
        for _ in range(runs):
            start = clock()
            run(binding)
            taken_ns.append(clock() - start)
        return taken_ns

    def warm_up(self, plan: Mapping[str, Any], alive: Callable[[], None]) -> float:
        """Run until the window medians settle or the time is up; the last median in ms."""
        deadline = time.perf_counter() + plan["warmup_time_ms"] / 1e3
        before = 0.0
        while True:
            window: list[int] = []
            while len(window) < plan["warmup_runs"]:
                window += self.run(1)
                alive()
                if time.perf_counter() >= deadline:
                    break
            median = max(statistics.median(window), 1.0)
            if abs(median - before) <= plan["warmup_tolerance"] * before:
                return median / 1e6
            if time.perf_counter() >= deadline:
                return median / 1e6
            before = median

    def plan_runs(
        self, median_ms: float, plan: Mapping[str, Any], rounds: int, share: float = 1.0
    ) -> None:
        """Decide how many runs each round gets; ``share`` of the plan's time and runs."""
        runs = min(
            max(math.ceil(plan["min_time_ms"] / median_ms), plan["min_runs"]), plan["max_runs"]
        )
        affordable = max(int(plan["max_time_ms"] / median_ms), FEWEST_RUNS)
        self.runs_per_round = max(1, math.ceil(share * min(runs, affordable) / rounds))

    def result(self, rounds: Sequence[int]) -> dict[str, Any]:
        """Statistics over the samples of these rounds, as fields of a Timing."""
        samples_ns = [taken for number in rounds for taken in self.samples_ns[number]]
        return {
            "status": "ok",
            **sample_statistics(samples_ns),
            "session_ms": self.session_ms,
            "first_run_ms": self.first_run_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "providers": assigned_providers(self.session),
        }


def sample_statistics(samples_ns: Sequence[int]) -> dict[str, Any]:
    """Median, tails, minimum, mean and number of the samples, as fields of a Timing."""
    samples_ms = np.asarray(samples_ns) / 1e6
    p10, median, p90 = np.percentile(samples_ms, [10, 50, 90])
    return {
        "median_ms": float(median),
        "p10_ms": float(p10),
        "p90_ms": float(p90),
        "min_ms": float(samples_ms.min()),
        "mean_ms": float(samples_ms.mean()),
        "runs": len(samples_ms),
    }


def quiet_rounds(references: Sequence[Candidate], rounds: int, disturbed: float) -> list[int]:
    """The rounds that count: those in which no reference took longer than in the quietest ones.

    A round is disturbed where the mean of a reference's samples is larger by over ``disturbed``
    than in the quieter rounds. (The mean, since a program that shares the core takes it away for
    milliseconds: single runs then take several times as long, the median of a short model stays.)
    All rounds count where fewer than half are quiet: then the quiet ones cannot be told apart.
    """
    quiet = np.ones(rounds, dtype=bool)
    for one in references:
        means = np.array([np.mean(taken) for taken in one.samples_ns])
        quiet &= means <= (1.0 + disturbed) * np.quantile(means, QUIET_ROUNDS)
    kept = np.flatnonzero(quiet)
    return kept.tolist() if 2 * len(kept) >= rounds else list(range(rounds))


def made_up_feeds(session: ort.InferenceSession) -> Iterator[dict[str, np.ndarray]]:
    """Fixed values for the inputs of a session, best first (factory/core/made_up.py).

    Raises ValueError for a dynamic shape, a foreign type or too many elements.
    """
    inputs = {}
    for meta in session.get_inputs():
        if not all(isinstance(size, int) and size >= 0 for size in meta.shape):
            raise ValueError(f"input {meta.name!r} has a dynamic shape {list(meta.shape)}")
        dtype = made_up.TYPES.get(meta.type.removeprefix("tensor(").removesuffix(")"))
        if dtype is None:
            raise ValueError(f"input {meta.name!r} has the unsupported type {meta.type}")
        inputs[meta.name] = (dtype, meta.shape)
    return made_up.feeds(inputs)


def assigned_providers(session: ort.InferenceSession) -> dict[str, int]:
    """Execution provider -> number of graph nodes, where the runtime records it (>= 1.24.1)."""
    counts: dict[str, int] = {}
    try:
        for subgraph in session.get_provider_graph_assignment_info():
            counts[subgraph.ep_name] = counts.get(subgraph.ep_name, 0) + len(subgraph.get_nodes())
    except Exception:  # an older runtime: the trace is asked instead
        return {}
    return counts


def trace_runs(plan: Mapping[str, Any], median_ms: float) -> int:
    """Runs of the traced session: enough for ``min_time_ms``, within 8 and ``profile_runs``."""
    enough = math.ceil(plan["min_time_ms"] / max(median_ms, 1e-3))
    return int(min(plan["profile_runs"], max(enough, FEWEST_TRACE_RUNS)))


def trace_nodes(
    model: bytes,
    config: Mapping[str, Any],
    runs: int,
    folder: str,
    *,
    graph: bool = False,
    given: Given = NOTHING_GIVEN,
) -> tuple[list[dict[str, Any]], float, str]:
    """Nodes as executed with their share of the traced time, that time in ms, and the graph.

    With ``graph`` the last is the graph as executed, an ONNX file without weights in base64; ""
    where it cannot be written: a provider that compiles nodes refuses that for the whole session.
    """
    with tempfile.TemporaryDirectory(dir=folder) as here:
        optimised = os.path.join(here, "optimised.onnx")
        prefix, content = os.path.join(here, "trace"), ""
        candidate = None
        if graph:
            with contextlib.suppress(Exception):
                candidate = Candidate(model, config, prefix, optimised, given)
                with open(optimised, "rb") as stream:
                    content = base64.b64encode(stream.read()).decode()
        if candidate is None:
            candidate = Candidate(model, config, prefix, None, given)
        candidate.run(TRACE_WARMUP_RUNS + runs - 1)  # it has run once
        with open(candidate.session.end_profiling(), encoding="utf-8") as text:
            events = json.load(text)
    return (*nodes_of_events(events, runs), content)


def nodes_of_events(
    events: Sequence[Mapping[str, Any]], runs: int
) -> tuple[list[dict[str, Any]], float]:
    """Nodes with their share of the traced time, and that time in ms.

    ``events`` is the runtime's trace of TRACE_WARMUP_RUNS + ``runs`` runs. It counts whole
    microseconds, cut off: half of one is added to each event, so that a node of less than one is
    not free. The time is the mean of the faster half of the runs; a node counts with the mean of
    the faster half of its own, so that whatever interrupts a run falls on no node. (Seven networks
    traced six times each on a busy machine: shares scattered by 3.5 to 3.9 % so, by 5.5 % as means
    over the runs that were the faster half as a whole.)
    """
    taken_us: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            details = event["args"]
            name = event["name"].removesuffix("_kernel_time")
            label = (name, details.get("op_name", "?"), details.get("provider", "?"))
            taken_us.setdefault(label, []).append(event["dur"] + 0.5)
    labels, us_LR = list(taken_us), np.array([_by_run(us, runs) for us in taken_us.values()])
    if not labels:
        return [], 0.0
    faster = math.ceil(runs / 2)
    total_us = np.sort(us_LR.sum(axis=0))[:faster].mean()
    node_us = np.sort(us_LR, axis=1)[:, :faster].mean(axis=1)
    nodes = [
        {"name": name, "op": op, "provider": provider, "share": float(share)}
        for (name, op, provider), share in zip(labels, node_us / node_us.sum(), strict=True)
    ]
    return nodes, float(total_us) / 1e3


def _by_run(taken_us: Sequence[float], runs: int) -> np.ndarray:
    """Time of the nodes of one name in each run after the warm-up."""
    a_run = len(taken_us) / (TRACE_WARMUP_RUNS + runs)
    if a_run != int(a_run):  # not run every time: its mean is all that can be said
        return np.full(runs, sum(taken_us) / (TRACE_WARMUP_RUNS + runs))
    by_run: np.ndarray = np.asarray(taken_us).reshape(-1, int(a_run)).sum(axis=1)
    return by_run[TRACE_WARMUP_RUNS:]


def reorder_share(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Share of the nodes that a graph of one kernel adds: changes of layout, and context nodes.

    Quantize- and DequantizeLinear stay with the kernel: a kernel that keeps them is one that the
    runtime computes in floats, in a whole network too. A Transpose that stands alone is the kernel.
    """
    added = [n["op"] in REORDERS or CONTEXT in n["name"] for n in nodes]
    if all(added):
        return 0.0
    shares = (node["share"] for node, extra in zip(nodes, added, strict=True) if extra)
    return float(sum(shares))


def measure_many(
    models: Sequence[bytes],
    plan: Mapping[str, Any],
    rounds: int,
    config: Mapping[str, Any],
    folder: str,
    tick: Tick,
    given: Sequence[Given] = (),
) -> list[dict[str, Any]]:
    """Time the models of a block in interleaved rounds; a failure is a result with its reason.

    ``tick(index, phase)`` announces what is done next, so that the parent knows who hangs.
    ``given`` holds what goes with each model: values of its inputs, the folder of its weights.
    """
    given = given or [NOTHING_GIVEN] * len(models)
    results: list[dict[str, Any]] = [{} for _ in models]
    ready: dict[int, Candidate] = {}
    references = range(len(models) - plan.get("references", 0), len(models))

    def attempt(index: int, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            ready.pop(index, None)
            results[index] = {"status": "failed", "reason": one_line(error)}

    def prepare(index: int) -> None:
        tick(index, "making the session")
        candidate = Candidate(models[index], config, given=given[index])
        tick(index, "warming up")
        median_ms = candidate.warm_up(plan, lambda: tick(index, ""))
        share = REFERENCE_TIME if index in references else 1.0
        candidate.plan_runs(median_ms, plan, rounds, share)
        ready[index] = candidate

    def measure(index: int) -> None:
        candidate = ready[index]
        if len(models) > 1 and rounds > 1:
            candidate.run(1)  # the first run after another model finds cold caches
        candidate.samples_ns.append([])
        for _ in range(candidate.runs_per_round):
            candidate.samples_ns[-1] += candidate.run(1)
            tick(-1, "")

    def trace(index: int) -> None:
        tick(index, "tracing")
        result = results[index]
        runs = trace_runs(plan, result["median_ms"])
        graph = bool(plan.get("optimised_graph"))
        nodes, traced_ms, content = trace_nodes(
            models[index], config, runs, folder, graph=graph, given=given[index]
        )
        result.update(nodes=nodes, traced_ms=traced_ms, optimised=content)
        result["reorder_share"] = reorder_share(nodes)
        if not result["providers"]:
            for node in nodes:
                provider = node["provider"]
                result["providers"][provider] = result["providers"].get(provider, 0) + 1

    for index in range(len(models)):
        attempt(index, lambda index=index: prepare(index))  # type: ignore[misc]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = sorted(ready)
            if order:
                start = number % len(order)
                order = order[start:] + order[:start]
            for index in order if number % 2 == 0 else reversed(order):
                attempt(index, lambda index=index: measure(index))  # type: ignore[misc]
    finally:
        gc.enable()
    beside = [ready[index] for index in references if index in ready]
    kept = quiet_rounds(beside, rounds, plan["disturbed"]) if beside else list(range(rounds))
    for index, candidate in list(ready.items()):
        results[index] = candidate.result(kept)
        if plan["profile_runs"] > 0 and index not in references:
            attempt(index, lambda index=index: trace(index))  # type: ignore[misc]
    return results
'''

SOURCES['factory.devices.placing'] = r'''"""Inside the worker: which node runs where, and a model compiled ahead for one SoC.

Runs in the child process only: standard library and onnxruntime. What an execution provider says
about the nodes that it refuses goes to stderr by way of native code, so stderr is a file meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import onnxruntime as ort

from factory.devices import measure

LONGEST_LOG = 1 << 18
_TELLING = re.compile(r"REASON|Operator type|FAILED|\[E:|\[W:|not supported|unsupported", re.I)


@contextlib.contextmanager
def stderr_into(path: str) -> Iterator[None]:
    """Everything that this process writes to stderr, native code included, goes to ``path``."""
    kept = os.dup(2)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.dup2(handle, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(handle)
        os.close(kept)


def place(model: bytes, config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Nodes with their provider, the number of partitions, and what the provider said.

    ``failure`` is why there is no session at all, "" otherwise.
    """
    path = os.path.join(folder, "placing.log")
    nodes: list[dict[str, str]] = []
    partitions: dict[str, int] = {}
    failure = ""
    with stderr_into(path):
        try:
            session = measure.make_session(model, {**config, "log_severity": 0})
            for part in session.get_provider_graph_assignment_info():
                partitions[part.ep_name] = partitions.get(part.ep_name, 0) + 1
                nodes += [
                    {"name": node.name, "op": node.op_type, "provider": part.ep_name}
                    for node in part.get_nodes()
                ]
        except Exception as error:
            failure = measure.one_line(error)
    with open(path, encoding="utf-8", errors="replace") as stream:
        telling = "".join(line for line in stream if _TELLING.search(line))
    os.unlink(path)
    log = telling[:LONGEST_LOG]
    return {"nodes": nodes, "partitions": partitions, "failure": failure, "log": log}


def compile_context(model: bytes, config: Mapping[str, Any], folder: str) -> bytes:
    """The model with its partitions compiled for the SoC of ``config`` (EPContext nodes)."""
    path = os.path.join(folder, "context.onnx")
    entries = {
        **config.get("session_entries", {}),
        "ep.context_enable": "1",
        "ep.context_file_path": path,
        "ep.context_embed_mode": "1",
        "session.disable_cpu_ep_fallback": "0",
    }
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    session: ort.InferenceSession | None = measure.make_session(
        model, {**config, "session_entries": entries}
    )
    del session
    if not os.path.exists(path):
        raise RuntimeError("the execution provider compiled nothing of this model")
    with open(path, "rb") as stream:
        content = stream.read()
    os.unlink(path)
    return content
'''

SOURCES['factory.devices.start_up'] = r'''"""Cold start and memory of one file, in a worker that has run nothing before.

Such a process pays what an app pays at its start: creating the session and the first run. Its peak
memory is the operating system's own figure; what the interpreter with the runtime loaded had taken
before the model is told beside it. Imports: standard library, numpy, onnxruntime.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from factory.core import made_up
from factory.devices import measure
from factory.devices.memory import status_kb

FEW_RUNS = 5


def start_up(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``session_ms``, ``first_run_ms``, ``cold_start_ms``, ``peak_memory_bytes`` and what it was
    before, ``runtime_memory_bytes``; None where the system does not tell."""
    before = peak_bytes()
    started = time.perf_counter()
    session = measure.make_session(path, config)
    session_ms = (time.perf_counter() - started) * 1e3

    def run(feeds: Mapping[str, np.ndarray]) -> float:
        started = time.perf_counter()
        session.run(None, feeds)
        return (time.perf_counter() - started) * 1e3

    feeds, first_run_ms = made_up.first_of(run, measure.made_up_feeds(session))
    for _ in range(FEW_RUNS):
        run(feeds)
    return {
        "session_ms": session_ms,
        "first_run_ms": first_run_ms,
        "cold_start_ms": session_ms + first_run_ms,
        "peak_memory_bytes": peak_bytes(),
        "runtime_memory_bytes": before,
    }


def peak_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell.

    Linux tells it in VmHWM. Its ru_maxrss would begin with what the process that started this one
    had taken, for exec keeps it.
    """
    if high_water_kb := status_kb("VmHWM"):
        return high_water_kb * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(taken) if sys.platform == "darwin" else int(taken) * 1024
'''

SOURCES['factory.devices.worker'] = r'''"""The child process that holds ONNX Runtime: ``python -m factory.devices.worker``.

A crash or a hang of the runtime ends this process and not the factory. It reads frames
(factory/core/frames.py) from stdin and answers on stdout: "configure" once, then "time", "run"
and "run_batch". Between the pieces of a long request it sends "tick" frames that name the model
it is busy with. It ends when stdin ends, also in the middle of a measurement, so that it never
outlives its parent. Imports: standard library, numpy, onnxruntime.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

import numpy as np
import onnxruntime as ort

from factory.core.frames import (
    FOLDER_VARIABLE,
    pack_arrays,
    read_frame,
    unpack_arrays,
    write_frame,
)
from factory.devices import measure, placing, start_up

TICK_EVERY_S = 0.5
Frame = tuple[dict[str, Any], list[bytes]]
Reply = tuple[dict[str, Any], list[bytes]]


class Worker:
    """Answers one request after the other."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.config: dict[str, Any] = {}
        self.folder = os.environ.get(FOLDER_VARIABLE, "")  # ours to remove when the parent is gone
        self._last_tick = 0.0
        self._session: tuple[str, ort.InferenceSession] | None = None

    def tick(self, index: int, phase: str) -> None:
        """A sign of life; one without a phase is sent at most every half second."""
        now = time.monotonic()
        if phase or now - self._last_tick > TICK_EVERY_S:
            self._last_tick = now
            write_frame(self.out, {"reply": "tick", "index": index, "phase": phase})

    def answer(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """The reply to one request; an exception becomes a reply with its reason."""
        try:
            handler = getattr(self, f"do_{header['command']}")
            reply: Reply = handler(header, blobs)
            return reply
        except Exception as error:
            return {"reply": "error", "reason": measure.one_line(error)}, []

    def do_configure(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Pin this process, remember the settings, tell the versions."""
        self.config = header["config"]
        note = pin(header["cores"])
        limit_memory(header.get("memory_limit_mb"))
        ort.set_default_logger_severity(4)
        providers = ort.get_available_providers()
        if self.config.get("provider_library"):
            name = self.config["execution_provider"]
            providers = measure.register_plugin(name, self.config["provider_library"])
        facts = {
            "runtime_version": ort.__version__,
            "python": sys.version.split()[0],
            "providers": providers,
            "pin_note": note,
            "pid": os.getpid(),
        }
        return {"reply": "configured", **facts}, []

    def do_time(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Time the models in the blobs."""
        self._session = None  # nothing else in memory while the clock runs
        given = header["given"]
        models, values = blobs[: len(given)], blobs[len(given) :]
        extras = []
        for entry in given:
            facts = entry["feeds"]
            own, values = values[: len(facts or ())], values[len(facts or ()) :]
            feeds = None if facts is None else unpack_arrays(facts, own)
            extras.append((feeds, entry["weights_folder"]))
        results = measure.measure_many(
            models, header["plan"], header["rounds"], self.config, self.folder, self.tick, extras
        )
        return {"reply": "timings", "timings": results}, []

    def do_start_up(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Cold start and memory of a file; true only as a worker's first request."""
        self.tick(0, "starting the model")
        return {"reply": "started", **start_up.start_up(header["path"], self.config)}, []

    def do_place(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Which node of a model runs where."""
        self.tick(0, "making the session")
        return {"reply": "placed", **placing.place(blobs[0], self._config(header), self.folder)}, []

    def do_compile(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """A model compiled ahead for the SoC that the provider's options name."""
        self.tick(0, "compiling")
        content = placing.compile_context(blobs[0], self._config(header), self.folder)
        return {"reply": "compiled"}, [content]

    def do_run(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Outputs of a model for named inputs."""
        session = self._cached(header, blobs)
        feeds = unpack_arrays(header["arrays"], blobs)
        self.tick(0, "running")
        names = [output.name for output in session.get_outputs()]
        made = dict(zip(names, session.run(names, feeds), strict=True))
        facts, contents = pack_arrays(_arrays(made))
        return {"reply": "outputs", "arrays": facts}, contents

    def do_run_batch(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """First output of a batch-1 model for each item of one array."""
        session = self._cached(header, blobs)
        items = unpack_arrays(header["arrays"], blobs)["inputs"]
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"the model has {len(inputs)} inputs, a batch needs exactly one")
        name, output = inputs[0].name, session.get_outputs()[0].name
        with_batch = len(inputs[0].shape) == items.ndim
        results = []
        for item in items:
            self.tick(0, "")
            results.append(session.run([output], {name: item[None] if with_batch else item})[0])
        stacked = np.concatenate(results) if with_batch else np.stack(results)
        facts, contents = pack_arrays({output: stacked})
        return {"reply": "outputs", "arrays": facts}, contents

    def _config(self, header: dict[str, Any]) -> dict[str, Any]:
        """The settings for the model of a request, whose weights may lie in a folder."""
        return measure.with_weights(self.config, header.get("weights_folder", ""))

    def _cached(self, header: dict[str, Any], blobs: list[bytes]) -> ort.InferenceSession:
        """The session of the model that was sent now (first blob) or the last time."""
        if header["with_model"]:
            model = blobs.pop(0)
            self.tick(0, "making the session")
            self._session = None
            session = measure.make_session(model, self._config(header))
            self._session = (hashlib.sha256(model).hexdigest(), session)
        if self._session is None or self._session[0] != header["model"]:
            raise LookupError("that model is no longer loaded")
        return self._session[1]


def _arrays(made: dict[str, Any]) -> dict[str, np.ndarray]:
    """The outputs that are arrays of numbers; those of a sequence by their number."""
    found = {}
    for name, value in made.items():
        parts = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {}
        for part, array in (parts or {name: value}).items():
            if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
                found[part] = array
    return found


def pin(cores: list[int] | None) -> str:
    """Bind this process to ``cores``; an empty answer, or why it could not."""
    if cores is None:
        return "pinning is switched off in the profile"
    if not hasattr(os, "sched_setaffinity"):
        return f"pinning is not possible on {sys.platform}"
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return f"pinning to cores {cores} failed: {error.strerror}"
    return ""


def limit_memory(limit_mb: int | None) -> None:
    """Let this process grow by ``limit_mb`` at most, where the system can hold it to that."""
    if limit_mb is None:
        return
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as stream:
            in_use = int(stream.read().split()[0]) * resource.getpagesize()
        limit = in_use + (limit_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Serve until stdin ends."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the runtime prints goes to stderr, not between the frames
    worker = Worker(out)
    requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def read() -> None:
        try:
            while (frame := read_frame(sys.stdin.buffer)) is not None:
                requests.put(frame)
        finally:
            for _ in range(3 if worker.folder else 0):  # a trace may be written meanwhile
                shutil.rmtree(worker.folder, ignore_errors=True)
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        header, blobs = requests.get()
        reply, contents = worker.answer(header, blobs)
        write_frame(out, reply, contents)


if __name__ == "__main__":
    main()
'''

SOURCES['factory.devices.base'] = r'''"""What every device can do, whatever its transport: describe itself, time models, run one.

A measurement that fails is a value (:class:`Timing` with status "failed" and its reason), never
an exception: one kernel that a runtime refuses must not end a profile of a thousand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from factory.core.errors import InputError
from factory.core.registry import Registry
from factory.core.wire import Wrong

if TYPE_CHECKING:  # the device agent takes this file where there is no pydantic
    from typing import Self

    from factory.core.progress import Progress
    from factory.devices.profile import DeviceProfile

CPU = "CPUExecutionProvider"
DISTURBED = 0.10  # a machine that is slower than usual by more is disturbed: nothing rests on that
CHUNK_BYTES = 32 << 20  # of inputs that travel to a device at once


@dataclass(frozen=True)
class TimingPlan:
    """How often a model is run; the same meaning on every transport.

    A model gets enough runs for ``min_time_ms``, at least ``min_runs`` and at most ``max_runs``,
    spread evenly over the rounds; ``max_time_ms`` wins over ``min_runs`` (at least 3 runs).
    Before that it is warmed up in windows of ``warmup_runs`` until two successive window medians
    agree within ``warmup_tolerance``, or ``warmup_time_ms`` has passed.

    The last ``references`` models are no candidates: they show what the machine did meanwhile. They
    get a third of the time, are not traced, and rounds in which one of them took longer than in the
    quieter rounds by more than ``disturbed`` count for no model, as long as half of them are left.
    """

    min_runs: int = 20
    max_runs: int = 400
    min_time_ms: float = 60.0
    max_time_ms: float = 4000.0
    warmup_runs: int = 5
    warmup_time_ms: float = 40.0
    warmup_tolerance: float = 0.03
    profile_runs: int = 0  # most runs of a second, traced session; 0: no node shares
    optimised_graph: bool = False  # whether the traced session also tells the graph as it runs
    references: int = 0  # the last so many models are references
    disturbed: float = DISTURBED  # slow-down of the references that makes a round not count

    def __post_init__(self) -> None:
        """A plan that cannot be carried out is a programming error."""
        if not 1 <= self.min_runs <= self.max_runs or self.warmup_runs < 1:
            raise ValueError(f"impossible numbers of runs in {self}")
        times = (self.min_time_ms, self.max_time_ms, self.warmup_time_ms, self.warmup_tolerance)
        if min(times) < 0 or min(self.profile_runs, self.references) < 0:
            raise ValueError(f"negative time or number of runs in {self}")


class Model(bytes):
    """ONNX bytes with what goes with them where a device is this machine.

    Attributes:
        feeds: values of its inputs; None: the device makes them up.
        weights_folder: where the files lie that hold its weights; "": there are none.
    """

    feeds: Mapping[str, np.ndarray] | None = None
    weights_folder: str = ""

    @classmethod
    def of(
        cls,
        content: bytes,
        feeds: Mapping[str, np.ndarray] | None = None,
        weights_folder: str = "",
    ) -> Model:
        """``content`` with the rest."""
        model = cls(content)
        model.feeds, model.weights_folder = feeds, weights_folder
        return model


def plain_models(models: Sequence[bytes], profile: DeviceProfile) -> Sequence[bytes]:
    """``models`` where their bytes are all there is to them; InputError where more has to come."""
    for model in models:
        if isinstance(model, Model) and model.feeds is not None:
            raise InputError(
                f"device {profile.id!r} makes up the inputs of a model itself",
                why=f"its transport {profile.transport!r} takes no values for them",
                fix="leave --inputs out, or give shapes with --input",
            )
        if isinstance(model, Model) and model.weights_folder:
            raise InputError(
                "a model with more than 2 GB of weights is measured on this machine only",
                why=f"device {profile.id!r} is reached by transport {profile.transport!r}",
                fix="name a local device",
            )
    return models


@dataclass(frozen=True)
class Timing:
    """The result of timing one model, also of a failure.

    Attributes:
        status: "ok" or "failed"; ``reason`` says why it failed, in one line.
        median_ms: with p10, p90, min and mean, over ``runs`` unprofiled runs; mean_ms is 0 where
            the device does not tell.
        reorder_share: share of the traced time in nodes that graphs of one kernel add: layout
            reorders, transposes, and nodes marked as context; 0 without a trace.
        nodes: what the trace saw: name, op, provider, share (sums to 1), in order of execution.
        traced_ms: sum of the traced node times of one run (profiling inflates it).
        providers: execution provider -> number of nodes.
        session_ms: time to make the session, in a process that has made others.
        first_run_ms: the first run of that session; 0 where the device does not tell.
        peak_memory_mb: most memory that session and first run took beyond what the process had
            before, millions of bytes; 0 where the system does not tell.
        optimised: the graph as the runtime executes it, an ONNX file without weights in base64;
            "" where the plan does not ask for it or the device cannot tell.
    """

    status: str
    reason: str = ""
    median_ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    min_ms: float = 0.0
    runs: int = 0
    reorder_share: float = 0.0
    nodes: tuple[Mapping[str, Any], ...] = ()
    traced_ms: float = 0.0
    providers: Mapping[str, int] | None = None
    session_ms: float = 0.0
    optimised: str = ""
    first_run_ms: float = 0.0
    peak_memory_mb: float = 0.0
    mean_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are numbers."""
        return self.status == "ok"

    @classmethod
    def failed(cls, reason: str) -> Timing:
        """A failure with its reason, squeezed into one line."""
        return cls(status="failed", reason=" ".join(reason.split()) or "no reason given")

    def placed_on(self, provider: str, cpu: str = CPU) -> Timing:
        """This timing; a failure where no node ran on ``provider`` but all fell back to ``cpu``.

        A missing backend or an unknown SoC only logs, and the session runs on the CPU while the
        provider is still listed: so who ran the nodes is asked, never who was asked for.
        """
        ran = set(self.providers or {})
        if not self.ok or provider == cpu or ran - {cpu}:
            return self
        who = "the CPU took the whole model" if ran else "the runtime does not say where it ran"
        return Timing.failed(f"no node ran on {provider}: {who}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timing:
        """The timing that :meth:`to_dict` wrote."""
        return cls(**{**data, "nodes": tuple(data.get("nodes", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "nodes": [dict(node) for node in self.nodes]}


@runtime_checkable
class Device(Protocol):
    """A chip that can be measured. Not thread-safe; close it, or use it in a ``with``."""

    profile: DeviceProfile

    def describe(self) -> dict[str, Any]:
        """Facts about the chip now.

        ``fingerprint`` (what a latency table must agree with), ``simulated``, ``pinned``,
        ``load_1min``, ``empty_run_ms``, ``notes``.
        """

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several ONNX models, interleaved over ``rounds``; one Timing a model, in order."""

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name; InputError with the reason when it cannot run."""

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...] through a batch-1 model, stacked [N, ...].

        ``inputs[i]`` may come with or without the model's leading batch dimension of 1.
        """

    def close(self) -> None:
        """Let the chip go; closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@contextlib.contextmanager
def answers_of(device_id: str, fix: str = "") -> Iterator[None]:
    """An answer of the device that is Wrong becomes an InputError with its name and the field."""
    try:
        yield
    except Wrong as wrong:
        raise InputError(
            f"device {device_id!r} sent an answer that cannot be used", why=str(wrong), fix=fix
        ) from None


def in_chunks(
    run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    inputs: np.ndarray,
    chunk_bytes: int = CHUNK_BYTES,
) -> np.ndarray:
    """First outputs of ``run({"inputs": part})`` over parts of ``inputs`` [N, ...], joined.

    Raises InputError for an empty batch, and Wrong where the outputs are not those of N inputs.
    """
    if len(inputs) == 0:
        raise InputError("an empty batch cannot be run", fix="give at least one input")
    step = max(1, chunk_bytes // max(inputs[0].nbytes, 1))
    starts = range(0, len(inputs), step)
    joined: list[np.ndarray] = []
    for at in starts:
        part = inputs[at : at + step]
        output = next(iter(run({"inputs": part}).values()), None)
        if output is None or output.ndim == 0 or len(output) % len(part):
            shape = None if output is None else list(output.shape)
            raise Wrong(f"the output of {len(part)} inputs is of the shape {shape}")
        if joined and output.shape[1:] != joined[0].shape[1:]:
            raise Wrong(f"outputs of the shapes {joined[0].shape} and {output.shape}")
        joined.append(output)
    return np.concatenate(joined)


def mirrored(device: Device, progress: Progress) -> Progress:
    """``progress``, shown on the device too where that has a screen for it."""
    mirror = getattr(device, "mirrored", None)
    shown: Progress = mirror(progress) if mirror is not None else progress
    return shown


TRANSPORTS: Registry[Callable[[DeviceProfile], Device]] = Registry("transport")


@TRANSPORTS.register("local")
def _open_local(profile: DeviceProfile) -> Device:
    from factory.devices.local import LocalDevice

    device = LocalDevice(profile)
    try:
        device.start()
    except BaseException:
        device.close()
        raise
    return device


@TRANSPORTS.register("agent")
def _open_agent(profile: DeviceProfile) -> Device:
    from factory.devices.agent import AgentDevice

    return AgentDevice.connect(profile)


@TRANSPORTS.register("adb")
def _open_adb(profile: DeviceProfile) -> Device:
    from factory.devices.adb import AdbDevice

    return AdbDevice.connect(profile)


@TRANSPORTS.register("ray")
def _open_ray(profile: DeviceProfile) -> Device:
    from factory.devices.ray_device import RayDevice

    return RayDevice(profile)


@TRANSPORTS.register("simulated")
def _open_simulated(profile: DeviceProfile) -> Device:
    from factory.devices.simulated import SimulatedDevice

    return SimulatedDevice(profile)


@TRANSPORTS.register("browser")
def _open_browser(profile: DeviceProfile) -> Device:
    from factory.devices.browser import BrowserDevice

    device = BrowserDevice(profile)
    try:
        device.start()
    except BaseException:
        device.close()
        raise
    return device


@TRANSPORTS.register("table")
def _open_table(profile: DeviceProfile) -> Device:
    raise InputError(
        f"device {profile.id!r} is known from an imported table only: it cannot be reached",
        fix="predict for it; to measure it, write a profile of another id with its transport",
    )


def open_device(profile: DeviceProfile) -> Device:
    """The device of that profile, reached and ready; InputError says why it cannot be."""
    transport = TRANSPORTS.get(profile.transport, where=f"device profile {profile.id!r}")
    return transport(profile)
'''

SOURCES['factory.devices.messages'] = r'''"""The form of every message that a peer sends: an agent, its clients, a worker, a page, a phone.

Both sides of a wire look at what they get with the forms of this file (wire.py says what a form
is). Part of the device agent: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from factory.core.frames import ARRAYS, DTYPES, MOST_BLOBS
from factory.core.wire import (
    Form,
    Wrong,
    anything,
    choice,
    flag,
    line,
    list_of,
    map_of,
    maybe,
    not_as,
    number,
    parse_json,
    table,
    tagged,
    text,
    unless_wrong,
    whole,
    word,
)
from factory.devices.base import Timing, TimingPlan

LONGEST_FACTS = 1 << 20
LONGEST_OUTPUTS = 1 << 29
MOST_MODELS = 256  # of one request
MOST_RUNS = 1_000_000
MOST_TRACED_RUNS = 10_000
LONGEST_MODEL_MS = 600_000.0
MOST_NODES = 100_000

_NAME, _WORD, _SENTENCE = text(1000), word(), line(400)
_SHARE = number(0.0, 1.000001)  # a sum of shares, rounded
_CELSIUS = maybe(number(-100.0, 1000.0))


def _option(value: Any, field: str) -> Any:
    """A value of a provider's options."""
    if isinstance(value, str):
        return text(4000)(value, field)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return whole(-(2**53))(value, field)
    return number(-1e300, 1e300)(value, field)


_OPTIONS = map_of(_option, most=64)

# -- what is measured -------------------------------------------------------------------------

_NODE = table({"name": _NAME, "op": _WORD, "provider": _WORD, "share": _SHARE})
_OF_TYPE: dict[Any, Form] = {"float": number(), "int": whole(), "str": _WORD, "bool": flag}
_OF_TIMING: dict[str, Form] = {
    "reason": _SENTENCE,
    "median_ms": number(above=True),
    "runs": whole(1),
    "reorder_share": _SHARE,
    "nodes": list_of(_NODE, MOST_NODES),
    "providers": maybe(map_of(whole(), most=100)),
    "optimised": text(1 << 25),
}
_OK = ("median_ms", "p10_ms", "p90_ms", "min_ms", "runs")
_TIMING_FIELDS: dict[str, Form] = {
    entry.name: _OF_TIMING.get(entry.name) or _OF_TYPE.get(entry.type, anything())
    for entry in fields(Timing)
    if entry.name != "status"
}
_TIMING = tagged(
    "status",
    {
        "ok": table({name: _TIMING_FIELDS[name] for name in _OK}, _TIMING_FIELDS),
        "failed": table({"reason": _SENTENCE}),
    },
)
TIMINGS = list_of(_TIMING, MOST_MODELS * 16)


def timings(told: Sequence[Mapping[str, Any]], models: int) -> list[Timing]:
    """The timings of ``models`` models that TIMINGS let pass; Wrong where they are others."""
    if len(told) != models:
        raise Wrong(f"timings holds {len(told)} for {models} models")
    return [
        Timing.from_dict(one) if one["status"] == "ok" else Timing.failed(one["reason"])
        for one in told
    ]


_NODE_EVENT = table(
    {
        "cat": _WORD,
        "name": text(1100),
        "dur": number(0.0, 1e12),
        "args": table({}, {"op_name": _WORD, "provider": _WORD}),
    }
)


def node_events(value: Any, field: str) -> list[dict[str, Any]]:
    """The events of a runtime's trace that tell how long a node took, those of others left out."""
    if not isinstance(value, list):
        raise Wrong(f"{field} is no list of events")
    return [
        _NODE_EVENT(event, f"{field}[{index}]")
        for index, event in enumerate(value)
        if not isinstance(event, dict) or event.get("cat") == "Node"
    ]


def check_trace(events: Sequence[Mapping[str, Any]], runs: int) -> None:
    """Raise Wrong where ``events`` name far more nodes than ``runs`` runs of them can have made."""
    nodes = len({(event["name"], *event["args"].values()) for event in events})
    if nodes * runs > 16 * len(events) + 1000:
        raise Wrong(f"a trace of {runs} runs has {len(events)} events of {nodes} nodes")


# -- a device agent ---------------------------------------------------------------------------

_CORE = table({"core": whole(0, 1 << 16)}, more="keep")
_PROVIDERS = list_of(_WORD, most=100)
_MACHINE = {
    "chip": word(least=1),
    "cpu": line(200),
    "board": maybe(line(200)),
    "machine": maybe(_WORD),
    "cores": list_of(_CORE, most=4096),
    "memory_mb": table({"total": maybe(whole()), "available": maybe(whole())}),
    "temperature_c": _CELSIUS,
    "load_1min": maybe(number()),
    "runtime_version": _WORD,
    "providers": _PROVIDERS,
}
_HELLO = {"protocol": whole(), "instance": _WORD}
AGENT_HELLO = table(_HELLO)
AGENT_FACTS = table({**_HELLO, **_MACHINE}, more="keep")
FINGERPRINT = table(
    {
        "chip": word(least=1),
        "runtime": _WORD,
        "runtime_version": _WORD,
        "execution_provider": _WORD,
        "provider_options": _OPTIONS,
        "threads": whole(1, 4096),
        "precision": choice("fp32", "int8"),
    },
    more="keep",
)
_DESCRIBE = {
    "simulated": flag,
    "fingerprint": FINGERPRINT,
    "pinned": flag,
    "load_1min": maybe(number()),
    "empty_run_ms": number(),
    "notes": list_of(_SENTENCE, most=100),
}
DESCRIBE = table(_DESCRIBE, more="keep")
AGENT_EVENT = tagged(
    "event",
    {
        "hello": AGENT_HELLO,
        "tick": table({}),
        "wait": table({}),
        "error": table({"what": line(200)}, {"why": line(300), "fix": line(200)}),
        "described": table(
            {"describe": table({**_DESCRIBE, "agent": table(_MACHINE, more="keep")}, more="keep")}
        ),
        "timings": table({"timings": TIMINGS}),
        "outputs": table(
            {"arrays": ARRAYS, "sizes": list_of(whole(0, LONGEST_OUTPUTS), most=MOST_BLOBS)}
        ),
    },
)
LAST_EVENT = {"describe": "described", "time": "timings", "run": "outputs"}
AGENT_REFUSAL = table({"error": line(300)})


def _plan_field(name: str, kind: Any) -> Form:
    if name == "profile_runs":
        return whole(0, MOST_TRACED_RUNS)
    of_type: dict[Any, Form] = {"int": whole(0, MOST_RUNS), "float": number(0.0, LONGEST_MODEL_MS)}
    return of_type.get(kind) or _OF_TYPE.get(kind, anything())


def _threads(value: Any, field: str) -> int | str:
    if value == "all" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise not_as(field, value, "a whole number from 1 to 1024 or 'all'")


_CONFIG = table(
    {
        "execution_provider": word(least=1),
        "provider_options": _OPTIONS,
        "threads": _threads,
        "pin": flag,
        "timeout_s": number(0.0, 3600.0, above=True),
        "precision": choice("fp32", "int8"),
    },
    more="refuse",
)
_PLAN = table({}, {e.name: _plan_field(e.name, e.type) for e in fields(TimingPlan)}, more="refuse")
AGENT_REQUEST = tagged(
    "command",
    {
        "describe": table({"config": _CONFIG}),
        "time": table({"config": _CONFIG, "plan": _PLAN}, {"rounds": whole(1, 1000)}),
        "run": table({"config": _CONFIG, "arrays": ARRAYS}, {"batch": flag}),
    },
)

# -- a worker ---------------------------------------------------------------------------------

_PLACED_NODE = table({"name": _NAME, "op": _WORD, "provider": _WORD})
_BYTES = maybe(whole())
WORKER_REPLY = tagged(
    "reply",
    {
        "tick": table({"index": whole(-1, 1 << 32), "phase": line(60)}),
        "error": table({"reason": _SENTENCE}),
        "configured": table(
            {"runtime_version": _WORD, "providers": _PROVIDERS, "pin_note": _SENTENCE}
        ),
        "timings": table({"timings": TIMINGS}),
        "outputs": table({"arrays": ARRAYS}),
        "started": table(
            {
                "session_ms": number(),
                "first_run_ms": number(),
                "cold_start_ms": number(),
                "peak_memory_bytes": _BYTES,
                "runtime_memory_bytes": _BYTES,
            }
        ),
        "placed": table(
            {
                "nodes": list_of(_PLACED_NODE, MOST_NODES),
                "partitions": map_of(whole(), most=100),
                "failure": _SENTENCE,
                "log": anything(),
            }
        ),
        "compiled": table({}),
    },
)
REPLY_TO = {
    "configure": "configured",
    "time": "timings",
    "run": "outputs",
    "run_batch": "outputs",
    "start_up": "started",
    "place": "placed",
    "compile": "compiled",
}


def worker_reply(request: Mapping[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A worker's reply to a request; Wrong where it is none, or one to another command."""
    reply: dict[str, Any] = WORKER_REPLY(told, "")
    if reply["reply"] not in ("tick", "error", REPLY_TO[request["command"]]):
        raise Wrong(repr(reply["reply"]))
    return reply


# -- a page -----------------------------------------------------------------------------------

_SHOWN = unless_wrong(line(60))
_YES = unless_wrong(flag)
_BRAND = table({}, {"brand": _SHOWN, "version": _SHOWN})
_HINTS = ("model", "platform", "platformVersion", "architecture", "bitness")
_GPU = {"vendor": _SHOWN, "architecture": _SHOWN, "description": _SHOWN, "software": _YES}
PAGE_FACTS = table(  # a browser that is odd in one of them can still measure
    {},
    {
        "user_agent": unless_wrong(line(400)),
        "hints": unless_wrong(
            table(
                {},
                {
                    **dict.fromkeys(_HINTS, _SHOWN),
                    "mobile": _YES,
                    "fullVersionList": unless_wrong(list_of(_BRAND, most=20)),
                },
            )
        ),
        "cores": unless_wrong(whole(1, 4096)),
        "memory_gb": unless_wrong(number()),
        "isolated": _YES,
        "secure": _YES,
        "simd": _YES,
        "relaxed_simd": _YES,
        "shared_memory": _YES,
        "webgpu": unless_wrong(table({}, _GPU)),
        "webnn": _YES,
        "tick_ms": unless_wrong(number()),
        "touch": unless_wrong(whole()),
    },
)
PAGE_HELLO = table({}, {"token": _WORD, "facts": PAGE_FACTS})
PAGE_TICK = table({"index": whole(-1, 1 << 32), "phase": line(60)})
_PAGE_TIME = number(0.0, 1e9, above=True)
PAGE_RESULT = tagged(
    "status",
    {
        "ok": table(
            {
                **dict.fromkeys(("median_ms", "p10_ms", "p90_ms", "min_ms"), _PAGE_TIME),
                "runs": whole(1, 10**9),
            },
            {
                "session_ms": unless_wrong(number()),
                "mean_ms": unless_wrong(number()),
                "events": node_events,
                "traced_runs": whole(1, MOST_TRACED_RUNS),
            },
        ),
        "failed": table({"reason": _SENTENCE}),
    },
)
PAGE_REPLY = tagged(
    "reply", {"outputs": table({"arrays": ARRAYS}), "error": table({"reason": _SENTENCE})}
)

# -- a phone ----------------------------------------------------------------------------------

RUNNER_VERSION = table({"runtime_version": _WORD, "providers": _PROVIDERS})
RUNNER_HEAD = table({"pin_note": _SENTENCE})
_FILE = text(200)
_WRITTEN = table(
    {
        "name": _NAME,
        "file": _FILE,
        "dtype": choice(*DTYPES),
        "shape": list_of(whole(0, 2**31), most=32),
    }
)
_RUNNER_FAILED = table({"index": whole(), "reason": _SENTENCE})
RUNNER_TIMED = tagged(
    "status",
    {
        "ok": table(
            {
                "index": whole(),
                "session_ms": number(),
                "samples_ns": list_of(whole(0, 10**15), most=MOST_RUNS * 2, least=1),
            },
            {"trace": _FILE, "optimised": _FILE},
        ),
        "failed": _RUNNER_FAILED,
    },
)
RUNNER_RAN = tagged(
    "status",
    {
        "ok": table({"index": whole(), "outputs": list_of(_WRITTEN, most=1000)}, {"joined": flag}),
        "failed": _RUNNER_FAILED,
    },
)
PHONE_FACTS = table(
    {
        "chip": line(300),
        "cores": list_of(
            table(
                {
                    "core": whole(0, 4096),
                    "part": maybe(line(40)),
                    "max_mhz": maybe(whole()),
                    "governor": maybe(line(40)),
                }
            ),
            most=1024,
        ),
        "memory_mb": maybe(whole()),
        "thermal_c": _CELSIUS,
        "battery_percent": maybe(whole()),
        "battery_c": maybe(number(-1000.0, 1000.0)),
    },
    more="keep",
)


def read(content: bytes, form: Form, longest: int = LONGEST_FACTS) -> Any:
    """The message in a JSON text; Wrong names what is not as ``form`` wants it."""
    return form(parse_json(content, longest), "")
'''

SOURCES['factory.devices.environment'] = r'''"""The Python that runs a worker: the factory's own, or one of an environment named in a profile.

Some execution providers come as a package that replaces onnxruntime (onnxruntime-openvino), so they
need an environment of their own. The worker needs only numpy and onnxruntime there; it gets a copy
of its own source files, because the factory's site-packages on its path would bring back the
factory's onnxruntime.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import InputError

if TYPE_CHECKING:
    from factory.devices.profile import DeviceProfile

WORKER = ("-P", "-m", "factory.devices.worker")
COMMAND = (sys.executable, *WORKER)
PACKAGES = {
    "OpenVINOExecutionProvider": "onnxruntime-openvino==1.24.1",
    "QNNExecutionProvider": "onnxruntime==1.32.0 onnxruntime-qnn==2.7.0",
}
NEEDED_FILES = (
    "__init__.py",
    "core/__init__.py",
    "core/frames.py",
    "core/made_up.py",
    "core/wire.py",
    "devices/__init__.py",
    "devices/context.py",
    "devices/measure.py",
    "devices/memory.py",
    "devices/placing.py",
    "devices/start_up.py",
    "devices/worker.py",
)

QNN = "QNNExecutionProvider"


def emulator(profile: DeviceProfile) -> str:
    """Why times on this machine are not those of the chip; "" when they are.

    On x86-64 the QNN provider runs its HTP emulator: which nodes it takes and what they compute is
    true, its cycle counts are scaled host time.
    """
    if profile.execution_provider == QNN and platform.machine().lower() in ("x86_64", "amd64"):
        return "QNN emulates the accelerator on this machine: its times say nothing of the chip"
    return ""


def own_command(profile: DeviceProfile) -> tuple[str, ...] | None:
    """Command of a worker in the profile's own environment; None when it names none."""
    options = getattr(profile, "local", None)
    if options is None or not options.interpreter:
        return None
    return (str(find_interpreter(profile, options.interpreter)), *WORKER)


def find_interpreter(profile: DeviceProfile, name: str) -> Path:
    """The interpreter's path; InputError with the exact commands that make the environment."""
    from factory.core.resources import user_home

    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else [Path.cwd() / given, user_home() / given]
    for place in places:
        if place.is_file():
            return place.absolute()  # not resolved: a venv's python is a link that must stay one
    folder = given.parent.parent if given.parent.name in ("bin", "Scripts") else given.parent
    packages = PACKAGES.get(profile.execution_provider, "onnxruntime")
    raise InputError(
        f"the environment of device {profile.id!r} is not there: {name}",
        why=f"{profile.execution_provider} comes with another onnxruntime than the factory's",
        fix=f"make it: python3 -m venv {folder} && {given} -m pip install {packages} numpy",
    )


def copy_worker(folder: Path) -> Path:
    """Copy the worker's source files below ``folder``; the folder that goes on PYTHONPATH."""
    package = Path(__file__).resolve().parents[1]
    root = folder / "code"
    for name in NEEDED_FILES:
        target = root / "factory" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target)
    return root
'''

SOURCES['factory.devices.local'] = r'''"""This machine as a device: ONNX Runtime in a pinned child process, started when first needed.

A crash or a hang of the runtime is a failed Timing with its reason; the other models of the same
block are measured by a fresh child.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.frames import LONGEST_CONTENT, pack_arrays, unpack_arrays
from factory.core.process import Watch, WorkerLost, WorkerProcess
from factory.core.provenance import chip_fingerprint, machine_id
from factory.core.wire import Wrong, printable
from factory.devices.base import CHUNK_BYTES, Model, Timing, TimingPlan, answers_of, in_chunks
from factory.devices.environment import COMMAND, copy_worker, emulator, own_command
from factory.devices.messages import timings, worker_reply

if TYPE_CHECKING:  # the device agent takes this file where there is no pydantic
    from factory.devices.profile import DeviceProfile

EMPTY_RUN_PLAN = TimingPlan(min_runs=200, max_runs=200, min_time_ms=0.0, warmup_time_ms=5.0)
# A graph that does nothing with one number: what a run costs by itself (Identity, opset 18).
EMPTY_MODEL = bytes.fromhex(
    "08093a3b0a100a017812017922084964656e746974791205656d7074795a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001012"
)
HOW_TO_GET = {
    "OpenVINOExecutionProvider": "install onnxruntime-openvino in an environment of its own",
    "QNNExecutionProvider": "install onnxruntime-qnn",
    "CUDAExecutionProvider": "install onnxruntime-gpu in place of onnxruntime",
    "TensorrtExecutionProvider": "install onnxruntime-gpu in place of onnxruntime, and TensorRT",
    "DmlExecutionProvider": "install onnxruntime-directml on Windows",
    "CoreMLExecutionProvider": "use the macOS build of onnxruntime",
    "NnapiExecutionProvider": "use an Android build of ONNX Runtime on the phone",
    "XnnpackExecutionProvider": "use an Android or iOS build of ONNX Runtime",
}


def allowed_cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class LocalDevice(Closing):
    """ONNX Runtime on this machine.

    Args:
        profile: threads, execution provider and the rest.
        command: how the worker is started; tests put a misbehaving one here.
        memory_limit_mb: memory that the worker may take beyond what it starts with; None: any.
        longest_answer: most bytes of the outputs of one request.

    Attributes:
        watch: called while a request is waited for; what it raises ends the worker.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        command: Sequence[str] = COMMAND,
        memory_limit_mb: int | None = None,
        longest_answer: int = LONGEST_CONTENT,
    ) -> None:
        self.profile = profile
        self.watch: Watch | None = None
        self._command = tuple(command)
        self._memory_limit_mb, self._longest_answer = memory_limit_mb, longest_answer
        self._cores = allowed_cores()
        if profile.threads != "all":
            if profile.threads > len(self._cores):
                raise InputError(
                    f"{profile.threads} threads are asked for but only {len(self._cores)} cores "
                    "may be used",
                    where=f"device profile {profile.id!r}",
                    fix=f'set threads to at most {len(self._cores)} or to "all"',
                )
            self._cores = self._cores[-profile.threads :]
        self._worker: WorkerProcess | None = None
        self._hello: dict[str, Any] = {}
        self._loaded = ""  # hash of the model that the worker holds for run and run_batch
        self._empty_run_ms: float | None = None

    def start(self) -> WorkerProcess:
        """The worker, started and configured if it is not there; InputError if it cannot be."""
        if self._worker is not None and self._worker.alive:
            return self._worker
        own = own_command(self.profile)
        try:
            worker = WorkerProcess(
                own or self._command,
                copy_worker if own else None,
                longest_answer=self._longest_answer,
                read=worker_reply,
            )
        except OSError as error:
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=error.strerror or str(error),
                fix="check interpreter in its profile, and free memory and disk",
            ) from None
        options = getattr(self.profile, "local", None)
        config = {
            "execution_provider": self.profile.execution_provider,
            "provider_options": {k: str(v) for k, v in self.profile.provider_options.items()},
            "provider_library": options.provider_library if options is not None else "",
            "threads": len(self._cores),
        }
        request = {
            "command": "configure",
            "config": config,
            "cores": self._cores if self.profile.pin else None,
            "memory_limit_mb": self._memory_limit_mb,
        }
        timeout_s = max(30.0, self.profile.timeout_s)
        try:
            hello, _ = worker.request(request, timeout_s=timeout_s, watch=self.watch)
        except WorkerLost as lost:
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=lost.reason,
                fix="run `factory doctor`",
            ) from None
        provider = self.profile.execution_provider
        if hello["reply"] == "error":
            worker.close()
            raise InputError(
                f"the runtime of device {self.profile.id!r} does not start",
                why=hello["reason"],
                fix="check [local] and provider_options of its profile",
            )
        if provider not in hello["providers"]:
            worker.close()
            raise InputError(
                f"this onnxruntime {hello['runtime_version']} has no {provider}",
                where=f"device profile {self.profile.id!r}",
                why="available: " + printable(", ".join(hello["providers"]), 300),
                fix=HOW_TO_GET.get(provider, "install a build of onnxruntime that has it"),
            )
        self._hello, self._worker, self._loaded = hello, worker, ""
        return worker

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.process.pid if self._worker and self._worker.alive else None

    def describe(self) -> dict[str, Any]:
        """Facts about this chip, its runtime and its load now."""
        self.start()
        if self._empty_run_ms is None:
            timing = self.time_many([EMPTY_MODEL], EMPTY_RUN_PLAN)[0]
            self._empty_run_ms = round(timing.median_ms, 5) if timing.ok else 0.0
        profile, emulated = self.profile, emulator(self.profile)
        notes = [emulated] if emulated else []
        if self._hello["pin_note"]:
            notes.append(self._hello["pin_note"])
        governor = _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
        if not governor:
            notes.append("the clock governor cannot be read: the clock may vary")
        load = _load_1min()
        if load is None:
            notes.append("the load of this machine cannot be read")
        elif load > 0.5 * (os.cpu_count() or 1):
            notes.append(f"the machine is busy (load {load:.1f}): timings will scatter")
        local = profile.chip == "local"
        return {
            "device": profile.id,
            "transport": profile.transport,
            "simulated": bool(emulated),
            "fingerprint": {
                "chip": chip_fingerprint() if local else profile.chip,
                "runtime": profile.runtime,
                "runtime_version": self._hello["runtime_version"],
                "execution_provider": profile.execution_provider,
                "provider_options": dict(profile.provider_options),
                "threads": len(self._cores),
                "precision": profile.precision,
            },
            "machine": machine_id(),
            "pinned": profile.pin and not self._hello["pin_note"],
            "cores": self._cores,
            "providers_available": self._hello["providers"],
            "governor": governor or None,
            "load_1min": load,
            "empty_run_ms": self._empty_run_ms,
            "notes": notes,
        }

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models, interleaved; a crash or hang costs only the culprit its numbers."""
        if emulated := emulator(self.profile):
            return [Timing.failed(emulated) for _ in models]
        results: dict[int, Timing] = {}
        self._time_block(models, list(range(len(models))), plan, rounds, results)
        return [results[index] for index in range(len(models))]

    def _time_block(
        self,
        models: Sequence[bytes],
        indices: list[int],
        plan: TimingPlan,
        rounds: int,
        results: dict[int, Timing],
    ) -> None:
        if not indices:
            return
        first = len(models) - plan.references
        here = replace(plan, references=sum(index >= first for index in indices))
        block = [models[index] for index in indices]
        given, values = _given(block)
        request = {"command": "time", "plan": asdict(here), "rounds": max(1, rounds)}
        try:
            reply, _ = self._request({**request, "given": given}, [*block, *values])
            try:
                found = timings(reply["timings"], len(indices))
            except Wrong as wrong:
                raise WorkerLost(f"the runtime's process answers {wrong}") from None
        except WorkerLost as lost:
            if len(indices) == 1:
                results[indices[0]] = Timing.failed(lost.reason)
            elif lost.timed_out and lost.suspect is not None and lost.suspect < len(indices):
                # A hang names its model; waiting for it a second time would cost the timeout.
                culprit = indices[lost.suspect]
                results[culprit] = Timing.failed(lost.reason)
                rest = [index for index in indices if index != culprit]
                self._time_block(models, rest, plan, rounds, results)
            else:
                # A crash may come from memory that an earlier model spoilt: each one alone.
                for index in indices:
                    self._time_block(models, [index], plan, rounds, results)
            return
        for index, timing in zip(indices, found, strict=True):
            results[index] = timing.placed_on(self.profile.execution_provider)

    def start_up(self, path: Path) -> dict[str, Any]:
        """Cold start and memory of the file, in a worker of its own that has run nothing before.

        Raises:
            InputError: the worker or the model does not start; the reason is in it.
        """
        if emulated := emulator(self.profile):
            raise InputError(emulated)
        with LocalDevice(self.profile, self._command) as fresh:
            fresh.start()
            try:
                request = {"command": "start_up", "path": str(path.absolute())}
                reply, _ = fresh._request(request, [])
            except WorkerLost as lost:
                raise self._cannot_run(lost.reason) from None
        if reply.pop("reply") == "error":
            raise self._cannot_run(reply["reason"])
        return reply

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name, computed by the worker."""
        with answers_of(self.profile.id):
            return self._run("run", model, feeds)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...], the loop being in the worker."""
        with answers_of(self.profile.id):
            return in_chunks(
                lambda chunk: self._run("run_batch", model, chunk), inputs, CHUNK_BYTES
            )

    def _run(
        self, command: str, model: bytes, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        facts, blobs = pack_arrays(arrays)
        key = hashlib.sha256(model).hexdigest()
        self.start()
        with_model = key != self._loaded
        request = {"command": command, "model": key, "with_model": with_model, "arrays": facts,
                   "weights_folder": _weights_folder(model)}  # fmt: skip
        self._loaded = ""
        try:
            reply, contents = self._request(request, [model, *blobs] if with_model else blobs)
        except WorkerLost as lost:
            raise self._cannot_run(lost.reason) from None
        if reply["reply"] == "error":
            raise self._cannot_run(reply["reason"])
        self._loaded = key
        return unpack_arrays(reply["arrays"], contents)

    def _cannot_run(self, reason: str) -> InputError:
        return InputError(
            f"the model does not run on device {self.profile.id!r}",
            why=reason,
            fix="check the model with `factory inspect` and the inputs' names, types and shapes",
        )

    def ask(self, command: str, model: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """What the worker answers to another command about one model ("place", "compile")."""
        try:
            folder = _weights_folder(model)
            return self._request({"command": command, "weights_folder": folder}, [model])
        except WorkerLost as lost:
            return {"reply": "error", "reason": lost.reason}, []

    def _request(
        self, header: Mapping[str, Any], blobs: Sequence[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        worker = self.start()
        if header["command"] == "time":
            self._loaded = ""  # the worker drops its session while the clock runs
        timeout_s = self.profile.timeout_s
        reply = worker.request(header, blobs, timeout_s=timeout_s, watch=self.watch)
        if reply[0]["reply"] == "error" and header["command"] == "time":
            raise WorkerLost(f"the worker failed: {reply[0]['reason']}")
        return reply

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _weights_folder(model: bytes) -> str:
    return model.weights_folder if isinstance(model, Model) else ""


def _given(models: Sequence[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """What goes with each model, for the header of a request, and the values as blobs."""
    facts: list[dict[str, Any]] = []
    values: list[bytes] = []
    for model in models:
        feeds = model.feeds if isinstance(model, Model) else None
        told, contents = ([], []) if feeds is None else pack_arrays(feeds)
        facts.append({"feeds": None if feeds is None else told,
                      "weights_folder": _weights_folder(model)})  # fmt: skip
        values += contents
    return facts, values


def _load_1min() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
'''

SOURCES['factory.devices.agent_facts'] = r'''"""What a machine says about itself: chip, board, cores, clocks, temperature, memory, its load.

Part of the device agent: standard library only, and nothing here fails where a system does not
tell something (it is None then). Linux tells most, Android's Termux less, others little.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Any

from factory.core.provenance import chip_fingerprint, cpu_name, machine_id
from factory.core.wire import digits

CPU = Path("/sys/devices/system/cpu")
THERMAL = Path("/sys/class/thermal")
BOARD_FILES = ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name")


def read_text(path: Path | str) -> str:
    """The stripped content of a small system file, "" when it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()[:4096].decode(errors="replace").strip("\0 \n\t")
    return ""


def machine_facts() -> dict[str, Any]:
    """Everything about this machine that a person or a table may want to know."""
    return {
        "chip": chip_fingerprint(),
        "cpu": cpu_name(),
        "board": next((text for text in map(read_text, BOARD_FILES) if text), None),
        "machine": machine_id(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": core_facts(),
        "memory_mb": memory_mb(),
        "temperature_c": temperature_c(),
        "load_1min": load_1min(),
    }


def core_facts() -> list[dict[str, Any]]:
    """Number, highest and current clock in MHz and governor of each core."""
    facts = []
    for number in range(os.cpu_count() or 1):
        clock = CPU / f"cpu{number}" / "cpufreq"
        facts.append(
            {
                "core": number,
                "max_mhz": _mhz(clock / "cpuinfo_max_freq"),
                "mhz": _mhz(clock / "scaling_cur_freq"),
                "governor": read_text(clock / "scaling_governor") or None,
            }
        )
    return facts


def temperature_c() -> float | None:
    """The hottest sensor that names a processor or the whole chip, else the hottest of all."""
    named: list[float] = []
    others: list[float] = []
    with contextlib.suppress(OSError):
        for zone in THERMAL.glob("thermal_zone*"):
            with contextlib.suppress(ValueError):
                degrees = int(read_text(zone / "temp")) / 1e3
                if -40 < degrees < 200:
                    kind = read_text(zone / "type").lower()
                    mine = any(word in kind for word in ("cpu", "soc", "pkg", "package"))
                    (named if mine else others).append(degrees)
    found = named or others
    return round(max(found), 1) if found else None


def memory_mb() -> dict[str, int | None]:
    """Total and available memory."""
    found: dict[str, int | None] = {"total": None, "available": None}
    for line in read_text("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        name = {"MemTotal": "total", "MemAvailable": "available"}.get(key)
        if name and (kb := digits(value.split(maxsplit=1)[0] if value.split() else "")):
            found[name] = kb // 1024
    return found


def load_1min() -> float | None:
    """Running processes, mean of a minute; None where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def busy_cores(over_s: float = 0.25) -> float | None:
    """How many cores were busy during ``over_s``, of all processes; None where it is not told."""
    before = _busy_and_all()
    time.sleep(over_s)
    after = _busy_and_all()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)


def _busy_and_all() -> tuple[int, int] | None:
    words = read_text("/proc/stat").split("\n", 1)[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _mhz(path: Path) -> int | None:
    khz = digits(read_text(path))
    return None if khz is None else khz // 1000
'''

SOURCES['factory.devices.agent_gate'] = r'''"""The gate before a measurement: it waits while the chip is hot or others use it.

Part of the device agent: standard library only. Waiting has an end: a chip that stays hot or busy
is measured all the same, the reply says so, and the reference model of the block shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from factory.devices.agent_facts import busy_cores, temperature_c

LOOK_EVERY_S = 1.0
PATIENT_AGAIN_AFTER_S = 300.0


@dataclass
class Gate:
    """When to measure.

    Args:
        max_temperature_c: hotter than this is waited for.
        max_busy_cores: more cores busy with other work than this is waited for.
        longest_wait_s: then the measurement goes on; after a vain wait the gate stays open
            for five minutes, so that a machine that is always busy is not waited for every time.
    """

    max_temperature_c: float = 75.0
    max_busy_cores: float = 0.5
    longest_wait_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    temperature: Callable[[], float | None] = temperature_c
    busy: Callable[[], float | None] = busy_cores
    _open_until: float = field(default=0.0, init=False)

    def reason(self) -> str:
        """Why not to measure now; "" when all is well."""
        degrees = self.temperature()
        if degrees is not None and degrees > self.max_temperature_c:
            return f"the chip is at {degrees:.0f} C, over {self.max_temperature_c:.0f} C"
        cores = self.busy()
        if cores is not None and cores > self.max_busy_cores:
            return f"other work keeps {cores:.1f} cores busy"
        return ""

    def wait(self, say: Callable[[str], None]) -> str:
        """Wait until all is well; ``say`` hears every second why not. What is left at the end."""
        started = self.clock()
        while True:
            reason = self.reason()
            if not reason:
                return ""
            if started < self._open_until:
                return reason
            if self.clock() - started >= self.longest_wait_s:
                self._open_until = self.clock() + PATIENT_AGAIN_AFTER_S
                return reason
            say(reason)
            self.sleep(LOOK_EVERY_S)
'''

SOURCES['factory.devices.agent_models'] = r'''"""What a model from the wire must not hold: paths to files, precompiled blobs, anything unreadable.

ONNX Runtime reads external weights and context binaries from paths that the model names, and a
chip that accepts models from the network must not open files for them. The device agent has no
onnx package, so this walks the protobuf wire format of ModelProto itself (field numbers as in
onnx.proto3). What it cannot read is refused too: a parser that differs from the runtime's must
not be a way around it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator

DEEPEST = 100  # protobuf's own limit
MOST_FIELDS = 2_000_000  # of those that are looked at: a second or two
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> message inside it
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_NODE_OP_TYPE, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 4, 13, 14
_REFUSED_OPS = {b"EPContext": "a precompiled context (EPContext)"}


class RefusedModel(Exception):
    """The model holds something that is not accepted from the wire; the text says what."""


def check_wire_model(model: bytes) -> None:
    """Raise RefusedModel when ``model`` names files or cannot be read to its end."""
    if not model:
        raise RefusedModel("the model is empty: it has no graph")
    if model[4:8] == b"ORTM":
        raise RefusedModel("ORT format models are not accepted, send ONNX")
    _check("Model", memoryview(model), 0, iter(range(MOST_FIELDS)))


def _check(kind: str, content: memoryview, depth: int, budget: Iterator[int]) -> None:
    if depth > DEEPEST:
        raise RefusedModel(f"the model is nested deeper than {DEEPEST} levels")
    inside = _INSIDE[kind]
    for number, wire_type, value in _fields(content):
        if next(budget, None) is None:
            raise RefusedModel(f"the model has more than {MOST_FIELDS} fields")
        if kind == "Tensor" and number == _TENSOR_EXTERNAL:
            raise RefusedModel("the model keeps weights in another file (external data)")
        if kind == "Tensor" and number == _TENSOR_LOCATION and value != 0:
            raise RefusedModel("the model keeps weights in another file (external data)")
        if wire_type != _BYTES or not isinstance(value, memoryview):
            continue
        if kind == "Node" and number == _NODE_OP_TYPE:
            refused = _REFUSED_OPS.get(bytes(value[:64]))
            if refused:
                raise RefusedModel(f"the model holds {refused}")
        if number in inside:
            _check(inside[number], value, depth + 1, budget)


def _fields(content: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field of a message."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _unreadable()
        value: int | memoryview
        if wire_type == _VARINT:
            value, at = _varint(content, at)
        elif wire_type == _BYTES:
            size, at = _varint(content, at)
            if size > end - at:
                raise _unreadable()
            value, at = content[at : at + size], at + size
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
            if size > end - at:
                raise _unreadable()
            value, at = content[at : at + size], at + size
        else:
            raise _unreadable()
        yield number, wire_type, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _unreadable()
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise _unreadable()


def _unreadable() -> RefusedModel:
    return RefusedModel("these bytes are not an ONNX model (protobuf parsing failed)")
'''

SOURCES['factory.devices.agent_jobs'] = r'''"""The work of the device agent: requests from the wire, checked, done by the local transport.

One :class:`Jobs` holds one :class:`factory.devices.local.LocalDevice`, whose child process has a
memory limit here. Part of the device agent: standard library, numpy and onnxruntime only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from factory.core.errors import FactoryError, InputError
from factory.core.frames import pack_arrays, unpack_arrays
from factory.core.wire import Wrong, printable
from factory.devices.agent_facts import machine_facts, temperature_c
from factory.devices.agent_gate import Gate
from factory.devices.agent_models import RefusedModel, check_wire_model
from factory.devices.base import Timing, TimingPlan
from factory.devices.environment import COMMAND
from factory.devices.local import LocalDevice
from factory.devices.messages import AGENT_REQUEST, MOST_MODELS

Say = Callable[[Mapping[str, Any]], None]
SAY_EVERY_S = 0.25


class BadRequest(Exception):
    """The request does not make sense; the text says why."""


class OverLimit(Exception):
    """The request took longer than one may take, or the agent ends."""


class ClientGone(Exception):
    """Whoever asked does not listen any more."""


@dataclass(frozen=True)
class AgentProfile:
    """The part of a device profile that comes with each request."""

    execution_provider: str
    provider_options: Mapping[str, Any]
    threads: int | str
    pin: bool
    timeout_s: float
    precision: str
    id: str = "agent"
    chip: str = "local"
    transport: str = "agent"
    runtime: str = "onnxruntime"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> AgentProfile:
        """The profile of a request; BadRequest when one of its options names a file."""
        for key, value in config["provider_options"].items():
            text = str(value).lower()
            if any(mark in text for mark in ("/", "\\", ".so", ".dll", ".dylib")):
                raise BadRequest(
                    f"the provider option {printable(key, 40)!r} names a file, which is not "
                    "accepted from the network (for QNN give backend_type, not backend_path)"
                )
        return cls(**config)


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    body_mb: int = 512
    memory_mb: int = 2048
    request_s: float = 3600.0


class Jobs:
    """Carries out one request after the other; the caller sees to it that it is one at a time."""

    def __init__(self, limits: Limits, gate: Gate, command: Sequence[str] = COMMAND) -> None:
        self.limits, self.gate, self._command = limits, gate, tuple(command)
        self._device: LocalDevice | None = None
        self._last_said = 0.0
        self.ending = False  # what is at work then ends soon

    def facts(self) -> dict[str, Any]:
        """The machine, its runtime and what a request may take; nothing is started."""
        import onnxruntime as ort

        return {
            **machine_facts(),
            "runtime": "onnxruntime",
            "runtime_version": ort.__version__,
            "providers": ort.get_available_providers(),
            "limits": {name.name: getattr(self.limits, name.name) for name in fields(Limits)},
        }

    def handle(
        self, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The last event of a request, and contents that follow it; ``say`` hears the others.

        When the client is gone (an OSError of ``say``), the work and the child process end with
        :class:`ClientGone`.
        """
        try:
            header = AGENT_REQUEST(header, "")
        except Wrong as wrong:
            raise BadRequest(str(wrong)) from None
        device = self._device_for(AgentProfile.of(header["config"]))
        deadline = time.monotonic() + self.limits.request_s

        def tell(event: Mapping[str, Any]) -> None:
            if self.ending:
                raise OverLimit("the agent is being stopped")
            try:
                say(event)
            except OSError as error:
                raise ClientGone(str(error)) from None

        def watch(model: int | None, phase: str) -> None:
            if time.monotonic() > deadline:
                raise OverLimit(f"the request took more than {self.limits.request_s:g} s")
            if self.ending or time.monotonic() - self._last_said > SAY_EVERY_S:
                self._last_said = time.monotonic()
                tell({"event": "tick", "model": model, "phase": phase})

        device.watch = watch
        handlers = {"describe": self._describe, "time": self._time, "run": self._run}
        try:
            return handlers[header["command"]](device, header, blobs, tell)
        except OverLimit as error:
            return {"event": "error", "what": str(error), "why": "", "fix": ""}, []
        except FactoryError as error:
            return {"event": "error", "what": error.what, "why": error.why, "fix": error.fix}, []
        except (BadRequest, ClientGone):
            raise
        except Exception as error:  # a fault of ours: told, and the next request starts afresh
            self.close()
            why = f"{type(error).__name__}: {printable(str(error), 300)}"
            return {"event": "error", "what": "the agent itself failed", "why": why, "fix": ""}, []
        finally:
            device.watch = None

    def close(self) -> None:
        """End the child process."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _device_for(self, profile: AgentProfile) -> LocalDevice:
        if self._device is None or self._device.profile != profile:
            self.close()
            try:
                self._device = LocalDevice(
                    profile,  # type: ignore[arg-type]
                    command=self._command,
                    memory_limit_mb=self.limits.memory_mb,
                    longest_answer=self.limits.body_mb << 20,
                )
            except InputError as error:
                raise BadRequest(str(error)) from None
        return self._device

    def _describe(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        return {"event": "described", "describe": {**device.describe(), "agent": self.facts()}}, []

    def _time(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        plan, rounds = _plan(header["plan"]), header.get("rounds", 1)
        if len(blobs) > MOST_MODELS:
            raise BadRequest(f"{len(blobs)} models at once, {MOST_MODELS} may be sent")
        timings: list[Timing | None] = []
        for model in blobs:
            try:
                check_wire_model(model)
                timings.append(None)
            except RefusedModel as refused:
                timings.append(Timing.failed(str(refused)))
        accepted = [i for i, timing in enumerate(timings) if timing is None]
        left = self.gate.wait(lambda why: say({"event": "wait", "why": why}))
        measured = device.time_many([blobs[i] for i in accepted], plan, rounds=rounds)
        for index, timing in zip(accepted, measured, strict=True):
            timings[index] = timing
        return {
            "event": "timings",
            "timings": [timing.to_dict() for timing in timings if timing is not None],
            "gate": left,
            "temperature_c": temperature_c(),
        }, []

    def _run(
        self, device: LocalDevice, header: Mapping[str, Any], blobs: list[bytes], say: Say
    ) -> tuple[dict[str, Any], list[bytes]]:
        model, *contents = blobs or [b""]
        try:
            check_wire_model(model)
        except RefusedModel as refused:
            return {"event": "error", "what": "the model does not run", "why": str(refused)}, []
        try:
            arrays = unpack_arrays(header["arrays"], contents)
        except Wrong as wrong:
            raise BadRequest(str(wrong)) from None
        if header.get("batch"):
            if set(arrays) != {"inputs"} or not arrays["inputs"].ndim:
                raise BadRequest("a batch is one array called inputs")
            outputs = {"outputs": device.run_batch(model, arrays["inputs"])}
        else:
            outputs = device.run(model, arrays)
        facts, parts = pack_arrays(outputs)
        return {"event": "outputs", "arrays": facts, "sizes": [len(part) for part in parts]}, parts


def _plan(data: Mapping[str, Any]) -> TimingPlan:
    try:
        return TimingPlan(**data)
    except ValueError as error:
        raise BadRequest(printable(str(error), 300)) from None
'''

SOURCES['factory.devices.agent_server'] = r'''"""The HTTP server of the device agent: who may ask, how much at once, and the answers as they come.

    GET  /v1/facts   the machine and its runtime, JSON
    POST /v1/work    one frame (factory/core/frames.py) with "command" describe, time or run;
                     answered in chunks, one JSON event a line; the contents of outputs follow
                     the last line as they are

Everything is bounded: connections, the size and the time of a body, one request at work. The
place at work is taken before a body is read, so that fifty large bodies never lie in memory at
once. Part of the device agent: standard library only.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast

from factory.core.frames import BrokenFrame, read_frame
from factory.core.wire import digits, printable
from factory.devices.agent_jobs import BadRequest, ClientGone, Jobs

PROTOCOL = 1
MEDIA_TYPE = "application/x-factory-frame"
MOST_CONNECTIONS = 64
HEADER_TIMEOUT_S = 10.0
HEADERS_WITHIN_S = 20.0
MOST_DRAINED = 8 << 20  # of a stranger's body
BODY_TIMEOUT_S = 60.0
SLOWEST_BYTES_PER_S = 50_000
LONGEST_HEADER = 1 << 20
DRAIN_TIMEOUT_S = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class AgentServer(ThreadingHTTPServer):
    """Listens; hands each connection to a thread, and a few at most.

    Args:
        address: host and port; port 0 takes a free one.
        jobs: does the work.
        token: what every request must carry; "" only on loopback.
        tls: certificate and key, or None for plain HTTP.
        log: where a line a request goes; None: nowhere.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        jobs: Jobs,
        token: str = "",
        tls: ssl.SSLContext | None = None,
        log: Any = sys.stderr,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)
        self.jobs, self.token, self.tls, self.log = jobs, token, tls, log
        self.instance = uuid.uuid4().hex
        self.at_work = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or answer at once that there are too many."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:
                self._places.release()
                raise
            return
        with contextlib.suppress(OSError):
            request.settimeout(1.0)
            if self.tls is None:
                request.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                )
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS where asked for; a slow or failed handshake costs only its own thread."""
        request.settimeout(HEADER_TIMEOUT_S)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with (
            contextlib.suppress(OSError),
            self.tls.wrap_socket(request, server_side=True) as wrapped,
        ):
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed says so in one line; the others go on."""
        error = sys.exc_info()[1]
        if self.log is not None and not isinstance(error, OSError):
            print(f"{client_address[0]}: {type(error).__name__}: {error}", file=self.log)


class Handler(BaseHTTPRequestHandler):
    """One request; every connection is closed after it."""

    protocol_version = "HTTP/1.1"
    server_version = "factory-agent"
    sys_version = ""
    server: AgentServer

    def setup(self) -> None:
        """Headers that do not come to an end cost the client its connection."""
        super().setup()
        self._watchdog = threading.Timer(HEADERS_WITHIN_S, self._hang_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def parse_request(self) -> bool:
        """The request's line and headers are here."""
        parsed = super().parse_request()
        self._watchdog.cancel()
        return parsed

    def finish(self) -> None:
        """The connection ends."""
        self._watchdog.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """The facts of this machine."""
        if not self._allowed(0):
            return
        if self.path != "/v1/facts":
            self._refuse(404, f"there is nothing at {printable(self.path, 100)}")
            return
        self._json(200, {**self._hello(), **self.server.jobs.facts()})

    def do_POST(self) -> None:
        """Work."""
        announced = digits(self.headers.get("Content-Length", ""))
        length = -1 if announced is None else announced
        if not self._allowed(length):
            return
        limit = self.server.jobs.limits.body_mb << 20
        if self.path != "/v1/work":
            self._refuse(404, f"there is nothing at {printable(self.path, 100)}", length)
        elif self.headers.get("Content-Type") != MEDIA_TYPE:
            self._refuse(415, f"the body must be {MEDIA_TYPE}", length)
        elif length < 0 or "Transfer-Encoding" in self.headers:
            self._refuse(411, "the body's length must be told (Content-Length)", length)
        elif length > limit:
            self._refuse(413, f"a body of {length} bytes, {limit} are accepted", length)
        elif not self.server.at_work.acquire(blocking=False):
            self._refuse(409, "another measurement is running", length)
        else:
            try:
                refusal = self._work(length)
            finally:
                self.server.at_work.release()
            # Only now: who has read the end of an answer may ask again at once.
            if refusal:
                self._refuse(400, refusal)
            else:
                self._chunk(b"")

    def _work(self, length: int) -> str:
        """Do what the body asks, all of the answer but its end; why it is refused, if it is."""
        body = _Body(self.rfile, self.connection, length)
        try:
            frame = read_frame(cast(BinaryIO, body), LONGEST_HEADER, length)
            if frame is None or body.left:
                raise BrokenFrame("the body is empty" if frame is None else "more than one frame")
        except (BrokenFrame, OSError) as error:
            return f"the body is damaged ({printable(str(error), 300)})"
        except MemoryError:
            return f"there is no memory here for a body of {length} bytes"
        self.connection.settimeout(BODY_TIMEOUT_S)
        self._started = False
        try:
            header, blobs = frame
            last, contents = self.server.jobs.handle(header, blobs, self._say)
        except BadRequest as error:
            if not self._started:
                return str(error)
            self._say({"event": "error", "what": str(error)})
            return ""
        except ClientGone as gone:
            raise ConnectionAbortedError(str(gone)) from None
        self._say(last)
        for content in contents:
            for start in range(0, len(content), 1 << 20):
                self._chunk(content[start : start + (1 << 20)])
        return ""

    def _say(self, event: Mapping[str, Any]) -> None:
        """One event as a line of its own chunk; the headers go before the first."""
        if not self._started:
            self._started = True
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            self._chunk(json.dumps({"event": "hello", **self._hello()}).encode() + b"\n")
        self._chunk(json.dumps(event).encode() + b"\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def _hello(self) -> dict[str, Any]:
        return {"protocol": PROTOCOL, "instance": self.server.instance}

    def _allowed(self, length: int) -> bool:
        """Whether the request carries the token (or comes from this machine's own programs)."""
        token = self.server.token
        if token:
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if hmac.compare_digest(given, b"Bearer " + token.encode()):
                return True
            self._refuse(401, "a token is required, and this is not it", min(length, MOST_DRAINED))
            return False
        host = self.headers.get("Host", "")
        name = host[1:].split("]")[0] if host.startswith("[") else host.split(":")[0]
        if name in LOOPBACK:
            return True
        self._refuse(403, "without a token only this machine may ask", length)
        return False

    def _refuse(self, status: int, error: str, unread: int = 0) -> None:
        """Say no; then take in what the client still sends, or it would not read the answer."""
        self._json(status, {"error": error})
        with contextlib.suppress(OSError):
            self.connection.settimeout(2.0)
            self.connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while unread > 0 and time.monotonic() < deadline:
                part = self.rfile.read1(min(unread, 1 << 16))
                if not part:
                    return
                unread -= len(part)

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status in (409, 503):
            self.send_header("Retry-After", "1")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, where it is wanted."""
        if self.server.log is not None:
            clean = printable((format % args).encode("ascii", "backslashreplace").decode(), 300)
            print(
                f"{time.strftime('%H:%M:%S')} {self.client_address[0]} {clean}",
                file=self.server.log,
            )


class _Body:
    """A request's body: never more than its announced length, never slower than the limit."""

    def __init__(self, stream: Any, connection: socket.socket, length: int) -> None:
        self.left = length
        self._stream, self._connection = stream, connection
        self._deadline = time.monotonic() + BODY_TIMEOUT_S + length / SLOWEST_BYTES_PER_S

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer at the end of the body."""
        size = min(size, self.left)
        parts, missing = [], size
        while missing:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("it came too slowly")
            self._connection.settimeout(min(left_s, HEADER_TIMEOUT_S))
            part = self._stream.read1(min(missing, 1 << 20))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.left -= size - missing
        return b"".join(parts)
'''

SOURCES['factory.devices.agent_main'] = r'''"""The command of the device agent: its options, what it prints, how it ends.

`python device_agent.py --help`, or `factory agent --help` where the factory is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from factory.core.provenance import cpu_name
from factory.devices.agent_facts import memory_mb
from factory.devices.agent_gate import Gate
from factory.devices.agent_jobs import Jobs, Limits
from factory.devices.agent_server import AgentServer
from factory.devices.environment import COMMAND

TOKEN_VARIABLE = "FACTORY_AGENT_TOKEN"
DEFAULT_PORT = 8765
SHORTEST_TOKEN = 8
ENDING_S = 5.0  # for what is at work to notice


class Refused(Exception):
    """The agent does not start; one sentence."""


def parser(program: str) -> argparse.ArgumentParser:
    """The options."""
    half_mb = (memory_mb()["total"] or 4096) // 2
    made = argparse.ArgumentParser(
        prog=program,
        description="Let the factory measure models on this machine through ONNX Runtime.",
        epilog="The token may also come from the environment variable " + TOKEN_VARIABLE + ".",
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the network")
    add("--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 takes a free one")
    add(
        "--token", default=None, help="secret that every request must carry; beyond loopback a must"
    )
    add("--token-file", default=None, help="file that holds the token")
    add("--cert", default=None, help="TLS certificate chain (PEM); then HTTPS is spoken")
    add("--key", default=None, help="private key of the certificate (PEM)")
    add("--max-body-mb", type=int, default=512, help="largest request (default 512)")
    add("--memory-mb", type=int, default=half_mb, help="memory of a model (default half of all)")
    add("--max-temperature", type=float, default=75.0, help="wait while hotter (default 75 C)")
    add("--max-busy-cores", type=float, default=0.5, help="wait while busier (default 0.5 cores)")
    add("--longest-wait", type=float, default=60.0, help="then measure all the same (default 60 s)")
    add(
        "--longest-request", type=float, default=3600.0, help="end a request after (default 3600 s)"
    )
    add("--quiet", action="store_true", help="no line a request")
    return made


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "factory agent",
    command: Sequence[str] = COMMAND,
) -> int:
    """Serve until interrupted; the exit code."""
    options = parser(program).parse_args(arguments)
    try:
        server = make_server(options, command)
    except Refused as refused:
        print(f"error: {refused}.", file=sys.stderr)
        return 2
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _interrupt)
    for line in greeting(server, options):
        print(line, flush=True)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        server.server_close()
        server.jobs.ending = True
        server.at_work.acquire(timeout=ENDING_S)
        server.jobs.close()
    return 0


def make_server(options: argparse.Namespace, command: Sequence[str]) -> AgentServer:
    """The server, listening; Refused says what is wrong with the options."""
    token = _token(options)
    tls = _tls(options)
    if not is_loopback(options.host) and not token:
        raise Refused(
            f"a token is required to listen on {options.host}; start with "
            f"--token {secrets.token_urlsafe(18)} (made up just now) or set {TOKEN_VARIABLE}"
        )
    if min(options.max_body_mb, options.memory_mb) < 1 or options.longest_request <= 0:
        raise Refused("--max-body-mb, --memory-mb and --longest-request must be more than 0")
    limits = Limits(options.max_body_mb, options.memory_mb, options.longest_request)
    gate = Gate(options.max_temperature, options.max_busy_cores, options.longest_wait)
    try:
        return AgentServer(
            (options.host, options.port),
            Jobs(limits, gate, command),
            token,
            tls,
            None if options.quiet else sys.stderr,
        )
    except (OSError, OverflowError) as error:
        raise Refused(f"cannot listen on {options.host} port {options.port} ({error})") from None


def greeting(server: AgentServer, options: argparse.Namespace) -> list[str]:
    """What is told at the start."""
    scheme = "https" if server.tls else "http"
    host, port = options.host, server.server_address[1]
    shown = f"[{host}]" if ":" in host else host
    lines = [f"device agent on {scheme}://{shown}:{port} ({cpu_name()}, {os.cpu_count()} cores)"]
    reach = shown if is_loopback(host) else "<this machine's address>"
    secret = " --token <the token>" if server.token else ""
    lines.append(f"add it with: factory devices add {scheme}://{reach}:{port}{secret}")
    if not is_loopback(host) and not server.tls:
        lines.append(
            "plain HTTP: token and models can be read on the way, use it on a network you trust "
            "only, or give --cert and --key"
        )
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _token(options: argparse.Namespace) -> str:
    token = options.token
    if token is None and options.token_file is not None:
        try:
            token = Path(options.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"cannot read the token file {options.token_file} ({error})") from None
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            return ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise Refused(f"a token has at least {SHORTEST_TOKEN} printable ASCII characters")
    return str(token)


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if (options.cert is None) != (options.key is None):
        raise Refused("--cert and --key go together")
    if options.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"the certificate or its key cannot be used ({error})") from None
    return context


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
'''


class _Sources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the modules above, before any that are installed."""

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        package = any(other.startswith(name + ".") for other in SOURCES)
        return importlib.util.spec_from_loader(name, self, is_package=package)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__spec__.name
        module.__file__ = os.path.join(os.path.abspath(__file__), *name.split(".")) + ".py"
        text = SOURCES[name]
        lines = text.splitlines(keepends=True)
        linecache.cache[module.__file__] = (len(text), None, lines, module.__file__)
        exec(compile(text, module.__file__, "exec"), module.__dict__)


sys.meta_path.insert(0, _Sources())

if __name__ == "__main__":
    for _name in ("numpy", "onnxruntime"):
        if importlib.util.find_spec(_name) is None:
            sys.exit(f"error: {_name} is missing; run: {sys.executable} -m pip install {_name}")
    if sys.argv[1:] == ["--worker"]:
        from factory.devices.worker import main

        main()
    else:
        from factory.devices.agent_main import main

        _command = (sys.executable, os.path.abspath(__file__), "--worker")
        sys.exit(main(program="device_agent.py", command=_command))
