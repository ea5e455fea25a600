"""Cold start and memory of one file, measured in a process of its own on this machine.

One JSON line goes in, one comes out. A process that has run
nothing before pays what an app pays at its start: creating the session and the first run. Its
peak memory is the operating system's own figure; what the interpreter with the runtime loaded had
taken before the model is told beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.devices.memory import status_kb

TIMEOUT_S = 120.0
FEW_RUNS = 5


def probe_file(
    path: Path, *, execution_provider: str, threads: int, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """``session_ms``, ``first_run_ms``, ``cold_start_ms``, ``peak_memory_bytes``.

    Raises:
        InputError: the process failed or hung; its last words are the reason.
    """
    request = {"model": str(path), "provider": execution_provider, "threads": threads}
    root = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; sys.path.insert(0, {root!r}); "
        "import factory.verification.probe as p; p.main()"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{path} did not start within {timeout_s:g} s") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise InputError(f"{path} does not start in a process of its own", why=words)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


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


def main() -> None:
    """The child's side."""
    import numpy as np
    import onnxruntime as ort

    from factory.devices.measure import random_input

    request = json.loads(sys.stdin.readline())
    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    before = peak_bytes()
    started = time.perf_counter()
    session = ort.InferenceSession(
        request["model"], options, providers=[request["provider"]], enable_fallback=0
    )
    session_ms = (time.perf_counter() - started) * 1e3
    rng = np.random.default_rng(0)
    feeds = {
        value.name: random_input(value.name, value.type, value.shape, rng)
        for value in session.get_inputs()
    }
    started = time.perf_counter()
    session.run(None, feeds)
    first_run_ms = (time.perf_counter() - started) * 1e3
    for _ in range(FEW_RUNS):
        session.run(None, feeds)
    after = peak_bytes()
    print(
        json.dumps(
            {
                "session_ms": session_ms,
                "first_run_ms": first_run_ms,
                "cold_start_ms": session_ms + first_run_ms,
                "peak_memory_bytes": after,
                "runtime_memory_bytes": before,
            }
        )
    )
