"""The small web server behind the page (aiohttp, in a thread of its own).

Everything the page needs comes from the package. The page is cross-origin isolated (COOP and COEP),
so that it gets WASM threads and fine timers. Only the paired page may talk: it sends its session
and the number of its visit with every request; what it sends is bounded in size.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from factory.core.errors import InputError
from factory.core.frames import BrokenFrame, read_frame, write_frame
from factory.core.wire import Form, Wrong, digits, parse_json
from factory.devices.browser_files import PAGE, WEB, ort_files
from factory.devices.browser_link import Job, Link, Refused
from factory.devices.browser_timings import read_result
from factory.devices.messages import PAGE_HELLO, PAGE_REPLY, PAGE_TICK

LONGEST_WORDS = 64 << 10  # of what may come before the page is known
LONGEST_JSON = 4 << 20
LONGEST_REPLY = 128 << 20
MOST_VALUES = 1 << 18
SILENCE_S = 30.0  # in the middle of a body
POLL_S = 0.02
LONG_POLL_S = 20.0
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; "
    "worker-src 'self' blob:; connect-src 'self' blob:; style-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PageServer:
    """Serves the page of one :class:`Link` until it is closed.

    Args:
        link: the meeting place.
        host: address to bind to.
        port: wanted port; another one is taken when it is in use.
        certificate: PEM file with key and certificate; plain HTTP without one.
    """

    def __init__(self, link: Link, host: str, port: int, certificate: Path | None = None) -> None:
        self.link = link
        self.port = 0
        self._files = {path: (WEB / name, kind) for path, (name, kind) in PAGE.items()}
        self._files |= ort_files()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._large = asyncio.Lock()  # one large body in memory at a time
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._serve, args=(host, port, certificate), name="page", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise InputError(
                f"the page cannot be served on {host}",
                why=str(self._failure),
                fix="check [browser] of the device profile",
            )

    def close(self) -> None:
        """Stop serving; waits until the thread has ended."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def _serve(self, host: str, port: int, certificate: Path | None) -> None:
        try:
            asyncio.run(self._run(host, port, certificate))
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _run(self, host: str, port: int, certificate: Path | None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=0.2, auto_decompress=False
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, ssl_context=context)
            try:
                await site.start()
            except OSError:
                if port == 0:
                    raise
                site = web.TCPSite(runner, host, 0, ssl_context=context)
                await site.start()
            self.port = int(runner.addresses[0][1])
            self._ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_guard])
        for path in self._files:
            app.router.add_get(path, self._file)
        app.router.add_post("/api/pair", self._pair)
        app.router.add_post("/api/hello", self._hello)
        app.router.add_get("/api/work", self._work)
        app.router.add_get("/api/job/{job:\\d{1,9}}/model/{index:\\d{1,5}}", self._model)
        app.router.add_get("/api/job/{job:\\d{1,9}}/arrays", self._arrays)
        app.router.add_post("/api/job/{job:\\d{1,9}}/tick", self._tick)
        app.router.add_post("/api/job/{job:\\d{1,9}}/result/{index:\\d{1,5}}", self._result)
        app.router.add_post("/api/job/{job:\\d{1,9}}/reply", self._reply)
        return app

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path, kind = self._files[request.path]
        return web.FileResponse(path, headers={"Content-Type": kind})

    async def _pair(self, request: web.Request) -> web.StreamResponse:
        body = await _words(request, PAGE_HELLO)
        session, visit = self.link.pair(body.get("token", ""), body.get("facts", {}))
        return web.json_response({"session": session, "visit": visit})

    async def _hello(self, request: web.Request) -> web.StreamResponse:
        session = request.headers.get("X-Session", "")
        visit = self.link.hello(session, (await _words(request, PAGE_HELLO)).get("facts", {}))
        return web.json_response({"session": session, "visit": visit})

    async def _work(self, request: web.Request) -> web.StreamResponse:
        """The next job, as soon as there is one; "idle" after a while."""
        waited_s = 0.0
        while True:
            self._check(request)
            job = self.link.work()
            if job is not None:
                answer = {"kind": job.kind, "job": job.number, "todo": job.offered, **job.header}
                break
            if self.link.status["finished"] or waited_s >= LONG_POLL_S:
                self.link.farewell_seen = bool(self.link.status["finished"])
                answer = {"kind": "finished" if self.link.status["finished"] else "idle"}
                break
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
        return web.json_response({**answer, "status": self.link.status})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        index = int(request.match_info["index"])
        if index >= len(job.models):
            raise Refused(404, "there is no such model")
        return web.Response(body=job.models[index], content_type="application/octet-stream")

    async def _arrays(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        if job.arrays is None:
            raise Refused(404, "this job has no arrays")
        stream = io.BytesIO()
        write_frame(stream, *job.arrays)
        return web.Response(body=stream.getvalue(), content_type="application/octet-stream")

    async def _tick(self, request: web.Request) -> web.StreamResponse:
        job, body = self._job(request), await _words(request, PAGE_TICK)
        self.link.tick(job, body["index"], body["phase"])
        return web.json_response({"status": self.link.status})

    async def _result(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request, "time")
        async with self._large:
            raw = _parsed(await _bounded(request, LONGEST_JSON))
            most_runs = max(1, job.header["plan"]["profile_runs"])
            result = read_result(raw, most_runs)
        self.link.result(job, int(request.match_info["index"]), result)
        return web.json_response({"status": self.link.status})

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request, "run")
        async with self._large:
            self._job(request, "run")  # an answer may have come meanwhile
            content = io.BytesIO(await _bounded(request, LONGEST_REPLY))
            try:
                frame = read_frame(content, LONGEST_JSON, LONGEST_REPLY)
            except BrokenFrame:
                frame = None
        if frame is None:
            raise Refused(400, "this is not a whole answer")
        try:
            self.link.reply(job, (PAGE_REPLY(frame[0], ""), frame[1]))
        except Wrong as wrong:
            reason = f"the page's answer makes no sense: {wrong}"
            self.link.reply(job, ({"reply": "error", "reason": reason}, []))
        return web.json_response({"status": self.link.status})

    def _check(self, request: web.Request) -> None:
        self.link.check(request.headers.get("X-Session", ""), request.headers.get("X-Visit", ""))

    def _job(self, request: web.Request, kind: str = "") -> Job:
        """The job that the request is about, when it still wants an answer (of that kind)."""
        self._check(request)
        job = self.link.job(int(request.match_info["job"]))
        if kind and (job.kind != kind or job.done):
            raise Refused(404, "this job wants no such answer")
        return job


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The headers of every answer; a refusal in one sentence."""
    try:
        response = await handler(request)
    except Refused as refused:
        response = web.json_response({"reason": refused.reason}, status=refused.code)
    except web.HTTPException as error:
        response = web.json_response({"reason": error.reason}, status=error.status)
    response.headers.update(HEADERS)
    return response


async def _words(request: web.Request, form: Form) -> dict[str, Any]:
    """The small message in the body, of that form."""
    try:
        body: dict[str, Any] = form(_parsed(await _bounded(request, LONGEST_WORDS)), "")
    except Wrong as wrong:
        raise Refused(400, str(wrong)) from None
    return body


def _parsed(content: bytes) -> Any:
    try:
        return parse_json(content, LONGEST_JSON, MOST_VALUES)
    except Wrong as wrong:
        raise Refused(400, str(wrong)) from None


async def _bounded(request: web.Request, longest: int) -> bytes:
    """The body, unless it is longer than any honest one or stays away."""
    if (digits(request.headers.get("Content-Length", "0")) or 0) > longest:
        raise Refused(413, f"at most {longest} bytes are accepted")
    content = io.BytesIO()
    while not request.content.at_eof():
        try:
            part = await asyncio.wait_for(request.content.readany(), SILENCE_S)
        except TimeoutError:
            raise Refused(408, "the rest of this message did not come") from None
        if content.tell() + len(part) > longest:
            raise Refused(413, f"at most {longest} bytes are accepted")
        content.write(part)
    return content.getvalue()
