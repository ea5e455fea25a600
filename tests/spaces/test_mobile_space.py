"""The mobile space: its networks, its kernels, and the relaxed network against the derived ones."""

import numpy as np
import pytest
import torch

from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.spaces.config import space_settings
from factory.spaces.mixing import SupernetOptions
from factory.spaces.mobile_space import Form, MobileSettings, Size, Stage

SHAPE = (3, 16, 16)


def tiny(**settings):
    return MobileSettings(kind="mobile", width_multiplier=0.5, **settings).space(SHAPE, 5)


def test_the_recipe_knows_the_space():
    settings = space_settings({"kind": "mobile", "preset": "v4", "activation": "hardswish"})
    space = settings.space((3, 224, 224), 1000)
    assert space.spec.head.hidden == 1280
    assert space.counts(space.from_choices([0] * len(space.variables))).macs > 50e6


@pytest.mark.parametrize("preset", ["tiny", "v4"])
def test_expected_counts_are_those_of_the_network_that_is_drawn(preset):
    space = tiny(preset=preset)
    presence = space.presence()
    rng = np.random.default_rng(1)
    for _ in range(40):
        architecture = space.random(rng)
        assert presence.counter(space.one_hot(architecture)) == space.kernels(architecture)


@pytest.mark.parametrize("squeeze", [False, True])
def test_kernels_of_the_space_are_those_of_the_exported_network(squeeze):
    space = tiny(squeeze=squeeze, activation="hardswish" if squeeze else "relu")
    rng = np.random.default_rng(2)
    for _ in range(2):
        architecture = space.random(rng)
        network = space.network(architecture).initialise(0).eval()
        exported = kernel_counts(canonicalise(from_onnx(build_onnx(network, SHAPE))))
        assert exported == space.kernels(architecture)
        assert sum(p.numel() for p in network.parameters()) == space.counts(architecture).params


@pytest.mark.parametrize(
    "settings",
    [{}, {"squeeze": True, "activation": "hardswish"}, {"preset": "v4", "stem_stride": 1}],
)
def test_at_one_choice_the_relaxed_network_is_the_derived_one(settings):
    space = tiny(**settings)
    supernet = space.supernet(SupernetOptions(seed=3)).module.train().double()
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    rng = np.random.default_rng(4)
    for _ in range(6):
        architecture = space.random(rng)
        own = space.choices(architecture)
        weights = {
            variable.name: torch.eye(len(variable.values), dtype=torch.float64)[choice]
            for variable, choice in zip(space.variables, own, strict=True)
        }
        with torch.no_grad():
            relaxed = supernet(images, weights)
            derived = supernet.cut_out(architecture).double().train()(images)
        assert torch.allclose(relaxed, derived, rtol=1e-6, atol=1e-8), architecture


def test_forms_beyond_the_depth_are_the_same_network():
    space = tiny(preset="v4")
    shallow = dict(space.random(np.random.default_rng(5)).values) | {"stage0.size": "2x48"}
    first, second = (
        space.decode(shallow | {"stage0.block5": form}) for form in ("0-3-e2", "5-5-e6")
    )
    assert first != second
    assert space.canonical(first) == space.canonical(second)
    assert space.kernels(first) == space.kernels(second)


def test_a_block_that_halves_the_map_has_a_middle_convolution():
    stage = Stage((Size(2, 8),), (Form(3, 0, 2), Form(0, 3, 2)), stride=2)
    assert stage.forms_of(0) == (Form(0, 3, 2),)
    assert stage.forms_of(1) == stage.forms
    with pytest.raises(ValueError, match="first block"):
        Stage((Size(2, 8),), (Form(3, 0, 2),), stride=2)
