import copy
import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from tiny_training import TinyNetwork

from factory.core.progress import SILENT
from factory.training.config import TrainConfig
from factory.training.ema import WeightAverage
from factory.training.hardware import CompiledOrEager, Hardware, choose_hardware
from factory.training.schedule import learning_rate


def test_learning_rate_rises_then_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[:2] == pytest.approx([0.05, 0.1])
    assert rates[9] == rates[10] == 0.5 == max(rates)
    assert rates[55] == pytest.approx(0.25)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))


def test_average_follows_with_a_warm_up_and_takes_in_batch_norm_statistics() -> None:
    network = TinyNetwork()
    average = WeightAverage(network, decay=0.5)
    name = "features.1.running_mean"
    with torch.no_grad():
        network.state_dict()[name].fill_(1.0)
        network.head.bias.fill_(1.0)
        average.network.head.bias.fill_(0.0)
        network.features[1].num_batches_tracked.fill_(9)
    average.update(0)  # decay (1 + 0) / (10 + 0)
    assert average.state_dict()[name].tolist() == pytest.approx([0.9] * 8)
    assert average.network.head.bias.tolist() == pytest.approx([0.9] * 2)
    assert average.state_dict()["features.1.num_batches_tracked"] == 9
    average.update(1000)  # decay 0.5
    assert average.network.head.bias.tolist() == pytest.approx([0.95] * 2)
    assert not any(p.requires_grad for p in average.network.parameters())


def test_no_averaging_copies_the_weights() -> None:
    network = TinyNetwork()
    average = WeightAverage(network, decay=0.0)
    with torch.no_grad():
        network.head.weight.add_(0.123)
    average.update(1000)
    assert torch.equal(average.network.head.weight, network.head.weight)


def test_auto_on_the_cpu_is_fp32_channels_last_and_not_compiled() -> None:
    hardware = choose_hardware(TrainConfig(device="cpu"), total_steps=10**6)
    assert (hardware.bf16, hardware.channels_last, hardware.compile) == (False, True, False)


def test_a_failing_compiler_is_told_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network):
        def call(x):
            raise RuntimeError("no C compiler found\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    told = []
    progress = copy.copy(SILENT)
    monkeypatch.setattr(progress, "message", told.append, raising=False)
    hardware = Hardware(torch.device("cpu"), bf16=False, channels_last=False, compile=True)
    call = CompiledOrEager(TinyNetwork().eval(), hardware, progress)
    assert call(torch.zeros(2, 3, 8, 8)).shape == (2, 2)
    assert told == ["torch.compile failed, training goes on without it: no C compiler found"]


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"lr": -0.1},
        {"warmup_epochs": 31},
        {"drop_path": 1.0},
        {"precision": "fp64"},
        {"momentun": 0.9},
    ],
)
def test_absurd_settings_are_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(**values)
