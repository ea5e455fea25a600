"""The files of the page: ours, and ONNX Runtime Web's where they have been put in place."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from factory.core.errors import InputError

WEB = Path(__file__).resolve().parent / "web"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/facts.js": ("facts.js", "text/javascript; charset=utf-8"),
    "/runner.js": ("runner.js", "text/javascript; charset=utf-8"),
    "/timing.js": ("timing.js", "text/javascript; charset=utf-8"),
}
KINDS = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}


def ort_files(folder: Path = WEB / "ort") -> dict[str, tuple[Path, str]]:
    """URL path -> (file, content type) of ONNX Runtime Web; InputError when they are not there."""
    names = _listing(folder)["files"]
    return {f"/ort/{name}": (folder / name, KINDS[Path(name).suffix]) for name in names}


def ort_version(folder: Path = WEB / "ort") -> str:
    """Version of ONNX Runtime Web that the page runs."""
    return str(_listing(folder)["version"])


@functools.cache
def _listing(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "files.json"
    try:
        listing: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in listing["files"] if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError):
        missing = ["its list of files"]
        listing = {}
    if missing:
        raise InputError(
            "the page's copy of ONNX Runtime Web is not in this installation",
            why=f"{missing[0]} is missing: a wheel holds it, a checkout of the source does not",
            fix="run `make web` in the checkout, it gets one pinned release and checks its hash",
        )
    return listing
