import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_training import CONFIG, TinyNetwork, tiny_data

from factory.core.errors import FactoryError, InputError
from factory.core.progress import SilentProgress
from factory.training.evaluate import evaluate
from factory.training.loop import train_network


def _train(out_dir: Path, **changes):
    network = TinyNetwork()
    config = CONFIG.model_copy(update=changes)
    return network, train_network(network, tiny_data(), config, out_dir, seed=3)


def test_learns_and_leaves_the_three_files(tmp_path: Path) -> None:
    network, result = _train(tmp_path, epochs=8)
    assert result.test_accuracy == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "history.jsonl",
        "result.json",
        "weights.safetensors",
    ]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history == result.history
    assert [entry["epoch"] for entry in history] == list(range(1, 9))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert set(history[0]) == {"epoch", "train_loss", "test_accuracy", "test_loss", "lr"}
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["test_accuracy"] == result.test_accuracy
    assert stored["schema_version"] == 1
    # What is shipped is what was tested, and the network holds it.
    weights = safetensors.torch.load_file(result.weights)
    assert all(torch.equal(weights[name], v) for name, v in network.state_dict().items())
    assert not network.training
    assert evaluate(network, tiny_data())[0] == result.test_accuracy


def test_a_finished_training_is_read_back(tmp_path: Path) -> None:
    first_network, first = _train(tmp_path)
    stamp = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    network, again = _train(tmp_path)
    assert again == first
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == stamp
    for name, value in first_network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    with pytest.raises(InputError, match="another network, data set, seed or training settings"):
        _train(tmp_path, lr=0.02)


def test_same_seed_same_bits_and_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    _, first = _train(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    _, second = _train(tmp_path / "b")
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert first.history == second.history


class _Interrupting(SilentProgress):
    def __init__(self, at_step: int) -> None:
        self.left = at_step

    def task(self, label, total, done=0):
        import contextlib

        return contextlib.nullcontext(self)

    def advance(self, n: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 8, 13, 47, 48])
@pytest.mark.parametrize("checkpoint_s", [0.0, 1000.0])
def test_interrupted_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, step: int, checkpoint_s: float
) -> None:
    _, straight = _train(tmp_path / "straight")
    config = CONFIG.model_copy(update={"checkpoint_s": checkpoint_s})
    with pytest.raises(KeyboardInterrupt):
        train_network(
            TinyNetwork(), tiny_data(), config, tmp_path / "cut", _Interrupting(step), seed=3
        )
    cut = tmp_path / "cut"
    with (cut / "history.jsonl").open("a") as stream:  # a line after the checkpoint, cut short
        stream.write('{"epoch": 99, "train_lo')
    # Other initial weights: they must come from the checkpoint, where there is one.
    resumes = checkpoint_s == 0 or step >= 8
    network = TinyNetwork(seed=1 if resumes else 0)
    resumed = train_network(network, tiny_data(), config, cut, seed=3)
    assert resumed.weights.read_bytes() == straight.weights.read_bytes()
    assert resumed.history == straight.history
    assert (cut / "history.jsonl").read_text() == (
        tmp_path / "straight" / "history.jsonl"
    ).read_text()


def test_another_runs_or_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_network(TinyNetwork(), tiny_data(), CONFIG, tmp_path, _Interrupting(9), seed=3)
    with pytest.raises(InputError, match=r"checkpoint\.pt belongs to a run with another"):
        train_network(TinyNetwork(), tiny_data(), CONFIG, tmp_path, seed=4)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[:100], bytes(flipped), b"", content + b"\0"):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt cannot be read"):
            train_network(TinyNetwork(), tiny_data(), CONFIG, tmp_path, seed=3)


def test_divergence_is_said_and_never_saved(tmp_path: Path) -> None:
    network = TinyNetwork()
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    with pytest.raises(FactoryError, match="training diverged: the loss is not finite at step 1"):
        train_network(network, tiny_data(), CONFIG, tmp_path, seed=3)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_mixup_and_no_average_and_sparse_tests(tmp_path: Path) -> None:
    _, result = _train(tmp_path, mixup=0.2, ema_decay=0.0, eval_every=4, epochs=5, grad_clip=0.0)
    assert [entry["test_accuracy"] is None for entry in result.history] == [1, 1, 1, 0, 0]


def test_an_absent_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot train on device 'quantum'"):
        _train(tmp_path, device="quantum")


def test_plain_network_without_drop_path_or_auxiliary_head(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    config = CONFIG.model_copy(update={"epochs": 1})
    result = train_network(network, tiny_data(), config, tmp_path, seed=0)
    assert 0 <= result.test_accuracy <= 1
