"""The network-level module: exact at one-hot choices, draws with the right mean, plain storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factory.core.errors import InputError
from factory.latency.network_module import (
    ModuleSettings,
    NetworkLatency,
    draw,
    fit_network_module,
)

GROUPS = {"normal": [0, 0, 1, 1, 1], "reduce": [0, 0, 0]}
QUICK = ModuleSettings(hidden=(32,), steps=300, batch=64)


def _networks(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Two edges a group, three operators."""
    rng = np.random.default_rng(seed)
    codes = {}
    for name, groups in GROUPS.items():
        codes[name] = np.zeros((count, len(groups), 3))
        for b in range(count):
            for group in set(groups):
                edges = np.flatnonzero(np.array(groups) == group)
                for edge in rng.choice(edges, 2, replace=False):
                    codes[name][b, edge, rng.integers(3)] = 1.0
    return codes


def _latency_ms(codes: dict[str, np.ndarray]) -> np.ndarray:
    """A chip whose operators do not add up: two of a kind share a set-up cost."""
    per_op = np.array([0.1, 0.4, 1.0])
    total = np.full(len(codes["normal"]), 0.5)
    for value in codes.values():
        counts = value.sum(1)
        total += counts @ per_op - 0.3 * (counts[:, 2] >= 2)
    return total


@pytest.fixture(scope="module")
def module() -> NetworkLatency:
    codes = _networks(600)
    return fit_network_module(codes, _latency_ms(codes), groups=GROUPS, settings=QUICK, seed=3)


def test_predicts_networks_that_it_has_not_seen(module):
    assert module.error is not None
    assert module.error.networks == 60
    codes = _networks(200, seed=9)
    flat = np.concatenate([v.reshape(200, -1) for v in codes.values()], 1)
    error = np.abs(module.network_ms(torch.from_numpy(flat)).numpy() / _latency_ms(codes) - 1)
    assert np.median(error) < 0.03
    assert np.mean(error <= 0.1) > 0.95


def test_one_hot_choice_is_the_derived_network(module):
    codes = _networks(20, seed=1)
    for b in range(20):
        q = {name: torch.from_numpy(value[b]) for name, value in codes.items()}
        flat = torch.cat([q[name].reshape(-1) for name in q])
        module.at(b)
        found = module(q)
        assert found.shape == ()
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(float(module.network_ms(flat[None])[0]), rel=1e-12)


def test_every_soft_choice_is_seen_as_networks_of_the_space(module):
    """Never a soft code, and never one or three edges into a node."""
    rng = np.random.default_rng(0)
    pi = np.array([0.7, 0.8, 0.5])
    q = torch.from_numpy(pi[:, None] * rng.dirichlet(np.ones(3), 3))
    hot = draw(q, [0, 0, 0], 4000, torch.Generator().manual_seed(0))
    assert set(hot.unique().tolist()) == {0.0, 1.0}
    assert torch.all(hot.sum((1, 2)) == 2)
    assert torch.all(hot.sum(2) <= 1)
    assert np.abs(hot.mean(0) - q).max() < 0.03


def test_edges_alone_in_their_group_may_be_absent():
    q = torch.tensor([[0.3, 0.1], [0.0, 1.0]])
    hot = draw(q, [0, 1], 4000, torch.Generator().manual_seed(0))
    assert np.abs(hot.mean(0) - q).max() < 0.03
    assert torch.all(hot[:, 1, 1] == 1)


def test_gradient_is_that_of_the_networks_drawn(module):
    codes = _networks(1, seed=5)
    q = {name: torch.from_numpy(value[0]).requires_grad_() for name, value in codes.items()}
    module(q).backward()
    flat = torch.cat([q[name].detach().reshape(-1) for name in q])[None].requires_grad_()
    module.network_ms(flat).sum().backward()
    found = torch.cat([value.grad.reshape(-1) for value in q.values()])
    assert torch.allclose(found, flat.grad[0], rtol=1e-5)


def test_draws_depend_on_the_step_alone(module):
    q = {"normal": torch.full((5, 3), 0.2), "reduce": torch.full((3, 3), 2 / 9)}

    def at(step: int) -> float:
        module.at(step)
        return float(module(q))

    first, second = at(0), at(1)
    assert first != second
    assert (at(0), at(1)) == (first, second)


def test_save_and_load(module, tmp_path):
    path = tmp_path / "module.safetensors"
    module.save(path)
    again = NetworkLatency.load(path)
    q = {"normal": torch.full((5, 3), 0.2), "reduce": torch.full((3, 3), 2 / 9)}
    module.at(0)
    assert float(again(q)) == float(module(q))
    assert again.error == module.error
    assert not any(parameter.requires_grad for parameter in again.parameters())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        NetworkLatency.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        NetworkLatency.load(tmp_path / "none")


def test_same_data_and_seed_give_the_same_module():
    codes = _networks(60)
    quick = ModuleSettings(hidden=(8,), steps=20)
    a, b = (fit_network_module(codes, _latency_ms(codes), settings=quick) for _ in range(2))
    for left, right in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_wrong_input(module):
    codes = _networks(12)
    with pytest.raises(InputError, match=r"latency of -1\.0 ms at \[3\]"):
        fit_network_module(codes, np.where(np.arange(12) == 3, -1.0, 1.0))
    with pytest.raises(InputError, match="at least ten networks"):
        fit_network_module(codes, np.ones(11))
    with pytest.raises(ValueError, match=r"q\['reduce'\] must be \(3, 3\), not nothing"):
        module({"normal": torch.zeros(5, 3)})
