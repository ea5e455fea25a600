"""A browser as a device: any phone, tablet or laptop that opens a page.

The page runs models through ONNX Runtime Web and sends their times back (web/ holds its source,
browser_server.py serves it, browser_link.py keeps the queue). Rows carry runtime "ort-web": they
are never the latency of a native application. A table of this device can be carried over to a
native runtime of the same chip only by a correction fitted to a few native measurements.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np

from factory.core.closing import Closing
from factory.core.errors import InputError
from factory.core.frames import pack_arrays, unpack_arrays
from factory.core.progress import Progress
from factory.core.resources import user_home
from factory.devices import browser_boundary, browser_facts
from factory.devices.base import (
    CHUNK_BYTES,
    Timing,
    TimingPlan,
    answers_of,
    in_chunks,
    plain_models,
)
from factory.devices.browser_boundary import NO_BOUNDARY, Boundary
from factory.devices.browser_files import ort_version
from factory.devices.browser_launch import HeadlessChromium, show_address
from factory.devices.browser_link import Job, Link
from factory.devices.browser_options import ANY_CHIP, PROVIDERS, BrowserOptions
from factory.devices.browser_progress import PageProgress
from factory.devices.browser_server import PageServer
from factory.devices.browser_timings import timing_of
from factory.devices.profile import DeviceProfile

FAREWELL_S = 3.0
Announce = Callable[[str, str], None]


class BrowserDevice(Closing):
    """ONNX Runtime Web in whatever browser opens the page.

    Args:
        profile: execution provider "wasm", "webgpu" or "webnn", threads, and ``[browser]``.
        announce: shows address and certificate digest to a person; prints them by default.
        most_threads: limit where the profile says threads = "all".
    """

    def __init__(
        self,
        profile: DeviceProfile,
        announce: Announce | None = None,
        most_threads: int | None = None,
    ) -> None:
        if profile.execution_provider not in PROVIDERS:
            raise InputError(
                f"a browser has no {profile.execution_provider}",
                where=f"device profile {profile.id!r}",
                fix=f"set execution_provider to one of {', '.join(PROVIDERS)}",
            )
        self.profile = profile
        self.options = profile.browser or BrowserOptions()
        self.link = Link()
        self.url = ""
        self.chromium: HeadlessChromium | None = None
        self._announce = announce or show_address
        self._most_threads = most_threads
        self._server: PageServer | None = None
        self._progress: PageProgress | None = None
        self._threads = 1
        self._interrupted = False
        self._boundary: Boundary | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Serve the page and wait until a browser has opened it; InputError if none does."""
        if self._server is not None:
            return
        options, certificate, digest = self.options, None, ""
        host, shown = "127.0.0.1", "localhost"
        if options.network == "lan":
            from factory.devices.browser_certificate import certificate as made
            from factory.devices.browser_certificate import lan_addresses

            addresses = lan_addresses()
            if not addresses:
                raise InputError(
                    "this computer is on no network that a phone could reach",
                    fix="connect it, or use network = 'loopback' with `adb reverse`",
                )
            certificate, digest = made(user_home() / ".factory-browser", addresses)
            host, shown = "0.0.0.0", addresses[0]
        ort_version()  # says what to do where the runtime's files are not in this installation
        self._server = PageServer(self.link, host, options.port, certificate)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://{shown}:{self._server.port}/#token={self.link.token}"
        self._finalizer = weakref.finalize(self, self._server.close)
        if options.launch == "headless":
            local = f"{scheme}://localhost:{self._server.port}/#token={self.link.token}&start"
            self.chromium = HeadlessChromium(
                local, options.chromium, insecure=certificate is not None
            )
        else:
            self._announce(self.url, digest)
            if options.launch == "window":
                import webbrowser

                webbrowser.open(self.url)
        if not self.link.wait_for_page(options.patience_s, self._alive):
            raise InputError(
                f"no browser opened the page within {options.patience_s:g} s",
                where=f"device {self.profile.id!r}",
                fix="run it again and open the address that is shown",
            )
        self._check_facts()

    def _check_facts(self) -> None:
        """Refuse another browser than the profile's, and threads that the page cannot have."""
        facts, profile = self.link.facts, self.profile
        here = browser_facts.chip_name(facts)
        if profile.chip not in (ANY_CHIP, here):
            raise InputError(
                f"another browser opened the page than that of device {profile.id!r}",
                why=f"the profile says {profile.chip!r}, the page {here!r}",
                fix="open it there, or make a profile of this one with `factory profile --browser`",
            )
        cores = max(1, int(browser_facts.number(facts.get("cores"), 1)))
        able = cores if browser_facts.isolated(facts) else 1
        if profile.threads != "all" and profile.threads > able:
            why = f"it has {cores} cores" if able > 1 or cores == 1 else "it is not isolated"
            raise InputError(
                f"the page cannot use {profile.threads} threads",
                where=f"device profile {profile.id!r}",
                why=why,
                fix=f"set threads to {able}, or open the page over HTTPS (network = 'lan')",
            )
        most = min(able, self._most_threads or able)
        self._threads = most if profile.threads == "all" else profile.threads
        if profile.execution_provider == "webgpu" and not facts.get("webgpu"):
            raise InputError("this browser has no WebGPU", fix="set execution_provider to wasm")
        if profile.execution_provider == "webnn" and not facts.get("webnn"):
            raise InputError("this browser has no WebNN", fix="set execution_provider to wasm")

    @property
    def threads(self) -> int:
        """Threads that the page uses."""
        return self._threads

    def describe(self) -> dict[str, Any]:
        """Facts about the browser and its device, as the page told them."""
        self.start()
        boundary = self._calibrated()
        profile, facts = self.profile, self.link.facts
        return {
            "device": profile.id,
            "transport": profile.transport,
            "simulated": browser_facts.emulated(facts, profile.execution_provider),
            "fingerprint": {
                "chip": browser_facts.chip_name(facts),
                "runtime": profile.runtime,
                "runtime_version": ort_version(),
                "execution_provider": profile.execution_provider,
                "provider_options": dict(profile.provider_options),
                "threads": self._threads,
                "precision": profile.precision,
            },
            "browser": browser_facts.browser_name(facts),
            "system": browser_facts.system_name(facts),
            "user_agent": browser_facts.text(facts.get("user_agent"), 300),
            "isolated": browser_facts.isolated(facts),
            "clock_tick_ms": round(browser_facts.number(facts.get("tick_ms")), 6),
            "cores": int(browser_facts.number(facts.get("cores"), 1)),
            "pinned": False,
            "governor": None,
            "load_1min": None,
            "empty_run_ms": boundary.to_dict()["run_ms"],
            "boundary": boundary.to_dict(),
            "notes": browser_facts.notes(facts, profile.threads),
        }

    def time_many(
        self, models: Sequence[bytes], plan: TimingPlan, *, rounds: int = 1
    ) -> list[Timing]:
        """Time several models in the page, interleaved; a reload costs only the unfinished ones."""
        models = plain_models(models, self.profile)
        if not models:
            return []
        boundary = self._calibrated() if plan.profile_runs > 0 else NO_BOUNDARY
        timings = self._timed(models, plan, rounds, boundary)
        if self._progress is not None:
            self._progress.saw(timings[: len(timings) - plan.references])
        return timings

    def _timed(
        self, models: Sequence[bytes], plan: TimingPlan, rounds: int, boundary: Boundary
    ) -> list[Timing]:
        header = {
            "plan": asdict(plan),
            "rounds": max(1, rounds),
            "first_reference": len(models) - plan.references,
        }
        job = self._do("time", header, models)
        provider = self.profile.execution_provider
        return [
            timing_of(job.results[index], models[index], provider, boundary)
            for index in range(len(models))
        ]

    def _calibrated(self) -> Boundary:
        """What the page's boundary costs, measured once."""
        if self._boundary is None:
            timings = self._timed(
                browser_boundary.models(),
                browser_boundary.PLAN,
                browser_boundary.ROUNDS,
                NO_BOUNDARY,
            )
            self._boundary = Boundary.of(timings)
        return self._boundary

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of ``model`` by name, computed by the page."""
        with answers_of(self.profile.id):
            return self._run("run", model, feeds)

    def run_batch(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """First output for each of ``inputs`` [N, ...], the loop being in the page."""
        with answers_of(self.profile.id):
            return in_chunks(
                lambda chunk: self._run("run_batch", model, chunk), inputs, CHUNK_BYTES
            )

    def _run(
        self, command: str, model: bytes, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        facts, blobs = pack_arrays(arrays)
        job = self._do("run", {"command": command}, [model], ({"arrays": facts}, blobs))
        header, contents = job.reply or ({"reply": "error", "reason": "no answer"}, [])
        if header["reply"] == "outputs":
            return unpack_arrays(header["arrays"], contents)
        raise InputError(
            f"the model does not run on device {self.profile.id!r}",
            why=header["reason"],
            fix="check the model with `factory inspect` and the inputs' names, types and shapes",
        )

    def _do(
        self,
        kind: str,
        header: Mapping[str, Any],
        models: Sequence[bytes],
        arrays: tuple[dict[str, Any], list[bytes]] | None = None,
    ) -> Job:
        self.start()
        config = {
            "provider": self.profile.execution_provider,
            "provider_options": dict(self.profile.provider_options),
            "threads": self._threads,
            "warmup_ms": self.options.warmup_ms,
        }
        keys = [hashlib.sha256(model).hexdigest() for model in models]
        timeout_s = self.profile.timeout_s
        whole = {**header, "config": config, "keys": keys, "timeout_s": timeout_s}
        try:
            patience_s = self.options.patience_s
            return self.link.do(
                kind, whole, models, arrays, patience_s=patience_s, alive=self._alive
            )
        except TimeoutError:
            raise InputError(
                f"the page of device {self.profile.id!r} has not been heard of for "
                f"{self.options.patience_s:g} s",
                fix="run the same command again and open the page: what was measured is kept",
            ) from None

    def _alive(self) -> None:
        if self.chromium is not None and not self.chromium.alive:
            raise InputError(
                "the browser without a window has ended",
                where=f"device {self.profile.id!r}",
                fix="run the same command again: what was measured is kept",
            )

    def mirrored(self, progress: Progress) -> Progress:
        """``progress``, shown in the page as well."""
        self._progress = PageProgress(progress, self.link)
        return self._progress

    def close(self) -> None:
        """Tell the page that it is over, stop serving, end a browser of our own."""
        if self._server is None:
            return
        self.link.say_goodbye(FAREWELL_S, interrupted=self._interrupted)
        if self.chromium is not None:
            self.chromium.close()
        self._server.close()
        self._server = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._interrupted = kind is not None
        super().__exit__(kind, error, trace)
