"""The live display: what is running, how far it is, elapsed and remaining time (rich)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress

from factory.cli.progress import clock
from factory.core.progress import Pace, Progress, Task


@contextlib.contextmanager
def live_progress() -> Iterator[Progress]:
    """A display on stderr; every running task is one line, nested tasks below each other."""
    console = Console(stderr=True)
    rich = RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
    )
    with rich:
        yield _LiveProgress(rich)


class _LiveProgress:
    def __init__(self, rich: RichProgress) -> None:
        self._rich = rich

    @contextlib.contextmanager
    def task(self, label: str, total: int | None, done: int = 0) -> Iterator[Task]:
        """A line that disappears when the task ends."""
        number = self._rich.add_task(label, total=total, completed=done, note="", left="")
        try:
            yield _LiveTask(self._rich, number, Pace(total, done))
        finally:
            self._rich.remove_task(number)

    def message(self, text: str) -> None:
        """A line that stays above the bars."""
        self._rich.console.print(text, markup=False, highlight=False)


class _LiveTask:
    def __init__(self, rich: RichProgress, number: TaskID, pace: Pace) -> None:
        self._rich, self._number, self._pace = rich, number, pace
        self._note = ""

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more steps are done."""
        self._pace.advance(n)
        left_s = self._pace.left_s()
        left = "" if left_s is None else f"about {clock(left_s)} left"
        self._note = note or self._note
        self._rich.update(self._number, advance=n, left=left, note=self._note)
