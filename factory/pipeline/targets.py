"""The latency targets that a tier's search was given, and why: 03-search/targets.json.

The first target is a share of the budget. What is measured over the budget lowers it, what leaves
much of the budget unused raises it, and a measurement that turns out wrong is taken back. The file
is written before the new search starts, so that a killed build goes on with the same target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from factory.core.files import write_json
from factory.core.reading import read_object
from factory.core.validation import checked

SCHEMA_VERSION = 1
LARGEST_STEP = 0.97  # a lower target is at most this share of the one before
Entry = dict[str, Any]


class _Target(pydantic.BaseModel):
    """What is used of an entry by name."""

    kind: str
    target_ms: float


class Targets:
    """The targets of all tiers of one run.

    Entries have a kind: "budget" (the first), "finalist" and "verify" (measured over the budget, as
    a finalist or as the trained file), "unused" (much of the budget was left), "taken back" (the
    measurement that lowered it was wrong) and "kept" (back to the best that was found).

    Args:
        path: the file.
        budgets: hash of the frozen budgets; targets of other budgets are forgotten.
    """

    def __init__(self, path: Path, budgets: str) -> None:
        self.path, self.budgets = path, budgets
        self._tiers: dict[str, list[Entry]] = {}
        if path.exists():
            value = read_object(path, "latency targets")
            if value.get("schema_version") == SCHEMA_VERSION and value.get("budgets") == budgets:
                checked(dict[str, list[_Target]], value.get("tiers"), str(path))
                self._tiers = value["tiers"]

    def of(self, tier: str, *, since_verify: bool = False) -> list[Entry]:
        """Every target of a tier, first to last, perhaps only since the last verification's."""
        entries = list(self._tiers.get(tier, []))
        verified = [i for i, entry in enumerate(entries) if entry["kind"] == "verify"]
        return entries[verified[-1] :] if since_verify and verified else entries

    def last_ms(self, tier: str) -> float:
        """The target in force."""
        return float(self._tiers[tier][-1]["target_ms"])

    def count(self, tier: str, kind: str, *, since_verify: bool = False) -> int:
        """How many targets are of this kind, perhaps only since the last verification's."""
        entries = self.of(tier, since_verify=since_verify)
        return sum(entry["kind"] == kind for entry in entries)

    def start(self, tier: str, target_ms: float) -> None:
        """Set the first target, unless there is one."""
        if not self._tiers.get(tier):
            self.add(tier, "budget", target_ms)

    def tighten(
        self, tier: str, kind: str, *, measured_ms: float, limit_ms: float, smallest_ms: float
    ) -> bool:
        """Lower the target by what was measured too much; False when it cannot be lowered."""
        before = self.last_ms(tier)
        lower = before * min(LARGEST_STEP, limit_ms / measured_ms * LARGEST_STEP)
        lower = max(lower, smallest_ms * 1.001)
        if lower >= before:
            return False
        self.add(tier, kind, lower, before_ms=before, measured_ms=measured_ms, limit_ms=limit_ms)
        return True

    def add(self, tier: str, kind: str, target_ms: float, **facts: Any) -> None:
        """A new target, and what led to it."""
        self._tiers.setdefault(tier, []).append({"kind": kind, "target_ms": target_ms, **facts})
        write_json(
            self.path,
            {"schema_version": SCHEMA_VERSION, "budgets": self.budgets, "tiers": self._tiers},
        )
