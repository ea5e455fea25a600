"""Check, before anything is installed, that Python, its venv module and the disk will do.

Run by `make demo` and `make test`; needs only the standard library and any Python 3.
"""

import importlib.util
import os
import shutil
import sys

NEEDED_GB = 7.0  # 5.4 GB installed, the rest while wheels are unpacked
MINIMUM_PYTHON = (3, 11)


def problem(venv):
    """One sentence that says what is missing and what to do, or None when all is there."""
    if sys.version_info < MINIMUM_PYTHON:
        found = ".".join(str(part) for part in sys.version_info[:3])
        return (
            f"Python 3.11 or newer is needed and this is {found}; "
            "name another one: make demo PYTHON=python3.11"
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        return (
            "this Python has no venv module; install it "
            "(Debian, Ubuntu: apt install python3-venv) and run make again"
        )
    if not os.path.exists(os.path.join(venv, "lib")):
        folder = os.path.dirname(os.path.abspath(venv))
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < NEEDED_GB:
            return (
                f"the installation needs about {NEEDED_GB:.0f} GB and {folder} has "
                f"{free_gb:.1f} GB free; free some space and run make again"
            )
    return None


if __name__ == "__main__":
    text = problem(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    if text:
        sys.exit("make: " + text)
