"""The factory's side of the wire to a device agent: one request, its events, and patience.

A connection that fails is tried again with growing pauses until the agent answers or the patience
is over (:class:`AgentLost`). A request that was cut is reported to the caller as
:class:`RequestCut`, with whether the agent was started anew meanwhile: only the caller knows what
may be asked again.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from factory.core.errors import InputError
from factory.core.frames import write_frame
from factory.core.wire import LONGEST_JSON, Wrong, parse_json, printable
from factory.devices.agent_options import AgentOptions
from factory.devices.agent_server import MEDIA_TYPE, PROTOCOL
from factory.devices.base import answers_of
from factory.devices.messages import (
    AGENT_EVENT,
    AGENT_FACTS,
    AGENT_HELLO,
    AGENT_REFUSAL,
    LAST_EVENT,
    LONGEST_FACTS,
    LONGEST_OUTPUTS,
    read,
)

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
PIECE = 1 << 20
OTHER_AGENT = "check that a device agent of this factory listens there (`factory agent --write`)"
Event = dict[str, Any]


class AgentLost(InputError):
    """The agent cannot be reached, in spite of patience: what is measured is kept."""


class RequestCut(Exception):
    """The connection broke after the request was sent; nothing is known of its result."""


class AgentClient:
    """Requests to one agent.

    Args:
        device_id: for messages.
        options: address, certificate and patience.
        token: sent with every request; "" for none.
        answer_timeout_s: silence after which a connection counts as broken.
    """

    def __init__(
        self, device_id: str, options: AgentOptions, token: str, answer_timeout_s: float = 30.0
    ) -> None:
        self.device_id, self.options, self.token = device_id, options, token
        self.answer_timeout_s = answer_timeout_s
        self.instance = ""  # changes when the agent is started anew
        self._tls = _tls(options) if options.url.startswith("https:") else None
        self._sleep: Callable[[float], None] = time.sleep

    def facts(self) -> dict[str, Any]:
        """What the agent says about its machine."""

        def ask() -> dict[str, Any]:
            try:
                return self._exchange("GET", "/v1/facts", b"", self._facts)
            except RequestCut as cut:
                raise _Away(str(cut)) from None

        facts: dict[str, Any] = self._patiently(ask)
        return facts

    def work(self, header: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[Event, bytes]:
        """The last event of a request and what follows it; RequestCut when it was cut."""
        buffer = io.BytesIO()
        write_frame(buffer, header, blobs)
        body = buffer.getvalue()
        last = LAST_EVENT[header["command"]]
        return self._patiently(
            lambda: self._exchange("POST", "/v1/work", body, lambda r: self._events(r, last))
        )

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        """The result of ``attempt``, which is made again while the agent is away or busy."""
        started, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            waited_s = time.monotonic() - started
            try:
                return attempt()
            except _Away as away:
                if waited_s >= self.options.patience_s:
                    raise AgentLost(
                        f"the agent of device {self.device_id!r} does not answer at "
                        f"{self.options.url}",
                        why=f"{away}, for {waited_s:.0f} s",
                        fix="start device_agent.py there (or check address and network) and run "
                        "the same command again, it goes on",
                    ) from None
            except _Busy as busy:
                if waited_s >= self.options.busy_patience_s:
                    raise AgentLost(
                        f"the agent of device {self.device_id!r} is busy",
                        why=f"{busy}, for {waited_s:.0f} s",
                        fix="wait until it is free and run the same command again, it goes on",
                    ) from None
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes,
        answer: Callable[[http.client.HTTPResponse], Any],
    ) -> Any:
        """``answer`` to one request; _Away before it was heard, RequestCut after that."""
        connection = self._connection()
        try:
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                raise InputError(
                    f"the certificate of {self.options.url} is not trusted",
                    why=error.verify_message,
                    fix="set ca_file in the [agent] table of the profile, or give --ca to "
                    "`factory devices add`",
                ) from None
            except (OSError, ValueError) as error:
                raise _Away(_reason(error)) from None
            connected = connection.sock
            assert connected is not None
            connected.settimeout(self.answer_timeout_s)
            response = self._send(connection, method, path, body)
            quick_s = self.answer_timeout_s if method == "GET" else None
            try:
                with answers_of(self.device_id, OTHER_AGENT), _within(connected, quick_s):
                    if response.status != 200:
                        self._refused(response.status, response.read(1 << 16))
                    return answer(response)
            except (OSError, http.client.HTTPException) as error:
                raise RequestCut(_reason(error)) from None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes
    ) -> http.client.HTTPResponse:
        broken: OSError | None = None
        try:
            connection.putrequest(method, path)
            connection.putheader("Content-Type", MEDIA_TYPE)
            connection.putheader("Content-Length", str(len(body)))
            if self.token:
                connection.putheader("Authorization", f"Bearer {self.token}")
            connection.endheaders()
            for start in range(0, len(body), 1 << 20):
                connection.send(body[start : start + (1 << 20)])
        except OSError as error:
            broken = error  # an agent that refuses may close before it has read everything
        try:
            assert connection.sock is not None
            with _within(connection.sock, self.answer_timeout_s):
                return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            if broken is not None:
                raise _Away(_reason(broken)) from None
            raise RequestCut(_reason(error)) from None

    def _facts(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        content = response.read(LONGEST_FACTS + 1)
        if not content.endswith(b"\n") and len(content) <= LONGEST_FACTS:
            raise RequestCut("the answer was cut")
        self._remember(AGENT_HELLO(parse_json(content, LONGEST_FACTS), ""))
        facts: dict[str, Any] = read(content, AGENT_FACTS)
        return facts

    def _events(self, response: http.client.HTTPResponse, last: str) -> tuple[Event, bytes]:
        """The event that ends a request, ``last`` or an error, and what follows it."""
        while True:
            content = response.readline(LONGEST_JSON)
            if not content.endswith(b"\n") and len(content) < LONGEST_JSON:
                raise RequestCut("the answer was cut")
            event = read(content, AGENT_EVENT, LONGEST_JSON)
            kind = event["event"]
            if kind == "hello":
                self._remember(event)
            elif kind == "outputs" and last == kind:
                return event, _outputs(response, sum(event["sizes"]))
            elif kind in (last, "error"):
                return event, b""
            elif kind not in ("tick", "wait"):
                raise Wrong(f"event is {kind!r}, not {last!r}")

    def _remember(self, hello: Mapping[str, Any]) -> None:
        if hello["protocol"] != PROTOCOL:
            raise InputError(
                f"the agent at {self.options.url} speaks another protocol",
                why=f"{hello['protocol']}, this factory speaks {PROTOCOL}",
                fix="write a new one with `factory agent --write device_agent.py` and start it",
            )
        self.instance = hello["instance"]

    def _refused(self, status: int, content: bytes) -> None:
        """Raise what an answer other than 200 means."""
        try:
            said = str(read(content, AGENT_REFUSAL)["error"])
        except Wrong:
            said = f"status {status}"
        if status == 409:
            raise _Busy(said)
        if status == 503:
            raise _Away("too many connections")
        fix = ""
        if status in (401, 403):
            fix = (
                f"add it again with its token: factory devices add {self.options.url} "
                f"--id {self.device_id} --token ..."
            )
        elif status == 413:
            fix = "start the agent with a larger --max-body-mb"
        elif status == 400:
            fix = "if it is an older one, write it anew with `factory agent --write` and start it"
        elif status == 404:
            fix = "check that a device agent listens there"
        raise InputError(
            f"the agent of device {self.device_id!r} refuses the request", why=said, fix=fix
        )

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        try:
            address = urllib.parse.urlsplit(self.options.url)
            host, port, limit_s = address.hostname or "", address.port, CONNECT_TIMEOUT_S
            if self._tls is None:
                connection = http.client.HTTPConnection(host, port, timeout=limit_s)
            else:
                connection = http.client.HTTPSConnection(
                    host, port, timeout=limit_s, context=self._tls
                )
        except (ValueError, http.client.HTTPException) as error:
            raise InputError(
                f"{self.options.url!r} is no address of a device agent",
                where=f"device {self.device_id!r}",
                why=_reason(error),
                fix="write http://host:port",
            ) from None
        connection.response_class = _Response
        return connection


class _Away(Exception):
    """Nothing was heard; it is safe to ask again."""


class _Busy(Exception):
    """The agent works for somebody else."""


class _Response(http.client.HTTPResponse):
    """An answer in chunks of possible lengths; a negative one would mean "all there is"."""

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if not 0 <= size < 2**62:
            raise ValueError("an impossible length")
        return size


@contextlib.contextmanager
def _within(connected: socket.socket, limit_s: float | None) -> Iterator[None]:
    """Hang up when this takes longer: whoever sends a byte now and then is never silent."""
    if limit_s is None:
        yield
        return
    watchdog = threading.Timer(limit_s, _hang_up, (connected,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _hang_up(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _outputs(response: http.client.HTTPResponse, size: int) -> bytes:
    """``size`` bytes; memory is taken for what comes, not for what is announced."""
    if size > LONGEST_OUTPUTS:
        raise Wrong(f"outputs of {size} bytes, {LONGEST_OUTPUTS} are accepted")
    content = io.BytesIO()
    while missing := size - content.tell():
        part = response.read(min(missing, PIECE))
        if not part:
            raise RequestCut(f"{content.tell()} of {size} bytes of the outputs came")
        content.write(part)
    return content.getvalue()


def _tls(options: AgentOptions) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the certificate file {options.ca_file!r} cannot be used",
            why=_reason(error),
            fix="set ca_file to a PEM file",
        ) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return printable(str(error), 200) or type(error).__name__
