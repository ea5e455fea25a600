"""kill -9 at any time, start again: the same weights, bit for bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tiny_training.py")


def _start(out_dir: Path, checkpoint_s: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(PROGRAM), str(out_dir), str(checkpoint_s)])


def _kill_after(process: subprocess.Popen, log: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and log.read_text().count("step") >= steps:
            break
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_twice_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert _start(straight, 1000).wait() == 0
    log = tmp_path / "killed.log"
    _kill_after(_start(killed, 0.1), log, steps=11)
    assert (killed / "checkpoint.pt").exists()
    assert not (killed / "result.json").exists()
    _kill_after(_start(killed, 0.1), log, steps=30)
    assert _start(killed, 0.1).wait() == 0
    starts = [int(line.split()[1]) for line in log.read_text().splitlines() if "start" in line]
    assert starts[0] == 0
    assert 8 <= starts[1] < starts[2] < 48
    for name in ("weights.safetensors", "history.jsonl"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()
