"""Values and pictures that a model is fed with: shapes, layouts, folders."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from factory.core.errors import InputError
from factory.deployment.metadata import Preprocessing
from factory.deployment.run_here import count
from factory.pipeline.export_pictures import (
    halves,
    normalised,
    npz_samples,
    outputs_of_folders,
    picture_input,
)


def value(shape, kind=TensorProto.FLOAT, name="x"):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("declared", "stored", "number"),
    [
        ((1, 3, 8, 8), (5, 3, 8, 8), 5),
        ((1, 3, 8, 8), (5, 1, 3, 8, 8), 5),
        ((2, 4), (6, 4), 3),
        ((2, 4), (2, 4), 1),
        ((), (), 1),
        ((), (4,), 4),
        ((0, 4), (0, 4), 1),
    ],
)
def test_arrays_of_a_file_are_one_value_or_several(tmp_path, declared, stored, number):
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value(declared)], [value(declared, name="y")])
    np.savez(tmp_path / "v.npz", x=np.zeros(stored, np.float32))
    samples = npz_samples(tmp_path / "v.npz", helper.make_model(graph), "m")
    assert samples["x"].shape == (number, *declared)


def test_an_array_of_another_shape_is_refused(tmp_path):
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value((1, 4))], [value((1, 4), name="y")])
    np.savez(tmp_path / "v.npz", x=np.zeros((5, 3), np.float32))
    with pytest.raises(InputError, match=r"has the shape \[5, 3\].*the input of m is \[1, 4\]"):
        npz_samples(tmp_path / "v.npz", helper.make_model(graph), "m")


def test_what_takes_pictures():
    first, last = picture_input(value((1, 3, 16, 24))), picture_input(value((1, 16, 24, 3)))
    assert (first.layout, first.size) == ("NCHW", (16, 24))
    assert (last.layout, last.size, last.channels) == ("NHWC", (16, 24), 3)
    assert picture_input(value((1, 16, 16, 3), TensorProto.UINT8)).pixels
    assert picture_input(value((1, 64, 16, 24))) is None
    assert picture_input(value((1, 3, 16, 24), TensorProto.INT64)) is None
    assert picture_input(value((1, 3))) is None


def test_pictures_in_the_order_that_the_model_wants():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    said = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "size": (4, 5), "scale": 1.0}
    made = normalised(pixels, Preprocessing(layout="NHWC", colour="BGR", **said))
    np.testing.assert_array_equal(made, pixels[:, ::-1].transpose(0, 2, 3, 1))


def test_a_folder_that_is_no_class_has_no_output(tmp_path):
    assert outputs_of_folders(["a", "c", "x"], ["a", "b", "c"], tmp_path, 3).tolist() == [0, 2, -1]
    assert outputs_of_folders(["x", "y"], ["a", "b"], tmp_path, 2).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"3 outputs but .* 2 classes .*--calibration"):
        outputs_of_folders(["x", "y"], ["a", "b", "c"], tmp_path, 3)


@pytest.mark.parametrize(("number", "sizes"), [(1, (1, 1)), (2, (1, 1)), (5, (3, 2))])
def test_one_half_calibrates_and_the_other_compares(number, sizes):
    data = halves({"x": np.zeros((number, 1, 4))}, "values")
    assert (count(data.calibration), count(data.test_images)) == sizes
