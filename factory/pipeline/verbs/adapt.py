"""adapt: a predictor for a new chip from known chips' tables and about ten measured networks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.devices.base import open_device
from factory.devices.profile import load_profile
from factory.pipeline.adaptation import (
    adapt_table,
    candidates_of_any,
    candidates_of_spaces,
    choose_candidates,
    known_predictors,
    measure,
)
from factory.pipeline.shapes import cell_space
from factory.pipeline.tables import own_tables, predictor_path
from factory.profiling.table import LatencyTable, table_name

SCHEMA_VERSION = 1


def adapt(
    device: str | Path,
    known: Sequence[str | Path],
    *,
    measurements: int = 10,
    channels: int | None = None,
    layers: int = 8,
    input: str = "3x32x32",
    stem: str = "cifar",
    classes: int = 10,
    out: str | Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Know a new chip, or another runtime of a known one, from a few measured networks.

    The networks are chosen by what the known chips' predictors imply, measured on the device and
    kept in its latency table; the predictor is stored where ``predict`` finds it.

    Args:
        device: the new device's id or the path of its profile.
        known: devices with latency tables, of the same precision.
        measurements: networks measured on the new device.
        channels: take networks of the cell space with so many channels; by default random networks
            of every space and size, so that any ONNX file can be predicted.
        layers: with channels: number of cells.
        input: with channels: shape of one image.
        stem: with channels: "cifar" or "imagenet".
        classes: with channels: outputs of the classifier.
        out: folder of the table; latency_tables/ of the user's home by default, where it is found.
        seed: of the candidate networks.
        dry_run: choose only.
        progress: where progress is reported.
    """
    profile = load_profile(device)
    predictors, paths = known_predictors(profile, known)
    if channels is None:
        candidates = candidates_of_any(profile.dtype, seed)
    else:
        space = cell_space(channels, layers, input, stem, classes)
        candidates = candidates_of_spaces([space], profile.dtype, seed)
    chosen = choose_candidates(predictors, candidates, measurements, seed)
    folder = Path(out) if out is not None else own_tables()
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": profile.id,
        "known": [str(path) for path in paths],
        "folder": str(folder),
        "networks": len(chosen),
    }
    if dry_run:
        macs = [sum(k.macs * n for k, n in one.counts.items()) for one in chosen]
        return {**answer, "dry_run": True, "macs": macs}
    started = time.monotonic()
    with open_device(profile) as opened:
        describe = opened.describe()
        path = folder / table_name(describe)
        with LatencyTable.open(path, profile, describe) as table:
            if any(table.rows(kind) for kind in ("kernel", "in_place", "fusion")):
                raise InputError(
                    f"device {profile.id!r} has been profiled: {path} holds its kernels",
                    why="a predictor of its own table is better than one of other chips",
                    fix=f"use `factory fit --device {profile.id}`, or another folder with --out",
                )
            summary = measure(opened, table, chosen, progress)
    table = LatencyTable.read(path)
    found = adapt_table(table, predictors, candidates)
    predictor = predictor_path(table)
    found.predictor.save(predictor)
    return {
        **answer,
        "table": str(path),
        "predictor": str(predictor),
        "report": found.predictor.report,
        "half_width_percent": round(100 * found.predictor.half_width, 2),
        "networks": summary.measured,
        "skipped": summary.skipped,
        "failed": summary.failed,
        "reasons": summary.reasons,
        "seconds": round(time.monotonic() - started, 1),
        "describe": describe,
    }
