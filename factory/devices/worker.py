"""The child process that holds ONNX Runtime: ``python -m factory.devices.worker``.

A crash or a hang of the runtime ends this process and not the factory. It reads frames
(factory/core/frames.py) from stdin and answers on stdout: "configure" once, then "time", "run"
and "run_batch". Between the pieces of a long request it sends "tick" frames that name the model
it is busy with. It ends when stdin ends, also in the middle of a measurement, so that it never
outlives its parent. Imports: standard library, numpy, onnxruntime.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

import numpy as np
import onnxruntime as ort

from factory.core.frames import (
    FOLDER_VARIABLE,
    pack_arrays,
    read_frame,
    unpack_arrays,
    write_frame,
)
from factory.devices import measure, placing, start_up

TICK_EVERY_S = 0.5
Frame = tuple[dict[str, Any], list[bytes]]
Reply = tuple[dict[str, Any], list[bytes]]


class Worker:
    """Answers one request after the other."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.config: dict[str, Any] = {}
        self.folder = os.environ.get(FOLDER_VARIABLE, "")  # ours to remove when the parent is gone
        self._last_tick = 0.0
        self._session: tuple[str, ort.InferenceSession] | None = None

    def tick(self, index: int, phase: str) -> None:
        """A sign of life; one without a phase is sent at most every half second."""
        now = time.monotonic()
        if phase or now - self._last_tick > TICK_EVERY_S:
            self._last_tick = now
            write_frame(self.out, {"reply": "tick", "index": index, "phase": phase})

    def answer(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """The reply to one request; an exception becomes a reply with its reason."""
        try:
            handler = getattr(self, f"do_{header['command']}")
            reply: Reply = handler(header, blobs)
            return reply
        except Exception as error:
            return {"reply": "error", "reason": measure.one_line(error)}, []

    def do_configure(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Pin this process, remember the settings, tell the versions."""
        self.config = header["config"]
        note = pin(header["cores"])
        limit_memory(header.get("memory_limit_mb"))
        ort.set_default_logger_severity(4)
        providers = ort.get_available_providers()
        if self.config.get("provider_library"):
            name = self.config["execution_provider"]
            providers = measure.register_plugin(name, self.config["provider_library"])
        facts = {
            "runtime_version": ort.__version__,
            "python": sys.version.split()[0],
            "providers": providers,
            "pin_note": note,
            "pid": os.getpid(),
        }
        return {"reply": "configured", **facts}, []

    def do_time(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Time the models in the blobs."""
        self._session = None  # nothing else in memory while the clock runs
        given = header["given"]
        models, values = blobs[: len(given)], blobs[len(given) :]
        extras = []
        for entry in given:
            facts = entry["feeds"]
            own, values = values[: len(facts or ())], values[len(facts or ()) :]
            feeds = None if facts is None else unpack_arrays(facts, own)
            extras.append((feeds, entry["weights_folder"]))
        results = measure.measure_many(
            models, header["plan"], header["rounds"], self.config, self.folder, self.tick, extras
        )
        return {"reply": "timings", "timings": results}, []

    def do_start_up(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Cold start and memory of a file; true only as a worker's first request."""
        self.tick(0, "starting the model")
        return {"reply": "started", **start_up.start_up(header["path"], self.config)}, []

    def do_place(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Which node of a model runs where."""
        self.tick(0, "making the session")
        return {"reply": "placed", **placing.place(blobs[0], self._config(header), self.folder)}, []

    def do_compile(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """A model compiled ahead for the SoC that the provider's options name."""
        self.tick(0, "compiling")
        content = placing.compile_context(blobs[0], self._config(header), self.folder)
        return {"reply": "compiled"}, [content]

    def do_run(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Outputs of a model for named inputs."""
        session = self._cached(header, blobs)
        feeds = unpack_arrays(header["arrays"], blobs)
        self.tick(0, "running")
        names = [output.name for output in session.get_outputs()]
        made = dict(zip(names, session.run(names, feeds), strict=True))
        facts, contents = pack_arrays(_arrays(made))
        return {"reply": "outputs", "arrays": facts}, contents

    def do_run_batch(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """First output of a batch-1 model for each item of one array."""
        session = self._cached(header, blobs)
        items = unpack_arrays(header["arrays"], blobs)["inputs"]
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"the model has {len(inputs)} inputs, a batch needs exactly one")
        name, output = inputs[0].name, session.get_outputs()[0].name
        with_batch = len(inputs[0].shape) == items.ndim
        results = []
        for item in items:
            self.tick(0, "")
            results.append(session.run([output], {name: item[None] if with_batch else item})[0])
        stacked = np.concatenate(results) if with_batch else np.stack(results)
        facts, contents = pack_arrays({output: stacked})
        return {"reply": "outputs", "arrays": facts}, contents

    def _config(self, header: dict[str, Any]) -> dict[str, Any]:
        """The settings for the model of a request, whose weights may lie in a folder."""
        return measure.with_weights(self.config, header.get("weights_folder", ""))

    def _cached(self, header: dict[str, Any], blobs: list[bytes]) -> ort.InferenceSession:
        """The session of the model that was sent now (first blob) or the last time."""
        if header["with_model"]:
            model = blobs.pop(0)
            self.tick(0, "making the session")
            self._session = None
            session = measure.make_session(model, self._config(header))
            self._session = (hashlib.sha256(model).hexdigest(), session)
        if self._session is None or self._session[0] != header["model"]:
            raise LookupError("that model is no longer loaded")
        return self._session[1]


def _arrays(made: dict[str, Any]) -> dict[str, np.ndarray]:
    """The outputs that are arrays of numbers; those of a sequence by their number."""
    found = {}
    for name, value in made.items():
        parts = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {}
        for part, array in (parts or {name: value}).items():
            if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
                found[part] = array
    return found


def pin(cores: list[int] | None) -> str:
    """Bind this process to ``cores``; an empty answer, or why it could not."""
    if cores is None:
        return "pinning is switched off in the profile"
    if not hasattr(os, "sched_setaffinity"):
        return f"pinning is not possible on {sys.platform}"
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return f"pinning to cores {cores} failed: {error.strerror}"
    return ""


def limit_memory(limit_mb: int | None) -> None:
    """Let this process grow by ``limit_mb`` at most, where the system can hold it to that."""
    if limit_mb is None:
        return
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as stream:
            in_use = int(stream.read().split()[0]) * resource.getpagesize()
        limit = in_use + (limit_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Serve until stdin ends."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the runtime prints goes to stderr, not between the frames
    worker = Worker(out)
    requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def read() -> None:
        try:
            while (frame := read_frame(sys.stdin.buffer)) is not None:
                requests.put(frame)
        finally:
            for _ in range(3 if worker.folder else 0):  # a trace may be written meanwhile
                shutil.rmtree(worker.folder, ignore_errors=True)
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        header, blobs = requests.get()
        reply, contents = worker.answer(header, blobs)
        write_frame(out, reply, contents)


if __name__ == "__main__":
    main()
