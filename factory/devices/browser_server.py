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
from factory.devices.browser_files import PAGE, WEB, ort_files
from factory.devices.browser_link import Job, Link, Refused

LONGEST_JSON = 4 << 20
LONGEST_REPLY = 512 << 20
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
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.2)
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
        app = web.Application(client_max_size=LONGEST_JSON, middlewares=[_guard])
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
        body = await _json(request)
        session, visit = self.link.pair(str(body.get("token", "")), _facts(body))
        return web.json_response({"session": session, "visit": visit})

    async def _hello(self, request: web.Request) -> web.StreamResponse:
        session = request.headers.get("X-Session", "")
        visit = self.link.hello(session, _facts(await _json(request)))
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
        job, body = self._job(request), await _json(request)
        index, phase = body.get("index"), body.get("phase")
        self.link.tick(job, index if isinstance(index, int) else -1, str(phase or ""))
        return web.json_response({"status": self.link.status})

    async def _result(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        self.link.result(job, int(request.match_info["index"]), await _json(request))
        return web.json_response({"status": self.link.status})

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        try:
            frame = read_frame(io.BytesIO(await _bounded(request)))
        except (BrokenFrame, KeyError, TypeError, ValueError):
            frame = None
        if frame is None:
            raise Refused(400, "this is not a whole answer")
        self.link.reply(job, frame)
        return web.json_response({"status": self.link.status})

    def _check(self, request: web.Request) -> None:
        self.link.check(request.headers.get("X-Session", ""), request.headers.get("X-Visit", ""))

    def _job(self, request: web.Request) -> Job:
        self._check(request)
        return self.link.job(int(request.match_info["job"]))


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


async def _json(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body, which must be small (aiohttp refuses a longer one)."""
    try:
        body = await request.json()
    except ValueError:
        raise Refused(400, "this is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "this is not a JSON object")
    return body


async def _bounded(request: web.Request) -> bytes:
    """The body, unless it is longer than any honest answer."""
    parts, size = [], 0
    async for part in request.content.iter_chunked(1 << 20):
        size += len(part)
        if size > LONGEST_REPLY:
            raise Refused(413, "this answer is too long")
        parts.append(part)
    return b"".join(parts)


def _facts(body: dict[str, Any]) -> dict[str, Any]:
    facts = body.get("facts")
    return facts if isinstance(facts, dict) else {}
