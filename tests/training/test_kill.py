"""kill -9 at any time, start again: the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tiny_training.py")


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_killed_twice_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A run to the end; another one killed after 11 steps, after 19 more, and gone on."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    command = [sys.executable, str(PROGRAM), str(tmp_path), "11", "19", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", *[str(-signal.SIGKILL)] * 2, "0"], done.stderr
    log = (tmp_path / "killed.log").read_text().splitlines()
    starts = [int(line.split()[1]) for line in log if "start" in line]
    assert starts[0] == 0
    assert 8 <= starts[1] < starts[2] < 48
    for name in ("weights.safetensors", "history.jsonl"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()
