"""LatencyPredictor: kernels -> milliseconds for one (device, runtime, provider, precision).

A measured kernel is looked up, another one of a measured kind comes from that kind's regressor,
any other from the roofline; a correction fitted on whole networks turns the sum into a network's
latency. THE WHOLE PREDICTION IS LINEAR IN THE KERNEL COUNTS, so that a supernet's expected latency
and a derived network's latency are one function. Loading and predicting need numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.reading import read_json
from factory.core.validation import validate
from factory.graph.fusion import NO_RULES, FusionRules, parse_rules, rule_texts
from factory.graph.kernel import Kernel
from factory.latency.correction import Correction, group_of
from factory.latency.features import family, relatives
from factory.latency.intervals import (
    LIKE_KIND_ERROR,
    OTHER_FORM_ERROR,
    OUT_OF_RANGE_FACTOR,
    ROOFLINE_ERROR,
    doubt,
    relative_doubt,
    widened,
)
from factory.latency.prediction import Part, Prediction
from factory.latency.regressors import KindRegressor
from factory.latency.roofline import Roofline
from factory.latency.saved import SavedPredictor, SavedRegressors, SavedTimes, damaged

SCHEMA_VERSION = 6
FORMAT = "factory-latency-predictor"
MAX_NAMED_KERNELS = 5
NEGLIGIBLE_SHARE = 0.005
INFERRED = "inferred"  # name of the source without a time of any kernel
FROM_REGRESSOR = "come from a regressor"
OTHER_FORM = "are of an 8-bit form that was not measured: they may take up to 20 times as long"


@dataclass
class LatencyPredictor:
    """Fitted predictor; make one with :meth:`fit` or :meth:`load`.

    Attributes:
        measured_ms: kernels that are looked up.
        failed: kernel text -> why the device could not run it.
        half_width: w of the 90 % interval, prediction / (1 + w) to prediction * (1 + w), of a
            network of usual doubt.
        usual_doubt: doubt up to which half_width holds as it is; 0: not by doubt.
        network_range_ms: fastest and slowest network the correction was fitted on.
        interval_has_regressors: whether half_width was found on networks whose kernels came from
            the regressors; if not, those kernels widen it.
        fusion: what the device folds into the operator before; whoever counts the kernels of a
            network for this predictor counts them by these rules.
        report: errors on unseen networks beside baselines, and what was fitted.
    """

    device_id: str
    dtype: str
    table: str
    seed: int
    measured_ms: Mapping[Kernel, float]
    failed: dict[str, str]
    roofline: Roofline
    regressors: Mapping[str, KindRegressor]
    correction: Correction
    half_width: float
    network_range_ms: tuple[float, float] | None
    report: dict[str, Any]
    interval_has_regressors: bool = False
    usual_doubt: float = 0.0
    fusion: FusionRules = NO_RULES
    lookup: bool = True  # False: measured kernels too come from the regressors, to judge these
    _cache: dict[Kernel, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(cls, table: Any, *, seed: int = 0) -> LatencyPredictor:
        """Fit to a :class:`~factory.profiling.table.LatencyTable`; needs scikit-learn.

        Raises InputError when the table holds no measured kernel.
        """
        from factory.latency.fitting import fit_predictor

        return fit_predictor(table, seed=seed)

    def _check(self, kernels: Iterable[Kernel]) -> None:
        """Quantised networks hold kernels in floats too; those in floats hold no others."""
        for kernel in kernels:
            if kernel.dtype != "f32" and self.dtype == "f32":
                raise InputError(
                    f"kernel {kernel} is {kernel.dtype}, the predictor is for {self.dtype}",
                    where=f"predictor of {self.device_id}",
                    why="a predictor belongs to one (device, runtime, provider, precision)",
                    fix="use the predictor of the other precision or Kernel.with_dtype",
                )

    @property
    def infers(self) -> bool:
        """Whether no kernel was timed: what is known of them comes from whole networks."""
        return bool(self.report.get("source") == INFERRED)

    def source(self, kernel: Kernel) -> str:
        """Where a kernel's time comes from: "measured", "regressor" or "roofline"."""
        if self._measured(kernel):
            return "measured"
        return "regressor" if self.regressor(family(kernel)) is not None else "roofline"

    def regressor(self, name: str) -> KindRegressor | None:
        """The regressor of a family, or of its nearest relative that was measured."""
        found = next((one for one in relatives(name) if one in self.regressors), None)
        return None if found is None else self.regressors[found]

    def _other_form(self, kernel: Kernel, regressor: KindRegressor) -> bool:
        """Whether an 8-bit kernel's regressor is of other number types, or of another operator."""
        if kernel.dtype == "f32":
            return False
        known = any(one in self.regressors for one in relatives(family(kernel), own=True))
        return not (known and regressor.space.knows(kernel))

    def _measured(self, kernel: Kernel) -> bool:
        return self.lookup and kernel in self.measured_ms

    def without_lookup(self) -> LatencyPredictor:
        """The same predictor with exact lookup off."""
        return replace(self, lookup=False, _cache={})

    def kernel_ms(self, kernels: Sequence[Kernel]) -> np.ndarray:
        """Time of each kernel alone, uncorrected, in ms."""
        self._check(kernels)
        unknown: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            if not self._measured(kernel) and kernel not in self._cache:
                unknown.setdefault(family(kernel), []).append(kernel)
        for kind, members in unknown.items():
            regressor = self.regressor(kind)
            if regressor is not None:
                values = regressor.predict_ms(members, self.roofline)
            else:
                values = np.maximum(self.roofline.estimate(members), self.roofline.floor(members))
            self._cache.update(zip(members, values.tolist(), strict=True))
        return np.array(
            [self.measured_ms[k] if self._measured(k) else self._cache[k] for k in kernels],
            dtype=float,
        )

    def linear_ms(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, float]:
        """(weights_ms, constant_ms): predicted = constant + counts @ weights; weights >= 0."""
        groups = np.array([group_of(k) for k in kernels], dtype=int)
        return (
            self.correction.weights_ms(self.kernel_ms(kernels), groups),
            self.correction.constant_ms,
        )

    def predict_many(self, counts: np.ndarray, kernels: Sequence[Kernel]) -> np.ndarray:
        """Latency in ms of many networks, one row of ``counts`` [networks, kernels] each."""
        counts = np.asarray(counts, dtype=float)
        if counts.ndim != 2 or counts.shape[1] != len(kernels):
            raise InputError(
                f"counts of shape {counts.shape} for {len(kernels)} kernels",
                fix="give one row a network and one column a kernel",
            )
        weights, constant = self.linear_ms(kernels)
        return np.asarray(constant + counts @ weights)

    def predict(self, counts: Mapping[Kernel, int | float]) -> Prediction:
        """Latency of one network with a 90 % interval and the share of each kernel."""
        kernels = sorted(k for k, n in counts.items() if n != 0)
        numbers = np.array([float(counts[k]) for k in kernels])
        if not np.all(np.isfinite(numbers) & (numbers >= 0)):
            raise InputError(
                "a kernel count is negative or not a number", fix="counts must be >= 0"
            )
        weights, constant = self.linear_ms(kernels)
        contributions = numbers * weights
        latency = float(constant + contributions.sum())
        shares = contributions / latency if latency > 0 else np.zeros(len(kernels))
        sources = [self.source(k) for k in kernels]
        half, warnings = self._doubts(kernels, shares, sources)
        warnings += self._range_warnings(latency)
        if self._outside(latency):
            half *= OUT_OF_RANGE_FACTOR
        if not np.isfinite(latency * (1.0 + half)):
            raise InputError(
                f"the predictor of {self.device_id} gives no finite latency",
                why="a number of it is damaged",
                fix="fit it again from its latency table with `factory fit`",
            )
        parts = [
            Part(k, float(n), float(ms), float(share), source)
            for k, n, ms, share, source in zip(
                kernels, numbers, contributions, shares, sources, strict=True
            )
        ]
        parts.sort(key=lambda part: (-part.ms, part.kernel))
        return Prediction(
            latency_ms=latency,
            low_ms=latency / (1.0 + half),
            high_ms=latency * (1.0 + half),
            parts=parts,
            constant_ms=constant,
            warnings=warnings,
        )

    def doubt(self, counts: Mapping[Kernel, int | float]) -> float:
        """How unsure the kernels of a network make its time (see :mod:`~.intervals`)."""
        kernels = [k for k, n in counts.items() if n > 0]
        ms = self.kernel_ms(kernels) * np.array([float(counts[k]) for k in kernels])
        total = float(ms.sum())
        shares = ms / total if total > 0 else np.zeros(len(kernels))
        errors, _ = self._kernel_errors(kernels, [self.source(k) for k in kernels])
        return doubt(shares, errors, [family(k) for k in kernels])

    def _kernel_errors(
        self, kernels: Sequence[Kernel], sources: Sequence[str]
    ) -> tuple[np.ndarray, list[str]]:
        """Relative error to expect of each kernel, and what is doubtful about it ("": nothing)."""
        errors, labels = np.zeros(len(kernels)), [""] * len(kernels)
        for index, (kernel, source) in enumerate(zip(kernels, sources, strict=True)):
            if source == "measured":
                continue
            labels[index] = "come from the roofline (no kernel of their kind was measured)"
            errors[index] = ROOFLINE_ERROR
            regressor = self.regressor(family(kernel))
            if regressor is not None:
                errors[index], labels[index] = regressor.expected_error([kernel])[0], FROM_REGRESSOR
                if family(kernel) not in self.regressors:
                    errors[index] = max(errors[index], LIKE_KIND_ERROR)
                    labels[index] = "come from a regressor of a like kind (theirs was not measured)"
                elif not regressor.in_range([kernel])[0]:
                    labels[index] = "lie outside the measured range of their regressor"
                if self._other_form(kernel, regressor):
                    errors[index], labels[index] = OTHER_FORM_ERROR, OTHER_FORM
            if str(kernel) in self.failed:
                errors[index] = max(errors[index], ROOFLINE_ERROR)
                labels[index] = "failed on the device when they were measured"
        return errors, labels

    def _doubts(
        self, kernels: Sequence[Kernel], shares: np.ndarray, sources: Sequence[str]
    ) -> tuple[float, list[str]]:
        """Half width of the interval and the reasons why it is wider than usual."""
        errors, labels = self._kernel_errors(kernels, sources)
        guessed: dict[str, list[tuple[float, str]]] = {}
        for kernel, share, label in zip(kernels, shares, labels, strict=True):
            if label:
                guessed.setdefault(label, []).append((float(share), str(kernel)))
        warnings = []
        if not self.report.get("n_networks"):
            warnings.append(
                "no whole network was measured on this device: the prediction is an uncorrected "
                "sum of kernels and its interval is assumed, not measured"
            )
        if self.infers and not self.report.get("adapted"):
            warnings.append(
                f"no kernel was timed on this device: the kernels' times are inferred from "
                f"{self.report['n_networks']} whole networks"
            )
        if adapted := self.report.get("adapted"):
            warnings.append(
                f"adapted from {adapted['from']} with {self.report['n_networks']} networks "
                "measured on this device: kernels were timed there, not here"
            )
        for label, members in sorted(guessed.items()):
            total = sum(share for share, _ in members)
            if total < NEGLIGIBLE_SHARE and "failed" not in label:
                continue
            if self.infers and label == FROM_REGRESSOR:  # all do, and none can be measured
                continue
            named = [text for _, text in sorted(members, key=lambda m: (-m[0], m[1]))]
            more = len(named) - MAX_NAMED_KERNELS
            warnings.append(
                f"{len(named)} kernel(s) with {100 * total:.0f} % of the time {label}; measure: "
                + " ".join(named[:MAX_NAMED_KERNELS])
                + (f" and {more} more" if more > 0 else "")
            )
        strange = np.array([label == OTHER_FORM for label in labels], dtype=bool)
        usual = np.where(strange, 0.0, errors)
        if self.usual_doubt > 0:
            one = doubt(shares, usual, [family(kernel) for kernel in kernels])
            half = self.half_width * relative_doubt(one, self.usual_doubt)
        else:
            if self.interval_has_regressors:
                usual = np.where([label == FROM_REGRESSOR for label in labels], 0.0, usual)
            half = widened(self.half_width, shares, usual)
        return widened(half, shares, errors * strange), warnings

    def _outside(self, latency_ms: float) -> bool:
        if self.network_range_ms is None:
            return False
        low, high = self.network_range_ms
        return not low / 2 <= latency_ms <= high * 2

    def _range_warnings(self, latency_ms: float) -> list[str]:
        if not self._outside(latency_ms):
            return []
        assert self.network_range_ms is not None
        low, high = self.network_range_ms
        return [
            f"the prediction lies far outside the measured networks ({low:.3g} to {high:.3g} ms); "
            "the interval is doubled"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the file format is docs/formats/predictor.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "format": FORMAT,
            "device": self.device_id,
            "dtype": self.dtype,
            "table": self.table,
            "seed": self.seed,
            "report": self.report,
            "correction": self.correction.to_dict(),
            "half_width": self.half_width,
            "network_range_ms": self.network_range_ms and list(self.network_range_ms),
            "interval_has_regressors": self.interval_has_regressors,
            "usual_doubt": self.usual_doubt,
            "fusion": rule_texts(self.fusion),
            "kernel_ms": {str(k): ms for k, ms in self.measured_ms.items()},
            "failed": self.failed,
            "roofline": self.roofline.to_dict(),
            "regressors": {kind: r.to_dict() for kind, r in self.regressors.items()},
        }

    def save(self, path: Path | str) -> None:
        """Write the predictor as JSON in few lines, atomically."""
        write_atomic_text(path, json.dumps(self.to_dict(), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> LatencyPredictor:
        """Read a predictor; raises InputError on another format or schema version."""
        value = read_json(path, "latency predictor")
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(
                f"{path} is not a latency predictor",
                fix="make one with `factory fit`",
            )
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"latency predictor {path} has schema version {value.get('schema_version')}",
                why=f"this version of the factory reads {SCHEMA_VERSION}",
                fix="fit it again from its latency table with `factory fit`",
            )
        with damaged(path):
            saved = validate(SavedPredictor, value, where=f"latency predictor {path}")
            return cls(
                device_id=saved.device,
                dtype=saved.dtype,
                table=saved.table,
                seed=saved.seed,
                measured_ms=SavedTimes(saved.kernel_ms),
                failed=saved.failed,
                roofline=Roofline(**saved.roofline),
                regressors=SavedRegressors(saved.regressors, path),
                correction=Correction.from_dict(saved.correction),
                half_width=saved.half_width,
                network_range_ms=saved.network_range_ms,
                report=value["report"],
                interval_has_regressors=saved.interval_has_regressors,
                usual_doubt=saved.usual_doubt,
                fusion=parse_rules(saved.fusion),
            )
