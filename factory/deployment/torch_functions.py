"""A torch network by the name of the function that makes it: ``module:function(arguments)``.

Arguments are literals of Python (numbers, texts, lists, ...); nothing of the text is evaluated.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError, nearest
from factory.deployment.quiet import silenced

if TYPE_CHECKING:
    import onnx
    from torch import nn


_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class FunctionCall:
    """What ``text`` says: a function of a module and the arguments of its call."""

    text: str
    module: str
    function: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> FunctionCall:
        """From "module:function" or "module:function('a', b=1)".

        Raises:
            InputError: the text is neither, or an argument is no literal.
        """
        module, _, rest = text.partition(":")
        function, bracket, _ = rest.partition("(")
        if not bracket:
            return cls(text, module, function)
        try:
            call = ast.parse(rest.strip(), mode="eval").body
            if not isinstance(call, ast.Call):
                raise ValueError("it is no call")
            arguments = tuple(ast.literal_eval(node) for node in call.args)
            keywords = tuple((str(k.arg), ast.literal_eval(k.value)) for k in call.keywords)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise InputError(
                f"the arguments of {text} cannot be read",
                why=f"{error}; they are plain values: numbers, texts in quotes, True, None, lists",
                fix="write for example \"timm:create_model('resnet18', pretrained=False)\"",
            ) from None
        return cls(text, module, function, arguments, keywords)

    def with_arguments(self, pairs: Sequence[str]) -> FunctionCall:
        """The same call with "name=value" texts as further arguments.

        A value that is no literal of Python is a text: ``pretrained=False``, ``name=resnet18``.
        """
        keywords = dict(self.keywords)
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not equals or not name.isidentifier():
                raise InputError(
                    f"--arg {pair} is not name=value",
                    fix="write for example --arg pretrained=False",
                )
            try:
                keywords[name] = ast.literal_eval(value)
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
                keywords[name] = value
        return FunctionCall(
            self.text, self.module, self.function, self.arguments, tuple(keywords.items())
        )

    @property
    def name(self) -> str:
        """Of the network, for files: the first text among the arguments, or the function."""
        values = (*self.arguments, *(value for _, value in self.keywords))
        words = (v for v in values if isinstance(v, str) and _WORD.fullmatch(v))
        return next(words, self.function)

    def __str__(self) -> str:
        if not self.arguments and not self.keywords:
            return f"{self.module}:{self.function}"
        parts = [*map(repr, self.arguments), *(f"{k}={v!r}" for k, v in self.keywords)]
        return f"{self.module}:{self.function}({', '.join(parts)})"


def is_module_function(model: str) -> bool:
    """Whether ``model`` reads as package.module:function, perhaps with arguments."""
    module, colon, function = model.partition(":")
    name, bracket, rest = function.partition("(")
    return (
        bool(colon)
        and name.strip().isidentifier()
        and (not bracket or rest.rstrip().endswith(")"))
        and all(part.isidentifier() for part in module.split("."))
    )


def from_function(
    spec: str,
    image_shape: tuple[int, int, int],
    *,
    seed: int = 0,
    weights: Path | None = None,
) -> onnx.ModelProto:
    """The model of the torch network that a function returns.

    Args:
        spec: for example ``torchvision.models:mobilenet_v3_small`` or
            ``timm:create_model('resnet18', pretrained=False)``; a module of the working folder is
            found too.
        image_shape: channels, height, width.
        seed: of random weights, where the function makes some.
        weights: a safetensors file for the network's state.
    """
    from factory.deployment.export import build_onnx

    return build_onnx(network_of(spec, seed=seed, weights=weights), image_shape)


def network_of(spec: str, *, seed: int = 0, weights: Path | None = None) -> nn.Module:
    """The torch network itself; the arguments are those of :func:`from_function`."""
    import torch

    torch.manual_seed(seed)
    network = _call(FunctionCall.parse(spec))
    if weights is not None:
        from factory.training.weights import load_weights

        load_weights(network, weights)
    return network


def _call(call: FunctionCall) -> nn.Module:
    from torch import nn

    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(call.module)
    except ImportError as error:
        raise InputError(
            f"module {call.module!r} cannot be imported",
            where=repr(call.text),
            why=str(error),
            fix="install it, or run this where the module is",
        ) from None
    make = getattr(module, call.function, None)
    if make is None:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        close = nearest(call.function, known).split("known:")[0].rstrip()
        raise InputError(
            f"module {call.module!r} has no {call.function!r}",
            fix=close or "check the function's name",
        )
    try:
        with silenced():
            network = make(*call.arguments, **dict(call.keywords))
    except Exception as error:
        raise InputError(
            f"{call} cannot be called",
            why=" ".join(str(error).split())[:200] or type(error).__name__,
            fix="check its arguments, or give a function of your own that returns the network",
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{call} returned a {type(network).__name__}, not a torch.nn.Module",
            fix="give a function that returns the network",
        )
    return network
