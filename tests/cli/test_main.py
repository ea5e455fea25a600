"""The command: light help, exit codes, one sentence on stderr, JSON alone on stdout."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from factory.cli.main import command_line, run

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "pandas", "sklearn", "matplotlib")


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "factory", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from factory.cli.main import run; "
        f"code = run({arguments!r}); "
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]; "
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="CPU time of a child")
def test_help_is_quick():
    """In seconds of the CPU, which a busy machine does not stretch as it does the clock."""
    before = os.times()
    assert command("--help").returncode == 0
    after = os.times()
    spent_s = after.children_user + after.children_system
    spent_s -= before.children_user + before.children_system
    assert spent_s < 1.5  # about 0.25


def test_importing_the_package_is_light():
    code = f"import sys, factory; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_verb_is_a_function_with_the_same_options():
    import inspect as python_inspect

    from factory import api
    from factory.cli.app import app
    from factory.pipeline.browser_profile import BrowserRequest

    of_browser = {entry.name for entry in dataclasses.fields(BrowserRequest)}  # one argument there
    shown_only = {"json", "quiet", "top", "context"}
    renamed = {"input_shape": "input", "soc": "socs", "arg": "arguments"}
    callbacks = [entry.callback for entry in app.registered_commands]
    for group in app.registered_groups:
        callbacks.append(group.typer_instance.registered_callback.callback)
        callbacks += [entry.callback for entry in group.typer_instance.registered_commands]
    assert sorted(callback.__name__ for callback in callbacks) == sorted(api.__all__)
    for callback in callbacks:
        options = set(python_inspect.signature(callback).parameters) - shown_only
        if callback.__name__ == "profile":
            options -= of_browser
        function = getattr(api, callback.__name__)
        parameters = set(python_inspect.signature(function).parameters) - {"progress"}
        assert {renamed.get(o, o) for o in options} == parameters, callback.__name__


def test_unknown_names_are_told_in_one_sentence(capsys):
    assert run(["inspect", "PC_DARTS_cifat"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "PC_DARTS_cifat" in captured.err
    assert "did you mean 'PC_DARTS_cifar'" in captured.err
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build"], "recipe"),
        (["build", "nowhere.toml"], "does not exist"),
        (["inspect", "DARTS_V2", "--input", "3x32"], "3x32x32"),
        (["inspect", "DARTS_V2", "--channels", "-4"], "positive even"),
        (["inspect", "DARTS_V2", "--stem", "resnet"], "cifar"),
        (["inspect", "missing.onnx"], "missing.onnx"),
        (["verify", "missing.onnx", "--device", "local-cpu-t1-fp32"], "missing.onnx"),
        (
            ["verify", "m.onnx", "--device", "local-cpu-t1-fp32", "--max-latency-ms", "-1"],
            "above 0",
        ),
        (["verify", "m.onnx", "--device", "local-cpu-t1-fp23"], "local-cpu-t1-fp32"),
        (["predict", "missing.onnx", "--device", "pixel"], "pixel"),
        (["report", "nowhere"], "nowhere"),
        (["export", "nowhere", "--tier", "a"], "nowhere"),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_json_is_alone_on_stdout(capsys):
    assert run(["inspect", "DARTS_V2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema_version"] == 1
    assert (round(answer["params"] / 1e6, 4), round(answer["macs"] / 1e6, 2)) == (3.3493, 528.36)


def test_a_fault_of_ours_leaves_a_log(monkeypatch, capsys, tmp_path):
    import factory.pipeline.verbs.inspect as verb

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(verb, "inspect", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(["inspect", "DARTS_V2"]) == 2
    (log,) = tmp_path.glob("factory-error-*.log")
    error = capsys.readouterr().err
    assert str(log) in error
    assert "Traceback" not in error
    assert "ZeroDivisionError" in log.read_text()


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    import errno

    import factory.pipeline.verbs.inspect as verb

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "x.csv")

    monkeypatch.setattr(verb, "inspect", full)
    assert run(["inspect", "DARTS_V2"]) == 2
    assert "disk is full while writing x.csv" in capsys.readouterr().err


def test_the_command_that_goes_on_is_quoted():
    assert command_line(["build", "my recipe.toml"]) == "factory build 'my recipe.toml'"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_prints_the_command_that_goes_on(number):
    code = (
        "import sys, time, factory.pipeline.verbs.report as verb\n"
        "def slow(run):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(200)\n"
        "verb.report = slow\n"
        "from factory.cli.main import run\n"
        "sys.exit(run(['report', 'some run']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "factory report 'some run'" in error


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_sleep_soon_unless_the_user_says_otherwise(
    monkeypatch, capsys, given, expected
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert run(["--version"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["verify", "\udc80.onnx", "--device", "x"], "is not UTF-8 text"),
        (["inspect", "a\0b.onnx"], "holds a null character"),
        (["inspect", "x" * 5000], "an argument of 5000 characters is too long"),
        (["inspect", "x" * 300 + ".json"], "name too long"),
        (["inspect", "x" * 300 + ".onnx"], "name too long"),
        (["build", "y" * 300], "does not exist"),
        (["report", "z" * 300], "does not exist"),
        (["table", "show", "t" * 300 + ".csv"], "name too long"),
        (["new", "n" * 300 + ".toml"], "name too long"),
        (["build", "demo", "--out", "o" * 300], "name too long"),
        (["train", "demo", "--genotype", "/dev/null/x.json"], "does not exist"),
        (["verify", "--certificate", "."], "is a folder"),
        (["table", "import", "f.csv", "--mapping", "/dev/zero"], "not a file"),
        (["verify", "m.onnx", "--device", "local-cpu-t1-fp32", "--max-latency-ms", "nan"], "nan"),
        (["build", "demo", "--seed", "9" * 5000], "5000 characters"),
        (["build", "demo", "--seed", "9" * 400], "not accepted"),
        (["build", "demo", "--seed", ""], "invalid"),
    ],
)
def test_whatever_is_typed_is_refused_in_one_line_and_leaves_nothing(
    words, says, tmp_path, monkeypatch, capsys
):
    left = tmp_path / "tmp"
    left.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(left))
    if words[0] == "build" and "--out" not in words:
        words = [*words, "--dry-run"]
    assert run(words) == 2
    told = capsys.readouterr().err.strip()
    assert "fault of the factory" not in told
    assert says.lower() in told.lower()
    assert told.isprintable()
    assert len(told) <= 1000
    assert list(left.iterdir()) == []
