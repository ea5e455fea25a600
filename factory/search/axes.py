"""The axes of a search method and their choices; no torch here, so that they can be listed at once.

A method is one choice on every axis. A choice is one line here and one file: its text is its help,
its path the object that does it, loaded when it is first asked for. docs/add-a-method.md.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from factory.core.registry import Registry


@dataclass(frozen=True)
class Choice:
    """One choice on an axis: what it does, where it is implemented ("module:object")."""

    text: str
    path: str

    def load(self) -> Any:
        """The object behind the choice."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(f"factory.search.{module}"), name)


RELAXATIONS: Registry[Choice] = Registry("relaxation")
SAMPLINGS: Registry[Choice] = Registry("sampling")
GRADIENTS: Registry[Choice] = Registry("architecture gradient")
SCHEDULES: Registry[Choice] = Registry("schedule")
LATENCY_COSTS: Registry[Choice] = Registry("latency cost")

RELAXATIONS.add(
    "partial_channel",
    Choice(
        "one K-th of the channels goes through the candidates, edges are weighted by beta "
        "(PC-DARTS, arXiv 1907.05737)",
        "relaxation:PARTIAL_CHANNEL",
    ),
)
RELAXATIONS.add(
    "full",
    Choice(
        "all channels through all candidates, edges weigh one (DARTS, arXiv 1806.09055)",
        "relaxation:FULL",
    ),
)
RELAXATIONS.add(
    "factorised",
    Choice(
        "operators x activations: sum_o alpha_o op_o(sum_a gamma_a act_a(x)), |O| + |A| parameters "
        "an edge (Scalable-DARTS, arXiv 1912.13256)",
        "relaxation:FACTORISED",
    ),
)

SAMPLINGS.add(
    "softmax", Choice("the weights are the softmax itself (DARTS)", "sampling:no_sampling")
)
SAMPLINGS.add(
    "gumbel_soft",
    Choice(
        "a Gumbel-softmax sample of every edge at a falling temperature (SNAS, arXiv 1812.09926)",
        "sampling:gumbel_soft",
    ),
)
SAMPLINGS.add(
    "gumbel_hard",
    Choice(
        "one operator sampled an edge and only that one run, straight-through gradient "
        "(GDAS, arXiv 1910.04465)",
        "sampling:gumbel_hard",
    ),
)

GRADIENTS.add(
    "first_order",
    Choice("of the validation loss at the current weights (DARTS)", "gradient:first_order"),
)
GRADIENTS.add(
    "second_order",
    Choice(
        "through one unrolled step of the weights, by central differences (DARTS, eq. 7 and 8)",
        "unrolled:second_order",
    ),
)
GRADIENTS.add(
    "amended",
    Choice(
        "first order minus eta (d2 L_train / d alpha d w) H d L_val / d w, by two chained "
        "central differences (Stabilized-DARTS, arXiv 1910.11831)",
        "amended:amended",
    ),
)

SCHEDULES.add(
    "single_stage",
    Choice("weights-only warm-up, then weights and architecture in turn", "schedule:single_stage"),
)
SCHEDULES.add(
    "progressive",
    Choice(
        "stages of growing depth and fewer candidates an edge, net and alpha rebuilt in each, "
        "dropout on skips (P-DARTS, arXiv 1904.12760)",
        "progressive:progressive",
    ),
)

LATENCY_COSTS.add(
    "additive",
    Choice("expected sum of kernel latencies, exact when the choice is one-hot", "costs:additive"),
)
LATENCY_COSTS.add(
    "module",
    Choice(
        "a network-level regressor of the architecture's code, fed straight-through samples "
        "(LA-DARTS, arXiv 2001.06392)",
        "latency_module:module_cost",
    ),
)
LATENCY_COSTS.add(
    "none",
    Choice(
        "latency stays out of the gradient; a budget is only met when the network is derived",
        "costs:no_cost",
    ),
)

AXES: dict[str, Registry[Choice]] = {
    "relaxation": RELAXATIONS,
    "sampling": SAMPLINGS,
    "gradient": GRADIENTS,
    "schedule": SCHEDULES,
    "latency_cost": LATENCY_COSTS,
}

# name -> what it is; factory.spaces.activations has the operators
ACTIVATIONS: dict[str, str] = {
    "relu": "max(x, 0)",
    "leaky_relu": "max(x, 0.1 x)",
    "relu6": "min(max(x, 0), 6)",
    "hard_swish": "x relu6(x + 3) / 6",
    "silu": "x sigmoid(x)",
    "tanh": "tanh(x)",
}
