"""Progress: how long work reports where it is, independent of how it is shown.

A function that may take more than a few seconds takes ``progress: Progress = SILENT`` and calls
``with progress.task("search digits-t1", total=steps) as task: task.advance(note="loss 0.31")``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

SHORTEST_S = 10.0  # of work, before a time left is shown
FEWEST_ADVANCES = 4
MOST_APART = 1.5  # pace of the later half over that of all steps, or the other way round


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


class Pace:
    """How fast a task advances, and how long it will still take as far as that can be said.

    Steps that differ (the stages of a build, the first epochs of a search) make any time left a
    guess: it is only told where the later half of the steps went about as fast as all of them.

    Args:
        total: steps in all; None: unknown.
        done: steps that were there before.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, total: int | None, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._clock = total, clock
        self._seen = [(clock(), done)]

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        if steps > 0:
            self._seen.append((self._clock(), self._seen[-1][1] + steps))
        if len(self._seen) > 1000:
            del self._seen[1:-1:2]

    def left_s(self) -> float | None:
        """Seconds until the end; None where they cannot be told."""
        (began, first), (_, done) = self._seen[0], self._seen[-1]
        now = self._clock()
        if self._total is None or done >= self._total or now - began < SHORTEST_S:
            return None
        if len(self._seen) <= FEWEST_ADVANCES:
            return None
        middle, half = next(at for at in self._seen if 2 * at[1] >= first + done)
        if half == done or now <= middle:
            return None
        overall, late = (done - first) / (now - began), (done - half) / (now - middle)
        if not 1 / MOST_APART <= late / overall <= MOST_APART:
            return None
        return (self._total - done) / late
