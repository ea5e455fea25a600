"""The latency module as a cost of the search: fitted on measured networks, or on the predictor.

LA-DARTS (arXiv 2001.06392): a multi-layer regressor of the architecture's code gives the latency
term. The regressor, its training and its straight-through draws are those of
:mod:`factory.latency.network_module`; here it gets what the space has to say: which edges enter
which node, and, where no module fitted on measured networks is named, random networks with
the latency that the chip's predictor (itself fitted on measurements) gives the network that ships.
Legend: B networks, E edges, O operators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.data.augment import derived_seed
from factory.latency.network_module import ModuleSettings, NetworkLatency, fit_network_module
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm
from factory.spaces.base import SearchSpace

STREAM = 16  # of random numbers
EPOCHS, LEAST_STEPS = 60, 300


def groups_of(space: SearchSpace[Any]) -> dict[str, list[int]]:
    """Per matrix the node of each row; rows of which all are kept stand alone."""
    return {m.name: list(range(len(m.rows)) if m.kept is None else m.nodes) for m in space.matrices}


def random_codes(
    space: SearchSpace[Any], count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One-hot choices of random networks, per matrix [B, E, O]."""
    return space.one_hot_many([space.random(rng) for _ in range(count)])


def module_cost(
    term: CostTerm, space: SearchSpace[Any], cfg: SearchConfig, seed: int
) -> NetworkLatency:
    """The module of the settings' file, or one fitted to the term; the same one for a seed."""
    if cfg.module_file:
        return _read(Path(cfg.module_file), space)
    rng = np.random.default_rng([seed, STREAM])
    codes = random_codes(space, cfg.module_samples, rng)
    values_B = term.presence.scores(codes, term.weights, term.constant)
    batch = ModuleSettings.batch
    steps = max(LEAST_STEPS, EPOCHS * (cfg.module_samples // batch))
    return fit_network_module(
        codes,
        values_B,
        groups=groups_of(space),
        settings=ModuleSettings(steps=steps),
        seed=derived_seed(seed, STREAM, 0),
    )


def _read(path: Path, space: SearchSpace[Any]) -> NetworkLatency:
    """A module fitted on measured networks; InputError where it is of another space."""
    module = NetworkLatency.load(path).requires_grad_(False)
    wanted = {matrix.name: matrix.shape for matrix in space.matrices}
    if module.shapes != wanted:
        raise InputError(
            f"the latency module {path} is of networks {module.shapes}",
            why=f"the search chooses among {wanted} (edges, operators)",
            fix=f"fit it on networks of the space {space.KIND}",
        )
    if module.groups != groups_of(space):
        raise InputError(
            f"the latency module {path} does not know which edges enter a node",
            why="its draws would have other numbers of edges than the networks",
            fix="fit it with groups: the node that each edge enters",
        )
    return module
