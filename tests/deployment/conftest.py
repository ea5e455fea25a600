"""Shared by the deployment tests: a small torch network and a before/after runner for passes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from factory.deployment.export import export_onnx
from factory.deployment.metadata import ModelMetadata, Preprocessing

SHAPE = (3, 16, 16)


def run_model(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


class Rewritten:
    """A model after one pass, with the numbers proven equal to those before."""

    def __init__(self, before: onnx.ModelProto, after: onnx.ModelProto, changed: bool) -> None:
        self.before, self.after, self.changed = before, after, changed
        self.ops = [node.op_type for node in after.graph.node]


@pytest.fixture
def rewrite() -> Callable[..., Rewritten]:
    def run(text: str, one_pass, opset: int = 20, seed: int = 0) -> Rewritten:
        head = f'<ir_version: 9, opset_import: ["" : {opset}]>\n'
        before = onnx.parser.parse_model(head + text)
        rng = np.random.default_rng(seed)
        before = onnx.shape_inference.infer_shapes(before, data_prop=True)
        onnx.checker.check_model(before, full_check=True)
        model = ir.from_proto(before)
        changed = one_pass(model)
        after = ir.to_proto(model)
        onnx.checker.check_model(after, full_check=True)
        weights = {w.name for w in before.graph.initializer}
        feeds = {
            v.name: rng.standard_normal(
                [d.dim_value for d in v.type.tensor_type.shape.dim], dtype=np.float32
            )
            for v in before.graph.input
            if v.name not in weights
        }
        for old, new in zip(run_model(before, feeds), run_model(after, feeds), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
        return Rewritten(before, after, changed)

    return run


def sep_conv(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class CellLike(nn.Module):
    """The operators of a cell network: stem, separable, factorised reduction, pools, equal Adds."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        self.sep = sep_conv(c)
        self.reduce_a = nn.Conv2d(c, c // 2, 1, stride=2, bias=False)
        self.reduce_b = nn.Conv2d(c, c // 2, 1, stride=2, bias=False)
        self.reduce_bn = nn.BatchNorm2d(c)
        self.max_pool = nn.MaxPool2d(3, 2, 1)
        self.avg_pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.skip, self.dropout = nn.Identity(), nn.Dropout(0.5)
        self.head = nn.Linear(3 * c, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.sep(x) + self.skip(x)
        r = torch.relu(x)
        halves = torch.cat([self.reduce_a(r), self.reduce_b(r[:, :, 1:, 1:])], 1)
        a = self.max_pool(x) + self.reduce_bn(halves)
        equal_1 = self.avg_pool(a) + self.skip(a)
        equal_2 = self.avg_pool(a) + self.skip(a)
        y = torch.cat([a, equal_1, equal_2], 1)
        y = nn.functional.adaptive_avg_pool2d(self.dropout(y), 1).flatten(1)
        return self.head(y)


@pytest.fixture(scope="session")
def network() -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = CellLike()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, *SHAPE))
    return net


@pytest.fixture(scope="session")
def metadata() -> ModelMetadata:
    return ModelMetadata(
        class_names=tuple(f"class {i}" for i in range(10)),
        preprocessing=Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25), size=SHAPE[1:]),
        genotype={"schema_version": 1, "normal": [["skip_connect", 0]]},
        tier="small",
    )


@pytest.fixture(scope="session")
def exported(network, metadata, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("deploy") / "model-fp32.onnx"
    export_onnx(network, SHAPE, path, metadata)
    return path
