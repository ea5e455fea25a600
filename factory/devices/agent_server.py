"""The HTTP server of the device agent: who may ask, how much at once, and the answers as they come.

    GET  /v1/facts   the machine and its runtime, JSON
    POST /v1/work    one frame (factory/core/frames.py) with "command" describe, time or run;
                     answered in chunks, one JSON event a line; the contents of outputs follow
                     the last line as they are

Everything is bounded: connections, the size and the time of a body, one request at work. The
place at work is taken before a body is read, so that fifty large bodies never lie in memory at
once. Part of the device agent: standard library only.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast

from factory.core.frames import BrokenFrame, read_frame
from factory.core.wire import digits, printable
from factory.devices.agent_jobs import BadRequest, ClientGone, Jobs

PROTOCOL = 1
MEDIA_TYPE = "application/x-factory-frame"
MOST_CONNECTIONS = 64
HEADER_TIMEOUT_S = 10.0
HEADERS_WITHIN_S = 20.0
MOST_DRAINED = 8 << 20  # of a stranger's body
BODY_TIMEOUT_S = 60.0
SLOWEST_BYTES_PER_S = 50_000
LONGEST_HEADER = 1 << 20
DRAIN_TIMEOUT_S = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class AgentServer(ThreadingHTTPServer):
    """Listens; hands each connection to a thread, and a few at most.

    Args:
        address: host and port; port 0 takes a free one.
        jobs: does the work.
        token: what every request must carry; "" only on loopback.
        tls: certificate and key, or None for plain HTTP.
        log: where a line a request goes; None: nowhere.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        jobs: Jobs,
        token: str = "",
        tls: ssl.SSLContext | None = None,
        log: Any = sys.stderr,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)
        self.jobs, self.token, self.tls, self.log = jobs, token, tls, log
        self.instance = uuid.uuid4().hex
        self.at_work = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or answer at once that there are too many."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:
                self._places.release()
                raise
            return
        with contextlib.suppress(OSError):
            request.settimeout(1.0)
            if self.tls is None:
                request.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                )
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS where asked for; a slow or failed handshake costs only its own thread."""
        request.settimeout(HEADER_TIMEOUT_S)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with (
            contextlib.suppress(OSError),
            self.tls.wrap_socket(request, server_side=True) as wrapped,
        ):
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed says so in one line; the others go on."""
        error = sys.exc_info()[1]
        if self.log is not None and not isinstance(error, OSError):
            print(f"{client_address[0]}: {type(error).__name__}: {error}", file=self.log)


class Handler(BaseHTTPRequestHandler):
    """One request; every connection is closed after it."""

    protocol_version = "HTTP/1.1"
    server_version = "factory-agent"
    sys_version = ""
    server: AgentServer

    def setup(self) -> None:
        """Headers that do not come to an end cost the client its connection."""
        super().setup()
        self._watchdog = threading.Timer(HEADERS_WITHIN_S, self._hang_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def parse_request(self) -> bool:
        """The request's line and headers are here."""
        parsed = super().parse_request()
        self._watchdog.cancel()
        return parsed

    def finish(self) -> None:
        """The connection ends."""
        self._watchdog.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """The facts of this machine."""
        if not self._allowed(0):
            return
        if self.path != "/v1/facts":
            self._refuse(404, f"there is nothing at {printable(self.path, 100)}")
            return
        self._json(200, {**self._hello(), **self.server.jobs.facts()})

    def do_POST(self) -> None:
        """Work."""
        announced = digits(self.headers.get("Content-Length", ""))
        length = -1 if announced is None else announced
        if not self._allowed(length):
            return
        limit = self.server.jobs.limits.body_mb << 20
        if self.path != "/v1/work":
            self._refuse(404, f"there is nothing at {printable(self.path, 100)}", length)
        elif self.headers.get("Content-Type") != MEDIA_TYPE:
            self._refuse(415, f"the body must be {MEDIA_TYPE}", length)
        elif length < 0 or "Transfer-Encoding" in self.headers:
            self._refuse(411, "the body's length must be told (Content-Length)", length)
        elif length > limit:
            self._refuse(413, f"a body of {length} bytes, {limit} are accepted", length)
        elif not self.server.at_work.acquire(blocking=False):
            self._refuse(409, "another measurement is running", length)
        else:
            try:
                refusal = self._work(length)
            finally:
                self.server.at_work.release()
            # Only now: who has read the end of an answer may ask again at once.
            if refusal:
                self._refuse(400, refusal)
            else:
                self._chunk(b"")

    def _work(self, length: int) -> str:
        """Do what the body asks, all of the answer but its end; why it is refused, if it is."""
        body = _Body(self.rfile, self.connection, length)
        try:
            frame = read_frame(cast(BinaryIO, body), LONGEST_HEADER, length)
            if frame is None or body.left:
                raise BrokenFrame("the body is empty" if frame is None else "more than one frame")
        except (BrokenFrame, OSError) as error:
            return f"the body is damaged ({printable(str(error), 300)})"
        except MemoryError:
            return f"there is no memory here for a body of {length} bytes"
        self.connection.settimeout(BODY_TIMEOUT_S)
        self._started = False
        try:
            header, blobs = frame
            last, contents = self.server.jobs.handle(header, blobs, self._say)
        except BadRequest as error:
            if not self._started:
                return str(error)
            self._say({"event": "error", "what": str(error)})
            return ""
        except ClientGone as gone:
            raise ConnectionAbortedError(str(gone)) from None
        self._say(last)
        for content in contents:
            for start in range(0, len(content), 1 << 20):
                self._chunk(content[start : start + (1 << 20)])
        return ""

    def _say(self, event: Mapping[str, Any]) -> None:
        """One event as a line of its own chunk; the headers go before the first."""
        if not self._started:
            self._started = True
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            self._chunk(json.dumps({"event": "hello", **self._hello()}).encode() + b"\n")
        self._chunk(json.dumps(event).encode() + b"\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def _hello(self) -> dict[str, Any]:
        return {"protocol": PROTOCOL, "instance": self.server.instance}

    def _allowed(self, length: int) -> bool:
        """Whether the request carries the token (or comes from this machine's own programs)."""
        token = self.server.token
        if token:
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if hmac.compare_digest(given, b"Bearer " + token.encode()):
                return True
            self._refuse(401, "a token is required, and this is not it", min(length, MOST_DRAINED))
            return False
        host = self.headers.get("Host", "")
        name = host[1:].split("]")[0] if host.startswith("[") else host.split(":")[0]
        if name in LOOPBACK:
            return True
        self._refuse(403, "without a token only this machine may ask", length)
        return False

    def _refuse(self, status: int, error: str, unread: int = 0) -> None:
        """Say no; then take in what the client still sends, or it would not read the answer."""
        self._json(status, {"error": error})
        with contextlib.suppress(OSError):
            self.connection.settimeout(2.0)
            self.connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while unread > 0 and time.monotonic() < deadline:
                part = self.rfile.read1(min(unread, 1 << 16))
                if not part:
                    return
                unread -= len(part)

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status in (409, 503):
            self.send_header("Retry-After", "1")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, where it is wanted."""
        if self.server.log is not None:
            clean = printable((format % args).encode("ascii", "backslashreplace").decode(), 300)
            print(
                f"{time.strftime('%H:%M:%S')} {self.client_address[0]} {clean}",
                file=self.server.log,
            )


class _Body:
    """A request's body: never more than its announced length, never slower than the limit."""

    def __init__(self, stream: Any, connection: socket.socket, length: int) -> None:
        self.left = length
        self._stream, self._connection = stream, connection
        self._deadline = time.monotonic() + BODY_TIMEOUT_S + length / SLOWEST_BYTES_PER_S

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer at the end of the body."""
        size = min(size, self.left)
        parts, missing = [], size
        while missing:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("it came too slowly")
            self._connection.settimeout(min(left_s, HEADER_TIMEOUT_S))
            part = self._stream.read1(min(missing, 1 << 20))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.left -= size - missing
        return b"".join(parts)
