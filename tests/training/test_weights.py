import pytest
import safetensors.torch
import torch
from torch import nn

from factory.core.errors import InputError
from factory.training.weights import load_weights


class Versioned(nn.Module):
    """As torchvision's MNASNet: a state without the version of its layout is refused."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def _load_from_state_dict(self, state, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)


def test_a_network_that_wants_its_version_takes_a_file_of_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    trained, fresh = Versioned(), Versioned()
    safetensors.torch.save_file(trained.state_dict(), path)
    load_weights(fresh, path)
    assert torch.equal(fresh.inner.weight, trained.inner.weight)
    assert torch.equal(fresh.inner.bias, trained.inner.bias)


def test_another_networks_file_is_an_error(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"inner.weight": torch.zeros(1, 2)}, path)
    with pytest.raises(InputError, match=r"inner\.bias"):
        load_weights(Versioned(), path)


@pytest.mark.parametrize(
    "content", [b"", b"no tensors", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{" * 16]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="do not fit the network"):
        load_weights(Versioned(), path)
    with pytest.raises(InputError, match="do not exist"):
        load_weights(Versioned(), tmp_path / ("n" * 300))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    state = {"inner.weight": torch.tensor([[1.0, float("nan")]]), "inner.bias": torch.zeros(1)}
    safetensors.torch.save_file(state, path)
    with pytest.raises(InputError, match=r"'inner\.weight' has NaN or infinity"):
        load_weights(Versioned(), path)
