"""Parts of a saved predictor that are only decoded when asked for: predicting one file is quick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from factory.core.errors import InputError
from factory.graph.kernel import Kernel
from factory.latency.regressors import KindRegressor


class SavedTimes(Mapping[Kernel, float]):
    """Kernel -> ms over the texts of a file; looked up without parsing them all."""

    def __init__(self, by_text: Mapping[str, float]) -> None:
        self._by_text = {text: float(ms) for text, ms in by_text.items()}

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

    def __init__(self, saved: Mapping[str, Mapping[str, Any]], where: str) -> None:
        self._saved, self._where = dict(saved), where
        self._made: dict[str, KindRegressor] = {}
        wanted = set(KindRegressor.__dataclass_fields__)
        for name, value in self._saved.items():
            if set(value) != wanted:
                raise ValueError(f"regressor {name!r} lacks {sorted(wanted - set(value))}")

    def __getitem__(self, name: str) -> KindRegressor:
        if name not in self._made:
            try:
                self._made[name] = KindRegressor.from_dict(dict(self._saved[name]))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"latency predictor {self._where} is damaged",
                    why=f"regressor {name!r}: {type(error).__name__}: {error}",
                    fix="fit it again from its latency table with `factory fit`",
                ) from None
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._saved)

    def __len__(self) -> int:
        return len(self._saved)
