"""Errors that a user reads: one sentence with what, where, why and what to do next.

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


class FactoryError(Exception):
    """A problem told in one sentence.

    Args:
        what: what is wrong ("the recipe has an unknown key 'lattency'").
        where: the file, line or object it is wrong in.
        why: the reason, where it is not obvious.
        fix: what to do or run next.
    """

    exit_code = EXIT_WRONG_INPUT

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        text = what.rstrip(".")
        if where:
            text += f" in {where}"
        if why:
            text += f" ({why.rstrip('.')})"
        if fix:
            text += f"; {fix.rstrip('.')}"
        super().__init__(text + ".")


class InputError(FactoryError):
    """The input is wrong: recipe, option, file, device or data (exit code 2)."""


class BudgetError(FactoryError):
    """A budget or a certificate does not hold (exit code 1)."""

    exit_code = EXIT_DOES_NOT_HOLD


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names and the nearest one, as a phrase for an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    listed = ", ".join(names) if names else "none"
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed}"


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """An :class:`InputError` for a name that is not among the known ones."""
    return InputError(f"unknown {kind} {name!r}", where=where, fix=nearest(name, known))
