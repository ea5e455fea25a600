"""Any model through `factory export`, and its answers for people and programs."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from factory.api import export, verify
from factory.cli.main import run
from factory.core.errors import InputError
from factory.deployment.metadata import ModelMetadata, Preprocessing

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        x = nn.functional.hardswish(self.b(torch.relu(self.a(x))))
        return self.head(x.mean((2, 3)))

def net():
    return Net()
"""
COLOURS = {"blue": (30, 40, 200), "green": (20, 190, 50), "red": (200, 30, 30)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets_for_export.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(rng.normal(colour, 25, (20, 26, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_a_function_becomes_files_and_a_trail(here, pictures):
    answer = export(
        "nets_for_export:net",
        input="3x16x16",
        target=["onnx-fp32", "int8-cpu"],
        data=pictures,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        max_drop_points=100,
        out=here / "out",
    )
    assert answer["ok"]
    assert answer["class_names"] == ["blue", "green", "red"]
    assert answer["judged"]
    full, small = answer["targets"]
    assert full["agreement"]["accuracy"] is not None
    assert small["gate"]["trail"][0]["step"] == "calibrate by minmax"
    assert small["gate"]["data"] == "pictures, 6 test pictures"
    assert json.loads((here / "out" / "net.export.json").read_text())["ok"]
    props = {p.key: p.value for p in onnx.load(here / "out" / "net-int8-cpu.onnx").metadata_props}
    assert json.loads(props["class_names"]) == ["blue", "green", "red"]
    assert json.loads(props["preprocessing"])["fit"] == "cover"
    assert (props["precision"], props["target"]) == ("int8", "int8-cpu")


def test_an_onnx_file_without_any_word_is_exported_but_not_judged(here, capsys):
    first = export("nets_for_export:net", input="3x16x16", out=here / "net.onnx")
    assert first["targets"][0]["status"] == "ok"
    assert run(["export", "net.onnx", "--target", "int8-cpu", "--out", "q.onnx", "-q"]) == 0
    printed = capsys.readouterr().out
    assert "within the limit: no labelled pictures" in printed
    assert "made-up" in printed
    assert (here / "q.onnx").is_file()
    assert json.loads((here / "q.onnx.export.json").read_text())["notes"]


def test_labels_of_a_file(here):
    export("nets_for_export:net", input="3x16x16", out=here / "net.onnx")
    (here / "labels.txt").write_text("a\nb\nc\n")
    answer = export(here / "net.onnx", labels=here / "labels.txt", out=here / "l.onnx")
    assert answer["manifest"]["metadata"]["class_names"] == ["a", "b", "c"]
    (here / "labels.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="2 labels but the model has 3 outputs"):
        export(here / "net.onnx", labels=here / "labels.txt", out=here / "l.onnx")


def test_pictures_without_classes_calibrate_a_network_that_is_not_square(here, pictures):
    wide = {"input": "3x16x24", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    answer = export("nets_for_export:net", target=["int8-cpu"], calibration=pictures,
                    out=here / "w.onnx", **wide)  # fmt: skip
    assert answer["ok"]
    assert not answer["judged"]
    assert answer["data"] == "pictures, 15 pictures without labels"
    said = answer["manifest"]["metadata"]["preprocessing"]
    assert (said["size"], said["layout"], said["scale"]) == ([16, 24], "NCHW", 1 / 255)
    labelled = export("nets_for_export:net", data=pictures, out=here / "w.onnx", **wide)
    assert labelled["targets"][0]["agreement"]["accuracy"] == 1.0 or labelled["judged"]


def test_bytes_with_channels_last_are_pixels(here, pictures):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 100
    graph = helper.make_graph(
        nodes,
        "last",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 16, 24, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), here / "last.onnx")
    answer = export(here / "last.onnx", target=["int8-cpu"], calibration=pictures,
                    out=here / "l.onnx")  # fmt: skip
    assert answer["ok"]
    said = answer["manifest"]["metadata"]["preprocessing"]
    assert (said["layout"], said["scale"], said["size"]) == ("NHWC", 1.0, [16, 24])


def two_inputs(path, batch):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Concat", ["f", "meta"], ["y"], axis=1),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "two",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16]),
            helper.make_tensor_value_info("meta", TensorProto.FLOAT, [batch, 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def test_a_picture_network_of_two_inputs_is_fed_with_what_is_given(here):
    two_inputs(here / "two.onnx", 2)
    asked = {"target": ["int8-cpu"], "out": here / "q.onnx"}
    with pytest.raises(InputError, match=r"--inputs FILE\.npz.* x=2x3x16x16 --input meta=2x4"):
        export(here / "two.onnx", **asked)
    made_up = export(here / "two.onnx", input=["x=2x3x16x16"], **asked)
    assert made_up["ok"]
    rng = np.random.default_rng(0)
    values = {"x": rng.standard_normal((8, 3, 16, 16)), "meta": rng.standard_normal((8, 4))}
    np.savez(here / "v.npz", **values)
    answer = export(here / "two.onnx", calibration=here / "v.npz", **asked)
    assert answer["ok"]
    assert answer["data"] == "v.npz, 2 compared"
    np.savez(here / "odd.npz", x=values["x"])
    with pytest.raises(InputError, match="holds no array 'meta'"):
        export(here / "two.onnx", calibration=here / "odd.npz", **asked)


UNLIKE_ITS_FILE = """
import torch
from torch import nn

class Noisy(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True).mean((2, 3))

def noisy():
    return Noisy()
"""


def test_a_file_that_computes_something_else_than_the_torch_network(here):
    (here / "unlike_for_export.py").write_text(UNLIKE_ITS_FILE)
    with pytest.raises(InputError, match=r"something else than the network Noisy .*draws random"):
        export("unlike_for_export:noisy", input="3x16x16", out=here / "n.onnx")


def test_camera_input_needs_to_know_the_preprocessing(here):
    spec = {"input": "3x16x16", "camera": "40x50"}
    with pytest.raises(InputError, match="give --mean and --std"):
        export("nets_for_export:net", out=here / "c.onnx", **spec)
    answer = export(
        "nets_for_export:net", out=here / "c.onnx", mean=(0, 0, 0), std=(1, 1, 1), **spec
    )
    assert answer["manifest"]["inputs"][0] == {
        "name": "pixels", "dtype": "uint8", "shape": [40, 50, 3],
    }  # fmt: skip


def simulated(folder):
    (folder / "sim.toml").write_text(
        'id = "sim"\nchip = "simulated"\ntransport = "simulated"\n'
        'execution_provider = "SimulatedExecutionProvider"\nthreads = 1\n'
    )


def test_passes_are_measured_on_the_device(here):
    simulated(here)
    answer = export("nets_for_export:net", input="3x16x16", device="sim.toml", out=here / "s.onnx")
    passes = answer["passes"]
    assert passes["simulated"]
    trials = {t["name"]: t for t in passes["trials"]}
    assert trials["split_hard_swish"]["status"] == "not faster", "more nodes cost more there"
    assert trials["slice_into_conv"]["status"] == "nothing to do"
    ops = [n.op_type for n in onnx.load(here / "s.onnx").graph.node]
    assert "HardSwish" in ops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-like-it"], "no ONNX file, no run folder and no module:function"),
        (["net.onnx", "--tier", "a"], "--tier needs a run folder"),
        (["nets_for_export:net", "--target", "onnx-32"], "did you mean 'onnx-fp32'"),
        (["nets_for_export:net", "--target", "all", "--out", "x.onnx"], "do not fit into the one"),
        (["nets_for_export:net", "--camera", "wide"], "is not HEIGHTxWIDTH"),
        (["nets_for_export:net", "--mean", "a,b"], "no list of numbers"),
        (["nets_for_export:net", "--precision", "int4"], "unknown precision 'int4'"),
    ],
)
def test_wrong_words(here, capsys, arguments, message):
    assert run(["export", *arguments, "-q"]) == 2
    assert message in capsys.readouterr().err


def test_the_list_of_targets(capsys):
    assert run(["export", "list"]) == 0
    assert "int8-nnapi" in capsys.readouterr().out


def test_metadata_knows_how_a_picture_fits():
    pre = Preprocessing(mean=(0.5,), std=(0.5,), size=(8, 8), fit="cover")
    props = ModelMetadata(class_names=("a",), preprocessing=pre).props()
    assert json.loads(props["preprocessing"])["fit"] == "cover"


def test_a_context_for_each_soc(here):
    asked = {"target": ["int8-qnn", "qnn-context"], "dry_run": True}
    answer = export("nets_for_export:net", socs=["30", "57", "30"], **asked)
    names = [entry["target"] for entry in answer["targets"]]
    assert names == ["int8-qnn", "qnn-context-soc30", "qnn-context-soc57"]
    with pytest.raises(InputError, match="'sm8550' is not a number of a SoC"):
        export("nets_for_export:net", socs=["sm8550"], **asked)
    with pytest.raises(InputError, match="--soc is about the target qnn-context only"):
        export("nets_for_export:net", socs=["30"], target=["int8-qnn"])


COLOUR_NETWORK = """
from torch import nn

class Colours(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))

def colours():
    return Colours()
"""


def test_a_folder_belongs_to_the_output_of_its_name(here, pictures):
    """The outputs are red, green, blue; the folders in alphabetical order blue, green, red."""
    (here / "colours_for_export.py").write_text(COLOUR_NETWORK)
    (here / "labels.txt").write_text("red\ngreen\nblue\n")
    model = {"input": "3x16x16", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    asked = {"labels": here / "labels.txt", "data": pictures, "out": here / "c.onnx", **model}
    answer = export("colours_for_export:colours", **asked)
    assert answer["targets"][0]["agreement"]["accuracy"] == 1.0
    assert answer["class_names"] == ["red", "green", "blue"]
    again = export(here / "c.onnx", data=pictures, out=here / "again.onnx")
    assert again["targets"][0]["agreement"]["accuracy"] == 1.0, "the names inside count"
    (here / "labels.txt").write_text("red\ngreen\nviolet\n")
    answer = export("colours_for_export:colours", **asked)
    assert "1 of 3 folders" in answer["notes"][0]
    assert "blue" in answer["notes"][0]
    assert answer["targets"][0]["agreement"]["accuracy"] == 1.0, "of those that are named"
    (here / "labels.txt").write_text("1\n2\n3\n")
    answer = export("colours_for_export:colours", **asked)
    assert "alphabetical" in answer["notes"][0]
    assert answer["targets"][0]["agreement"]["accuracy"] < 1


def test_any_file_gets_a_certificate(here, pictures):
    model = {"input": "3x16x16", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    export("nets_for_export:net", data=pictures, out=here / "net.onnx", **model)
    simulated(here)
    again = {"device": "sim.toml", "measure": False}
    asked = {"issue": here / "c.json", "data": pictures, "sustained_s": 0.4}
    assert verify("net.onnx", "sim.toml", **asked)["holds"]
    written = json.loads((here / "c.json").read_text())
    assert written["accuracy"]["images"] == 6
    assert written["latency"]["sustained"]["seconds"] < 2
    assert written["model"]["class_names"] == ["blue", "green", "red"]
    assert (here / "c.html").is_file()
    assert verify(certificate=here / "c.json", **again)["holds"]
    (here / "elsewhere").mkdir()
    (here / "c.json").rename(here / "elsewhere" / "c.json")
    answer = verify(certificate=here / "elsewhere" / "c.json", **again)
    assert "name the model too" in answer["reason"]
    assert verify("net.onnx", certificate=here / "elsewhere" / "c.json", **again)["holds"]
