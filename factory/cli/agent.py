"""`factory agent`: let a factory elsewhere measure on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def agent(
    context: typer.Context,
    write: Annotated[
        str | None,
        typer.Option(help="Write the agent as one file for another machine, and stop."),
    ] = None,
) -> None:
    """Serve this machine's ONNX Runtime to a factory elsewhere, or write the agent as one file.

    On the other machine: pip install numpy onnxruntime; python device_agent.py --help.
    Options of the agent itself (--host, --port, --token, --cert ...) are handed on.
    """
    from factory.api import agent as verb

    if write is not None:
        path = verb(write=write)["path"]
        typer.echo(f"wrote {path}; on the other machine: pip install numpy onnxruntime, then")
        typer.echo("  python device_agent.py --host 0.0.0.0")
        return
    from factory.devices.agent_main import main

    raise typer.Exit(main(context.args))
