"""What the fusion tests of a latency table say (they are made by fusion_tests.py).

The rules are settled once, in a row of their own, before the first network is counted by them: a
table whose tests are not finished has none, and what a later version thinks of the times changes
no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from factory.core.provenance import now_utc
from factory.graph.fusion import (
    MERGES,
    NO_RULES,
    PAIRS,
    FusionRule,
    FusionRules,
    parse_rules,
    rule_texts,
)
from factory.profiling.rows import RULES, Row

# Of the rows; keys: "<pair>:chained", "<pair>:apart", "<first>:bare", "<second>:alone", ":pixel".
KIND = "fusion"
CHAINED, APART, BARE, ALONE, PIXEL = "chained", "apart", "bare", "alone", "pixel"
# Of the cost of the second operator, as nn-Meter (MobiSys 2021) has it: where just half is saved,
# either answer is wrong by as much. With OpenVINO, whose graph can be read, a leaky ReLU or an
# addition in a convolution saves 0.5 to 0.9 and what is two nodes 0.4 at most (measured).
ENOUGH = 0.5


@dataclass(frozen=True)
class FusionTest:
    """What the times of a pair say.

    Attributes:
        rule: the pair.
        saved_ms: what the chained order saves.
        left_ms: what it takes more than without the second operator; unknown for two operands.
        cost_ms: what the second operator costs when it stands alone.
    """

    rule: FusionRule
    saved_ms: float
    left_ms: float | None
    cost_ms: float

    @property
    def share(self) -> float:
        """Share of the second operator that is saved; 0 where it costs nothing."""
        if self.cost_ms <= 0:
            return 0.0
        saved = (
            self.saved_ms
            if self.left_ms is None
            else min(self.saved_ms, self.cost_ms - self.left_ms)
        )
        return saved / self.cost_ms

    @property
    def folded(self) -> bool:
        """Whether the device folds the second operator into the first."""
        return self.share >= ENOUGH


def settled_row(table: Any) -> Row | None:
    """The row that says by which rules a table's networks are counted; None: not tested."""
    return next((row for row in table.rows(KIND) if row.key == RULES), None)


def fusion_rules(table: Any) -> FusionRules:
    """The rules by which a table's networks are counted; none where its device was not tested."""
    row = settled_row(table)
    return NO_RULES if row is None else parse_rules(filter(None, row.kernels.split(";")))


def rules_row(table: Any) -> Row:
    """What a table's finished tests come to, as the row that settles it."""
    tests = fusion_tests(table)
    rules = rule_texts(test.rule for test in tests if test.folded)
    last = max(table.rows(KIND), key=lambda row: row.block)
    return Row(KIND, RULES, ";".join(rules), runs=len(PAIRS), block=last.block, date=now_utc())


def fusion_tests(table: Any) -> list[FusionTest]:
    """What each tested pair of a table came to, in order; pairs that failed are left out."""
    times = {row.key: row.median_ms for row in table.rows(KIND) if row.ok}
    found = []
    for rule in PAIRS:
        keys = [f"{rule}:{CHAINED}", f"{rule}:{APART}", f"{rule.first}:{BARE}"]
        keys += [f"{rule.second}:{ALONE}", f"{rule.second}:{PIXEL}"]
        if all(key in times for key in keys):
            chained, apart, bare, alone, pixel = (times[key] for key in keys)
            left_ms = None if rule.second in MERGES else chained - bare
            found.append(FusionTest(rule, apart - chained, left_ms, alone - pixel))
    return found
