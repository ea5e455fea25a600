"""Live curves of a search for TensorBoard; nothing is imported unless they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.errors import InputError

SCALARS = ("loss", "val_loss", "skip_share", "entropy", "lr", "gap", "hessian_eigenvalue")
GROUPS = ("expected", "derived", "limits", "multipliers")


class LiveCurves:
    """Scalars of every step and, once an epoch, the probabilities of the candidates."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "search.tensorboard is true but tensorboard is not installed",
                fix="pip install '.[tensorboard]', or set search.tensorboard = false",
            ) from None
        # what a killed search had written beyond its checkpoint is hidden from ``step`` on
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def add(self, row: Mapping[str, Any]) -> None:
        """The curves of one line of the history."""
        step = row["step"]
        for name in SCALARS:
            if row.get(name) is not None:
                self._writer.add_scalar(name, row[name], step)
        for group in GROUPS:
            for name, value in (row.get(group) or {}).items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        for cell, share in (row.get("skip_share_by_cell") or {}).items():
            self._writer.add_scalar(f"skip_share/{cell}", share, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
