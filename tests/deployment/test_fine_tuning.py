"""Quantisation-aware fine-tuning: it trains a copy of the network, and the gate gains by it."""

import copy
import itertools
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from factory.data.config import DataConfig
from factory.data.datasets import load_data
from factory.data.loader import Batches, BatchStream
from factory.deployment.export import build_onnx
from factory.deployment.fine_tuning import Rounding, Trainable, fine_tune, missing, tuned_onnx
from factory.deployment.flavours import CPU_FLAVOUR, Flavour
from factory.deployment.gate import gate_int8
from factory.deployment.gate_contract import GateConfig, GateData

SHAPE = (3, 16, 16)
WIDE = 80.0


class Small(nn.Module):
    """Three convolutions with batch normalisation, an addition, a classifier."""

    def __init__(self):
        super().__init__()
        widths = (3, 12, 16, 16)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2 if i == 1 else 1, padding=1, bias=False)
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x):
        """Logits."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = functional.relu(norm(conv(x)))
            x = x + y if i == 2 else y
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig(kind="digits", image_size=16), 0)


@pytest.fixture(scope="module")
def trainable(digits):
    """The small network, trained on the digits; one channel made wide, which changes no answer."""
    torch.manual_seed(0)
    network = Small()
    batches = Batches(digits, digits.train, BatchStream(len(digits.train), 64, 0))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        x, labels = batches.get(step)
        optimiser.zero_grad()
        functional.cross_entropy(network(x), labels).backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():  # relu(a x) = a relu(x): the next weights undo it
        network.norms[0].weight[0] *= WIDE
        network.norms[0].bias[0] *= WIDE
        network.convs[1].weight[:, 0] /= WIDE
    return Trainable(network, batches.get)


def gate_pictures(digits):
    def prepared(split, index):
        images, labels = split[index]
        return digits.normalise(images).numpy(), labels.numpy()

    selection, labels = prepared(digits.train, slice(100, 300))
    test, test_labels = prepared(digits.test, slice(None))
    return GateData(
        prepared(digits.train, slice(0, 100))[0], selection, test, labels, test_labels, "digits"
    )


def test_rounding_follows_the_flavour():
    assert Rounding.of(CPU_FLAVOUR, False) == Rounding()
    assert Rounding.of(CPU_FLAVOUR, True).weight_bits == 7
    assert not Rounding.of(Flavour(activation="none"), False).activations
    assert Rounding.of(Flavour(activation_symmetric=True), False).activations_symmetric


@pytest.mark.heavy
def test_the_gate_recovers_by_fine_tuning_what_rounding_lost(digits, trainable):
    pytest.importorskip("torchao")
    before = copy.deepcopy(trainable.network.state_dict())
    source = build_onnx(trainable.network, SHAPE)
    onnx.helper.set_model_props(source, {"class_names": "[]", "precision": "fp32"})

    def tune(steps):
        return tuned_onnx(trainable, source, Rounding.of(CPU_FLAVOUR, True), steps)

    config = GateConfig(max_drop_points=3.0, max_float_share=0.0, reduce_range=True)
    without = gate_int8(source, gate_pictures(digits), config)
    assert without.verdict == "refused"
    assert without.test.drop_points > 5, "int8 must break here"
    result = gate_int8(source, gate_pictures(digits), config, tuner=tune)
    trail = {entry["step"]: entry for entry in result.trail}
    tuned = trail["quantisation-aware fine-tuning"]
    assert tuned["steps"] == 300
    assert tuned["last_loss"] < tuned["first_loss"]
    assert result.verdict == "fine-tuned", result.reason
    assert result.test.drop_points <= 3.0
    assert {p.key: p.value for p in result.model.metadata_props}["fine_tuned"]
    assert any(node.op_type == "DequantizeLinear" for node in result.model.graph.node)
    json.dumps(result.to_dict(), allow_nan=False)
    after = trainable.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "only a copy is trained"


@pytest.mark.heavy
def test_every_weight_of_the_network_is_trained_and_its_statistics_stay(trainable):
    pytest.importorskip("torchao")
    tuned = fine_tune(trainable.network, trainable.batch, Rounding(), steps=3)
    before, after = trainable.network.state_dict(), tuned.network.state_dict()
    parameters = {name for name, _ in trainable.network.named_parameters()}
    assert before.keys() == after.keys()
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed == (name in parameters), name
    x, _ = trainable.batch(0)
    assert tuned.network(x).shape == (len(x), 10)


def test_without_torchao_the_gate_refuses_and_says_how_to_get_it(digits, trainable, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else real(name)
    )
    assert "model-factory[qat]" in missing()
    source = build_onnx(trainable.network, SHAPE)
    pictures = gate_pictures(digits)

    def tune(steps):
        return tuned_onnx(trainable, source, Rounding(), steps)

    config = GateConfig(max_drop_points=2.0, max_float_share=0.0, methods=("minmax",))
    result = gate_int8(source, pictures, config, tuner=tune)
    assert (result.verdict, result.model) == ("refused", None)
    assert "model-factory[qat]" in result.reason
    assert "model-factory[qat]" in result.trail[-1]["left_out"]
    assert np.isfinite(result.test.drop_points)
