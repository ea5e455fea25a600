"""A predictor as its file holds it: what must be there, and parts that are decoded when asked for.

The format is told in docs/formats/predictor.md. Predicting one file decodes few regressors: soon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from factory.core.errors import InputError
from factory.graph.kernel import Kernel
from factory.latency.regressors import KindRegressor
from factory.latency.start_up import COLUMNS

Finite = Annotated[float, pydantic.Field(ge=-1e30, le=1e30)]
AtLeast0 = Annotated[float, pydantic.Field(ge=0, le=1e30)]


class _Kept(pydantic.BaseModel):
    """Keys that are used by name; any others are kept."""

    model_config = pydantic.ConfigDict(extra="allow")


class _Adapted(_Kept):
    known: str = pydantic.Field(alias="from")


class _Rates(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    macs_per_ms: AtLeast0
    bytes_per_ms: AtLeast0
    fixed_ms: AtLeast0


class _StartUp(_Kept):
    weights: dict[Literal[COLUMNS], Finite]  # type: ignore[valid-type]
    mean_error_percent: Finite


class _MacsLine(_Kept):
    ms_per_mac: Finite
    constant_ms: Finite
    held_out: Any


class _CountsRidge(_Kept):
    ms_per_kernel: dict[str, Finite]
    constant_ms: Finite
    held_out: Any


class _Baselines(_Kept):
    macs_line: _MacsLine
    counts_ridge: _CountsRidge


class _Report(_Kept):
    n_kernels: int = 0
    n_networks: int = 0
    n_failed: int = 0
    source: str | None = None
    adapted: _Adapted | None = None
    rates: _Rates | None = None
    reorder_share: dict[str, AtLeast0] = {}
    start_up: dict[str, _StartUp] = {}
    baseline_models: _Baselines | Annotated[dict[str, Any], pydantic.Field(max_length=0)] = {}
    noise: dict[str, Any] = {}
    held_out: dict[str, Any] | None = None


class SavedPredictor(_Kept):
    """The whole file."""

    device: str
    dtype: Literal["f32", "i8"]
    table: str
    seed: int
    report: _Report
    correction: dict[str, Any]
    half_width: AtLeast0
    network_range_ms: tuple[AtLeast0, AtLeast0] | None
    interval_has_regressors: bool
    usual_doubt: AtLeast0
    fusion: list[str] = []  # files of before have none
    kernel_ms: dict[str, AtLeast0]
    failed: dict[str, str]
    roofline: dict[str, AtLeast0]
    regressors: dict[str, dict[str, Any]]


@contextlib.contextmanager
def damaged(path: Path | str, part: str = "") -> Iterator[None]:
    """Around making something of a file's values: what they do not allow is one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(
            f"latency predictor {path} is damaged",
            why=f"{part}{type(error).__name__}: {error}",
            fix="fit it again from its latency table with `factory fit`",
        ) from None


class SavedTimes(Mapping[Kernel, float]):
    """Kernel -> ms over the texts of a file; looked up without parsing them all."""

    def __init__(self, by_text: Mapping[str, float]) -> None:
        self._by_text = dict(by_text)

    def __getitem__(self, kernel: Kernel) -> float:
        return self._by_text[str(kernel)]

    def __contains__(self, kernel: object) -> bool:
        return str(kernel) in self._by_text

    def __iter__(self) -> Iterator[Kernel]:
        return (Kernel.parse(text) for text in self._by_text)

    def __len__(self) -> int:
        return len(self._by_text)


class SavedRegressors(Mapping[str, KindRegressor]):
    """Family -> regressor, made from its saved form when first used."""

    def __init__(self, saved: Mapping[str, Mapping[str, Any]], path: Path | str) -> None:
        self._saved, self._path = dict(saved), path
        self._made: dict[str, KindRegressor] = {}
        wanted = set(KindRegressor.__dataclass_fields__)
        for name, value in self._saved.items():
            if set(value) != wanted:
                raise ValueError(f"regressor {name!r} lacks {sorted(wanted - set(value))}")

    def __contains__(self, name: object) -> bool:
        return name in self._saved

    def __getitem__(self, name: str) -> KindRegressor:
        if name not in self._made:
            saved = self._saved[name]
            with damaged(self._path, f"regressor {name!r}: "):
                self._made[name] = KindRegressor.from_dict(dict(saved))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._saved)

    def __len__(self) -> int:
        return len(self._saved)
