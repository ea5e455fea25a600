"""Entry point of the command: runs a verb and turns what goes wrong into one sentence.

Exit codes: 0; 1 a budget or a certificate does not hold; 2 wrong input (or a fault of ours, with
the path of a log); 3 not decided, the machine was too busy to measure; 130 interrupted, with the
command that goes on.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from types import FrameType

from factory.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_WRONG_INPUT,
    FactoryError,
    InputError,
)
from factory.core.files import REFUSED
from factory.core.temporary import LOG_PREFIX, LOG_SUFFIX, remove_abandoned

LONGEST_WORD = 4096  # characters of an argument; no path of a file is longer


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _terminate_like_interrupt()
    _share_the_cores()
    remove_abandoned()
    from factory.cli.app import app

    try:
        _check_words(arguments)
        result = app(args=arguments, prog_name="factory", standalone_mode=False)
    except FactoryError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        result = EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_OK
    except Exception as error:
        return _unexpected(error, debug)
    if result == EXIT_INTERRUPTED:
        _say(f"interrupted; to go on: {command_line(arguments)}")
    return result if isinstance(result, int) else EXIT_OK


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse what can be no name, number or path, before any part of the factory sees it."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{word!r} is not UTF-8 text", fix="rename the file and give its new name"
            ) from None
        if "\0" in word:
            raise InputError(f"{word!r} holds a null character", fix="leave it out")
        if len(word) > LONGEST_WORD:
            raise InputError(
                f"an argument of {len(word)} characters is too long",
                why=f"{word[:40]}...",
                fix=f"give at most {LONGEST_WORD}",
            )


def command_line(arguments: Sequence[str]) -> str:
    """The command a person types to run this again."""
    return shlex.join(["factory", *arguments])


def _terminate_like_interrupt() -> None:
    """SIGTERM ends the run like Ctrl-C: children are closed and the command that goes on shown."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not in the main thread (the command called from a program)
        return


def _share_the_cores() -> None:
    """Let idle OpenMP threads sleep soon, before a library that reads these variables is loaded.

    A thread of torch that waits for its siblings spins, for milliseconds by default. While another
    program uses the cores that makes a training step many times slower; a short spin costs an idle
    machine a few percent (tools/bench_threads.py). What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _unexpected(error: Exception, debug: bool) -> int:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's own errors
        # As the parser knows its context, it can show the usage line too.
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        _say(f"error: {error.format_message().rstrip('.')}{hint}.")
        return EXIT_WRONG_INPUT
    if debug:
        traceback.print_exc()
    if isinstance(error, OSError) and error.errno in (*REFUSED, errno.ENOENT):
        told = InputError(
            f"cannot use {error.filename}" if error.filename else "a path cannot be used",
            why=error.strerror or "",
            fix="check the path",
        )
        _say(f"error: {told}")
        return EXIT_WRONG_INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        at = f" while writing {error.filename}" if error.filename else ""
        _say(
            f"error: the disk is full{at}; free some space and run the same command again, "
            "what is done is kept."
        )
        return EXIT_WRONG_INPUT
    if isinstance(error, MemoryError):
        _say(
            "error: there is not enough memory"
            + (f" ({' '.join(str(error).split())[:200]})" if str(error) else "")
            + "; close other programs, or give a smaller input."
        )
        return EXIT_WRONG_INPUT
    log = "" if debug else _write_log(error)
    where = f"; the details are in {log}" if log else "; run it again with --debug for details"
    text = " ".join(str(error).split())[:300]
    _say(f"error: a fault of the factory itself: {type(error).__name__}: {text}{where}.")
    return EXIT_WRONG_INPUT


def _write_log(error: Exception) -> str:
    """The traceback in a new file; its path, or "" when even that cannot be written."""
    try:
        handle, path = tempfile.mkstemp(prefix=LOG_PREFIX, suffix=LOG_SUFFIX)
        with os.fdopen(handle, "w") as stream:
            stream.write("command: factory " + shlex.join(sys.argv[1:]) + "\n\n")
            traceback.print_exception(error, file=stream)
    except OSError:
        return ""
    return path


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return
