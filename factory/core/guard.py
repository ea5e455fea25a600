"""Work on files of strangers in a child process, where an abort, a hang or a giant allocation of a
native library costs one message.

The child is started at the first call (or by :func:`start`, which does not wait), answers one
request after the other and ends with this process. The function it is asked for is named as
"module:function"; its arguments and its value are plain (JSON), or bytes for the value.

    python -P -m factory.core.guard [MODULE]     # the child, with MODULE imported; frames
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from typing import Any

from factory.core.errors import FactoryError, InputError
from factory.core.frames import read_frame, write_frame
from factory.core.process import WorkerLost, WorkerProcess

COMMAND = (sys.executable, "-P", "-m", "factory.core.guard")
START_S = 120.0
LIMIT_S, LIMIT_S_A_MB = 20.0, 0.5
"""Processor time that a request may take: for any file, and for each MB of it."""
AS_LONG = 5
"""Times as long as that by the clock, since other programs may need the processor too."""
MEMORY_MB, MEMORY_MB_A_MB = 4096, 12
"""What a request may take beyond what the child has: for any file, and for each MB of it."""
KEPT_MB = 600
"""A child that has grown beyond this is not kept."""

_lock = threading.RLock()
_child: WorkerProcess | None = None
_owner = 0  # the process that started the child; one forked from it starts its own
_inside = False


def start(module: str = "") -> None:
    """Start the child where there is none, without waiting for it.

    Called before this process imports what it needs, both import at the same time; ``module`` is
    what the child imports.
    """
    global _child, _owner
    with _lock:
        if _owner != os.getpid() or _child is None or not _child.alive:
            command = (*COMMAND, module) if module else COMMAND
            _child, _owner = WorkerProcess(command, name="its process", scratch=False), os.getpid()


def stop() -> None:
    """End the child where there is one."""
    global _child
    with _lock:
        if _child is not None and _owner == os.getpid():
            _child.close()
        _child = None


def guarded(function: str, what: str, size_bytes: int, **arguments: Any) -> Any:
    """The value of ``function(**arguments)``, computed in the child.

    Args:
        function: "module:function"; within the child it is called directly.
        what: the file, for errors.
        size_bytes: of the file: time and memory grow with it.

    Raises:
        FactoryError: as the function raised it.
        InputError: the child died, took too long or too much memory.
        RuntimeError: any other exception of the function, a fault of the factory.
    """
    if _inside:
        return _call(function, arguments)
    size_mb = size_bytes / 2**20
    limit_s = LIMIT_S + LIMIT_S_A_MB * size_mb
    memory_mb = int(MEMORY_MB + MEMORY_MB_A_MB * size_mb)
    request = {"function": function, "arguments": arguments, "limit_s": limit_s}
    with _lock:
        start()
        assert _child is not None
        try:
            hello = {"module": function.partition(":")[0], "limit_s": START_S}
            _child.request(hello, timeout_s=AS_LONG * START_S)
        except WorkerLost as lost:
            raise InputError(
                "the process that checks files does not start",
                why=lost.reason,
                fix="run `factory doctor`",
            ) from None
        try:
            reply, blobs = _child.request(
                {**request, "memory_mb": memory_mb}, timeout_s=AS_LONG * limit_s
            )
        except WorkerLost as lost:
            spent = lost.reason.endswith("SIGPROF")
            why = f"it took more than {limit_s:.3g} s of the processor" if spent else lost.reason
            raise InputError(f"{what} cannot be read", why=why, fix="export it again") from None
        if reply["size_mb"] > KEPT_MB:
            stop()
    if reply["reply"] == "refused":
        raise InputError(**reply["error"])
    if reply["reply"] == "memory":
        raise InputError(f"{what} takes more than {memory_mb / 1024:.0f} GB of memory to read")
    if reply["reply"] == "failed":
        raise RuntimeError(f"{function} of {what}: {reply['error']}")
    return blobs[0] if blobs else reply["value"]


def _call(function: str, arguments: dict[str, Any]) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def serve(module: str = "") -> None:
    """Answer until stdin ends; ``module`` is imported first."""
    global _inside
    _inside = True
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the frames
    if module:
        importlib.import_module(module)
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        request, _ = frame
        _end_at(request["limit_s"])
        reply, blobs = _answer(request)
        _end_at(0)
        write_frame(out, {**reply, "size_mb": _resident_mb()}, blobs)
    os._exit(0)  # at once: there is nothing to put away, and the parent waits


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    if "module" in request:
        importlib.import_module(request["module"])
        return {"reply": "ready"}, []
    _limit_memory(request["memory_mb"])
    try:
        value = _call(request["function"], request["arguments"])
    except FactoryError as error:
        told = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix}
        return {"reply": "refused", "error": told}, []
    except MemoryError:
        return {"reply": "memory"}, []
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told_at = f"{os.path.basename(where.filename)}:{where.lineno} {where.name}"
        return {"reply": "failed", "error": f"{type(error).__name__} at {told_at}: {error}"}, []
    finally:
        _limit_memory(None)
    if isinstance(value, bytes):
        return {"reply": "done"}, [value]
    return {"reply": "done", "value": value}, []


def _end_at(limit_s: float) -> None:
    """Let the system end this process after so much processor time, or when the parent, perhaps
    gone, has given up; 0: never.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        signal.alarm(int(AS_LONG * limit_s + 5) if limit_s else 0)


def _limit_memory(limit_mb: int | None) -> None:
    """Let this process grow by ``limit_mb`` at most, where the system can hold it to that."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # of data, not of addresses: a library that is loaded meanwhile maps gigabytes of its file
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = hard if limit_mb is None else _pages()[0] + (limit_mb << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _pages() -> tuple[int, int]:
    """Data (allocated, touched or not) and resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        _, resident, _, _, _, data = map(int, stream.read().split()[:6])
    page = os.sysconf("SC_PAGE_SIZE")
    return data * page, resident * page


def _resident_mb() -> float:
    with contextlib.suppress(OSError, ValueError):
        return _pages()[1] / 2**20
    return 0.0


if __name__ == "__main__":
    from factory.core import guard

    guard.serve(*sys.argv[1:2])
