import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.deployment.run_here import run_images
from factory.deployment.sources import from_file, made_up_samples
from factory.deployment.torch_functions import FunctionCall, from_function, is_module_function
from factory.graph.model_inputs import AskedInputs

NETWORKS = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))

def wide(channels):
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Impossible(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else x * 2

def impossible():
    return Impossible()

def broken():
    raise RuntimeError("no such depth")

def number():
    return 3
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("my_networks", None)


def test_a_function_of_a_module(networks):
    model = from_function("my_networks:tiny", (3, 12, 12), seed=4)
    again = from_function("my_networks:tiny", (3, 12, 12), seed=4)
    other = from_function("my_networks:tiny", (3, 12, 12), seed=5)
    assert model.SerializeToString() == again.SerializeToString()
    assert model.SerializeToString() != other.SerializeToString()
    assert all(node.name for node in model.graph.node)


def test_weights_of_ones_own(networks):
    import my_networks
    from safetensors.torch import save_file

    torch.manual_seed(9)
    network = my_networks.tiny().eval()
    save_file(network.state_dict(), networks / "w.safetensors")
    model = from_function("my_networks:tiny", (3, 12, 12), weights=networks / "w.safetensors")
    x = torch.randn(2, 3, 12, 12)
    with torch.inference_mode():
        want = network(x).numpy()
    np.testing.assert_allclose(run_images(model.SerializeToString(), x.numpy()), want, atol=1e-5)
    save_file({"other": torch.zeros(1)}, networks / "bad.safetensors")
    with pytest.raises(InputError, match="do not fit the network"):
        from_function("my_networks:tiny", (3, 12, 12), weights=networks / "bad.safetensors")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_networks:tinny", "did you mean 'tiny'"),
        ("my_network_s:tiny", "cannot be imported"),
        ("my_networks:broken", "no such depth"),
        ("my_networks:number", "returned a int"),
        ("my_networks:wide(channels=print(1))", "arguments of .* cannot be read"),
        ("my_networks:wide('many')", "cannot be called"),
    ],
)
def test_wrong_functions(networks, spec, message):
    with pytest.raises(InputError, match=message):
        from_function(spec, (3, 12, 12))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("torchvision.models:resnet18", True),
        ("model.onnx", False),
        ("runs/demo", False),
        ("C:\\model.onnx", False),
        ("a:b c", False),
        ("timm:create_model('resnet18', pretrained=False)", True),
        ("timm:create_model(", False),
    ],
)
def test_what_reads_as_a_function(text, is_one):
    assert is_module_function(text) is is_one


def test_a_function_is_called_with_its_arguments(networks):
    weights = {
        spec: sum(np.prod(w.dims) for w in from_function(spec, (3, 12, 12)).graph.initializer)
        for spec in ("my_networks:wide(4)", "my_networks:wide(channels=8)")
    }
    assert weights["my_networks:wide(4)"] < weights["my_networks:wide(channels=8)"]


def test_arguments_of_the_command_line_join_those_of_the_text():
    call = FunctionCall.parse("timm:create_model('resnet18', pretrained=True)")
    more = call.with_arguments(["pretrained=False", "act=relu", "sizes=[1, 2]"])
    assert str(more) == (
        "timm:create_model('resnet18', pretrained=False, act='relu', sizes=[1, 2])"
    )
    assert FunctionCall.parse(str(more)).keywords == more.keywords
    assert more.name == "resnet18"
    with pytest.raises(InputError, match="is not name=value"):
        call.with_arguments(["pretrained"])


def test_a_network_that_cannot_be_exported_leaves_its_report_in_a_file(networks, monkeypatch):
    monkeypatch.setenv("FACTORY_HOME", str(networks))
    with pytest.raises(InputError) as error:
        from_function("my_networks:impossible", (3, 12, 12))
    message = str(error.value)
    assert len(message) < 600
    report = networks / "Impossible.export-report.txt"
    assert str(report) in message
    assert "Traceback" in report.read_text()


def dynamic(opset, *, batch="n", side="s"):
    """An old export: weights among the inputs, dynamic sizes, no node names."""
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "old",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_an_old_file_with_dynamic_sizes(tmp_path, opset):
    path = tmp_path / "old.onnx"
    onnx.save(dynamic(opset), path)
    with pytest.raises(InputError, match="--input x=1x3x224x224"):
        from_file(path)
    model = from_file(path, AskedInputs.of("3x10x10"))[0]
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, 10, 10]
    assert len(model.graph.input) == 1
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert next(o.version for o in model.opset_import if o.domain == "") >= 17


def test_a_dynamic_batch_needs_no_word(tmp_path):
    path = tmp_path / "batch.onnx"
    onnx.save(dynamic(20, side=10), path)
    assert from_file(path)[0].graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_wrong_files(tmp_path, exported):
    with pytest.raises(InputError, match="does not exist"):
        from_file(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(InputError, match="not an ONNX model"):
        from_file(tmp_path / "text.onnx")
    from factory.deployment.quantise import quantise_onnx

    images = np.zeros((2, 3, 16, 16), np.float32)
    quantise_onnx(exported, tmp_path / "q.onnx", images)
    with pytest.raises(InputError, match="quantised already"):
        from_file(tmp_path / "q.onnx")


def old_conv(bias=0.0, kind=TensorProto.FLOAT, weight=1.0):
    """IR version 3: the weights are inputs of the graph too."""
    arrays = {
        "w": np.full((2, 3, 3, 3), weight, np.float32),
        "b": np.full(2, bias, np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])]
    inputs += [helper.make_tensor_value_info(n, 1, a.shape) for n, a in arrays.items()]
    graph = helper.make_graph(
        nodes,
        "old",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 6, 6])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)


def test_a_file_whose_weights_are_inputs(tmp_path):
    onnx.save(old_conv(), tmp_path / "m.onnx")
    assert [value.name for value in from_file(tmp_path / "m.onnx")[0].graph.input] == ["x"]


@pytest.mark.parametrize("facts", [{"bias": np.inf}, {"weight": np.nan}])
def test_a_network_that_computes_no_numbers(tmp_path, facts):
    onnx.save(old_conv(**facts), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"computes NaN or infinity .* of its weight '[wb]'"):
        from_file(tmp_path / "m.onnx")


def test_a_weight_that_is_nan_is_named_though_the_made_up_values_do_not_meet_it(tmp_path):
    table = np.zeros((9, 4), np.float32)
    table[8] = np.nan  # indices are made up as 0 and 1
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        "rows",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "m.onnx")  # fmt: skip
    with pytest.raises(InputError, match="4 values of its weight 'table' are NaN"):
        from_file(tmp_path / "m.onnx")


def test_inputs_of_all_kinds(tmp_path):
    """Several inputs, a batch of two, whole numbers and truth values, weights among the inputs."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["rows"]),
        helper.make_node("Where", ["b", "rows", "x"], ["y"]),
    ]
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    weights = helper.make_tensor_value_info("table", TensorProto.FLOAT, [9, 4])
    graph = helper.make_graph(
        nodes,
        "kinds",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, [2, "n"]),
            helper.make_tensor_value_info("b", TensorProto.BOOL, [2, "n", 1]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, "n", 4]),
            weights,
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "n", 4])],
        [numpy_helper.from_array(table, "table")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=3), path
    )
    with pytest.raises(InputError, match="dimensions of no fixed size: n"):
        from_file(path)
    model, _ = from_file(path, AskedInputs.of("i=2x5"))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert shapes == [[2, 5], [2, 5, 1], [2, 5, 4]]
    samples = made_up_samples(model, "m", 6, 0)
    assert {name: values.shape for name, values in samples.items()} == {
        "i": (6, 2, 5), "b": (6, 2, 5, 1), "x": (6, 2, 5, 4),
    }  # fmt: skip
    values = {"i": np.full((2, 7), 8), "b": np.ones((2, 7, 1), bool),
              "x": np.zeros((2, 7, 4), np.float32)}  # fmt: skip
    np.savez(tmp_path / "v.npz", **values)
    model, _ = from_file(path, AskedInputs.of(file=tmp_path / "v.npz"))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 7]


def test_a_picture_too_large_to_calibrate_with(tmp_path):
    onnx.save(dynamic(20), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="1x3x9000x9000 values"):
        from_file(tmp_path / "m.onnx", AskedInputs.of("3x9000x9000"))


def test_a_network_whose_operator_computes_no_numbers(tmp_path):
    model = dynamic(20, batch=1, side=10)
    model.graph.node[1].op_type = "Log"  # of what is negative
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match=r"computes NaN or infinity .*that its Log reads is finite"
    ):
        from_file(tmp_path / "m.onnx")
