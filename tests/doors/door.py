"""A door: one place where content from outside comes in, and how its answer is judged.

Whatever comes through a door is either accepted or refused with a FactoryError of one line; every
other end is a finding. `test_doors.py` feeds each door a few inputs, tools/fuzz_doors.py many.
A module of this folder that has a list `DOORS` adds its doors.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import FactoryError

HERE = Path(__file__).resolve().parent
LONGEST_MESSAGE = 1000
OF_LIBRARIES = ("torchinductor_", ".ses")  # what torch and ONNX Runtime keep in a temporary folder


@dataclass(frozen=True)
class Door:
    """One kind of input.

    Args:
        name: as the table of findings shows it.
        seeds: makes the valid inputs, small ones; called once a process.
        feed: hands one input to the factory; ``folder`` is empty and removed afterwards.
        form: how the input is changed beside its bytes: "json", "toml", "lines" (JSON lines),
            "csv", "words" (separated by null bytes), "header" (safetensors) or "binary".
        share: of the inputs, where one takes long.
        refused: makes inputs that are rightly refused, to be changed as the seeds are.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    feed: Callable[[bytes, Path], object]
    form: str = "binary"
    share: float = 1.0
    refused: Callable[[], Sequence[bytes]] = tuple


@dataclass(frozen=True)
class Answer:
    """What a door made of one input; ``finding`` is empty where that was right."""

    accepted: bool = False
    message: str = ""
    finding: str = ""
    detail: str = ""


def ask(door: Door, content: bytes, folder: Path) -> Answer:
    """Feed one input; the folder is made before and removed after it."""
    folder.mkdir(parents=True)
    try:
        door.feed(content, folder)
    except FactoryError as error:
        message = str(error)
        return Answer(message=message, finding=_fault_of(message))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a native library is no Exception
        detail = "".join(traceback.format_exception(error, limit=-12))[-6000:]
        return Answer(finding=_kind(error), detail=detail)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Answer(accepted=True)


def _fault_of(message: str) -> str:
    """What is wrong with a message of refusal; empty when nothing is."""
    if len(message) > LONGEST_MESSAGE:
        return f"a message of more than {LONGEST_MESSAGE} characters"
    if not message.isprintable():
        return "a message with a line break or a character that cannot be printed"
    return ""


def _kind(error: BaseException) -> str:
    """The exception's type and the innermost line of the factory that it passed."""
    where = "outside of the factory"
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if f"{os.sep}factory{os.sep}" in path and "site-packages" not in path:
            name = path.rsplit(f"{os.sep}factory{os.sep}", 1)[1]
            where = f"{name}:{line} {frame.f_code.co_name}"
    return f"{type(error).__name__} at {where}"


def known_doors() -> dict[str, Door]:
    """Name -> door of every module of this folder, in the order of their names."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    found: dict[str, Door] = {}
    for path in sorted(HERE.glob("*.py")):
        if path.stem in ("door", "mutations") or path.stem.startswith("test_"):
            continue
        for door in getattr(importlib.import_module(path.stem), "DOORS", ()):
            if door.name in found:
                raise ValueError(f"two doors are called {door.name!r}")
            found[door.name] = door
    return found
