"""The latency module as a cost of the search: fitted on measured networks, or on the predictor.

LA-DARTS (arXiv 2001.06392): a multi-layer regressor of the architecture's code gives the latency
term. The regressor, its training and its straight-through draws are those of
:mod:`factory.latency.network_module`; here it gets what the cell space has to say: which edges
enter which node, and, where no module fitted on measured networks is named, random networks with
the latency that the chip's predictor (itself fitted on measurements) gives the network that ships.
Legend: B networks, E edges, O operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from factory.core.errors import InputError
from factory.data.augment import derived_seed
from factory.latency.network_module import ModuleSettings, NetworkLatency, fit_network_module
from factory.search.config import SearchConfig
from factory.search.costs import CostTerm, node_edges
from factory.spaces.cell_space import EDGES, OPS
from factory.spaces.genotype import CELL_TYPES, NODES, SELECTABLE_OPS

STREAM = 16  # of random numbers
EPOCHS, LEAST_STEPS = 60, 300
GROUPS = {name: [node for node, _ in EDGES] for name in CELL_TYPES}
PIECE = 1000  # networks whose costs are computed at once


def random_codes(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Uniform one-hot choices, per cell type [B, E, O]."""
    q = {name: np.zeros((count, len(EDGES), len(OPS))) for name in CELL_TYPES}
    columns = [OPS.index(op) for op in SELECTABLE_OPS]
    for name in CELL_TYPES:
        for node in NODES:
            edges = np.array(node_edges(node))
            two = edges[np.argsort(rng.random((count, node)), axis=1)[:, :2]]
            ops = rng.choice(columns, size=(count, 2))
            q[name][np.arange(count)[:, None], two, ops] = 1.0
    return q


def module_cost(term: CostTerm, cfg: SearchConfig, seed: int) -> NetworkLatency:
    """The module of the settings' file, or one fitted to the term; the same one for a seed."""
    if cfg.module_file:
        return _read(Path(cfg.module_file))
    rng = np.random.default_rng([seed, STREAM])
    base, coefficients_M = term.presence.weighted(term.weights, term.constant)
    codes: Mapping[str, np.ndarray] = random_codes(cfg.module_samples, rng)
    values_B = np.concatenate(
        [
            base
            + term.presence.evaluate_monomials(
                {name: value[start : start + PIECE] for name, value in codes.items()}
            )
            @ coefficients_M
            for start in range(0, cfg.module_samples, PIECE)
        ]
    )
    batch = ModuleSettings.batch
    steps = max(LEAST_STEPS, EPOCHS * (cfg.module_samples // batch))
    return fit_network_module(
        codes,
        values_B,
        groups=GROUPS,
        settings=ModuleSettings(steps=steps),
        seed=derived_seed(seed, STREAM, 0),
    )


def _read(path: Path) -> NetworkLatency:
    """A module fitted on measured networks; InputError where it is of another space."""
    module = NetworkLatency.load(path).requires_grad_(False)
    wanted = {name: (len(EDGES), len(OPS)) for name in CELL_TYPES}
    if module.shapes != wanted:
        raise InputError(
            f"the latency module {path} is of networks {module.shapes}",
            why=f"the search chooses among {wanted} (edges, operators)",
            fix="fit it on networks of the cell space",
        )
    if module.groups != GROUPS:
        raise InputError(
            f"the latency module {path} does not know which edges enter a node",
            why="its draws would have other numbers of edges than the networks",
            fix="fit it with groups: the node that each edge enters",
        )
    return module
