"""A space of whole networks in this one file; the whole line runs on it, with no file edited.

Three stages of depthwise separable blocks; each chooses its width, its kernel size and its depth.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from factory.api import build, predict, search, train, verify
from factory.core.errors import InputError
from factory.devices.simulated import Roofline
from factory.graph.opgraph import GraphBuilder
from factory.search.costs import macs_term
from factory.search.derive import derivation_of
from factory.spaces import SPACES, SearchSpace, SpaceSettings, Variable
from factory.spaces.mixing import VariableSupernet
from factory.spaces.torch_initialise import initialise

STAGES, STEM = 3, 8
WIDTHS, KERNELS, DEPTHS = (8, 16, 24), (3, 5), (1, 2, 3)


@dataclass(frozen=True)
class Size:
    input_shape: tuple[int, int, int]
    num_classes: int


class Block(nn.Sequential):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Network(nn.Module):
    def __init__(self, blocks, size):
        super().__init__()
        stem = nn.Conv2d(size.input_shape[0], STEM, 3, padding=1, bias=False)
        start = (stem, nn.BatchNorm2d(STEM), nn.ReLU())
        self.body = nn.Sequential(*start, *(Block(*block) for block in blocks))
        self.classifier = nn.Linear(blocks[-1][1], size.num_classes)

    def forward(self, x):
        return self.classifier(self.body(x).mean((2, 3)))

    def initialise(self, seed):
        initialise(self, seed)
        return self


class Relaxed(nn.Module):
    """Shared weights: kernel sizes are cut out of the largest, widths masked, depths weighed."""

    def __init__(self, size, seed):
        super().__init__()
        widest = WIDTHS[-1]
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(widest, widest, KERNELS[-1], 1) for _ in DEPTHS)
            for _ in range(STAGES)
        )
        self.stem = nn.Conv2d(size.input_shape[0], widest, 3, padding=1, bias=False)
        self.classifier = nn.Linear(widest, size.num_classes)
        initialise(self, seed)

    def forward(self, x, weights):
        x = F.relu(self.stem(x)) * (torch.arange(WIDTHS[-1]) < STEM).float()[:, None, None]
        for s, blocks in enumerate(self.blocks):
            inside = (torch.arange(WIDTHS[-1])[None] < torch.tensor(WIDTHS)[:, None]).float()
            mask = (weights[f"width {s}"] @ inside)[:, None, None]
            share, small = weights[f"kernel {s}"], F.pad(torch.ones(3, 3), (1, 1, 1, 1))
            results = []
            for i, block in enumerate(blocks):
                kernel = block[0].weight * (share[0] * small + share[1])
                stride = 2 if i == 0 else 1
                x = F.conv2d(x, kernel, None, stride, KERNELS[-1] // 2, 1, x.shape[1])
                x = F.batch_norm(block[1](x), None, None, training=True)
                x = F.relu(x) * mask
                results.append(x)
            x = sum(w * y for w, y in zip(weights[f"depth {s}"], results, strict=True))
        return self.classifier(x.mean((2, 3)))


class Toy(SearchSpace):
    KIND = "toy"
    variables = tuple(
        Variable(f"{what} {s}", values)
        for s in range(STAGES)
        for what, values in (("width", WIDTHS), ("kernel", KERNELS), ("depth", DEPTHS))
    )
    interactions = tuple(
        (f"width {s}", f"kernel {s}", f"depth {s}", *([f"width {s - 1}"] if s else []))
        for s in range(STAGES)
    )

    def blocks_of(self, a):
        width, found = STEM, []
        for s in range(STAGES):
            for i in range(a[f"depth {s}"]):
                found.append((width, a[f"width {s}"], a[f"kernel {s}"], 2 if i == 0 else 1))
                width = a[f"width {s}"]
        return found

    def lower(self, architecture):
        b = GraphBuilder()
        x = b.input("image", (1, *self.spec.input_shape))
        x = b.relu(b.conv(x, STEM, 3, padding=1, weight_id="stem"))
        for i, (inputs, outputs, kernel, stride) in enumerate(self.blocks_of(architecture)):
            x = b.conv(x, inputs, kernel, stride=stride, padding=kernel // 2, groups=inputs,
                       bn=False, weight_id=f"depthwise {i}")  # fmt: skip
            x = b.relu(b.conv(x, outputs, 1, weight_id=f"pointwise {i}"))
        return b.finish([b.linear(b.global_avg_pool(x), self.spec.num_classes)])

    def network(self, architecture, *, auxiliary=False):
        return Network(self.blocks_of(architecture), self.spec)

    def supernet(self, options):
        return VariableSupernet(self, Relaxed(self.spec, options.seed))


class ToySettings(SpaceSettings):
    kind: Literal["toy"] = "toy"

    def space(self, input_shape, num_classes):
        return Toy(Size(input_shape, num_classes))


if Toy.KIND not in SPACES:
    SPACES.add(Toy.KIND, (Toy, ToySettings))


@pytest.fixture
def recipe(tiny: Path) -> Path:
    device = tiny.parent / "simulated-a.toml"
    device.write_text(device.read_text().replace('"simulated"\n', f'"simulated {Roofline()}"\n', 1))
    text = tiny.read_text().replace("[space]\nchannels = 4\nlayers = 3", '[space]\nkind = "toy"')
    tiny.write_text(text.replace('preset = "short"', 'preset = "darts-short"'))
    return tiny


def test_expected_costs_are_those_of_the_network() -> None:
    space, rng = Toy(Size((3, 16, 16), 10)), np.random.default_rng(0)
    presence = space.presence("i8")
    for network in (space.random(rng) for _ in range(20)):
        assert presence.counter(space.one_hot(network)) == space.kernels(network, "i8")
        assert space.from_choices(space.choices(network)) == network


def test_the_strongest_network_within_limits_is_found() -> None:
    space, rng = Toy(Size((3, 16, 16), 10)), np.random.default_rng(1)
    scores = {"network": np.log(rng.dirichlet(np.ones(3), len(space.variables)))}
    derivation, macs = derivation_of(space), macs_term(space.presence())
    every = [space.from_choices(choices) for choices in space.assignments()]
    value = macs.presence.scores(space.one_hot_many(every), macs.weights)
    assert derivation.smallest(macs)[0] == value.min()
    assert derivation.largest(macs) == value.max()
    limit = float(np.quantile(value, 0.3))
    found, _ = derivation.repair(scores, [macs.with_limit(limit)])
    inside = [network for network, cost in zip(every, value, strict=True) if cost <= limit]
    assert derivation.strength(scores, found) == max(derivation.strength(scores, n) for n in inside)


@pytest.mark.heavy
def test_the_whole_line_runs_on_it(recipe: Path, tmp_path: Path) -> None:
    run, device = tmp_path / "run", recipe.parent / "simulated-a.toml"
    (tier,) = build(recipe, out=run)["tiers"]  # profile, fit, search, train, deploy, verify, report
    assert tier["verdict"] == "passed"
    assert tier["median_ms"] <= tier["max_latency_ms"]
    assert tier["macs"] <= 2e6
    found = json.loads(Path(tier["genotype"]).read_text())
    assert (found["space"], set(found["values"])) == ("toy", {v.name for v in Toy.variables})
    assert f"kernel 0 {found['values']['kernel 0']}" in (run / "07-report/report.html").read_text()
    predicted = predict(tier["model"], device, run=run)
    assert predicted["latency_ms"] == pytest.approx(tier["predicted_ms"])
    again = verify(tier["model"], device, max_latency_ms=tier["max_latency_ms"])
    assert again["holds"] is True
    evolved = search(recipe, out=run, strategy="evolution", queries=3, epochs=1)["tiers"][0]
    assert evolved["macs"] <= 2e6
    trained = train(recipe, genotype=evolved["genotype"], out=tmp_path / "trained")
    assert trained["params"] == evolved["params"]


def test_rows_that_its_supernet_has_no_form_for_are_refused(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("darts-short", "p-darts-short"))
    with pytest.raises(InputError, match="schedule = 'progressive' does not run on toy"):
        build(recipe, out=tmp_path / "run")
