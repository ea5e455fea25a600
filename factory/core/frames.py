"""Frames between the factory and its worker: a JSON header and raw bytes, over a pipe.

Layout of a frame: 8 bytes b"factory1", 4 bytes big-endian length of the header, the header (JSON,
with the lengths of the blobs under "blobs"), the blobs. Nothing is taken into memory because a
frame announces it, only what really comes. Imported by the worker: standard library and numpy only.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from factory.core.wire import Wrong, choice, list_of, parse_json, table, text, whole

MAGIC = b"factory1"
FOLDER_VARIABLE = "FACTORY_WORKER_FOLDER"  # the worker's own folder, in its environment
LONGEST_HEADER = 1 << 26
LONGEST_CONTENT = 1 << 32  # of all blobs together
MOST_BLOBS = 1 << 16
_PIECE = 1 << 22
DTYPES = (
    "|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8",
)  # fmt: skip
ARRAY = table(
    {
        "name": text(1000),
        "dtype": choice(*DTYPES),
        "shape": list_of(whole(0, 2**31), most=32),
    }
)
ARRAYS = list_of(ARRAY, most=MOST_BLOBS)
_SIZES = list_of(whole(), most=MOST_BLOBS)


class BrokenFrame(Exception):
    """The stream ended inside a frame, or something else wrote into it."""


def write_frame(stream: BinaryIO, header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one frame and flush it."""
    content = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(MAGIC + struct.pack(">I", len(content)) + content)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_frame(
    stream: BinaryIO, longest_header: int = LONGEST_HEADER, longest_content: int = LONGEST_CONTENT
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
        header = parse_json(_exactly(stream, length), longest_header)
        if not isinstance(header, dict):
            raise Wrong("the header is no table")
        sizes = _SIZES(header.pop("blobs", None), "blobs")
    except Wrong as wrong:
        raise BrokenFrame(str(wrong)) from None
    if sum(sizes) > longest_content:
        raise BrokenFrame(f"contents of {sum(sizes)} bytes, {longest_content} are accepted")
    return header, [_exactly(stream, size) for size in sizes]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """``size`` bytes, in pieces: a stream may take the whole of what it is asked for at once."""
    if size <= _PIECE:
        content = stream.read(size)
    else:
        whole_content = io.BytesIO()
        while whole_content.tell() < size and (
            part := stream.read(min(_PIECE, size - whole_content.tell()))
        ):
            whole_content.write(part)
        content = whole_content.getvalue()
    if len(content) < size:
        raise BrokenFrame(f"the stream ended after {len(content)} of {size} bytes")
    return content


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Names, types and shapes for the header, and the contents as blobs.

    ValueError for an array of a type that does not travel (texts, objects).
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.str not in DTYPES:
            raise ValueError(f"the array {name!r} is of type {array.dtype}, which cannot be sent")
    facts = [
        {"name": name, "dtype": array.dtype.str, "shape": list(np.shape(arrays[name]))}
        for name, array in plain.items()
    ]
    return facts, [array.tobytes() for array in plain.values()]


def unpack_arrays(facts: Any, blobs: Sequence[bytes | memoryview]) -> dict[str, np.ndarray]:
    """The arrays that :func:`pack_arrays` packed; Wrong when facts and contents do not agree."""
    facts = ARRAYS(facts, "arrays")
    if len(facts) != len(blobs):
        raise Wrong(f"arrays describes {len(facts)} arrays, {len(blobs)} came")
    arrays: dict[str, np.ndarray] = {}
    for index, (fact, blob) in enumerate(zip(facts, blobs, strict=True)):
        dtype, shape = np.dtype(fact["dtype"]), fact["shape"]
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise Wrong(f"arrays[{index}] is {shape} of {dtype}, and {len(blob)} bytes came")
        if fact["name"] in arrays:
            raise Wrong(f"arrays[{index}].name is there twice")
        flat = np.frombuffer(blob, dtype=dtype)
        try:
            arrays[fact["name"]] = flat.reshape(shape).copy()
        except ValueError as error:  # no element, and too large all the same
            raise Wrong(f"arrays[{index}].shape is impossible ({error})") from None
    return arrays
