"""The inputs of a model: free dimensions, given shapes and values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.graph.model_inputs import AskedInputs, model_inputs

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(*inputs, weights=(), value_info=(), output=None):
    values = [helper.make_tensor_value_info(*one) for one in inputs]
    out = helper.make_tensor_value_info("y", FLOAT, output)
    node = helper.make_node("Relu", [inputs[0][0]], ["y"])
    graph = helper.make_graph([node], "g", values, [out], list(weights), value_info=value_info)
    return helper.make_model(graph)


def shapes(proto, *asked, file=None):
    return model_inputs(proto, "m.onnx", AskedInputs.of(asked, file)).shapes


def refused(proto, *asked, file=None) -> str:
    with pytest.raises(InputError) as error:
        shapes(proto, *asked, file=file)
    return str(error.value)


@pytest.mark.parametrize("batch", ["N", -1, None])
def test_a_free_batch_is_one_and_that_is_noted(batch):
    inputs = model_inputs(model(("x", FLOAT, [batch, 3, 4, 4])), "m.onnx")
    assert inputs.shapes == {"x": (1, 3, 4, 4)}
    assert "'x' is free and was taken as 1" in inputs.notes[0]
    assert model_inputs(model(("x", FLOAT, [2, 3])), "m.onnx").notes == ()


def test_dimensions_of_one_name_have_one_size():
    proto = model(("x", FLOAT, ["N", 3, "H", "W"]), ("mask", INT64, ["N", "H"]))
    assert shapes(proto, "x=2x3x8x9") == {"x": (2, 3, 8, 9), "mask": (2, 8)}
    assert "cannot have the shape 1x8" in refused(proto, "x=2x3x8x9", "mask=1x8")


def test_a_question_mark_is_no_name():
    assert shapes(model(("x", FLOAT, ["?", 3, "?", "?"])), "1x3x8x9") == {"x": (1, 3, 8, 9)}


def test_another_free_dimension_has_to_be_given():
    proto = model(("x", FLOAT, ["N", 3, "H", None]))
    message = refused(proto)
    assert "dimensions of no fixed size: H, axis 3" in message
    assert "--input x=1x3x224x224" in message
    assert shapes(proto, "1x3x32x40") == {"x": (1, 3, 32, 40)}
    without_batch = model_inputs(proto, "m.onnx", AskedInputs.of("3x32x40"))
    assert without_batch.shapes == {"x": (1, 3, 32, 40)}
    assert "taken as 1" in without_batch.notes[0]


def test_an_input_without_any_shape_has_to_be_given():
    assert "has no shape" in refused(model(("x", FLOAT, None)))
    assert shapes(model(("x", FLOAT, None)), "2x3") == {"x": (2, 3)}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["1x3x5"], "cannot have the shape 1x3x5"),
        (["z=1x3x4"], "no input 'z'"),
        (["1xNx4"], "is not a shape"),
        (["x=1x3x4", "x=1x3x4"], "twice"),
        (["99999999999x3x4"], "is not a shape"),
    ],
)
def test_what_does_not_fit_is_one_sentence(asked, told):
    assert told in refused(model(("x", FLOAT, ["N", 3, 4])), *asked)


def test_of_several_inputs_the_shape_names_one():
    proto = model(("a", FLOAT, ["N", 3]), ("b", FLOAT, ["N", 3]))
    assert "does not say which input" in refused(proto, "1x3")


def test_weights_among_the_inputs_are_no_inputs():
    weight = numpy_helper.from_array(np.zeros((2, 3), np.float32), "w")
    proto = model(("x", FLOAT, [1, 2]), ("w", FLOAT, [2, 3]), weights=[weight])
    assert shapes(proto) == {"x": (1, 2)}


def test_given_values_give_the_shapes(tmp_path):
    path = tmp_path / "values.npz"
    proto = model(("x", FLOAT, ["N", "L"]), ("i", INT64, ["N"]))
    np.savez(path, x=np.ones((2, 5), np.float32), i=np.array([3, 4]))
    inputs = model_inputs(proto, "m.onnx", AskedInputs.of(file=path))
    assert inputs.shapes == {"x": (2, 5), "i": (2,)}
    [feeds] = inputs.feeds()
    assert feeds["i"].tolist() == [3, 4]
    assert "give one of them" in refused(proto, "x=2x5", file=path)
    np.savez(path, x=np.ones((2, 5)), i=np.array([3, 4]))
    assert "is float64, the model takes float32" in refused(proto, file=path)
    np.savez(path, x=np.ones((2, 5), np.float32))
    assert "holds no array 'i'" in refused(proto, file=path)
    np.savez(path, x=np.ones((2, 5), np.float32), i=np.array([3]))
    assert "cannot have the shape 1" in refused(proto, file=path)


def test_a_file_that_holds_no_arrays_is_one_sentence(tmp_path):
    proto = model(("x", FLOAT, ["N"]))
    assert "does not exist" in refused(proto, file=tmp_path / "none.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    for name in ("single.npy", "text.npz", "objects.npz"):
        assert "is not an .npz file of arrays" in refused(proto, file=tmp_path / name)


def test_kinds_that_are_not_made_up_are_named():
    strings = model_inputs(model(("x", TensorProto.STRING, [3])), "m.onnx")
    with pytest.raises(InputError, match="type string"):
        next(strings.feeds())
    sequence = model(("x", FLOAT, [1]))
    kind = helper.make_tensor_type_proto(FLOAT, [2])
    sequence.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    with pytest.raises(InputError, match="sequence of float32"):
        next(model_inputs(sequence, "m.onnx").feeds())


def test_shapes_are_written_into_the_model_and_stale_ones_leave_it():
    stale = helper.make_tensor_value_info("old", FLOAT, [1, 7])
    named = helper.make_tensor_value_info("new", FLOAT, ["N", 7])
    proto = model(("x", FLOAT, ["N", 3]), value_info=[stale, named], output=["N", 3])
    inputs = model_inputs(proto, "m.onnx", AskedInputs.of("4x3"))
    inputs.fix(proto)

    def dims(value):
        return [d.dim_value for d in value.type.tensor_type.shape.dim]

    assert dims(proto.graph.input[0]) == dims(proto.graph.output[0]) == [4, 3]
    assert [(v.name, dims(v)) for v in proto.graph.value_info] == [("new", [4, 7])]
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
