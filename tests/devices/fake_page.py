"""A page without a browser: pairs, takes jobs and answers them, for tests of the server's side."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse

FACTS = {
    "user_agent": "Mozilla/5.0 (Linux; Android 14; Pixel 8) Chrome/150.0.0.0 Mobile Safari/537.36",
    "hints": {"model": "Pixel 8", "platform": "Android"},
    "cores": 9,
    "isolated": True,
    "shared_memory": True,
    "simd": True,
    "tick_ms": 0.005,
}


class FakePage:
    def __init__(self, url: str, facts: dict | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.token = urllib.parse.parse_qs(parts.fragment)["token"][0]
        self.facts = FACTS if facts is None else facts
        self.session, self.visit = "", 0

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body of one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        own = {"X-Session": self.session, "X-Visit": str(self.visit), **(headers or {})}
        data = json.dumps(body) if isinstance(body, dict) else body
        try:
            connection.request(method, path, data, own)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def tell(self, path, body):
        status, _, content = self.ask("POST", path, body)
        return status, json.loads(content)

    def pair(self):
        status, answer = self.tell("/api/pair", {"token": self.token, "facts": self.facts})
        self.session, self.visit = answer.get("session", ""), answer.get("visit", 0)
        return status

    def hello(self):
        status, answer = self.tell("/api/hello", {"facts": self.facts})
        self.visit = answer.get("visit", 0)
        return status

    def work(self):
        return json.loads(self.ask("GET", "/api/work")[2])

    def in_background(self, target):
        def course():
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                target()  # the server may be gone before the course is over

        thread = threading.Thread(target=course, daemon=True)
        thread.start()
        return thread


def ok(median_ms=2.0, **more):
    return {
        "status": "ok",
        "median_ms": median_ms,
        "p10_ms": median_ms * 0.9,
        "p90_ms": median_ms * 1.2,
        "min_ms": median_ms * 0.8,
        "runs": 20,
        "session_ms": 3.0,
        **more,
    }
