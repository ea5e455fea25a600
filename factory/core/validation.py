"""A pydantic model from a dictionary, with every fault told in one sentence.

pydantic answers a wrong key with a block of lines for programmers; a person who edited a TOML
file wants the file, the key, the value, the reason and the nearest known key.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from factory.core.errors import InputError, nearest

M = TypeVar("M", bound=pydantic.BaseModel)
_LONGEST_VALUE = 60


def validate(model_cls: type[M], data: Mapping[str, Any], where: str = "") -> M:
    """``model_cls`` built from ``data``; raises one InputError that names the faulty key.

    Args:
        model_cls: the pydantic model.
        data: what was read from the file or given by the caller.
        where: the file or object that ``data`` came from, for the sentence.
    """
    if not isinstance(data, Mapping):
        raise InputError(
            f"expected keys and values, got {_show(data)}", where=where, fix="write a table of keys"
        )
    try:
        return model_cls.model_validate(dict(data))
    except pydantic.ValidationError as error:
        raise _sentence(model_cls, data, error, where) from None


def _sentence(
    model_cls: type[pydantic.BaseModel],
    data: Mapping[str, Any],
    error: pydantic.ValidationError,
    where: str,
) -> InputError:
    """The first fault as a sentence; alternatives of a union are joined by "or"."""
    faults = error.errors(include_url=False)
    groups: dict[tuple[tuple[str | int, ...], bool], list[Any]] = {}
    for fault in faults:
        structural = fault["type"] in ("extra_forbidden", "missing")
        groups.setdefault((_data_path(data, fault), structural), []).append(fault)
    # A misspelt key is both an unknown key and a missing one: tell the unknown one first.
    order = sorted(groups, key=lambda group: groups[group][0]["type"] != "extra_forbidden")
    path = order[0][0]
    first = groups[order[0]][0]
    dotted = _dotted(path)
    more = f"; {len(order) - 1} more faults follow" if len(order) > 1 else ""
    known = known_keys(model_cls, path[:-1])
    if first["type"] == "extra_forbidden":
        return InputError(
            f"unknown key {dotted!r}", where=where, fix=nearest(str(path[-1]), known) + more
        )
    if first["type"] == "missing":
        return InputError(f"the key {dotted!r} is missing", where=where, fix=f"add it{more}")
    reasons = list(dict.fromkeys(_reason(fault) for fault in groups[order[0]]))
    if not path:
        return InputError(" or ".join(reasons), where=where, fix=f"correct it{more}")
    return InputError(
        f"{dotted} = {_show(first['input'])} is not accepted",
        where=where,
        why=" or ".join(reasons),
        fix=f"correct the value of {dotted!r}{more}",
    )


def known_keys(model_cls: type[pydantic.BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Field names of the model(s) that ``path`` leads to inside ``model_cls``."""
    models: list[type[pydantic.BaseModel]] = [model_cls]
    for step in path:
        if isinstance(step, int):
            continue  # an index into a list: its items were already unwrapped
        inner: list[type[pydantic.BaseModel]] = []
        for model in models:
            field = _field(model, step)
            if field is not None:
                for found in _models_in(field.annotation):  # one of its kinds may stand there
                    inner += [found, *found.__subclasses__()]
        models = inner or models
    names = (f.alias or name for model in models for name, f in model.model_fields.items())
    return list(dict.fromkeys(names))


def _field(model: type[pydantic.BaseModel], key: str) -> pydantic.fields.FieldInfo | None:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The pydantic models inside an annotation such as ``list[A | B] | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, pydantic.BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _data_path(data: Any, fault: Any) -> tuple[str | int, ...]:
    """The fault's location as keys of ``data`` (pydantic adds names of union members)."""
    path: list[str | int] = []
    here = data
    location = fault["loc"]
    for position, step in enumerate(location):
        last = position == len(location) - 1
        keys: Any = ()
        if isinstance(here, Mapping):
            keys = here
        elif isinstance(here, list | tuple):
            keys = range(len(here))
        if step in keys:
            here = here[step]
            path.append(step)
        elif last and fault["type"] == "missing":
            path.append(step)
    return tuple(path)


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


def _reason(fault: Any) -> str:
    """pydantic's message without its prefix, lower case, without a full stop."""
    message = str(fault["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    message = message.rstrip(".")
    if message.startswith(("Input should", "Input must")):
        message = "it" + message.removeprefix("Input")
    return message


def _show(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def checked(kind: Any, value: Any, where: str, fix: str = "remove it and start again") -> Any:
    """``value`` as a ``kind``: for records that the factory wrote and somebody may have damaged.

    Args:
        kind: a type: a dataclass, ``dict[str, float | None]``, a TypedDict.
        value: what was read.
        where: the file it was read from.
        fix: what to do where it is damaged.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        at = _dotted(tuple(fault["loc"]))
        raise InputError(
            f"{where} is damaged", why=f"{at}: {_reason(fault)}" if at else _reason(fault), fix=fix
        ) from None
