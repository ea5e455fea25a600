"""Times of kernels that nobody timed, inferred from whole networks alone.

Where an execution provider compiles a network into one node there is no trace, and a kernel alone
pays for what a network does not do: every border changes the layout (measured with OpenVINO: small
cell networks take a sixth of the sum of their kernels alone). Totals have no such bias. Each
network is one equation,

    measured_n = constant + sum_k n_nk t_k (1 + noise),     t_k = m_k (1 + g_k),

in which the mean m_k is a non-negative sum of a start, MACs in whole blocks of channels, bytes of
the maps and bytes of the weights, with rates of each family of kernels drawn to what all families
share; and g_k is a Gaussian process over the features of the kernels of a family (Rasmussen and
Williams 2006, section 2.2; it is observed in sums). Length scale, variance and noise are chosen by
marginal likelihood. The times are smooth in the features, so the regressors fitted to them say the
same of kernels that no measured network holds.
Legend: N networks, K kernels, B features of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from scipy.sparse import csc_array

from factory.graph.kernel import Kernel
from factory.latency.features import NARROW, FeatureSpace, family
from factory.latency.least_squares import solve_nonnegative

LENGTHS = (2.5, 5.0, 10.0, 20.0)
VARIANCES = (0.005, 0.02, 0.08, 0.3)
NOISES = (0.01, 0.02, 0.03, 0.05)  # relative deviation of a network
LEAST_MS = 1e-5  # below it a kernel takes nothing
LEAST_SHARE = 0.1  # a kernel takes at least this share of its mean
CHANGE = 0.5  # of a shared rate, from one family to the next
NOISE = 0.05  # of the mean
LEAST_RATE = 0.05  # share of the time that a rate which nothing shows is thought to have
RIDGE = 1e-6
WAVES, SEED = 512, 0


def infer_times(
    networks: Sequence[Mapping[Kernel, float]], measured_ms: np.ndarray
) -> dict[Kernel, float]:
    """Time of every kernel of ``networks`` in ms, from the networks' times [N]."""
    kernels = sorted({kernel for counts in networks for kernel in counts})
    place = {kernel: number for number, kernel in enumerate(kernels)}
    entries = [
        (row, place[kernel], float(number))
        for row, counts in enumerate(networks)
        for kernel, number in counts.items()
    ]
    rows, columns, numbers = zip(*entries, strict=True)
    counts_NK = csc_array((numbers, (rows, columns)), shape=(len(networks), len(kernels)))
    families = np.array([family(kernel) for kernel in kernels])
    members = [np.flatnonzero(families == name) for name in sorted(set(families.tolist()))]
    mean_K, constant_ms = _mean(kernels, members, counts_NK, measured_ms)
    weights_NK = counts_NK.multiply(mean_K[None]).multiply(1.0 / measured_ms[:, None]).tocsc()
    residual_N = 1.0 - weights_NK.sum(axis=1) - constant_ms / measured_ms
    ms_K = mean_K * _factors(kernels, members, weights_NK, residual_N)
    return dict(zip(kernels, np.where(ms_K < LEAST_MS, 0.0, ms_K).tolist(), strict=True))


def _mean(
    kernels: Sequence[Kernel],
    members: Sequence[np.ndarray],
    counts_NK: csc_array,
    measured_ms: np.ndarray,
) -> tuple[np.ndarray, float]:
    """(m_K, constant): the non-negative sums, fitted on relative errors.

    First the rates that all kernels share, then those of each family, which change from them by
    about CHANGE of them. (A ridge on absolute rates lets a family of little cost, as the one large
    Gemm of each network, take what belongs to others: errors of up to 79 % with 140 networks.)
    """
    columns_KB = np.array([_work(kernel) for kernel in kernels])
    columns_KB /= np.maximum(columns_KB.mean(axis=0), 1e-12)
    number, unit_ms = columns_KB.shape[1], float(np.median(measured_ms))
    constant_N1 = np.full((len(measured_ms), 1), unit_ms)
    total_NB = counts_NK @ columns_KB
    rows = np.hstack([total_NB, constant_N1]) / measured_ms[:, None]
    scale = np.maximum(np.sqrt((rows**2).mean(axis=0)), 1e-12)
    shared = _ridge(rows / scale, np.zeros(number + 1), RIDGE) / scale
    least_B = LEAST_RATE * measured_ms.mean() / total_NB.mean(axis=0) / number
    unit_B = np.maximum(shared[:number], least_B)
    sums = [counts_NK[:, own] @ columns_KB[own] for own in members]
    rows = np.hstack([*sums, constant_N1]) / measured_ms[:, None]
    unit = np.append(np.tile(unit_B, len(members)), max(float(shared[-1]), LEAST_RATE))
    expected = np.append(np.tile(shared[:number] / unit_B, len(members)), shared[-1] / unit[-1])
    found = _ridge(rows * unit, expected, NOISE**2 / (len(rows) * CHANGE**2)) * unit
    mean_K = np.zeros(len(kernels))
    for index, own in enumerate(members):
        mean_K[own] = columns_KB[own] @ found[index * number : (index + 1) * number]
    return mean_K, float(found[-1] * unit_ms)


def _ridge(rows: np.ndarray, expected: np.ndarray, strength: float) -> np.ndarray:
    """Non-negative x near ``expected`` with rows @ x near 1."""
    gram = rows.T @ rows / len(rows) + strength * np.eye(rows.shape[1])
    return solve_nonnegative(gram, rows.mean(axis=0) + strength * expected)


def _work(kernel: Kernel) -> tuple[float, ...]:
    """Start, MACs with channels filled up to whole blocks, bytes of the maps, of the weights."""
    moved = float(kernel.input_bytes + kernel.output_bytes)
    return (1.0, _padded_macs(kernel), moved, float(kernel.weight_bytes))


def _padded_macs(kernel: Kernel) -> float:
    if kernel.op != "Conv" or kernel.weight is None:
        return float(kernel.macs)
    out, width = kernel.weight[:2]
    filled = -(-out // NARROW) * NARROW / out
    if width > 1 and width >= NARROW // 2:
        filled *= -(-width // NARROW) * NARROW / width
    return kernel.macs * filled


def _factors(
    kernels: Sequence[Kernel],
    members: Sequence[np.ndarray],
    weights_NK: csc_array,
    residual_N: np.ndarray,
) -> np.ndarray:
    """1 + g_K: the posterior mean of the process, given how far the means are off.

    ``weights_NK`` is each kernel's share of its network by the means, ``residual_N`` what is left.
    """
    standard = [_standardised([kernels[k] for k in own]) for own in members]
    best: tuple[float, np.ndarray] | None = None
    for length in LENGTHS:
        waves = [_waves(points, length) for points in standard]
        sums = [weights_NK[:, own] @ wave for own, wave in zip(members, waves, strict=True)]
        gram_NN = np.asarray(sum(one @ one.T for one in sums))
        for variance, noise in product(VARIANCES, NOISES):
            total_NN = variance * gram_NN + noise**2 * np.eye(len(gram_NN))
            lower = np.linalg.cholesky(total_NN)
            whitened = np.linalg.solve(lower, residual_N)
            evidence = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(lower)).sum())
            if best is None or evidence > best[0]:
                dual_N = np.linalg.solve(lower.T, whitened)
                factor_K = np.ones(len(kernels))
                for own, wave, one in zip(members, waves, sums, strict=True):
                    factor_K[own] += variance * (wave @ (one.T @ dual_N))
                best = (evidence, factor_K)
    assert best is not None
    return np.maximum(best[1], LEAST_SHARE)


def _waves(points: np.ndarray, length: float) -> np.ndarray:
    """[n, WAVES] whose products are nearly exp(-|a - b|^2 / 2 length^2) of the points [n, d].

    Random cosines (Rahimi and Recht 2007): tens of thousands of kernels cost what they are many.
    """
    rng = np.random.default_rng(SEED)
    frequencies = rng.normal(size=(points.shape[1], WAVES)) / length
    phases = rng.uniform(0.0, 2 * np.pi, WAVES)
    return np.asarray(np.sqrt(2.0 / WAVES) * np.cos(points @ frequencies + phases))


def _standardised(kernels: Sequence[Kernel]) -> np.ndarray:
    columns = FeatureSpace.of(kernels).matrix(kernels)
    spread = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0))
