"""How progress is shown on stderr: live bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from factory.core.progress import SILENT, Pace, Progress, Task

LINE_EVERY_S = 15.0  # without a terminal: at most one line per task in this time


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[Progress]:
    """The progress display that suits stderr; nothing when ``quiet``."""
    if quiet:
        yield SILENT
    elif sys.stderr.isatty():
        from factory.cli.live_progress import live_progress

        with live_progress() as progress:
            yield progress
    else:
        yield LineProgress()


def clock(seconds: float) -> str:
    """'3:05' or '1:02:07'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LineProgress:
    """Progress as lines on stderr, for logs and pipes."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @contextlib.contextmanager
    def task(self, label: str, total: int | None, done: int = 0) -> Iterator[Task]:
        """One line at the start, one every few seconds while it advances, one at the end."""
        task = _LineTask(self, label, total, done)
        yield task
        task.close()

    def message(self, text: str) -> None:
        """Print a line with the time since the start."""
        with contextlib.suppress(OSError):
            elapsed = clock(time.monotonic() - self._started)
            print(f"[{elapsed}] {text}", file=sys.stderr, flush=True)


class _LineTask:
    def __init__(self, owner: LineProgress, label: str, total: int | None, done: int) -> None:
        self._owner, self._label, self._total = owner, label, total
        self._done, self._pace = done, Pace(total, done)
        self._started = self._shown = time.monotonic()
        self._note = ""

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._pace.advance(n)
        changed_stage = n == 0 and note != self._note
        self._note = note or self._note
        if changed_stage or time.monotonic() - self._shown >= LINE_EVERY_S:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        steps = f" {self._done}/{self._total}" if self._total else ""
        left_s = self._pace.left_s()
        left = "" if left_s is None else f", about {clock(left_s)} left"
        note = f" ({self._note})" if self._note else ""
        self._owner.message(f"{self._label}{steps}{note}{left}")

    def close(self) -> None:
        """Say that the task is over, when it took long enough to be worth a line."""
        took = time.monotonic() - self._started
        if took > 1.0:
            self._owner.message(f"{self._label} finished in {clock(took)}")
