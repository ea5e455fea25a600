"""The published search code of DARTS and PC-DARTS, from a checkout: a benchmark's other side.

Nothing of that code is kept here: its files are read from the given folder, written for a torch of
2018. What today's torch refuses is bridged while they load: ``.cuda()`` returns the tensor itself
(the benchmark runs on the CPU), and the old order of arguments ``x.add_(factor, tensor)`` becomes
``x.add_(tensor, alpha=factor)``. DARTS: github.com/quark0/darts, PC-DARTS:
github.com/yuhuixu1993/PC-DARTS.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.core.errors import InputError
from factory.spaces.cell_space import EDGES
from factory.spaces.cell_supernet import Supernet

MODULES = ("genotypes", "operations", "model_search", "architect")
OLD_ORDER = re.compile(r"\.(add_|sub_|sub)\(([\w*]+), ([\w.+]+)\)")


def load(checkout: Path) -> types.SimpleNamespace:
    """The modules of a checkout by name; those of two checkouts do not meet."""
    folder = checkout / "cnn" if (checkout / "cnn").is_dir() else checkout
    found: dict[str, Any] = {}
    for name in MODULES:
        path = folder / f"{name}.py"
        if not path.is_file():
            raise InputError(
                f"{checkout} is no checkout of the reference code: {path} is missing",
                fix="clone github.com/quark0/darts or github.com/yuhuixu1993/PC-DARTS there",
            )
        source = OLD_ORDER.sub(r".\1(\3, alpha=float(\2))", path.read_text())
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(source, str(path), "exec"), module.__dict__)
        found[name] = module
    for name in MODULES:
        del sys.modules[name]
    return types.SimpleNamespace(**found)


def stay_on_cpu() -> None:
    """``.cuda()`` of tensors and modules does nothing from now on."""
    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign, assignment]
    nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign, assignment]


class ReferenceStep:
    """One architecture step and one weight step exactly as train_search.py takes them."""

    def __init__(
        self, checkout: Path, channels: int, layers: int, classes: int, settings: Any
    ) -> None:
        stay_on_cpu()
        code = load(checkout)
        self.settings = settings
        self.net = code.model_search.Network(channels, classes, layers, nn.CrossEntropyLoss())
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.architect = code.architect.Architect(self.net, settings)

    def __call__(
        self, training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], unrolled: bool
    ) -> float:
        """The step; the training loss."""
        rate = self.settings.learning_rate
        self.architect.step(*training, *validation, rate, self.optimizer, unrolled=unrolled)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(training[0]), training[1])
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.grad_clip)
        self.optimizer.step()
        return float(loss.detach())


def edge_candidates(net: nn.Module, cell: int, edge: int) -> Any:
    """The eight operators of an edge of the reference supernet."""
    return net.cells[cell]._ops[edge]._ops  # type: ignore[index, union-attr]


@torch.no_grad()
def copy_weights(reference: Any, net: Supernet) -> None:
    """The weights of the reference supernet into ours, so that both compute the same function."""
    net.stem.weights[0].copy_(reference.stem[0].weight)
    net.classifier_weight.copy_(reference.classifier.weight)
    net.classifier_bias.copy_(reference.classifier.bias)
    for cell, (ours, theirs) in enumerate(zip(net.cells, reference.cells, strict=True)):
        pre0 = theirs.preprocess0
        if ours.preprocess0.reduce:
            ours.preprocess0.weight.copy_(pre0.conv_1.weight.flatten(1))
            ours.preprocess0.weight_odd.copy_(pre0.conv_2.weight.flatten(1))
        else:
            ours.preprocess0.weight.copy_(pre0.op[1].weight.flatten(1))
        ours.preprocess1.weight.copy_(theirs.preprocess1.op[1].weight.flatten(1))
        for group in ours.groups:
            c = group.channels
            for i, edge in enumerate(group.group.edges):
                ops = edge_candidates(reference, cell, edge)
                sep3, sep5, dil3, dil5 = (ops[k].op for k in (4, 5, 6, 7))
                rows = slice(i * c, (i + 1) * c)
                for name, op in (("sep3", sep3), ("sep5", sep5)):
                    group.depthwise[f"{name}_1"][rows] = op[1].weight
                    group.depthwise[f"{name}_2"][rows] = op[5].weight
                group.depthwise["dil3"][rows] = dil3[1].weight
                group.depthwise["dil5"][rows] = dil5[1].weight
                for k, op in enumerate((sep3, sep5, dil3, dil5)):
                    group.pointwise1[k, rows] = op[2].weight.flatten(1)
                for k, op in enumerate((sep3, sep5)):
                    group.pointwise2[k, rows] = op[6].weight.flatten(1)
                if group.skip_even is not None:
                    half = c // 2
                    rows = slice(i * half, (i + 1) * half)
                    group.skip_even[rows] = ops[3].conv_1.weight.flatten(1)
                    group.skip_odd[rows] = ops[3].conv_2.weight.flatten(1)
    assert len(EDGES) == len(reference.cells[0]._ops)
