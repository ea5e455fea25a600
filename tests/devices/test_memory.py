"""Peak memory of a piece of work, where the system tells it."""

import os
import subprocess
import sys

import pytest

from factory.devices import memory

READY = os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.skipif(not READY, reason="this system does not tell")
def test_the_peak_counts_also_after_it_was_freed_and_not_what_was_there_before():
    code = (
        "import numpy as np; from factory.devices import memory\n"
        "before = np.ones(40_000_000, np.uint8); again = np.ones(40_000_000, np.uint8); del again\n"
        "peaks = []\n"
        "for size in (30_000_000, 0):\n"
        "    start = memory.begin()\n"
        "    some = np.ones(size, np.uint8); del some\n"
        "    peaks.append(memory.peak_mb(start))\n"
        "print(*peaks)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    large, nothing = map(float, done.stdout.split())
    assert 28 < large < 36
    assert nothing < 3


def test_nothing_is_known_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert memory.begin() == 0
    assert memory.peak_mb(0) == 0.0
