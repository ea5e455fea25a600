"""The command of the device agent: its options, what it prints, how it ends.

`python device_agent.py --help`, or `factory agent --help` where the factory is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from factory.core.provenance import cpu_name
from factory.devices.agent_facts import memory_mb
from factory.devices.agent_gate import Gate
from factory.devices.agent_jobs import Jobs, Limits
from factory.devices.agent_server import AgentServer
from factory.devices.environment import COMMAND

TOKEN_VARIABLE = "FACTORY_AGENT_TOKEN"
DEFAULT_PORT = 8765
SHORTEST_TOKEN = 8
ENDING_S = 5.0  # for what is at work to notice


class Refused(Exception):
    """The agent does not start; one sentence."""


def parser(program: str) -> argparse.ArgumentParser:
    """The options."""
    half_mb = (memory_mb()["total"] or 4096) // 2
    made = argparse.ArgumentParser(
        prog=program,
        description="Let the factory measure models on this machine through ONNX Runtime.",
        epilog="The token may also come from the environment variable " + TOKEN_VARIABLE + ".",
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the network")
    add("--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 takes a free one")
    add(
        "--token", default=None, help="secret that every request must carry; beyond loopback a must"
    )
    add("--token-file", default=None, help="file that holds the token")
    add("--cert", default=None, help="TLS certificate chain (PEM); then HTTPS is spoken")
    add("--key", default=None, help="private key of the certificate (PEM)")
    add("--max-body-mb", type=int, default=512, help="largest request (default 512)")
    add("--memory-mb", type=int, default=half_mb, help="memory of a model (default half of all)")
    add("--max-temperature", type=float, default=75.0, help="wait while hotter (default 75 C)")
    add("--max-busy-cores", type=float, default=0.5, help="wait while busier (default 0.5 cores)")
    add("--longest-wait", type=float, default=60.0, help="then measure all the same (default 60 s)")
    add(
        "--longest-request", type=float, default=3600.0, help="end a request after (default 3600 s)"
    )
    add("--quiet", action="store_true", help="no line a request")
    return made


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "factory agent",
    command: Sequence[str] = COMMAND,
) -> int:
    """Serve until interrupted; the exit code."""
    options = parser(program).parse_args(arguments)
    try:
        server = make_server(options, command)
    except Refused as refused:
        print(f"error: {refused}.", file=sys.stderr)
        return 2
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _interrupt)
    for line in greeting(server, options):
        print(line, flush=True)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        server.server_close()
        server.jobs.ending = True
        server.at_work.acquire(timeout=ENDING_S)
        server.jobs.close()
    return 0


def make_server(options: argparse.Namespace, command: Sequence[str]) -> AgentServer:
    """The server, listening; Refused says what is wrong with the options."""
    token = _token(options)
    tls = _tls(options)
    if not is_loopback(options.host) and not token:
        raise Refused(
            f"a token is required to listen on {options.host}; start with "
            f"--token {secrets.token_urlsafe(18)} (made up just now) or set {TOKEN_VARIABLE}"
        )
    if min(options.max_body_mb, options.memory_mb) < 1 or options.longest_request <= 0:
        raise Refused("--max-body-mb, --memory-mb and --longest-request must be more than 0")
    limits = Limits(options.max_body_mb, options.memory_mb, options.longest_request)
    gate = Gate(options.max_temperature, options.max_busy_cores, options.longest_wait)
    try:
        return AgentServer(
            (options.host, options.port),
            Jobs(limits, gate, command),
            token,
            tls,
            None if options.quiet else sys.stderr,
        )
    except (OSError, OverflowError) as error:
        raise Refused(f"cannot listen on {options.host} port {options.port} ({error})") from None


def greeting(server: AgentServer, options: argparse.Namespace) -> list[str]:
    """What is told at the start."""
    scheme = "https" if server.tls else "http"
    host, port = options.host, server.server_address[1]
    shown = f"[{host}]" if ":" in host else host
    lines = [f"device agent on {scheme}://{shown}:{port} ({cpu_name()}, {os.cpu_count()} cores)"]
    reach = shown if is_loopback(host) else "<this machine's address>"
    secret = " --token <the token>" if server.token else ""
    lines.append(f"add it with: factory devices add {scheme}://{reach}:{port}{secret}")
    if not is_loopback(host) and not server.tls:
        lines.append(
            "plain HTTP: token and models can be read on the way, use it on a network you trust "
            "only, or give --cert and --key"
        )
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _token(options: argparse.Namespace) -> str:
    token = options.token
    if token is None and options.token_file is not None:
        try:
            token = Path(options.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"cannot read the token file {options.token_file} ({error})") from None
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            return ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise Refused(f"a token has at least {SHORTEST_TOKEN} printable ASCII characters")
    return str(token)


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if (options.cert is None) != (options.key is None):
        raise Refused("--cert and --key go together")
    if options.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"the certificate or its key cannot be used ({error})") from None
    return context


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
