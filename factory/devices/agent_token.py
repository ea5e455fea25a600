"""Where the token of a device agent is kept: an environment variable, or a private file.

Never in the device profile, which people commit. The variable FACTORY_TOKEN_<ID> wins (the id in
capitals, everything but letters and digits as "_"); else the file tokens/<id> in the user's
configuration folder, readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from factory.core.errors import InputError


def token_variable(device_id: str) -> str:
    """Name of the environment variable that may hold a device's token."""
    return "FACTORY_TOKEN_" + re.sub(r"[^A-Z0-9]", "_", device_id.upper())


def token_path(device_id: str) -> Path:
    """The private file of a device's token."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "model-factory" / "tokens" / device_id


def load_token(device_id: str) -> str:
    """The token of a device; "" when there is none."""
    token = os.environ.get(token_variable(device_id), "")
    if not token:
        with contextlib.suppress(FileNotFoundError):
            try:
                token = token_path(device_id).read_text(encoding="utf-8")
            except (PermissionError, UnicodeDecodeError, IsADirectoryError) as error:
                raise InputError(
                    f"the token of device {device_id!r} cannot be read",
                    where=str(token_path(device_id)),
                    why=str(error),
                    fix=f"repair the file or set {token_variable(device_id)}",
                ) from None
    return check_token(token.strip())


def check_token(token: str) -> str:
    """The token, when it can stand in a header."""
    if token and not (token.isascii() and token.isprintable()):
        raise InputError("the token holds characters that no token has", fix="copy it again")
    return token


def save_token(device_id: str, token: str) -> Path:
    """Keep a token in its private file; an older one is replaced."""
    path = token_path(device_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(check_token(token) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"the token of device {device_id!r} cannot be kept",
            where=str(path),
            why=os.strerror(error.errno or 0),
            fix=f"set {token_variable(device_id)} in its place",
        ) from None
    return path
