"""What the device and its page share: jobs one way, results the other, safe between threads.

The queue lives here and not in the page, so a reload, a locked screen or a lost network costs no
more than the models that were being measured. A page that comes back is told what is left to do.
A model that was being prepared when the page was lost ``MOST_LOSSES`` times is given up.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_LOSSES = 3
Frame = tuple[dict[str, Any], list[bytes]]


class Refused(Exception):
    """Why a page is turned away; ``code`` is the HTTP status."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass
class Job:
    """One piece of work for the page: a block of models to time, or one to run."""

    number: int
    kind: str  # "time" or "run"
    header: Mapping[str, Any]
    models: Sequence[bytes]
    arrays: Frame | None = None
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    reply: Frame | None = None
    busy: tuple[int, str] = (-1, "")  # the model being prepared (-1: none) and the phase
    begun: bool = False
    losses: Counter[int] = field(default_factory=Counter)

    @property
    def todo(self) -> list[int]:
        """Models without a result."""
        return [index for index in range(len(self.models)) if index not in self.results]

    @property
    def offered(self) -> list[int]:
        """What the page is asked to do next: all that is left, or one after repeated losses."""
        alone = self.losses[-1] >= MOST_LOSSES - 1
        return self.todo[:1] if alone else self.todo

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.reply is not None if self.kind == "run" else not self.todo

    def page_was_lost(self) -> None:
        """Count it against the model in work, or the only one that was offered."""
        if not self.begun or self.done:
            return
        index, phase = self.busy
        if index < 0 and len(self.offered) == 1:
            index = self.offered[0]
        self.losses[index] += 1
        self.begun, self.busy = False, (-1, "")
        if index < 0:
            return
        if self.losses[index] >= MOST_LOSSES:
            while_ = f" while {phase}" if phase else ""
            reason = f"the page was lost {MOST_LOSSES} times{while_}"
            self.reply = ({"reply": "error", "reason": reason}, [])
            self.results[index] = {"status": "failed", "reason": reason}


class Link:
    """The meeting place of one device and one page."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(16)
        self.facts: dict[str, Any] = {}
        self.status: dict[str, Any] = {"finished": False}
        self.last_seen = 0.0
        self.visits = 0
        self.farewell_seen = False
        self._session = ""
        self._jobs = 0
        self._job: Job | None = None
        self._changed = threading.Condition()

    # The page's side, called by the server.

    def pair(self, token: str, facts: Mapping[str, Any]) -> tuple[str, int]:
        """Session and visit for the page that shows the token; a token is good for one page."""
        with self._changed:
            if not _same(token, self.token):
                raise Refused(403, "this link is not valid: scan the code on the computer again")
            if self._session:
                raise Refused(409, "this link has already been used by another browser")
            self._session = secrets.token_urlsafe(24)
        return self._session, self.hello(self._session, facts)

    def hello(self, session: str, facts: Mapping[str, Any]) -> int:
        """Number of this visit of the paired page: it was opened, or opened again."""
        with self._changed:
            self._check_session(session)
            self.visits += 1
            self.facts = dict(facts)
            self.last_seen = time.monotonic()
            if self._job is not None:
                self._job.page_was_lost()
            self._changed.notify_all()
            return self.visits

    def check(self, session: str, visit: str) -> None:
        """Turn away whoever is not the paired page, and a tab that a newer one replaced."""
        with self._changed:
            self._check_session(session)
            if visit != str(self.visits):
                raise Refused(410, "the measurement goes on in another tab of this browser")
            self.last_seen = time.monotonic()

    def _check_session(self, session: str) -> None:
        if not self._session or not _same(session, self._session):
            raise Refused(403, "this page belongs to an earlier run: scan the new code")

    def work(self) -> Job | None:
        """The job to be done now, marked as begun."""
        with self._changed:
            job = self._job
            if job is None or job.done:
                return None
            job.begun = True
            return job

    def job(self, number: int) -> Job:
        """The job of that number, when it is still wanted."""
        with self._changed:
            if self._job is None or self._job.number != number:
                raise Refused(404, "this job is over")
            return self._job

    def tick(self, job: Job, index: int, phase: str) -> None:
        """A sign of life; a phase says what the page does with which model."""
        with self._changed:
            if phase:
                job.busy = (index if 0 <= index < len(job.models) else -1, phase[:60])

    def result(self, job: Job, index: int, timing: dict[str, Any]) -> None:
        """Keep the timing of one model; a second one for the same model is ignored."""
        with self._changed:
            if 0 <= index < len(job.models):
                job.results.setdefault(index, timing)
                self._changed.notify_all()

    def reply(self, job: Job, frame: Frame) -> None:
        """Keep what a model that was run answered."""
        with self._changed:
            job.reply = job.reply or frame
            self._changed.notify_all()

    # The device's side.

    def wait_for_page(self, timeout_s: float, alive: Callable[[], None]) -> bool:
        """Whether a page was paired in time; ``alive`` is called now and then and may raise."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.visits:
                if time.monotonic() > deadline:
                    return False
                self._changed.wait(0.5)
                alive()
        return True

    def do(
        self,
        kind: str,
        header: Mapping[str, Any],
        models: Sequence[bytes],
        arrays: Frame | None = None,
        *,
        patience_s: float,
        alive: Callable[[], None],
    ) -> Job:
        """Hand a job to the page and wait until it is done.

        Raises TimeoutError when the page was silent for ``patience_s`` or is let go. Whatever
        interrupts this withdraws the job.
        """
        with self._changed:
            self._jobs += 1
            job = self._job = Job(self._jobs, kind, header, models, arrays)
            self.last_seen = time.monotonic()
            try:
                while not job.done:
                    gone = time.monotonic() - self.last_seen > patience_s
                    if gone or self.status["finished"]:
                        raise TimeoutError
                    self._changed.wait(0.5)
                    alive()
            finally:
                self._job = None
        return job

    def say_goodbye(self, timeout_s: float, *, interrupted: bool) -> None:
        """Let the page know that it is over; wait a moment until it does."""
        with self._changed:
            self._job = None
            self.status = {**self.status, "finished": True, "interrupted": interrupted}
            self._changed.notify_all()
            present = self.visits and time.monotonic() - self.last_seen < timeout_s + 30
        deadline = time.monotonic() + timeout_s
        while present and not self.farewell_seen and time.monotonic() < deadline:
            time.sleep(0.02)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
