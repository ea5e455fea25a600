"""The verbs that reach other machines, as a person types them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from factory.cli.main import run
from factory.devices.agent_bundle import agent_program


def test_the_agent_is_written_as_one_file(tmp_path, capsys):
    path = tmp_path / "device_agent.py"
    assert run(["agent", "--write", str(path)]) == 0
    assert path.read_text() == agent_program()
    assert "pip install numpy onnxruntime" in capsys.readouterr().out
    done = subprocess.run([sys.executable, "-I", str(path), "--help"], capture_output=True)
    assert done.returncode == 0
    assert b"--token" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["agent", "--host", "0.0.0.0"], "a token is required to listen on 0.0.0.0"),
        (["farm", "nobody"], "unknown device 'nobody'"),
        (["farm", "local-cpu-t1-fp32", "--networks", "9999"], "networks = 9999"),
        (["devices", "add", "ftp://x"], "agent.url = 'ftp://x' is not accepted"),
        (["devices", "add", "http://127.0.0.1:9"], "does not answer at http://127.0.0.1:9"),
        (["devices", "add", "http://127.0.0.1:9", "--threads", "x"], "threads = 'x'"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(arguments, reason, capsys, monkeypatch):
    monkeypatch.delenv("FACTORY_AGENT_TOKEN", raising=False)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.strip().splitlines()) == 1


def test_devices_are_listed_as_before(capsys):
    assert run(["devices"]) == 0
    assert "local-cpu-t1-fp32" in capsys.readouterr().out


def test_a_profile_says_why_rows_failed(capsys, monkeypatch):
    reasons = {f"k{i}": "no node ran on X: the CPU took the whole model" for i in range(4)}
    answer = {
        "device": "x",
        "kernels": 9,
        "networks": 3,
        "failed": 7,
        "seconds": 1.0,
        "table": "t.csv",
        "drift": "",
        "reasons": {**reasons, "a": "timed out", "b": "crashed", "c": "refused"},
    }
    monkeypatch.setattr("factory.api.profile", lambda *_, **__: answer, raising=False)
    assert run(["profile", "--device", "x", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  4 failed: no node ran on X: the CPU took the whole model"
    assert lines[4] == "  others: see the table"
    answer["reasons"] = {}
    assert run(["profile", "--device", "x", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "table: t.csv"
