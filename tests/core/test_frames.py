"""Frames survive a pipe; a cut or foreign stream is noticed."""

from __future__ import annotations

import io

import numpy as np
import pytest

from factory.core.frames import (
    BrokenFrame,
    pack_arrays,
    read_frame,
    unpack_arrays,
    write_frame,
)


def test_round_trip_of_arrays():
    arrays = {
        "a": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
        "scalar": np.float32(3.5),
        "none": np.zeros((0, 4)),
        "flag": np.array([True, False]),
    }
    facts, blobs = pack_arrays(arrays)
    stream = io.BytesIO()
    write_frame(stream, {"arrays": facts}, blobs)
    write_frame(stream, {"second": 1})
    stream.seek(0)
    header, contents = read_frame(stream)
    back = unpack_arrays(header["arrays"], contents)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    assert read_frame(stream) == ({"second": 1}, [])
    assert read_frame(stream) is None


def test_a_stream_cut_at_any_byte_is_noticed():
    stream = io.BytesIO()
    write_frame(stream, {"x": 1}, [b"abc"])
    whole = stream.getvalue()
    for length in range(1, len(whole)):
        with pytest.raises(BrokenFrame):
            read_frame(io.BytesIO(whole[:length]))


def test_chatter_in_the_stream_is_noticed():
    with pytest.raises(BrokenFrame, match="not a frame"):
        read_frame(io.BytesIO(b"2024 warning: something"))
