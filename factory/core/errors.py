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
