import os
import signal
import subprocess
import sys
import textwrap

import pytest

from factory.core.temporary import LOCK, TemporaryFolder, remove_abandoned


@pytest.fixture
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def owner(temp, then):
    """A process that makes a folder with a file in it, says so and goes on with ``then``."""
    program = f"""
        import sys, time
        from factory.core.temporary import TemporaryFolder
        folder = TemporaryFolder("test")
        (folder.path / "a").write_text("a")
        print(folder.path, flush=True)
        {then}
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temp)},
    )


def test_a_folder_goes_with_its_with(temp):
    with TemporaryFolder("test") as folder:
        (folder / "a").write_text("a")
        assert folder.parent == temp
        assert folder.name.startswith("factory-test-")
    assert not list(temp.iterdir())


@pytest.mark.parametrize("then", ["pass", "sys.exit(3)", "1 / 0"])
def test_a_folder_goes_with_its_process(temp, then):
    with owner(temp, then) as process:
        process.wait()
    assert not list(temp.iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_the_folder_of_a_killed_process_is_removed_by_the_next_command(temp):
    with owner(temp, "time.sleep(600)") as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        remove_abandoned()
        assert os.listdir(path)  # its owner lives
        process.kill()
        process.wait()
        remove_abandoned()
    assert not list(temp.iterdir())


def test_what_is_not_ours_or_new_stays(temp):
    (temp / "factory-error-abc.log").write_text("details of a fault")
    (temp / "factory-of-somebody").mkdir()  # without a lock: it may be about to be made
    (temp / "other").mkdir()
    (temp / "link").mkdir()
    (temp / "factory-link").symlink_to(temp / "link")
    with TemporaryFolder("test") as folder:
        remove_abandoned()
        assert (folder / LOCK).exists()
    assert len(list(temp.iterdir())) == 5
    days = 30 * 86_400
    for name in ("factory-error-abc.log", "factory-of-somebody"):
        os.utime(temp / name, (days, days))
    remove_abandoned()
    assert sorted(path.name for path in temp.iterdir()) == ["factory-link", "link", "other"]
