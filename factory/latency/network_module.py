"""The network-level latency module: a multi-layer regressor on the whole architecture's code.

LA-DARTS (arXiv 2001.06392): a regressor trained on randomly sampled architectures measured on the
device stands as the latency term of the search. It is for chips where kernels do not add up; where
they do, :class:`~factory.latency.differentiable.ExpectedLatency` is exact and needs no training.
It learns from any pairs of code and latency: measured networks, or what a predictor says of random
ones (factory/search/latency_module.py). Same interface as the additive model: called with q, per
cell type [E, O] with q[e, o] = P(edge e carries operator o).

    ms(code) = typical * softplus(a + w @ code + MLP(code)),  trained on relative errors

Trap, and deviation from the paper: the regressor has only seen one-hot codes, and on soft codes it
is arbitrary. So it never sees one: q is read as a random network, K one-hot codes h_k are drawn
with E[h_k] = q, and the gradient passes straight through,

    L(q) = mean_k ms(h_k + q - stop(q)).

At a one-hot q all draws are that network: L(q) is the prediction of the derived network. Within a
group of edges (those into one node) draws are systematic, so that q whose inclusion probabilities
add up to two gives two edges in every draw, as in the networks measured. Draws are a pure function
of (seed, step); ``at(step)`` moves on, so a resumed search sees the same. In float64.
Legend: B codes, E edges, O operators, D numbers of a code over all cell types, K draws.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.core.reading import parse_object
from factory.core.validation import validate
from factory.latency.pool import check_ms

SCHEMA_VERSION = 1
DRAWS = 8
Shapes = dict[str, tuple[int, int]]  # cell type -> (E, O)


@dataclass(frozen=True)
class ModuleSettings:
    """How a module is built and trained."""

    hidden: tuple[int, ...] = (128, 64)
    steps: int = 3000
    batch: int = 256
    rate: float = 3e-3
    decay: float = 1e-4
    held_out: float = 0.1


@dataclass(frozen=True)
class ModuleError:
    """Absolute relative errors on the held-out architectures, in percent."""

    networks: int
    median_percent: float
    p90_percent: float
    within_10_percent: float


Size = Annotated[int, pydantic.Field(ge=1, le=4096)]


class _Header(pydantic.BaseModel):
    """The description beside the weights."""

    schema_version: Literal[1]
    kind: Literal["network_latency"]
    shapes: Annotated[dict[str, tuple[Size, Size]], pydantic.Field(min_length=1, max_length=16)]
    groups: dict[str, list[int]]
    hidden: Annotated[list[Size], pydantic.Field(max_length=8)]
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)]
    error: ModuleError | None

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> _Header:
        edges = {name: shape[0] for name, shape in self.shapes.items()}
        if edges != {name: len(group) for name, group in self.groups.items()}:
            raise ValueError("groups must have a number for every edge")
        return self


class NetworkLatency(nn.Module):
    """The module; build it with :func:`fit_network_module` or :meth:`load`.

    Args:
        shapes: per cell type (edges, operators), in the order of the code.
        groups: per cell type the group (node) of each edge; default: each edge on its own.
        hidden: widths of the hidden layers.
        seed: of the first weights and of the draws.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        groups: Mapping[str, Sequence[int]] | None = None,
        hidden: Sequence[int] = ModuleSettings.hidden,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shapes: Shapes = {name: (int(e), int(o)) for name, (e, o) in shapes.items()}
        self.groups = {
            name: list(groups[name]) if groups else list(range(e))
            for name, (e, _) in self.shapes.items()
        }
        self.hidden, self.seed, self.step = tuple(hidden), seed, 0
        self.error: ModuleError | None = None
        inputs = sum(e * o for e, o in self.shapes.values())
        self.line = nn.Linear(inputs, 1, dtype=torch.float64)
        widths = (inputs, *self.hidden)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b, dtype=torch.float64), nn.SiLU()]
        last = nn.Linear(widths[-1], 1, dtype=torch.float64)
        self.bend = nn.Sequential(*layers, last)
        self.register_buffer("typical_ms", torch.ones((), dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                bound = parameter.shape[-1] ** -0.5
                parameter.copy_(bound * (2 * torch.rand(parameter.shape, generator=generator) - 1))

    def at(self, step: int) -> None:
        """Use the draws of another step."""
        self.step = step

    def network_ms(self, codes_BD: Tensor) -> Tensor:
        """Predicted milliseconds [B] (float64) of one-hot codes."""
        codes_BD = codes_BD.double()
        scaled_B = (self.line(codes_BD) + self.bend(codes_BD)).squeeze(-1)
        return functional.softplus(scaled_B) * self.get_buffer("typical_ms")

    def forward(self, q: Mapping[str, Tensor]) -> Tensor:
        """Expected latency (float64 scalar, ms) at q: per cell type [E, O]."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.step))
        drawn, soft = [], []
        for name, shape in self.shapes.items():
            if name not in q or tuple(q[name].shape) != shape:
                found = tuple(q[name].shape) if name in q else "nothing"
                raise ValueError(f"q[{name!r}] must be {shape}, not {found}")
            hot_KEO = draw(q[name], self.groups[name], DRAWS, generator)
            drawn.append(hot_KEO.reshape(DRAWS, -1))
            soft.append(q[name].reshape(-1).double())
        soft_D = torch.cat(soft)
        if self.get_buffer("typical_ms").device != soft_D.device:
            self.to(soft_D.device)
        codes_KD = torch.cat(drawn, 1).to(soft_D.device) + (soft_D - soft_D.detach())
        return self.network_ms(codes_KD).mean()

    def save(self, path: Path | str) -> None:
        """Write weights and description as one safetensors file, atomically."""
        header = {
            "schema_version": SCHEMA_VERSION,
            "kind": "network_latency",
            "shapes": self.shapes,
            "groups": self.groups,
            "hidden": self.hidden,
            "seed": self.seed,
            "error": None if self.error is None else vars(self.error),
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        content = safetensors.torch.save(tensors, {"module": json.dumps(header)})
        write_atomic_bytes(Path(path), content)

    @classmethod
    def load(cls, path: Path | str) -> NetworkLatency:
        """Read what :meth:`save` wrote; InputError where it cannot be read."""
        try:
            with safe_open(str(path), "pt") as stream:
                where = f"the header of latency module {path}"
                text = (stream.metadata() or {}).get("module", "")
                header = validate(_Header, parse_object(text, where), where)
                module = cls(header.shapes, header.groups, header.hidden, header.seed)
                keys = list(stream.keys())
                module.load_state_dict({name: stream.get_tensor(name) for name in keys})
                module.error = header.error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(
                f"the latency module {path} cannot be read",
                why=str(error) or type(error).__name__,
                fix="fit it again from the table of measured networks",
            ) from None
        return module.requires_grad_(False)


def draw(q_EO: Tensor, groups: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """One-hot choices [count, E, O] (float64, on the CPU) with mean q.

    Within a group the edges are drawn systematically: one uniform start, then steps of one along
    the cumulated inclusion probabilities (Madow 1949), exact for probabilities of at most one.
    """
    q_EO = q_EO.detach().cpu().double().clamp_min(0.0)
    included_E = q_EO.sum(1).clamp_max(1.0)
    hot_KEO = torch.zeros(count, *q_EO.shape, dtype=torch.float64)
    number_E = torch.as_tensor(groups)
    for group in number_E.unique():
        edges = torch.nonzero(number_E == group)[:, 0]
        top_n = included_E[edges].cumsum(0)
        # probabilities that add up to a whole number, but for rounding, give that many edges
        top_n[-1] = torch.where(
            (top_n[-1] - top_n[-1].round()).abs() < 1e-6, top_n[-1].round(), top_n[-1]
        )
        start_K1 = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        # an edge is in when one of start, start + 1, ... falls into its piece of the line
        passed_Kn = torch.ceil(top_n[None] - start_K1).clamp_min(0.0)
        before_Kn = torch.cat([torch.zeros(count, 1, dtype=torch.float64), passed_Kn[:, :-1]], 1)
        inside_Kn = passed_Kn > before_Kn
        for position, edge in enumerate(edges.tolist()):
            rows = torch.nonzero(inside_Kn[:, position])[:, 0]
            if len(rows):
                picked = torch.multinomial(q_EO[edge], len(rows), True, generator=generator)
                hot_KEO[rows, edge, picked] = 1.0
    return hot_KEO


def fit_network_module(
    encodings: Mapping[str, np.ndarray],
    measured_ms: np.ndarray,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    settings: ModuleSettings | None = None,
    seed: int = 0,
) -> NetworkLatency:
    """Train a module on measured random networks; the same data and seed give the same module.

    Args:
        encodings: one-hot choices, per cell type [B, E, O].
        measured_ms: their latencies [B].
        groups: see :class:`NetworkLatency`.
        settings: size and training.
        seed: of weights, held-out networks and batches.
    """
    settings = settings or ModuleSettings()
    measured_ms = check_ms(measured_ms, "the table of networks")
    wrong = {k: v.shape for k, v in encodings.items() if v.ndim != 3 or len(v) != len(measured_ms)}
    if wrong or not encodings or len(measured_ms) < 10:
        raise InputError(
            f"{len(measured_ms)} latencies for encodings of shapes "
            f"{ {k: tuple(v.shape) for k, v in encodings.items()} }",
            why="a module needs at least ten networks, each with an [E, O] choice per cell type",
        )
    shapes = {name: (value.shape[1], value.shape[2]) for name, value in encodings.items()}
    module = NetworkLatency(shapes, groups, settings.hidden, seed)
    flat = np.concatenate([v.reshape(len(v), -1) for v in encodings.values()], 1)
    codes_BD = torch.as_tensor(flat, dtype=torch.float64)
    ms_B = torch.as_tensor(measured_ms, dtype=torch.float64)
    generator = torch.Generator().manual_seed(_mixed(seed, 1))
    order = torch.randperm(len(ms_B), generator=generator)
    held = max(1, round(settings.held_out * len(ms_B)))
    test, train = order[:held], order[held:]
    module.get_buffer("typical_ms").copy_(ms_B[train].median())
    _train(module, codes_BD[train], ms_B[train], settings, generator)
    with torch.no_grad():
        percent = 100 * (module.network_ms(codes_BD[test]) / ms_B[test] - 1).abs()
    module.error = ModuleError(
        held,
        float(percent.median()),
        float(percent.quantile(0.9)),
        float(100 * (percent <= 10).double().mean()),
    )
    return module.requires_grad_(False)


def _train(
    module: NetworkLatency,
    codes_BD: Tensor,
    ms_B: Tensor,
    settings: ModuleSettings,
    generator: torch.Generator,
) -> None:
    weights = [p for name, p in module.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": settings.decay},
            {"params": biases, "weight_decay": 0},
        ],
        lr=settings.rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.steps
    )
    size = min(settings.batch, len(ms_B))
    for _ in range(settings.steps):
        pick = torch.randint(len(ms_B), (size,), generator=generator)
        relative = module.network_ms(codes_BD[pick]) / ms_B[pick] - 1
        # absolute errors: a few outliers of the measurement do not decide
        loss = functional.smooth_l1_loss(relative, torch.zeros_like(relative), beta=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _mixed(seed: int, step: int) -> int:
    """A seed for one step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
