"""Frames between the factory and its worker: a JSON header and raw bytes, over a pipe.

Layout of a frame: 8 bytes b"factory1", 4 bytes big-endian length of the header, the header (JSON,
with the lengths of the blobs under "blobs"), the blobs. Imported by the worker: standard library
and numpy only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"factory1"
_LONGEST_HEADER = 1 << 28


class BrokenFrame(Exception):
    """The stream ended inside a frame, or something else wrote into it."""


def write_frame(stream: BinaryIO, header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one frame and flush it."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(MAGIC + struct.pack(">I", len(text)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_frame(
    stream: BinaryIO, longest_header: int = _LONGEST_HEADER
) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame; None at the end of the stream; BrokenFrame when it is cut or foreign."""
    start = stream.read(len(MAGIC) + 4)
    if not start:
        return None
    if len(start) < len(MAGIC) + 4 or not start.startswith(MAGIC):
        raise BrokenFrame(f"not a frame: {start!r}")
    (length,) = struct.unpack(">I", start[len(MAGIC) :])
    if length > longest_header:
        raise BrokenFrame(f"a header of {length} bytes")
    try:
        header: dict[str, Any] = json.loads(_exactly(stream, length))
    except ValueError as error:
        raise BrokenFrame(str(error)) from None
    sizes = header.pop("blobs", None) if isinstance(header, dict) else None
    if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes):
        raise BrokenFrame("no lengths of the blobs")
    return header, [_exactly(stream, size) for size in sizes]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise BrokenFrame(f"the stream ended after {len(content)} of {size} bytes")
    return content


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Names, types and shapes for the header, and the contents as blobs."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    facts = [
        {"name": name, "dtype": array.dtype.str, "shape": list(np.shape(arrays[name]))}
        for name, array in plain.items()
    ]
    return facts, [array.tobytes() for array in plain.values()]


def unpack_arrays(
    facts: Sequence[Mapping[str, Any]], blobs: Sequence[bytes]
) -> dict[str, np.ndarray]:
    """The arrays that :func:`pack_arrays` packed."""
    return {
        fact["name"]: np.frombuffer(blob, dtype=fact["dtype"]).reshape(fact["shape"]).copy()
        for fact, blob in zip(facts, blobs, strict=True)
    }
