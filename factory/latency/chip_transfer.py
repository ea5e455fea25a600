"""A predictor for a new chip from predictors of known chips and about ten measured networks.

A known chip's predictor splits a network's time into groups of kernels (correction.py). The new
chip takes a multiple of each of these parts, plus something a kernel and something a network:

    ms = sum_g w_g * part_g(network) + w_o * kernels(network) + w_c

Other known chips, expressed in the same parts, tell how such multiples vary from chip to chip
(pool.py); with a single known chip, another runtime of the same chip for instance, each may differ
by half. The networks to measure are chosen by that prior (design.py), the weights are its posterior
after the measurements (few_shot.py). Each known chip is tried as the basis; the one whose
leave-one-out errors on the measured networks are smallest is taken. The result is an ordinary
LatencyPredictor, linear in the kernel counts, so that predictions and searches use it like any.
Legend: N networks, G groups of kernels, K = G + 2 columns, D known chips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.graph.fusion import NO_RULES
from factory.graph.kernel import Kernel
from factory.latency.correction import GROUPS, group_of
from factory.latency.design import choose
from factory.latency.few_shot import fit_few_shot
from factory.latency.intervals import half_width
from factory.latency.pool import ALONE, LEAST_SHARE, PoolPrior, check_ms
from factory.latency.predictor import LatencyPredictor

Counts = Mapping[Kernel, int | float]
LEAST_MEASUREMENTS = 3
OWN_FIT = 0.02  # a known chip is another one's parts to that share, but for its weights
PSEUDO_CHIPS = 3.0  # how much the assumed spread counts beside that of the known chips
SHIFT = 0.05  # of a typical latency: what a kernel or a network may take more, one deviation
LEAST_FACTOR = 0.02  # no part vanishes


@dataclass(frozen=True)
class Basis:
    """One known chip's parts of the candidate networks, and the prior of their multiples."""

    predictor: LatencyPredictor
    parts_NK: np.ndarray
    prior: PoolPrior
    kernel_unit_ms: float
    network_unit_ms: float


@dataclass(frozen=True)
class Transfer:
    """The adapted predictor and how it was found.

    Attributes:
        basis: the known chip whose parts are used.
        factors: group of kernels -> multiple of its time on the known chip.
        left_out_percent: relative error on each measured network, the others known.
        known_percent: the same when the known chip's times are only scaled.
    """

    predictor: LatencyPredictor
    basis: str
    factors: dict[str, float]
    left_out_percent: np.ndarray
    known_percent: np.ndarray


def bases(known: Sequence[LatencyPredictor], networks: Sequence[Counts]) -> list[Basis]:
    """Each known chip as a basis for these candidate networks."""
    if not known:
        raise InputError("no known chip was named", fix="name one or more with --from DEVICE")
    dtypes = sorted({predictor.dtype for predictor in known})
    if len(dtypes) > 1:
        raise InputError(
            f"the known chips are profiled for {' and '.join(dtypes)}",
            why="a predictor belongs to one precision",
            fix="name known devices of the new device's precision",
        )
    if not networks:
        raise InputError("there is no network to choose from")
    kernels = sorted({kernel for counts in networks for kernel in counts})
    matrix = np.array([[float(counts.get(k, 0)) for k in kernels] for counts in networks])
    ms_ND = np.stack([predictor.predict_many(matrix, kernels) for predictor in known], 1)
    found = []
    for d, predictor in enumerate(known):
        parts_NK, kernel_unit_ms, network_unit_ms = _parts(predictor, matrix, kernels)
        prior = _prior(parts_NK, ms_ND, d, predictor.correction.constant_ms / network_unit_ms)
        found.append(Basis(predictor, parts_NK, prior, kernel_unit_ms, network_unit_ms))
    return found


def choose_networks(known: Sequence[Basis], count: int, *, seed: int = 0) -> np.ndarray:
    """Numbers of the networks to measure: by the first known chip's prior."""
    if count < LEAST_MEASUREMENTS:
        raise InputError(
            f"{count} measurements are too few",
            why=f"the error is told from them; {LEAST_MEASUREMENTS} is the least",
            fix="measure about ten",
        )
    first = known[0]
    return choose(first.prior, [first.parts_NK], count, seed=seed)


def transfer(
    known: Sequence[Basis],
    chosen: np.ndarray,
    measured_ms: np.ndarray,
    device_id: str,
    table: str,
) -> Transfer:
    """The new chip's predictor from its measurements of the networks ``chosen``."""
    measured_ms = check_ms(measured_ms, f"device {device_id!r}")
    chosen = np.asarray(chosen, dtype=np.int64)
    if measured_ms.shape != chosen.shape:
        raise InputError(f"{len(measured_ms)} latencies for {len(chosen)} chosen networks")
    if len(chosen) < LEAST_MEASUREMENTS:
        raise InputError(
            f"only {len(chosen)} networks were measured on device {device_id!r}",
            why=f"{LEAST_MEASUREMENTS} is the least for an error to be told",
            fix="see the table for why others failed, then measure again",
        )
    errors = [_left_out(basis, chosen, measured_ms) for basis in known]
    best = int(np.argmin([np.mean(np.abs(error)) for error in errors]))
    basis, left_out = known[best], errors[best]
    weights_K = fit_few_shot(basis.prior, [basis.parts_NK], chosen, measured_ms).weights_VK[0]
    factors_G = _factors(basis, weights_K)
    totals = basis.parts_NK[chosen] @ _as_known(basis)
    scaled = measured_ms / (totals * np.median(measured_ms / totals)) - 1
    correction = basis.predictor.correction
    kernel_ms = max(float(weights_K[-2]), 0.0) * basis.kernel_unit_ms
    adapted = replace(
        correction,
        scales=tuple(float(s * f) for s, f in zip(correction.scales, factors_G, strict=True)),
        overheads_ms=tuple(
            float(o * f + kernel_ms)
            for o, f in zip(correction.overheads_ms, factors_G, strict=True)
        ),
        constant_ms=max(float(weights_K[-1]), 0.0) * basis.network_unit_ms,
        structure=f"parts of {basis.predictor.device_id}, adapted",
    )
    percent = 100 * np.abs(left_out)
    report = _report(basis.predictor, known, device_id, factors_G, percent, 100 * np.abs(scaled))
    predictor = replace(
        basis.predictor,
        device_id=device_id,
        table=table,
        correction=adapted,
        half_width=half_width(left_out),
        network_range_ms=(float(measured_ms.min()), float(measured_ms.max())),
        report=report,
        fusion=NO_RULES,  # the measured networks and the candidates are counted by none
        _cache={},
    )
    factors = {name: float(f) for name, f in zip(GROUPS, factors_G, strict=True)}
    return Transfer(predictor, basis.predictor.device_id, factors, percent, 100 * np.abs(scaled))


def _parts(
    predictor: LatencyPredictor, matrix: np.ndarray, kernels: Sequence[Kernel]
) -> tuple[np.ndarray, float, float]:
    """(parts [N, K], ms of one kernel's column, ms of the network's column)."""
    weights, _ = predictor.linear_ms(kernels)
    groups = np.eye(len(GROUPS))[[group_of(kernel) for kernel in kernels]]
    parts_NG = (matrix * weights) @ groups
    typical_ms = float(np.mean(parts_NG.sum(1))) + predictor.correction.constant_ms
    number_N = matrix.sum(1)
    kernel_unit_ms = typical_ms / float(number_N.mean())
    columns = [parts_NG, kernel_unit_ms * number_N[:, None], np.full((len(matrix), 1), typical_ms)]
    return np.hstack(columns), kernel_unit_ms, typical_ms


def _prior(parts_NK: np.ndarray, ms_ND: np.ndarray, own: int, constant: float) -> PoolPrior:
    """Multiples of the basis' parts: itself, the other known chips, and their spread."""
    parts = parts_NK.shape[1] - 2
    itself_K = np.append(np.ones(parts), [0.0, constant])
    assumed_K = np.append(np.full(parts, ALONE), [SHIFT, SHIFT])
    rows, noise = [], []
    for d, ms_N in enumerate(ms_ND.T):
        if d == own:
            rows.append(itself_K / ms_N.mean())
            noise.append(OWN_FIT)
            continue
        speed = float(np.median(ms_N / (parts_NK @ itself_K)))
        typical_N = np.maximum(ms_N, LEAST_SHARE * ms_N.mean())
        scaled = parts_NK / typical_N[:, None] * (speed * assumed_K) / OWN_FIT
        left_N = (ms_N - speed * (parts_NK @ itself_K)) / typical_N / OWN_FIT
        gram = scaled.T @ scaled + np.eye(parts + 2)
        weights_K = speed * (itself_K + assumed_K * np.linalg.solve(gram, scaled.T @ left_N))
        share = float(1.4826 * np.median(np.abs(parts_NK @ weights_K / ms_N - 1)))
        rows.append(weights_K / ms_N.mean())
        noise.append(max(share, OWN_FIT))
    weights_DK = np.array(rows)
    mean_K = weights_DK.mean(0)
    # weights of a device whose mean latency is 1, hence the unit of the assumed spread
    unit = 1.0 / float((parts_NK @ itself_K).mean())
    assumed_KK = np.diag((unit * assumed_K) ** 2)
    around_DK = weights_DK - mean_K
    covariance_KK = (around_DK.T @ around_DK + PSEUDO_CHIPS * assumed_KK) / (
        len(weights_DK) - 1 + PSEUDO_CHIPS
    )
    count = len(weights_DK)
    single = count == 1
    return PoolPrior(
        mean_K,
        covariance_KK,
        np.array(noise),
        np.zeros(count, dtype=np.int64),
        mean_K[None] if single else np.vstack([mean_K, weights_DK]),
        np.ones(1) if single else np.append(0.5, np.full(count, 0.5 / count)),
    )


def _as_known(basis: Basis) -> np.ndarray:
    """The multiples with which the parts are the known chip's own time."""
    groups = basis.parts_NK.shape[1] - 2
    constant = basis.predictor.correction.constant_ms / basis.network_unit_ms
    return np.append(np.ones(groups), [0.0, constant])


def _left_out(basis: Basis, chosen: np.ndarray, measured_ms: np.ndarray) -> np.ndarray:
    """Relative error measured / predicted - 1 of each measured network from the others."""
    errors = []
    for i, network in enumerate(chosen):
        others = np.delete(np.arange(len(chosen)), i)
        found = fit_few_shot(basis.prior, [basis.parts_NK], chosen[others], measured_ms[others])
        ms = found.predict([basis.parts_NK[[network]]]).ms[0]
        errors.append(float(measured_ms[i] / ms - 1))
    return np.array(errors)


def _factors(basis: Basis, weights_K: np.ndarray) -> np.ndarray:
    """Multiples of the groups; a group that no candidate has changes like the whole."""
    parts_NG = basis.parts_NK[:, : len(GROUPS)]
    sums_G = parts_NG.sum(0)
    common = float(sums_G @ weights_K[: len(GROUPS)] / sums_G.sum())
    factors_G = np.where(sums_G > 0, weights_K[: len(GROUPS)], common)
    return np.asarray(np.maximum(factors_G, LEAST_FACTOR * max(common, 1e-12)))


def _report(
    predictor: LatencyPredictor,
    known: Sequence[Basis],
    device_id: str,
    factors_G: np.ndarray,
    percent: np.ndarray,
    scaled: np.ndarray,
) -> dict[str, Any]:
    def errors(values: np.ndarray) -> dict[str, float]:
        return {
            "mean_percent": float(values.mean()),
            "median_percent": float(np.median(values)),
            "max_percent": float(values.max()),
            "within_10_percent": float(np.mean(values <= 10)),
        }

    return {
        "device": device_id,
        "n_kernels": 0,
        "n_networks": len(percent),
        "n_failed": 0,
        "source": predictor.report.get("source"),
        "rates": predictor.report.get("rates"),
        "adapted": {
            "from": predictor.device_id,
            "tried": [basis.predictor.device_id for basis in known],
            "table": predictor.table,
            "factors": {n: float(f) for n, f in zip(GROUPS, factors_G, strict=True)},
        },
        "held_out": errors(percent),
        "baselines": {f"{predictor.device_id}, scaled": errors(scaled)},
        "protocol": "each measured network predicted from the others",
    }
