"""The device agent as one file: the sources of its modules, as they are, in one Python program.

`factory agent --write device_agent.py` hands it out; tools/device_agent.py is the same text,
committed, and a test compares the two. The file carries each module's source between quotes and
imports it from there, so that the runner on the board is the local transport's, line for line.
It needs Python 3.10, numpy and onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import factory

MODULES = (
    "factory",
    "factory.core",
    "factory.core.closing",
    "factory.core.errors",
    "factory.core.registry",
    "factory.core.provenance",
    "factory.core.wire",
    "factory.core.frames",
    "factory.core.made_up",
    "factory.core.temporary",
    "factory.core.process",
    "factory.devices",
    "factory.devices.context",
    "factory.devices.memory",
    "factory.devices.measure",
    "factory.devices.placing",
    "factory.devices.start_up",
    "factory.devices.worker",
    "factory.devices.base",
    "factory.devices.messages",
    "factory.devices.environment",
    "factory.devices.local",
    "factory.devices.agent_facts",
    "factory.devices.agent_gate",
    "factory.devices.agent_models",
    "factory.devices.agent_jobs",
    "factory.devices.agent_server",
    "factory.devices.agent_main",
)
_QUOTES = "'" * 3

_HEAD = '''#!/usr/bin/env python3
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
'''

_TAIL = '''

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
'''


def agent_program() -> str:
    """The text of device_agent.py, made from the sources of this package."""
    root = Path(factory.__file__).resolve().parent.parent
    parts = [_HEAD]
    for name in MODULES:
        path = root.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        text = file.read_text(encoding="utf-8")
        if _QUOTES in text or text.endswith("\\"):
            raise ValueError(f"{name} cannot stand between {_QUOTES}")
        parts.append(f"\nSOURCES[{name!r}] = r{_QUOTES}{text}{_QUOTES}\n")
    return "".join([*parts, _TAIL])


def main() -> None:
    """Write tools/device_agent.py of a source tree: `python -m factory.devices.agent_bundle`."""
    from factory.core.files import write_atomic_text

    path = Path(factory.__file__).resolve().parent.parent / "tools" / "device_agent.py"
    write_atomic_text(path, agent_program())
    print(path)


if __name__ == "__main__":
    main()
