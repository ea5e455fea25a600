"""Cold start and memory of one file, in a worker that has run nothing before.

Such a process pays what an app pays at its start: creating the session and the first run. Its peak
memory is the operating system's own figure; what the interpreter with the runtime loaded had taken
before the model is told beside it. Imports: standard library, numpy, onnxruntime.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from factory.core import made_up
from factory.devices import measure
from factory.devices.memory import status_kb

FEW_RUNS = 5


def start_up(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``session_ms``, ``first_run_ms``, ``cold_start_ms``, ``peak_memory_bytes`` and what it was
    before, ``runtime_memory_bytes``; None where the system does not tell."""
    before = peak_bytes()
    started = time.perf_counter()
    session = measure.make_session(path, config)
    session_ms = (time.perf_counter() - started) * 1e3

    def run(feeds: Mapping[str, np.ndarray]) -> float:
        started = time.perf_counter()
        session.run(None, feeds)
        return (time.perf_counter() - started) * 1e3

    feeds, first_run_ms = made_up.first_of(run, measure.made_up_feeds(session))
    for _ in range(FEW_RUNS):
        run(feeds)
    return {
        "session_ms": session_ms,
        "first_run_ms": first_run_ms,
        "cold_start_ms": session_ms + first_run_ms,
        "peak_memory_bytes": peak_bytes(),
        "runtime_memory_bytes": before,
    }


def peak_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell.

    Linux tells it in VmHWM. Its ru_maxrss would begin with what the process that started this one
    had taken, for exec keeps it.
    """
    if high_water_kb := status_kb("VmHWM"):
        return high_water_kb * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(taken) if sys.platform == "darwin" else int(taken) * 1024
