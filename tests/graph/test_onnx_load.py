"""What an ONNX file must be: each fault of its parts is one sentence that names the part."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.graph.onnx_import import from_onnx
from factory.graph.onnx_load import load_onnx


def conv(**tensor):
    """Conv of one weight, some fields of which are replaced."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    for name, value in tensor.items():
        if name == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, name, value)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="n")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def refused(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as error:
        load_onnx(path)
    text = str(error.value)
    assert len(text) < 900
    assert text.isprintable()
    return text


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ({"raw_data": b"\0" * 12}, "weight 'w' of .* holds 12 bytes .*asks for 432"),
        ({"dims": [1 << 40, 1 << 20, 3, 3]}, "tensor 'w' of .*more than 2,147,483,648 elements"),
        ({"dims": [-4, 3, 3, 3]}, "weight 'w' of .* has the shape"),
        ({"data_type": 77}, "weight 'w' of .* unknown data type 77"),
    ],
)
def test_a_weight_that_contradicts_itself(tmp_path, tensor, told):
    import re

    assert re.search(told, refused(tmp_path, conv(**tensor)))


def test_a_graph_larger_than_is_read(tmp_path):
    model = conv()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 1 << 24
    assert "has the shape [1, 3, 16777216, 16777216]" in refused(tmp_path, model)


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / "m.onnx"
    content = conv().SerializeToString()
    path.write_bytes(content.replace(b"\x1a\x01n", b"\x1a\x01\xff"))
    with pytest.raises(InputError, match="a name in it is no text"):
        load_onnx(path)


def test_a_long_name_is_cut(tmp_path):
    model = conv()
    model.graph.node[0].op_type = "N" * 5000
    assert "unknown operator" in refused(tmp_path, model)


def external(location, length=432, offset=0):
    model = conv()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", length), ("offset", offset)):
        weight.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (("other.bin",), "lacks its external weights .*no file beside it"),
        (("../w.bin",), "lacks its external weights .*no file beside it"),
        (("w.bin", 432, 8), "does not fit its data file 'w.bin' .*432 from 8 of 432"),
        (("w.bin", 4), "does not fit its data file"),
        (("w.bin", "many"), "lacks its external weights"),
    ],
)
def test_weights_beside_the_file(tmp_path, facts, told):
    import re

    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "w.bin").write_bytes(np.full(108, 2, np.float32).tobytes())
    assert re.search(told, refused(folder, external(*facts)))
    (folder / "m.onnx").write_bytes(external("w.bin").SerializeToString())
    weight = load_onnx(folder / "m.onnx").graph.initializer[0]
    assert numpy_helper.to_array(weight).max() == 2


def test_large_weights_stay_in_their_file_where_only_the_graph_is_read(tmp_path):
    model = conv(dims=[4096, 3, 3, 3])
    weight = model.graph.initializer[0]
    weight.CopyFrom(external("w.bin", 4096 * 108).graph.initializer[0])
    del weight.dims[:]
    weight.dims.extend([4096, 3, 3, 3])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(4096 * 108))
    found = load_onnx(tmp_path / "m.onnx", weights=False)
    assert not found.graph.initializer[0].raw_data
    assert from_onnx(found).nodes[0].params == 4096 * 27


def test_reading_a_graph_loads_no_torch():
    code = "import sys, factory.graph.onnx_import; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
