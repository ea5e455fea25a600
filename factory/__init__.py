"""Model Factory: profile each chip, search the network that fits it, ship an ONNX model per tier.

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
