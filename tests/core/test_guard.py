"""Work in the guarded child: values come back, and whatever ends the child is one message."""

import os
import sys
import threading

import pytest

from factory.core import guard
from factory.core.errors import InputError


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A module of odd functions that the child can import; no child of another test."""
    (tmp_path / "odd_work.py").write_text(
        "import os, time\n"
        "from factory.core.errors import InputError\n"
        "def double(number): return {'twice': 2 * number, 'pid': os.getpid()}\n"
        "def raw(): return b'bytes'\n"
        "def refuse(): raise InputError('wrong', where='a.onnx', why='so', fix='mend it')\n"
        "def fault(): return 1 / 0\n"
        "def die(): os.abort()\n"
        "def hang(): time.sleep(3600)\n"
        "def spin():\n"
        "    while True: pass\n"
        "def take(): return len(bytearray(1 << 40))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    guard.stop()
    yield
    guard.stop()


def work(name, **arguments):
    return guard.guarded(f"odd_work:{name}", "model m.onnx", 100, **arguments)


def test_values_come_back_from_one_child(child):
    first, second = work("double", number=2), work("double", number=3)
    assert (first["twice"], second["twice"]) == (4, 6)
    assert first["pid"] == second["pid"] != os.getpid()
    assert work("raw") == b"bytes"


def test_a_refusal_and_a_fault_come_back_as_what_they_are(child):
    with pytest.raises(InputError, match=r"^wrong in a\.onnx \(so\); mend it\.$"):
        work("refuse")
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError at odd_work\.py:6 fault"):
        work("fault")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for signals and limits")
def test_an_abort_a_hang_and_a_giant_allocation_cost_one_message(child, monkeypatch):
    with pytest.raises(InputError, match=r"model m\.onnx cannot be read \(its process died of SIG"):
        work("die")
    assert work("double", number=1)["twice"] == 2  # by another child
    monkeypatch.setattr(guard, "LIMIT_S", 0.1)
    with pytest.raises(InputError, match=r"timed out after"):
        work("hang")
    monkeypatch.setattr(guard, "AS_LONG", 6000)
    with pytest.raises(InputError, match=r"it took more than 0\.1 s of the processor"):
        work("spin")
    monkeypatch.setattr(guard, "LIMIT_S", 60)
    with pytest.raises(InputError, match=r"model m\.onnx takes more than 4 GB"):
        work("take")


def test_several_threads_share_the_child(child):
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(work("double", number=n)["twice"]))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 2, 4, 6]
