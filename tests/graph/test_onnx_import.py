import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factory.core.errors import InputError
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import count
from factory.graph.kernel import Kernel
from factory.graph.model_inputs import AskedInputs
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx, load_onnx, read_graph
from factory.graph.opgraph import GraphBuilder


def make(nodes, inputs, outputs=("y",), constants=None, opset=18, domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def texts(model):
    counts = kernel_counts(canonicalise(from_onnx(model)))
    return sorted(f"{n}*{k}" for k, n in counts.items())


def ints(*values):
    return np.asarray(values, np.int64)


def floats(*shape):
    return np.ones(shape, np.float32)


def one(op, x, constants=None, opset=18, **attributes):
    names = ["x", *(constants or {})]
    node = helper.make_node(op, names, ["y"], **attributes)
    return texts(make([node], {"x": x}, constants=constants, opset=opset))


@pytest.mark.parametrize(
    ("args", "kernel"),
    [
        (
            {"op": "ReduceMean", "x": (1, 8, 5, 5), "constants": {"a": ints(-1, -2)}},
            "GlobalAveragePool(x=1x8x5x5,dtype=f32)",
        ),
        (
            {"op": "ReduceMean", "x": (1, 8, 5, 5), "axes": [2, 3], "keepdims": 0, "opset": 13},
            "GlobalAveragePool(x=1x8x5x5,dtype=f32)",
        ),
        (
            {"op": "ReduceMean", "x": (1, 8, 5, 5), "constants": {"a": ints(1)}},
            "ReduceMean(x=1x8x5x5,axes=1,keepdims=1,y=1x1x5x5,dtype=f32)",
        ),
        (
            {"op": "Clip", "x": (1, 8), "min": 0.0, "max": 6.0, "opset": 10},
            "Clip(x=1x8,min=0,max=6,dtype=f32)",
        ),
        (
            {"op": "Pad", "x": (1, 8, 5, 5), "pads": [0, 0, 0, 0, 0, 0, 1, 1], "opset": 10},
            "Pad(x=1x8x5x5,p=0x0x1x1,dtype=f32)",
        ),
        (
            {"op": "Pad", "x": (1, 8, 5, 5), "constants": {"p": ints(0, 1, 0, 0, 0, 0, 0, 0)}},
            "Pad(x=1x8x5x5,c1=0x1x0x0x0x0x0x0,y=1x9x5x5,dtype=f32)",
        ),
        (
            {
                "op": "Conv",
                "x": (1, 3, 9, 9),
                "constants": {"w": floats(4, 3, 2, 2)},
                "strides": [2, 2],
                "auto_pad": "SAME_UPPER",
            },
            "Conv(x=1x3x9x9,w=4x3x2x2,s=2,p=0x0x1x1,d=1,g=1,act=none,dtype=f32)",
        ),
        (
            {"op": "MatMul", "x": (1, 9, 8), "constants": {"w": floats(8, 4)}},
            "MatMul(x=1x9x8,w=8x4,dtype=f32)",
        ),
        (
            {
                "op": "Slice",
                "x": (1, 8, 6, 6),
                "starts": [1],
                "ends": [99],
                "axes": [3],
                "opset": 9,
            },
            "Slice(x=1x8x6x6,start=0x1,dtype=f32)",
        ),
        (
            {"op": "Mul", "x": (1, 8), "constants": {"c": np.float32(2)}},
            "Mul(x=1x8,w=scalar,dtype=f32)",
        ),
        (
            {"op": "Einsum", "x": (2, 3), "equation": "ij->ji"},
            "Einsum(x=2x3,equation=ij-_ji,y=3x2,dtype=f32)",
        ),
        (
            {"op": "HardSigmoid", "x": (1, 8)},
            "HardSigmoid(x=1x8,alpha=0.2,beta=0.5,dtype=f32)",
        ),
        ({"op": "HardSigmoid", "x": (1, 8), "alpha": 1 / 6}, "HardSigmoid(x=1x8,dtype=f32)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_single_operators(args, kernel):
    assert one(**args) == [f"1*{kernel}"]


def test_batch_norm_folds_into_its_conv_only():
    bn = {name: floats(4) for name in ("g", "b", "m", "v")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *bn], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("BatchNormalization", ["r", *bn], ["y"]),
    ]
    model = make(nodes, {"x": (1, 3, 8, 8)}, constants={"w": floats(4, 3, 1, 1), **bn})
    assert texts(model) == [
        "1*BatchNormalization(x=1x4x8x8,w=4,dtype=f32)",
        "1*Conv(x=1x3x8x8,w=4x3x1x1,s=1,p=0,d=1,g=1,act=relu,dtype=f32)",
    ]
    counts = count(from_onnx(model))
    assert counts.params == 12 + 8  # both read the same gamma and beta
    assert counts.macs_darts_paper == counts.macs + 2 * 2 * 256 + 256


def test_linear_layer_as_matmul_and_add():
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["y"]),
    ]
    model = make(nodes, {"x": (1, 8, 1, 1)}, constants={"w": floats(8, 4), "b": floats(4)})
    assert texts(model) == ["1*Gemm(x=1x8,w=4x8,act=none,dtype=f32)"]
    assert count(from_onnx(model)).params == 36


def test_computed_shapes_are_followed():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "zero1"], ["n1"]),
        helper.make_node("Mul", ["two", "four"], ["eight"]),
        helper.make_node("Concat", ["n1", "eight"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    constants = {"zero": np.int64(0), "zero1": ints(0), "two": ints(2), "four": ints(4)}
    model = make(nodes, {"x": (1, 2, 4)}, constants={**constants, "w": floats(3, 8)})
    assert texts(model) == ["1*Gemm(x=1x8,w=3x8,act=none,dtype=f32)"]


def test_outputs_of_a_split_are_told_apart():
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Add", ["ra", "rb"], ["y"]),
    ]
    model = make(nodes, {"x": (1, 8, 4, 4)})
    assert texts(model) == [
        "1*Add(x=1x4x4x4+1x4x4x4,dtype=f32)",
        "1*Split(x=1x8x4x4,axis=1,sizes=4x4,y=1x4x4x4,dtype=f32)",
        "2*Relu(x=1x4x4x4,dtype=f32)",
    ]


def test_noop_casts_and_identities_vanish():
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Dropout", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    assert texts(make(nodes, {"x": (1, 4)})) == ["1*Relu(x=1x4,dtype=f32)"]


@pytest.mark.parametrize("name", ["missing.onnx", "empty.onnx", "garbage.onnx", "text.onnx", "."])
def test_files_that_are_no_models(tmp_path, name):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "garbage.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.onnx").write_text("not a model\n")
    with pytest.raises(InputError, match=r"does not exist|is empty|not an ONNX model|is a folder"):
        load_onnx(tmp_path / name)


@pytest.mark.parametrize("cut", [1, 10, 0.3, 0.9])
def test_a_cut_file_is_no_model(tmp_path, random_graph, cut):
    content = to_onnx(random_graph(0)).SerializeToString()
    keep = cut if isinstance(cut, int) else int(len(content) * cut)
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[:keep])
    with pytest.raises(InputError, match="is not an ONNX model"):
        load_onnx(path)


def test_a_good_file_loads(tmp_path, random_graph):
    path = tmp_path / "good.onnx"
    onnx.save(to_onnx(random_graph(0)), path)
    assert from_onnx(load_onnx(path)).inputs["image"][:2] == (1, 3)


def test_missing_external_weights(tmp_path):
    model = make(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (64, 64)},
        constants={"w": floats(64, 64)},
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    load_onnx(path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match="lacks its external weights"):
        load_onnx(path)


def test_a_free_batch_is_one_and_other_free_dimensions_are_asked_for(tmp_path):
    path = tmp_path / "dynamic.onnx"
    onnx.save(make([helper.make_node("Relu", ["x"], ["y"])], {"x": ("batch", 3)}), path)
    graph = read_graph(path)
    assert graph.inputs == {"x": (1, 3)}
    assert "was taken as 1" in graph.notes[0]
    assert read_graph(path, AskedInputs.of("4x3")).inputs == {"x": (4, 3)}
    with pytest.raises(InputError, match=r"no fixed size: axis 1 .*--input x=1x"):
        from_onnx(make([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, None)}))


def test_shapes_that_depend_on_values():
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(InputError, match="the shape of tensor 'n' is not static"):
        from_onnx(make(nodes, {"x": (1, 3)}))


def test_unknown_operators_name_op_and_node(tmp_path):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="here")
    path = tmp_path / "m.onnx"
    onnx.save(make([node], {"x": (1, 3)}), path)
    with pytest.raises(InputError, match=r"unknown operator 'Frobnicate' in node 'here'.*opset 18"):
        load_onnx(path)
    node = helper.make_node("HardSwish", ["x"], ["y"])
    onnx.save(make([node], {"x": (1, 3)}, opset=12), path)
    with pytest.raises(InputError, match="not in ONNX opset 12"):
        load_onnx(path)


def test_local_functions_are_inlined():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    node = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    model = make([node], {"x": (1, 3)}, domains=["mine"])
    model.functions.append(function)
    assert texts(model) == ["1*Add(x=1x3+1x3,dtype=f32)"]


def small_network():
    b = GraphBuilder()
    x = b.relu(b.conv(b.input("image", (1, 3, 9, 9)), 8, 3, stride=2, padding=1))
    y = b.conv(x, 8, 3, padding=1, groups=8, bn=False)
    y = b.add(b.conv(y, 8, 1), b.max_pool(x, 3, 1, 1))
    y = b.concat([b.relu(y), b.avg_pool(x, 3, 1, 1)])
    return b.finish([b.linear(b.global_avg_pool(b.relu(b.conv(y, 8, 1))), 10)])


class Reader:
    def __init__(self):
        rng = np.random.default_rng(0)
        self.feeds = iter([{"image": rng.standard_normal((1, 3, 9, 9), np.float32)}] * 4)

    def get_next(self):
        return next(self.feeds, None)


@pytest.mark.parametrize("style", ["QDQ", "QOperator"])
def test_what_onnxruntime_quantises(tmp_path, style):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = small_network()
    onnx.save(to_onnx(graph), tmp_path / "f32.onnx")
    quantize_static(
        tmp_path / "f32.onnx",
        tmp_path / "i8.onnx",
        Reader(),
        quant_format=QuantFormat[style],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantised = from_onnx(load_onnx(tmp_path / "i8.onnx"))
    got = kernel_counts(canonicalise(quantised))
    assert got == kernel_counts(canonicalise(graph), "i8")
    assert count(quantised).macs == count(graph).macs


def test_a_partly_quantised_model_keeps_its_float_operators():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["c"]),  # float weight: runs in float
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    constants = {"s": np.float32(0.1), "z": np.uint8(0), "w": floats(4, 3, 1, 1)}
    model = make(nodes, {"x": (1, 3, 8, 8)}, constants=constants)
    assert texts(model) == [
        "1*Conv(x=1x3x8x8,w=4x3x1x1,s=1,p=0,d=1,g=1,act=relu,dtype=f32)",
        "1*DequantizeLinear(x=1x3x8x8,from=u8,dtype=f32)",
    ]


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_damaged_bytes_never_end_in_a_traceback(tmp_path, random_graph, dtype):
    content = to_onnx(random_graph(3), dtype).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=3):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            graph = from_onnx(load_onnx(path))
        except InputError:
            continue
        kernel_counts(canonicalise(graph))


def test_a_window_that_does_not_fit_is_refused():
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5])
    with pytest.raises(InputError, match=r"'y' would have the shape \[1, 3, -2, -2\]"):
        from_onnx(make([node], {"x": (1, 3, 2, 2)}))


def test_what_is_empty_is_no_kernel():
    nodes = [
        helper.make_node("Slice", ["x", "start", "start"], ["nothing"]),
        helper.make_node("Relu", ["nothing"], ["still_nothing"]),
        helper.make_node("Concat", ["x", "still_nothing"], ["c"], axis=0),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    model = make(nodes, {"x": (2, 3)}, constants={"start": ints(0)})
    assert texts(model) == ["1*Relu(x=2x3,dtype=f32)"]


def test_an_operator_that_onnx_does_not_have_is_an_opaque_kernel_with_its_domain():
    node = helper.make_node("Magic", ["x"], ["m"], domain="my-domain", power=3)
    last = helper.make_node("Relu", ["m"], ["y"])
    model = make([node, last], {"x": (1, 3)}, domains=["my-domain"])
    with pytest.raises(InputError, match=r"operator my-domain\.Magic .* decides it"):
        from_onnx(model)
    model.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [1, 5]))
    text = "my_domain.Magic(x=1x3,power=3,y=1x5,dtype=f32)"
    assert texts(model) == ["1*Relu(x=1x5,dtype=f32)", f"1*{text}"]
    assert str(Kernel.parse(text)) == text


def test_a_contributed_operator_is_no_standard_one_of_the_same_name():
    nodes = [
        helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=2)
    ]
    constants = {"w": floats(8, 24), "b": floats(24)}
    model = make(nodes, {"x": (1, 4, 8)}, constants=constants, domains=["com.microsoft"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8]))
    macs = 4 * 8 * 24 + 2 * 4 * 4 * 8
    kernel = f"com.microsoft.Attention(x=1x4x8,w=8x24,num_heads=2,macs={macs},dtype=f32)"
    assert texts(model) == [f"1*{kernel}"]


def test_shapes_that_depend_on_values_come_from_one_run(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    path = tmp_path / "m.onnx"
    onnx.save(make(nodes, {"x": (2, 3)}), path)
    graph = read_graph(path)
    assert [node.out_shape for node in graph.nodes] == [(2, 6), (2, 6)]
    assert "those of one run with made-up inputs" in graph.notes[0]
    values = tmp_path / "values.npz"
    np.savez(values, x=np.array([[1, 0, 0], [0, 0, 2]], np.float32))
    given = read_graph(path, AskedInputs.of(file=values))
    assert given.nodes[0].out_shape == (2, 2)
    assert "with the given inputs" in given.notes[0]


def test_weights_among_the_inputs_of_an_old_file_are_weights(tmp_path):
    model = make(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"x": (1, 3, 8, 8)},
        constants={"w": floats(4, 3, 3, 3)},
        opset=8,
    )
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    onnx.save(model, tmp_path / "m.onnx")
    graph = read_graph(tmp_path / "m.onnx")
    assert graph.inputs == {"x": (1, 3, 8, 8)}
    assert count(graph).params == 108
