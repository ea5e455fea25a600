"""The check before the installation: what is missing is said before minutes are spent."""

import importlib.util
import shutil
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "check_setup.py"


def load():
    spec = importlib.util.spec_from_file_location("check_setup", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_good_machine_has_no_problem(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert load().problem(str(tmp_path / "venv")) is None


def test_a_full_disk_is_told_before_the_installation(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    text = load().problem(str(tmp_path / "venv"))
    assert "7 GB" in text
    assert "1.0 GB free" in text


def test_an_old_python_is_told(monkeypatch):
    check = load()
    monkeypatch.setattr(check, "MINIMUM_PYTHON", (99, 0))
    assert "is needed and this is" in check.problem(".venv")
