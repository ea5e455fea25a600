"""Processes forked from one that has imported everything: they can be killed, and start at once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def exit_code(function: Callable[..., int | None], *arguments: Any) -> int:
    """Call ``function`` in a process of its own; its exit code, or minus the signal that ended it.

    Only for programs without threads: those of the parent are missing in the child.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        code = function(*arguments) or 0
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
