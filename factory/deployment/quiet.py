"""Silence for chatty libraries: nothing reaches the screen unless the work fails."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

TAIL_CHARS = 600


class Captured:
    """What a library said while it was silenced."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def tail(self) -> str:
        """The end of it, on one line, for an error message."""
        text = " ".join(self.stream.getvalue().split())
        return text[-TAIL_CHARS:]


@contextlib.contextmanager
def silenced() -> Iterator[Captured]:
    """Collect stdout, stderr, warnings and log records (below critical) of the ``with`` body."""
    captured = Captured()
    disabled = logging.root.manager.disable
    with (
        contextlib.redirect_stdout(captured.stream),
        contextlib.redirect_stderr(captured.stream),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield captured
        finally:
            logging.disable(disabled)
