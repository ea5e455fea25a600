"""Arrays within JSON: nothing is lost, nonsense is refused."""

import json

import numpy as np
import pytest

from factory.latency.packed import pack, single, unpack


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([[0.1, -3.0e-30], [np.pi, 5e300]]), "<f8"),
        (np.array([0.5, -2.0, 1e10]), "<f4"),
        (single(np.random.default_rng(0).standard_normal((3, 4))), "<f4"),
        (np.arange(-2, 70000), "<i4"),
        (np.empty((0, 5)), "<f4"),
    ],
)
def test_what_comes_back_is_the_same(array, dtype):
    packed = json.loads(json.dumps(pack(array)))
    assert packed["dtype"] == dtype
    back = unpack(packed)
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    assert (back == array).all()


def test_big_endian_and_strided_arrays_too():
    array = np.arange(12.0).reshape(3, 4)[:, ::2]
    assert (unpack(pack(array)) == array).all()
    assert (unpack(pack(array.astype(">f8"))) == array).all()


@pytest.mark.parametrize(
    "change", [{"dtype": "object"}, {"base64": "%%%"}, {"shape": [7]}, {"base64": "AAAA"}]
)
def test_nonsense_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        unpack({**pack(np.arange(4.0)), **change})
