import json
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from factory.core.errors import InputError
from factory.deployment.export import build_onnx, export_onnx
from factory.deployment.manifest import ModelManifest, describe_model
from factory.deployment.metadata import ModelMetadata
from factory.deployment.passes import PASSES

SHAPE = (3, 16, 16)


def test_the_graph_is_clean(exported):
    ops = [node.op_type for node in onnx.load(exported).graph.node]
    clutter = {
        "Identity", "Constant", "BatchNormalization", "ReduceMean", "Dropout", "Reshape", "Shape",
        "Expand", "Cast", "CastLike",
    }  # fmt: skip
    assert not clutter & set(ops)
    assert ops.count("GlobalAveragePool") == ops.count("Flatten") == ops.count("Gemm") == 1
    assert ops.count("Slice") == 1


def test_equal_adds_stay_and_equal_pools_are_shared(exported):
    ops = [node.op_type for node in onnx.load(exported).graph.node]
    assert ops.count("Add") == 4
    assert ops.count("AveragePool") == 1
    assert ops.count("Relu") == 2


def test_it_computes_what_torch_computes(network, exported):
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        want = network(images).numpy()
    network.train()
    got = np.concatenate([session.run(["logits"], {"image": i[None]})[0] for i in images.numpy()])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_shapes_are_fixed_and_every_value_has_one(exported):
    model = onnx.load(exported)
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, *SHAPE]
    named = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    assert named >= {name for node in model.graph.node for name in node.output}


def test_metadata_travels_inside_the_file(exported, metadata):
    props = {p.key: p.value for p in onnx.load(exported).metadata_props}
    assert json.loads(props["class_names"])[3] == "class 3"
    pre = json.loads(props["preprocessing"])
    assert pre["mean"] == [0.5, 0.4, 0.3]
    assert (pre["layout"], pre["colour"], pre["size"]) == ("NCHW", "RGB", [16, 16])
    assert pre["scale"] == pytest.approx(1 / 255)
    assert json.loads(props["genotype"]) == metadata.genotype
    assert {"factory_version", "task", "tier"} <= props.keys()


def test_the_same_network_gives_the_same_bytes_in_silence(
    network, exported, metadata, tmp_path, capfd
):
    network.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = export_onnx(network, SHAPE, tmp_path / "again.onnx", metadata)
    assert capfd.readouterr() == ("", "")
    assert network.training
    assert again.sha256 == describe_model(exported).sha256
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_names_that_are_no_text_are_refused(exported, tmp_path):
    content = exported.read_bytes()
    for name in (b"logits", b"AveragePool"):
        path = tmp_path / "other.onnx"
        path.write_bytes(content.replace(name, b"\xf3" + name[1:]))
        with pytest.raises(InputError, match="a name in it is no text"):
            describe_model(path)


def test_the_manifest_says_what_the_file_is(exported, tmp_path):
    manifest = describe_model(exported)
    assert manifest.precision == "fp32"
    assert manifest.size_bytes == exported.stat().st_size
    assert manifest.inputs[0].model_dump() == {
        "name": "image", "dtype": "float32", "shape": (1, *SHAPE)
    }  # fmt: skip
    assert manifest.outputs[0].shape == (1, 10)
    assert manifest.metadata["preprocessing"]["size"] == [16, 16]
    manifest.save(tmp_path / "manifest.json")
    assert ModelManifest.load(tmp_path / "manifest.json") == manifest


def test_a_manifest_with_unknown_keys_is_refused_in_one_sentence(exported, tmp_path):
    value = describe_model(exported).model_dump(mode="json") | {"colour": "blue"}
    (tmp_path / "m.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="colour"):
        ModelManifest.load(tmp_path / "m.json")


def test_wrong_number_of_class_names(network, metadata, tmp_path):
    short = ModelMetadata(class_names=("a",), preprocessing=metadata.preprocessing)
    with pytest.raises(InputError, match=r"10 outputs but there are 1 class names"):
        export_onnx(network, SHAPE, tmp_path / "m.onnx", short)
    assert not (tmp_path / "m.onnx").exists()


def test_a_network_that_cannot_run_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))  # where the long report goes
    with pytest.raises(InputError, match=r"Linear could not be exported.*1x3x16x16"):
        build_onnx(nn.Linear(5, 2), SHAPE)
    assert (tmp_path / "Linear.export-report.txt").exists()


def test_reserved_metadata_keys_are_refused(metadata):
    with pytest.raises(InputError, match="reserved key 'task'"):
        metadata.model_copy(update={"extra": {"task": "x"}}).props()


def test_every_pass_shows_its_rewrite():
    for one in PASSES:
        module = __import__(one.__module__, fromlist=["__doc__"])
        assert "->" in module.__doc__.splitlines()[0]
        assert "->" in one.__doc__
        assert one.__module__.endswith("." + one.__name__)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_mobile_networks_export_cleanly(name):
    import torchvision

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).eval()
    model = build_onnx(net, (3, 96, 96))
    ops = {node.op_type for node in model.graph.node}
    assert not ops & {"Identity", "Constant", "BatchNormalization", "ReduceMean"}
    image = torch.randn(1, 3, 96, 96)
    got = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image.numpy()})[0]
    want = net(image).detach().numpy()
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


def cell_space_and_network(height: int):
    import numpy as np

    from factory.spaces.cell_network import CellNetwork
    from factory.spaces.cell_space import CellSpace
    from factory.spaces.network_spec import NetworkSpec

    space = CellSpace(NetworkSpec(4, 5, "cifar", (3, height, height), 10))
    genotype = space.random(np.random.default_rng(height))
    network = CellNetwork(genotype, space.spec, auxiliary=True, drop_path=0.2).initialise(0)
    return space, genotype, network


@pytest.mark.parametrize("height", [16, 14])
def test_the_file_holds_the_kernels_that_the_space_lists(height):
    importer = pytest.importorskip("factory.graph.onnx_import")
    from factory.graph.canonical import canonicalise, kernel_counts

    space, genotype, network = cell_space_and_network(height)
    model = build_onnx(network, (3, height, height))
    listed = space.kernels(genotype)
    assert kernel_counts(canonicalise(importer.from_onnx(model))) == listed
