"""Where profiles, tables and recipes live: the user's own first, then those of the package.

Order: the working folder, ``$FACTORY_HOME``, the package's own data. The first match wins.
"""

from __future__ import annotations

import os
from pathlib import Path

KINDS = ("device_profiles", "latency_tables", "recipes")


def user_home() -> Path:
    """The user's own folder: ``$FACTORY_HOME`` or the working folder."""
    home = os.environ.get("FACTORY_HOME")
    return Path(home).expanduser() if home else Path.cwd()


def search_path(kind: str) -> list[Path]:
    """Existing folders that may hold files of ``kind``, most specific first."""
    package = Path(__file__).resolve().parents[1]
    roots = [Path.cwd() / kind, user_home() / kind, package / "_data" / kind, package.parent / kind]
    seen: list[Path] = []
    for root in roots:
        resolved = root.resolve()
        if resolved.is_dir() and resolved not in seen:
            seen.append(resolved)
    return seen


def find_resources(kind: str, suffix: str) -> dict[str, Path]:
    """Stem -> path of every file of ``kind`` with ``suffix``; the user's own win."""
    found: dict[str, Path] = {}
    for folder in search_path(kind):
        for path in sorted(folder.glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return found
