"""When a search should end early: rules on the lines of its history, once an epoch.

Two signs of a collapse, both judged on what the parameters say without the skip limit:
- skips: more than half of the normal cell's operators are skip connections for ``patience`` epochs
  in a row (DARTS+, arXiv 1909.06035, stops at two skips; half is what no published cell has).
- sharpness: the largest eigenvalue of the architecture's Hessian, averaged over five estimates, has
  grown by a third against five estimates earlier (R-DARTS, arXiv 1909.09656); only where
  ``hessian_every`` asks for it.
A search whose budgets press (a multiplier above zero) is not judged by its skips: a tight budget
asks for them. What is taken is the architecture of the last epoch without too many skips, or that
of five estimates earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_SKIPS = 0.5  # of the normal cell
WINDOW = 5  # estimates
GROWTH = 0.75  # earlier over later mean eigenvalue


class CollapseWatch:
    """The state of the rules; plain values, kept in the checkpoint."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.bad_epochs = 0
        self.eigenvalues: list[float] = []
        self.healthy: dict[str, Any] | None = None  # parameters of the last epoch without a sign
        self.healthy_epoch: int | None = None
        self.estimated: list[tuple[int, dict[str, Any]]] = []  # parameters at the last estimates

    def judge(
        self,
        epoch: int,
        skip_share: float,
        multipliers: Mapping[str, float],
        values: dict[str, Any],
        eigenvalue: float | None = None,
    ) -> str | None:
        """Why the search should end after ``epoch``; None: it goes on."""
        pressed = any(value > 0 for value in multipliers.values())
        if skip_share > MOST_SKIPS and not pressed:
            self.bad_epochs += 1
        else:
            self.bad_epochs = 0
            self.healthy, self.healthy_epoch = values, epoch
        if eigenvalue is not None:
            self.eigenvalues.append(eigenvalue)
            self.estimated = [*self.estimated[-WINDOW:], (epoch, values)]
        if self.bad_epochs >= self.patience:
            return (
                f"stopped after epoch {epoch}: more than half of the normal cell's operators "
                f"({skip_share:.0%}) were skip connections for {self.bad_epochs} epochs in a row, "
                f"with no budget that asks for them; {self._taken()}"
            )
        if len(self.eigenvalues) >= 2 * WINDOW:
            later = sum(self.eigenvalues[-WINDOW:]) / WINDOW
            earlier = sum(self.eigenvalues[-2 * WINDOW : -WINDOW]) / WINDOW
            if earlier > 0 and earlier / later < GROWTH and later > earlier:
                self.healthy_epoch, self.healthy = self.estimated[0]
                return (
                    f"stopped after epoch {epoch}: the largest eigenvalue of the architecture's "
                    f"Hessian grew from {earlier:.3g} to {later:.3g} (means of {WINDOW}), a sign "
                    f"of a collapse to come; {self._taken()}"
                )
        return None

    def _taken(self) -> str:
        if self.healthy_epoch is None:
            return "no epoch was without that sign, so the skip limit decides what is left"
        return f"the architecture of epoch {self.healthy_epoch} was taken"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; plain values."""
        return {
            "bad_epochs": self.bad_epochs,
            "eigenvalues": self.eigenvalues,
            "healthy": self.healthy,
            "healthy_epoch": self.healthy_epoch,
            "estimated": [list(pair) for pair in self.estimated],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.bad_epochs = int(state["bad_epochs"])
        self.eigenvalues = list(state["eigenvalues"])
        self.healthy, self.healthy_epoch = state["healthy"], state["healthy_epoch"]
        self.estimated = [(int(epoch), values) for epoch, values in state["estimated"]]
