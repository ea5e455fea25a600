"""Checkpoints of a search: tensors and plain values in one safetensors file, written atomically.

The file holds the SHA-256 of its content: one in which a single bit changed is refused.

The history (one JSON line a step) is cut back to what the checkpoint knows when a search resumes,
so that no step appears twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from factory.core.errors import InputError
from factory.core.files import disk_errors, write_atomic_bytes
from factory.core.reading import an_object, parse_json, read_text

SCHEMA_VERSION = 2
FILE = "checkpoint.safetensors"


def save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write ``tensors`` and JSON ``values`` (floats exactly)."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = json.dumps({"schema_version": SCHEMA_VERSION, **values})
    # one entry: safetensors writes several in any order, and the same state is the same file
    about = {"state": f"{_digest(header, plain)} {header}"}
    write_atomic_bytes(path, safetensors.torch.save(plain, about))


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the values and every tensor: name, type, shape, content."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save` wrote; ValueError where the file is anything else."""
    try:
        with safe_open(str(path), "pt") as stream:
            about = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from None
    digest, _, header = about.get("state", "").partition(" ")
    if digest != _digest(header, tensors):
        raise ValueError("its content is not what was written, or an earlier version wrote it")
    values: dict[str, Any] = json.loads(header)
    return tensors, values


def load(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint at ``path``, None when there is none; another search's is refused."""
    if not path.exists():
        return None
    try:
        tensors, values = _read(path)
    except ValueError as error:
        raise InputError(
            f"the checkpoint {path} cannot be read", why=str(error), fix="remove it"
        ) from None
    if values.get("schema_version") != SCHEMA_VERSION or values["fingerprint"] != fingerprint:
        raise InputError(
            f"the checkpoint {path} is of a search with other settings, data, seed or budgets, "
            "or of an earlier version",
            fix=f"search in another folder, or remove {path.parent} to start afresh",
        )
    return tensors, values


def step_of(path: Path) -> int | None:
    """The step that the checkpoint at ``path`` was taken after; None where there is none."""
    try:
        return int(_read(path)[1]["step"])
    except ValueError:
        return None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], prefix: str
) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors."""
    return {
        f"{prefix}.{i}.{key}": value
        for i, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    prefix: str,
    tensors: dict[str, Tensor],
) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name.removeprefix(f"{prefix}.").split(".", 1)
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter).copy_(value).detach()
            optimizer.state[parameter][key] = value.clone()


class History:
    """A JSONL file that knows its length in bytes; with ``write`` false nothing is written."""

    def __init__(self, path: Path, write: bool = True) -> None:
        self.path, self.write = path, write
        self._stream: IO[bytes] | None = None

    def open(self, size: int, prefix: bytes = b"") -> None:
        """Start with ``prefix``, or keep the first ``size`` bytes of what is there."""
        if not self.write:
            return
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if size and self.path.exists() and self.path.stat().st_size >= size:
                os.truncate(self.path, size)
                self._stream = self.path.open("ab")
            else:
                self._stream = self.path.open("wb")
                self._stream.write(prefix)
                self._stream.flush()

    def append(self, row: dict[str, Any]) -> None:
        """Write one line; it survives the end of this process."""
        if not self.write:
            return
        assert self._stream is not None
        with disk_errors(self.path):
            self._stream.write(json.dumps(row).encode() + b"\n")
            self._stream.flush()

    def size(self) -> int:
        """Bytes written, on the disk for certain."""
        assert self._stream is not None
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def rows(self) -> list[dict[str, Any]]:
        """All lines."""
        lines = read_text(self.path, "history").splitlines()
        where = f"a line of history {self.path}"
        return [an_object(parse_json(line, where, lenient=True), where) for line in lines]
