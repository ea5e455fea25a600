"""Most memory that a piece of work takes beyond what this process had before; Linux only.

The kernel's own high-water mark of the resident memory (VmHWM) is set back before the work. What
earlier work has freed is given back to the system first, or the work would find it and seem small.
Elsewhere, and where /proc is not there, nothing is known. Imports: standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim, which gives freed memory back."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None


def begin() -> int:
    """Resident memory in kB, with the high-water mark set back to it; 0 where that cannot be."""
    gc.collect()
    trim = _trim()
    try:
        if trim is not None:
            trim(0)
        CLEAR_REFS.write_text(RESET_HIGH_WATER)
        return status_kb("VmRSS")
    except OSError:
        return 0


def peak_mb(before_kb: int) -> float:
    """Millions of bytes that were taken at most since :func:`begin` answered ``before_kb``."""
    if not before_kb:
        return 0.0
    return max(0.0, (status_kb("VmHWM") - before_kb) * 1024 / 1e6)


def status_kb(name: str) -> int:
    """A line of this process's status in kB; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
