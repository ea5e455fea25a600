"""The verbs of the command line as Python functions, each loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factory.pipeline.verbs.adapt import adapt
    from factory.pipeline.verbs.add_device import add_device
    from factory.pipeline.verbs.agent import agent
    from factory.pipeline.verbs.build import build, search, train
    from factory.pipeline.verbs.devices import devices
    from factory.pipeline.verbs.doctor import doctor
    from factory.pipeline.verbs.explain import explain
    from factory.pipeline.verbs.export import export
    from factory.pipeline.verbs.farm import farm
    from factory.pipeline.verbs.inspect import inspect
    from factory.pipeline.verbs.new import new
    from factory.pipeline.verbs.package import package
    from factory.pipeline.verbs.predict import predict
    from factory.pipeline.verbs.profile import fit, profile
    from factory.pipeline.verbs.report import report
    from factory.pipeline.verbs.table import (
        check_table,
        compare_tables,
        import_table,
        merge_tables,
        show_table,
        table,
    )
    from factory.pipeline.verbs.verify import verify

__all__ = [
    "adapt",
    "add_device",
    "agent",
    "build",
    "check_table",
    "compare_tables",
    "devices",
    "doctor",
    "explain",
    "export",
    "farm",
    "fit",
    "import_table",
    "inspect",
    "merge_tables",
    "new",
    "package",
    "predict",
    "profile",
    "report",
    "search",
    "show_table",
    "table",
    "train",
    "verify",
]

_MODULES = {
    "search": "build",
    "train": "build",
    "fit": "profile",
    **dict.fromkeys(
        ("check_table", "compare_tables", "import_table", "merge_tables", "show_table"), "table"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'factory.api' has no attribute {name!r}")
    module = importlib.import_module(f"factory.pipeline.verbs.{_MODULES.get(name, name)}")
    return getattr(module, name)
