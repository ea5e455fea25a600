"""Builds that send themselves a signal at the N-th call of a function.

One server imports what a build needs, once; each build is a process forked from it. A request is a
line of JSON: [MODULE:NAME:N[:SIGNAL] or "never", recipe, out, file for stdout, file for stderr];
the signal is SIGKILL unless named. The answer is the build's exit code, or minus the signal.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked

# Imported by a build on its way; seconds that every build would spend again. No thread but one of
# pandas' allocator (jemalloc, which is made for forks) runs after these imports.
NEEDED = (
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "onnxscript",
    "pandas",
    "sklearn.datasets",
    "sklearn.ensemble",
    "matplotlib.backends.backend_svg",
    "factory.cli.build",
    "factory.pipeline.build",
    "factory.pipeline.stages.report",
    "factory.reporting.report",
    "factory.search.bilevel",
    "factory.training.loop",
)


class Builds:
    """A server in a process of its own; calling it builds."""

    def __init__(self, folder: Path) -> None:
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, recipe, out, where="never") -> subprocess.CompletedProcess:
        request = [where, str(recipe), str(out), str(self.out), str(self.err)]
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(
            request, code, self.out.read_text(), self.err.read_text()
        )

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


def serve() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    for line in sys.stdin:
        *build, out, err = json.loads(line)
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            if hasattr(os, "fork"):
                code = forked.exit_code(told, build, stdout.fileno(), stderr.fileno())
            else:
                command = [sys.executable, __file__, *build]
                code = subprocess.call(command, stdout=stdout, stderr=stderr)
        print(code, flush=True)


def told(build, stdout: int, stderr: int) -> int:
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    return run_build(*build)


def run_build(where: str, recipe: str, out: str) -> int:
    import torch

    torch.set_num_threads(1)
    if where != "never":
        module_name, path, number, *named = where.split(":")
        number_of_signal = signal.Signals[named[0]] if named else signal.SIGKILL
        owner = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = getattr(owner, name)
        calls = [0]

        def counted(*args, **kwargs):
            calls[0] += 1
            if calls[0] == int(number):
                os.kill(os.getpid(), number_of_signal)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
    from factory.cli.main import run

    return run(["build", recipe, "--out", out, "--quiet", "--json"])


if __name__ == "__main__":
    sys.exit(run_build(*sys.argv[1:]) if sys.argv[1:] else serve())
