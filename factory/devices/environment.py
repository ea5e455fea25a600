"""The Python that runs a worker: the factory's own, or one of an environment named in a profile.

Some execution providers come as a package that replaces onnxruntime (onnxruntime-openvino), so they
need an environment of their own. The worker needs only numpy and onnxruntime there; it gets a copy
of its own source files, because the factory's site-packages on its path would bring back the
factory's onnxruntime.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import InputError

if TYPE_CHECKING:
    from factory.devices.profile import DeviceProfile

WORKER = ("-P", "-m", "factory.devices.worker")
COMMAND = (sys.executable, *WORKER)
PACKAGES = {
    "OpenVINOExecutionProvider": "onnxruntime-openvino==1.24.1",
    "QNNExecutionProvider": "onnxruntime==1.32.0 onnxruntime-qnn==2.7.0",
}
NEEDED_FILES = (
    "__init__.py",
    "core/__init__.py",
    "core/frames.py",
    "core/made_up.py",
    "core/wire.py",
    "devices/__init__.py",
    "devices/context.py",
    "devices/measure.py",
    "devices/memory.py",
    "devices/placing.py",
    "devices/start_up.py",
    "devices/worker.py",
)

QNN = "QNNExecutionProvider"


def emulator(profile: DeviceProfile) -> str:
    """Why times on this machine are not those of the chip; "" when they are.

    On x86-64 the QNN provider runs its HTP emulator: which nodes it takes and what they compute is
    true, its cycle counts are scaled host time.
    """
    if profile.execution_provider == QNN and platform.machine().lower() in ("x86_64", "amd64"):
        return "QNN emulates the accelerator on this machine: its times say nothing of the chip"
    return ""


def own_command(profile: DeviceProfile) -> tuple[str, ...] | None:
    """Command of a worker in the profile's own environment; None when it names none."""
    options = getattr(profile, "local", None)
    if options is None or not options.interpreter:
        return None
    return (str(find_interpreter(profile, options.interpreter)), *WORKER)


def find_interpreter(profile: DeviceProfile, name: str) -> Path:
    """The interpreter's path; InputError with the exact commands that make the environment."""
    from factory.core.resources import user_home

    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else [Path.cwd() / given, user_home() / given]
    for place in places:
        if place.is_file():
            return place.absolute()  # not resolved: a venv's python is a link that must stay one
    folder = given.parent.parent if given.parent.name in ("bin", "Scripts") else given.parent
    packages = PACKAGES.get(profile.execution_provider, "onnxruntime")
    raise InputError(
        f"the environment of device {profile.id!r} is not there: {name}",
        why=f"{profile.execution_provider} comes with another onnxruntime than the factory's",
        fix=f"make it: python3 -m venv {folder} && {given} -m pip install {packages} numpy",
    )


def copy_worker(folder: Path) -> Path:
    """Copy the worker's source files below ``folder``; the folder that goes on PYTHONPATH."""
    package = Path(__file__).resolve().parents[1]
    root = folder / "code"
    for name in NEEDED_FILES:
        target = root / "factory" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target)
    return root
