"""A table of measured architectures as an objective: a query is a look-up.

Layout, that of HW-NAS-Bench-360 on NAS-Bench-201: one row an architecture and runtime with the
columns arch_idx (number in the benchmark's tables), rep_arch_idx (the architecture of the same
class that was measured), framework, lat_ms_median and accuracy in percent; CSV or Parquet. Only
one of a class was measured: a row's latency is that of its rep_arch_idx, which is checked, its
accuracy is its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from factory.core.errors import InputError, unknown_name
from factory.core.reading import decoded, read_bytes
from factory.search.strategies.pareto import hypervolume
from factory.search.strategies.problem import Score
from factory.spaces.nas_bench_201 import SIZE, Cell201
from factory.spaces.nas_bench_201_space import NasBench201Space, Spec201

COLUMNS = ("arch_idx", "rep_arch_idx", "lat_ms_median", "accuracy")
RUNTIME = "framework"


class AllCells(NasBench201Space):
    """Every cell of the table, those without a path to the output as well."""

    def buildable(self, architecture: Cell201) -> bool:
        """A row of the table needs no building."""
        return True


@dataclass(frozen=True, eq=False)
class Table201:
    """Latency and accuracy of all 15,625 cells.

    Args:
        latency_ms: [15625], by arch_idx.
        accuracy: [15625], 0 to 1.
        name: where it comes from.
    """

    latency_ms: np.ndarray
    accuracy: np.ndarray
    name: str

    @classmethod
    def load(cls, path: Path | str, runtime: str = "onnx") -> Table201:
        """Read the rows of one runtime; InputError says what is wrong with the file."""
        frame = _read(Path(path))
        for column in COLUMNS:
            if column not in frame:
                raise unknown_name("column", column, map(str, frame.columns), str(path))
        if RUNTIME in frame:
            known = sorted(map(str, frame[RUNTIME].unique()))
            if runtime not in known:
                raise unknown_name("runtime", runtime, known, str(path))
            frame = frame[frame[RUNTIME].astype(str) == runtime]
        try:
            numbers = {name: pd.to_numeric(frame[name], errors="coerce") for name in COLUMNS}
        except OverflowError as error:
            raise InputError(
                f"{path} holds a number beyond any measurement", why=str(error)
            ) from None
        frame = pd.DataFrame(numbers, dtype=float).set_index("arch_idx").sort_index()
        if list(frame.index) != list(range(SIZE)):
            raise InputError(
                f"{path} has {len(frame)} rows of {runtime}, not one for each of the {SIZE} cells"
            )
        latency_ms = frame["lat_ms_median"].to_numpy()
        accuracy = frame["accuracy"].to_numpy() / 100.0
        measured_as = frame["rep_arch_idx"].to_numpy()
        if not (np.isfinite(latency_ms).all() and (latency_ms > 0).all()):
            raise InputError(f"{path} has latencies that are not positive numbers")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise InputError(f"{path} has accuracies that are not percent")
        if not ((measured_as >= 0) & (measured_as < SIZE)).all():
            raise InputError(f"{path} has a rep_arch_idx that is none of the {SIZE} cells")
        measured = latency_ms[measured_as.astype(int)]
        if not np.array_equal(measured, latency_ms):
            raise InputError(
                f"{path} has rows whose latency is not that of their rep_arch_idx",
                why="one architecture of each class was measured",
            )
        return cls(latency_ms, accuracy, f"{Path(path).name}, {runtime}")

    def space(self) -> AllCells:
        """The space of the table, at the benchmark's size."""
        return AllCells(Spec201(16, 5, (3, 32, 32), 100))

    def evaluate(self, architecture: Cell201) -> Score:
        """Look a cell up; MACs are not in the table."""
        index = architecture.index
        return Score(float(self.accuracy[index]), float(self.latency_ms[index]), 0.0)

    def known_costs(self, architecture: Cell201) -> Mapping[str, float]:
        """Nothing is known without a query."""
        return {}

    def hypervolume(self, indices: np.ndarray, min_accuracy: float) -> float:
        """Area of log latency x accuracy that cells dominate.

        The reference point is the largest latency of the table and ``min_accuracy``.
        """
        reference = (float(np.log(self.latency_ms.max())), -min_accuracy)
        x, y = np.log(self.latency_ms[indices]), -self.accuracy[indices]
        return hypervolume(list(zip(x.tolist(), y.tolist(), strict=True)), reference)


def _read(path: Path) -> pd.DataFrame:
    parquet = path.suffix == ".parquet"
    content = read_bytes(path, "table")
    try:
        if parquet:
            return pd.read_parquet(io.BytesIO(content))
        return pd.read_csv(io.StringIO(decoded(content, f"table {path}")))
    except ImportError:
        raise InputError(
            f"cannot read {path}",
            why="reading Parquet needs pyarrow",
            fix="pip install pyarrow, or convert the table to CSV",
        ) from None
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        # pandas' and pyarrow's own errors of parsing are ValueErrors and OSErrors
        raise InputError(
            f"table {path} is not {'Parquet' if parquet else 'CSV'}", why=str(error)
        ) from None
