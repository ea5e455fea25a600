import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from factory.deployment.export import build_onnx
from factory.deployment.passes.pad_channels import pad_channels
from factory.deployment.run_here import run_images


class Block(nn.Module):
    """Pointwise, depthwise, squeeze-and-excitation, pointwise; hidden width 13, gate 5."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.expand, self.project = nn.Conv2d(16, 13, 1), nn.Conv2d(13, 16, 1)
        self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13)
        self.down, self.up = nn.Conv2d(13, 5, 1), nn.Conv2d(5, 13, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        h = nn.functional.hardswish(self.depthwise(nn.functional.relu6(self.expand(x))))
        gate = nn.functional.adaptive_avg_pool2d(h, 1)
        gate = torch.sigmoid(self.up(torch.relu(self.down(gate))))
        x = x + self.project(h * gate)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_onnx(Block(), (3, 12, 12))


def padded(model, multiple):
    copy = ir.from_proto(model)
    changed = pad_channels(copy, multiple)
    proto = ir.to_proto(copy)
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True), changed


def widths(model):
    weights = {w.name: w for w in model.graph.initializer}
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    return [tuple(weights[n.input[1]].dims)[:2] for n in convs]


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_hidden_widths_grow_and_the_answers_stay(model, multiple):
    after, changed = padded(model, multiple)
    assert changed
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(0).standard_normal((4, 3, 12, 12), dtype=np.float32)
    np.testing.assert_allclose(
        run_images(after.SerializeToString(), x),
        run_images(model.SerializeToString(), x),
        atol=1e-5,
    )
    hidden = -(-13 // multiple) * multiple
    assert (hidden, 16) in widths(after)
    assert (hidden, 1) in widths(after), "the depthwise convolution grows with its neighbours"


def test_inputs_outputs_and_full_widths_are_left_alone(model):
    after, _ = padded(model, 8)
    assert widths(after)[0] == (16, 3)
    assert list(after.graph.input) == list(model.graph.input)
    assert list(after.graph.output) == list(model.graph.output)
    again, changed = padded(after, 8)
    assert not changed
    assert widths(again) == widths(after)


def test_a_concat_is_left_alone(rewrite):
    text = """net (float[1,3,4,4] x) => (float[1,10,4,4] y)
    <float[3,3,1,1] a, float[3,3,1,1] b, float[10,6,1,1] c> {
        p = Conv(x, a) q = Conv(x, b) r = Concat<axis = 1>(p, q) y = Conv(r, c)
    }"""

    def one_pass(model):
        return pad_channels(model, 8)

    assert not _changed(text, one_pass)


def _changed(text, one_pass):
    model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 20]>\n' + text)
    for value in list(model.graph.input)[1:]:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = np.ones(dims, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    model = onnx.shape_inference.infer_shapes(model)
    return one_pass(ir.from_proto(model))
