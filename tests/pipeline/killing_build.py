"""A build that sends itself a signal at the N-th call of a function.

Arguments: MODULE:NAME:N[:SIGNAL] RECIPE OUT, the signal being SIGKILL unless named.
"""

import importlib
import os
import signal
import sys


def main() -> int:
    import torch

    torch.set_num_threads(1)
    where, recipe, out = sys.argv[1:4]
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
    sys.exit(main())
