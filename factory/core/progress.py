"""Progress: how long work reports where it is, independent of how it is shown.

A function that may take more than a few seconds takes ``progress: Progress = SILENT`` and calls
``with progress.task("search digits-t1", total=steps) as task: task.advance(note="loss 0.31")``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more steps are done; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Where a long piece of work reports its steps."""

    def task(
        self, label: str, total: int | None, done: int = 0
    ) -> contextlib.AbstractContextManager[Task]:
        """Start a piece of ``total`` steps, ``done`` of them already there (a resumed run)."""

    def message(self, text: str) -> None:
        """Say one line that stays on the screen."""


class _SilentTask:
    def advance(self, n: int = 1, note: str = "") -> None:
        return None


class SilentProgress:
    """Shows nothing."""

    @contextlib.contextmanager
    def task(self, label: str, total: int | None, done: int = 0) -> Iterator[Task]:
        """A task that shows nothing."""
        yield _SilentTask()

    def message(self, text: str) -> None:
        """Say nothing."""


SILENT: Progress = SilentProgress()
