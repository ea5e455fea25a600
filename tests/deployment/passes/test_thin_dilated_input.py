import pytest

from factory.deployment.passes.thin_dilated_input import thin_dilated_depthwise, thin_dilated_input


def conv(side=8, kernel=5, stride=2, dilation=2, pads=(4, 4, 4, 4), group=4, extra=""):
    height, width = side if isinstance(side, tuple) else (side, side)
    rows = (height + pads[0] + pads[2] - dilation * (kernel - 1) - 1) // stride + 1
    columns = (width + pads[1] + pads[3] - dilation * (kernel - 1) - 1) // stride + 1
    return f"""net (float[1,4,{height},{width}] x, float[4,{4 // group},{kernel},{kernel}] w)
        => (float[1,4,{rows},{columns}] y) {{
            r = Relu(x)
            y = Conv<kernel_shape = [{kernel},{kernel}], strides = [{stride},{stride}],
                     dilations = [{dilation},{dilation}], group = {group},
                     pads = [{",".join(map(str, pads))}]{extra}>(r, w) }}"""


@pytest.mark.parametrize("side", [7, 8, (9, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pads"),
    [
        (5, 2, 2, (4, 4, 4, 4)),
        (3, 2, 2, (2, 2, 2, 2)),
        (3, 2, 2, (1, 2, 3, 0)),
        (3, 2, 2, (0, 0, 0, 0)),
        (2, 4, 2, (3, 1, 1, 5)),
        (3, 2, 4, (4, 4, 4, 5)),
        (3, 3, 3, (2, 4, 4, 2)),
    ],
)
def test_the_same_sums_from_fewer_pixels(rewrite, side, kernel, stride, dilation, pads):
    text = conv(side, kernel, stride, dilation, pads)
    result = rewrite(text, thin_dilated_input)
    assert result.changed
    assert result.ops == ["Relu", "Slice", "Conv"]
    made = {a.name: list(a.ints) for a in result.after.graph.node[-1].attribute if a.ints}
    assert made["strides"] == [{(4, 2): 2}.get((stride, dilation), 1)] * 2
    assert made["dilations"] == [{(2, 4): 2}.get((stride, dilation), 1)] * 2


@pytest.mark.parametrize(
    "text",
    [
        conv(stride=1),
        conv(dilation=1, pads=(2, 2, 2, 2)),
        conv(12, 3, stride=3, dilation=2),
    ],
)
def test_what_reads_every_pixel_stays(rewrite, text):
    assert not rewrite(text, thin_dilated_input).changed


def test_for_an_npu_only_large_depthwise_ones(rewrite):
    assert rewrite(conv(), thin_dilated_depthwise).ops == ["Relu", "Slice", "Conv"]
    assert not rewrite(conv(kernel=3, pads=(2, 2, 2, 2)), thin_dilated_depthwise).changed
    assert not rewrite(conv(group=1), thin_dilated_depthwise).changed
