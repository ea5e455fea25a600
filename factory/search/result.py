"""What a search leaves for one architecture, as search.json in its folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from factory.core.errors import InputError
from factory.core.reading import read_object
from factory.core.validation import checked
from factory.spaces.config import read_architecture

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SearchResult:
    """The architecture of one tier and how it came about.

    Attributes:
        discretised: what alpha and beta gave before any repair.
        repaired: it was over a limit and has been exchanged for ``genotype``.
        expected: expected costs at the end; predicted: exact costs of ``genotype``.
        smallest: the smallest cost that the space reaches, for every limited term.
        alphas: {"alpha": {matrix: [E][O]}, "beta": {matrix: [E]}}, and "gamma" of a
            factorised search.
        history: path of history.jsonl.
        seed: of this search.
        method: the choice on every axis, and the preset.
        skip_share_by_cell: of what the parameters say without the skip limit.
        derived_loss, gap: validation loss of the derived network inside the supernet, and by how
            much it exceeds the supernet's own, at the end of the last epoch; None without one.
        activations: per cell type and edge the strongest activation of a factorised search.
        stopped: why the search ended early; None: it did not.
        front: networks over a range of budgets, where ``search.front`` asked for them.
    """

    __pydantic_config__ = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    tier: str
    genotype: Any
    discretised: Any
    repaired: bool
    expected: dict[str, float]
    predicted: dict[str, float]
    limits: dict[str, float]
    multipliers: dict[str, float]
    smallest: dict[str, float]
    skip_share: float
    entropy: float
    steps: int
    alphas: dict[str, Any]
    history: Path
    seed: int = 0
    method: dict[str, str] = field(default_factory=dict)
    skip_share_by_cell: dict[str, float] = field(default_factory=dict)
    derived_loss: float | None = None
    gap: float | None = None
    activations: dict[str, list[str]] | None = None
    stopped: str | None = None
    front: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["genotype"] = self.genotype.to_dict()
        values["discretised"] = self.discretised.to_dict()
        values["history"] = self.history.name
        return {"schema_version": SCHEMA_VERSION, **values}

    @classmethod
    def load(cls, folder: Path) -> SearchResult:
        """Read search.json of a tier's folder."""
        path = folder / "search.json"
        values = read_object(path, "search result")
        if values.pop("schema_version", None) != SCHEMA_VERSION:
            raise InputError(f"{path} is of another schema version", fix="search again")
        values.pop("fingerprint", None)
        for key in ("genotype", "discretised"):
            values[key] = read_architecture(values.get(key), str(path))
        found: SearchResult = checked(cls, values, str(path), fix="search again")
        return dataclasses.replace(found, history=folder / found.history.name)
