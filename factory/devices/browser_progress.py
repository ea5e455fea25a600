"""Progress that is shown in the page as well as where it is shown anyway."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from factory.core.progress import Pace, Progress, Task
from factory.devices.base import Timing
from factory.devices.browser_link import Link

NETWORKS = "networks"


class PageProgress:
    """Hands everything on to ``inner`` and keeps the page's status up to date."""

    def __init__(self, inner: Progress, link: Link) -> None:
        self._inner, self._link = inner, link
        self._unit = ""
        self._networks_ms: list[float] = []

    @contextlib.contextmanager
    def task(self, label: str, total: int | None, done: int = 0) -> Iterator[Task]:
        """A task that the page shows as its own."""
        self._unit = NETWORKS if label.startswith(NETWORKS) else "blocks"
        with self._inner.task(label, total, done) as task:
            shown = _PageTask(task, self._link, total, done)
            self._update(unit=self._unit, total=total, done=done, seconds_left=None)
            yield shown
        self._update(seconds_left=None)

    def message(self, text: str) -> None:
        """Say it where it is said anyway."""
        self._inner.message(text)

    def saw(self, timings: Sequence[Timing]) -> None:
        """Count what was measured: the timings of a block without its references."""
        own = timings
        if not own or not self._unit:
            return
        status = self._link.status
        key = "networks" if self._unit == NETWORKS else "kernels"
        good = [timing.median_ms for timing in own if timing.ok]
        failed = len(own) - len(good)
        self._update(**{key: status.get(key, 0) + len(good)})
        self._update(failed=status.get("failed", 0) + failed)
        if self._unit == NETWORKS and good:
            self._networks_ms += good
            self._update(network_ms=[min(self._networks_ms), max(self._networks_ms)])

    def _update(self, **values: object) -> None:
        self._link.status = {**self._link.status, **values}


class _PageTask:
    def __init__(self, inner: Task, link: Link, total: int | None, done: int) -> None:
        self._inner, self._link = inner, link
        self._done, self._pace = done, Pace(total, done)

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more steps are done, here and in the page."""
        self._inner.advance(n, note)
        self._done += n
        self._pace.advance(n)
        left_s = self._pace.left_s()
        self._link.status = {**self._link.status, "done": self._done, "seconds_left": left_s}
