"""The whole-network correction: from a sum of single-kernel times to a network's time.

Kernels timed alone run with warm caches and pay for a session each; whole networks do neither
(sums of nine networks were 0.79-1.02 of the truth). The correction is linear in the counts n_k,
so that the expected latency of a supernet and the latency of a derived network are one function:

    predicted = constant + sum_k n_k (scale_g(k) * max(ms_k - session_ms, SHARE_KEPT * ms_k)
                                      + overhead_g(k))

with the groups g of :data:`GROUPS`, everything non-negative, fitted on relative errors with a
ridge towards scale 1, overhead 0, constant 0. Nested models from "no correction" to "a scale and
an overhead per group" compete by leave-one-out; a more complex one must win by a clear margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from factory.graph.kernel import Kernel
from factory.latency.least_squares import leave_one_out, solve_nonnegative

GROUPS = ("depthwise", "pointwise", "conv", "merge", "max_pool", "avg_pool", "rest")
_GROUP_OF_KIND = {
    "conv_depthwise": 0,
    "conv_pointwise": 1,
    "conv_dense": 2,
    "conv_grouped": 2,
}
MERGE = 3  # elementwise with several inputs: a runtime folds most of them into convolutions
# Pools apart: alone in int8 a MaxPool took many times what it takes within a network (measured).
_GROUP_OF_OPERATOR = {"MaxPool": 4, "AveragePool": 5}
REST = 6
SHARE_KEPT = 0.1  # a kernel keeps at least this share of its measured time
SESSION_STEPS = (0.0, 0.4, 0.8)  # session_ms candidates, as shares of a cheap kernel's time
STRENGTHS = (0.003, 0.03, 0.3)
COMMON_SHARE = 0.1  # how much weaker the common scale is pulled to 1 than the groups to it
GAIN_TO_PREFER = 0.97
MIN_NETWORKS_TO_FIT = 3


def group_of(kernel: Kernel) -> int:
    """Index into GROUPS."""
    if kernel.kind == "elementwise" and len(kernel.inputs) > 1:
        return MERGE
    return _GROUP_OF_OPERATOR.get(kernel.op, _GROUP_OF_KIND.get(kernel.kind, REST))


@dataclass(frozen=True)
class Structure:
    """One of the nested models: which groups share a scale, and what else is free."""

    name: str
    scale_of: tuple[int, ...]  # group -> scale number
    overhead_of: tuple[int, ...] | None = None  # group -> overhead number
    constant: bool = False


ONE, EACH = (0,) * len(GROUPS), tuple(range(len(GROUPS)))
BY_CLASS = (0, 0, 0, 1, 2, 3, 4)
STRUCTURES = (
    Structure("scale", ONE),
    Structure("scale, overhead, constant", ONE, ONE, True),
    Structure(
        "scales of convolutions, merges, pools, rest; overhead, constant",
        BY_CLASS,
        ONE,
        True,
    ),
    Structure("scale per group; overhead, constant", EACH, ONE, True),
    Structure("scale and overhead per group; constant", EACH, EACH, True),
)
IDENTITY = "none"


@dataclass(frozen=True)
class NetworkData:
    """Measured networks as arrays: counts [N, K], kernel times [K], groups [K], measured [N]."""

    counts: np.ndarray
    kernel_ms: np.ndarray
    groups: np.ndarray
    measured_ms: np.ndarray

    def subset(self, index: np.ndarray) -> NetworkData:
        """The networks at ``index``."""
        return NetworkData(self.counts[index], self.kernel_ms, self.groups, self.measured_ms[index])

    def __len__(self) -> int:
        return len(self.measured_ms)


@dataclass(frozen=True)
class Correction:
    """Scales and overheads of the groups, a constant, and what chose them."""

    scales: tuple[float, ...] = (1.0,) * len(GROUPS)
    overheads_ms: tuple[float, ...] = (0.0,) * len(GROUPS)
    constant_ms: float = 0.0
    session_ms: float = 0.0
    structure: str = IDENTITY
    strength: float = 0.0

    def weights_ms(self, kernel_ms: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Corrected time of one occurrence of each kernel."""
        alone = inside_network_ms(kernel_ms, self.session_ms)
        return np.asarray(
            np.asarray(self.scales)[groups] * alone + np.asarray(self.overheads_ms)[groups]
        )

    def predict(self, data: NetworkData) -> np.ndarray:
        """Predicted ms of each network."""
        weights = self.weights_ms(data.kernel_ms, data.groups)
        return np.asarray(self.constant_ms + data.counts @ weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, with the names of the groups."""
        return {"groups": list(GROUPS), **asdict(self)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Correction:
        """The inverse of :meth:`to_dict`; ValueError where it is no correction."""
        fields = {name: value[name] for name in cls.__dataclass_fields__}
        for name in ("scales", "overheads_ms"):
            fields[name] = tuple(map(float, fields[name]))
            if len(fields[name]) != len(GROUPS):
                raise ValueError(f"{len(fields[name])} {name} for {len(GROUPS)} groups")
        for name in ("constant_ms", "session_ms", "strength"):
            fields[name] = float(fields[name])
        made = cls(**{**fields, "structure": str(fields["structure"])})
        if min(*made.scales, *made.overheads_ms, made.constant_ms, made.session_ms) < 0:
            raise ValueError("a number of the correction is negative")
        return made


def inside_network_ms(kernel_ms: np.ndarray, session_ms: float) -> np.ndarray:
    """Time of a kernel without the session it was timed in; never below SHARE_KEPT of it."""
    return np.asarray(np.maximum(kernel_ms - session_ms, SHARE_KEPT * kernel_ms))


@dataclass(frozen=True)
class _Problem:
    """Normal equations of one structure: relative rows, columns to unknowns, penalty."""

    rows: np.ndarray
    gram_prior: np.ndarray  # to be multiplied by the strength
    moment_prior: np.ndarray
    overhead_unit_ms: float
    constant_unit_ms: float


def _problem(data: NetworkData, structure: Structure, session_ms: float) -> _Problem:
    """Columns: common scale (only in the penalty), scales, overheads, constant; units of 1."""
    one_hot = np.eye(len(GROUPS))[data.groups]
    alone = inside_network_ms(data.kernel_ms, session_ms)
    sums = (data.counts * alone) @ one_hot
    numbers = data.counts @ one_hot
    overhead_unit = float(sums.sum() / max(numbers.sum(), 1e-12))
    constant_unit = float(np.median(data.measured_ms))
    n_scales = max(structure.scale_of) + 1
    scale_map = np.eye(n_scales)[list(structure.scale_of)]
    columns = [np.zeros((len(data), 1)), sums @ scale_map]
    if structure.overhead_of is not None:
        overhead_map = np.eye(max(structure.overhead_of) + 1)[list(structure.overhead_of)]
        columns.append(numbers @ overhead_map * overhead_unit)
    if structure.constant:
        columns.append(np.full((len(data), 1), constant_unit))
    rows = np.hstack(columns) / data.measured_ms[:, None]
    size = rows.shape[1]
    gram = np.eye(size)
    gram[0, 0] = n_scales + COMMON_SHARE
    gram[0, 1 : 1 + n_scales] = gram[1 : 1 + n_scales, 0] = -1.0
    moment = np.zeros(size)
    moment[0] = COMMON_SHARE
    return _Problem(rows, gram, moment, overhead_unit, constant_unit)


def _solve(
    data: NetworkData, structure: Structure, session_ms: float, strength: float
) -> Correction:
    problem = _problem(data, structure, session_ms)
    unknowns = solve_nonnegative(
        problem.rows.T @ problem.rows + strength * problem.gram_prior,
        problem.rows.sum(axis=0) + strength * problem.moment_prior,
    )
    n_scales = max(structure.scale_of) + 1
    scales = unknowns[1 : 1 + n_scales][list(structure.scale_of)]
    overheads = np.zeros(len(GROUPS))
    if structure.overhead_of is not None:
        numbers = unknowns[1 + n_scales : 2 + n_scales + max(structure.overhead_of)]
        overheads = numbers[list(structure.overhead_of)] * problem.overhead_unit_ms
    constant = float(unknowns[-1] * problem.constant_unit_ms) if structure.constant else 0.0
    return Correction(
        tuple(float(s) for s in scales),
        tuple(float(o) for o in overheads),
        constant,
        session_ms,
        structure.name,
        strength,
    )


def session_candidates(kernel_ms: np.ndarray) -> Sequence[float]:
    """Times a single-kernel session may add: shares of the cheapest kernels' time."""
    timed = kernel_ms[kernel_ms > 0]  # others are folded into their neighbours
    cheap = float(np.quantile(timed, 0.05)) if len(timed) else 0.0
    return [share * cheap for share in SESSION_STEPS]


@dataclass(frozen=True)
class Selection:
    """The chosen correction, its leave-one-out predictions, and every candidate's score."""

    correction: Correction
    left_out_ms: np.ndarray
    scores: dict[str, float]  # structure -> best leave-one-out mean absolute relative error


def select_correction(data: NetworkData) -> Selection:
    """Fit every nested model and keep the simplest one that leave-one-out cannot better."""
    plain = Correction()
    left_out = plain.predict(data)
    best_score = _score(left_out, data.measured_ms)
    scores = {IDENTITY: best_score}
    best = plain
    if len(data) < MIN_NETWORKS_TO_FIT:
        return Selection(best, left_out, scores)
    sessions = session_candidates(data.kernel_ms)
    for structure in STRUCTURES:
        found: tuple[float, float, float, np.ndarray] | None = None
        for session_ms in sessions:
            problem = _problem(data, structure, session_ms)
            for strength in STRENGTHS:
                relative = leave_one_out(
                    problem.rows,
                    np.ones(len(data)),
                    strength * problem.gram_prior,
                    strength * problem.moment_prior,
                )
                score = float(np.mean(np.abs(relative - 1.0)))
                if found is None or score < found[0] - 1e-12:
                    found = (score, session_ms, strength, relative)
        assert found is not None
        score, session_ms, strength, relative = found
        scores[structure.name] = score
        if score < best_score * GAIN_TO_PREFER - 1e-12:
            best_score = score
            best = _solve(data, structure, session_ms, strength)
            left_out = relative * data.measured_ms
    return Selection(best, left_out, scores)


def _score(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted_ms / measured_ms - 1.0))) if len(measured_ms) else 0.0
