"""targets: the forms in which a model leaves the factory, one file each.

A module of this folder that defines ``TARGETS`` (a tuple of :class:`Target`) adds them; the name
on the command line is the target's own.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from factory.core.errors import InputError
from factory.core.registry import Registry
from factory.deployment.targets.base import Check, Target

__all__ = ["Check", "Target", "all_targets", "default_target", "find_target"]


@functools.cache
def _registry() -> Registry[Target]:
    registry: Registry[Target] = Registry("target")
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        found = importlib.import_module(f"{__name__}.{module.name}")
        for target in getattr(found, "TARGETS", ()):
            registry.add(target.name, target)
    return registry


def all_targets() -> list[Target]:
    """Every target, files that come from the fp32 file first."""
    found = [_registry().get(name) for name in _registry()]
    return sorted(found, key=lambda target: bool(target.made_from))


def find_target(name: str) -> Target:
    """The target of that name; InputError lists the known ones."""
    return _registry().get(name)


def default_target(execution_provider: str, precision: str) -> Target:
    """The target that a device of this execution provider and precision is served with."""
    for target in all_targets():
        if (execution_provider, precision) in target.serves:
            return target
    fallback = {"fp32": "onnx-fp32", "fp16": "onnx-fp16", "int8": "int8-cpu"}.get(precision)
    if fallback is None:
        raise InputError(
            f"no target serves {execution_provider} at precision {precision!r}",
            fix="name one with --target",
        )
    return find_target(fallback)
