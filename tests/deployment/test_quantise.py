import numpy as np
import onnx
import onnxruntime as ort
import pytest

from factory.core.errors import InputError
from factory.deployment.agreement import compare
from factory.deployment.chip_flags import wants_reduced_range
from factory.deployment.manifest import describe_model
from factory.deployment.quantise import QuantiseConfig, Quantiser, quantise_onnx
from factory.deployment.run_here import run_model
from factory.deployment.targets import find_target

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((32, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def quantised(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "model.onnx"
    quantise_onnx(exported, out, IMAGES)
    return out


def test_form_and_types(quantised):
    model = onnx.load(quantised)
    arrays = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    conv_dtypes, scales = set(), []
    producers = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = producers[node.input[1]]
            conv_dtypes.add(arrays[weight.input[0]].dtype)
            scales.append(arrays[weight.input[1]].size)
            assert arrays[weight.input[0]].shape[0] == scales[-1]
        if node.op_type == "QuantizeLinear":
            assert arrays[node.input[2]].dtype == np.uint8
    assert conv_dtypes == {np.dtype(np.int8)}
    assert min(scales) > 1


def test_the_runtime_executes_it_in_integers(quantised, tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Conv" not in ops
    assert ops.count("QLinearConv") == 5
    assert ops.count("QLinearAdd") == 4
    assert {"QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QGemm"} <= set(ops)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_answers_stay_close_and_nothing_is_printed(exported, tmp_path, capfd, method):
    out = tmp_path / "int8.onnx"
    # 8-bit weights saturate on x86 without VNNI.
    config = QuantiseConfig(method=method, reduce_range=wants_reduced_range(True))
    manifest = quantise_onnx(exported, out, IMAGES, config)
    assert capfd.readouterr() == ("", "")
    assert manifest.precision == "int8"
    a, b = (ort.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in (exported, out))
    want = np.concatenate([a.run(None, {"image": i[None]})[0] for i in IMAGES])
    got = np.concatenate([b.run(None, {"image": i[None]})[0] for i in IMAGES])
    assert np.abs(got - want).mean() < 0.1 * np.ptp(want)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


def test_metadata_is_kept_and_the_precision_told(exported, quantised):
    fp32, int8 = describe_model(exported), describe_model(quantised)
    assert int8.metadata == fp32.metadata | {"precision": "int8"}
    assert (int8.inputs, int8.outputs) == (fp32.inputs, fp32.outputs)


def test_the_same_images_give_the_same_bytes(exported, quantised, tmp_path):
    quantise_onnx(exported, tmp_path / "again.onnx", IMAGES)
    assert (tmp_path / "again.onnx").read_bytes() == quantised.read_bytes()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:, :, :8], "do not fit the input"),
        (IMAGES[:0], "do not fit the input"),
        ((IMAGES * 50).astype(np.uint8), "uint8, not float"),
        (np.full_like(IMAGES, np.nan), "NaN"),
    ],
)
def test_bad_calibration_images(exported, tmp_path, images, message):
    with pytest.raises(InputError, match=message):
        quantise_onnx(exported, tmp_path / "x.onnx", images)
    assert not (tmp_path / "x.onnx").exists()


def test_a_missing_or_already_quantised_file(quantised, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        quantise_onnx(tmp_path / "no.onnx", tmp_path / "x.onnx", IMAGES)
    with pytest.raises(InputError, match="quantised already"):
        quantise_onnx(quantised, tmp_path / "x.onnx", IMAGES)


NORM = "float[4] g = {1.5, 0.5, 1.0, 2.0}, float[4] s = {0.1, -0.2, 0.3, 0.0}"
BODIES = {
    "a layer normalisation written out": """<float two = {2.0}, float e = {0.00001}> {
        m = ReduceMean <axes = [1], keepdims = 1> (x)  d = Sub(x, m)  p = Pow(d, two)
        v = ReduceMean <axes = [1], keepdims = 1> (p)  w = Add(v, e)  r = Sqrt(w)
        y = Div(d, r) }""",
    "softplus and depth to space": """{
        a = Softplus(x)  t = Tanh(a)  d = DepthToSpace <blocksize = 2> (t)
        y = SpaceToDepth <blocksize = 2> (d) }""",
    "a range without zero": """<float l = {1.0}, float h = {5.0}> {
        a = Add(x, h)  y = Clip(a, l, h) }""",
    "a transposed convolution of groups": """<float[4,2,1,1] w = {1.0, 0.5, 0.25, -1.0, 2.0, -0.5,
        0.125, 1.5}, float[4] b = {0.5, -0.5, 1.0, 0.0}> {
        y = ConvTranspose <group = 2> (x, w, b) }""",
    "a normalisation of instances and a pool": f"""<{NORM}> {{
        a = InstanceNormalization(x, g, s)
        y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a) }}""",
    "another width in the middle": """<double k = {0.5}> {
        a = Cast <to = 11> (x)  b = Mul(a, k)  c = Cast <to = 1> (b)  y = Add(c, x) }""",
}


@pytest.mark.parametrize("target", ["int8-cpu", "int8-qnn", "int8-coreml"])
@pytest.mark.parametrize("what", BODIES)
def test_forms_that_quantisers_stumble_over(what, target):
    head = '<ir_version: 9, opset_import: ["" : 17]>\nnet (float[1,4,6,6] x) => (float[1,4,6,6] y)'
    model = onnx.parser.parse_model(head + BODIES[what])
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    samples = RNG.standard_normal((8, 4, 6, 6), dtype=np.float32)
    quantiser = Quantiser(model, samples, QuantiseConfig(), find_target(target).flavour)
    made = quantiser.model("minmax")
    want = run_model(model.SerializeToString(), samples)
    found = compare(run_model(made.SerializeToString(), samples), want)
    assert found.signal_db > 15, found
    if what == "another width in the middle" and target != "int8-coreml":
        assert "Mul_1" in quantiser.floats
