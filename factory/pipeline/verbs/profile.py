"""profile and fit: a table for a chip outside of a run, and the predictor fitted to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, open_device
from factory.devices.profile import DeviceProfile, load_profile
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.browser_profile import BrowserRequest, any_browser, open_browser
from factory.pipeline.chip_plan import EFFORTS as ANY_EFFORTS
from factory.pipeline.chip_plan import effort_of, forecast, profile_chip
from factory.pipeline.profiling_plan import effort_settings, kernels_of, measure_chip
from factory.pipeline.shapes import network_spec
from factory.pipeline.tables import own_tables, predictor_path, run_table, table_for
from factory.profiling.table import LatencyTable, table_name

SCHEMA_VERSION = 1
POOL = 256


def profile(
    device: str | Path | None = None,
    *,
    browser: BrowserRequest | None = None,
    channels: int = 16,
    layers: int = 8,
    input: str = "3x32x32",
    stem: str = "cifar",
    classes: int = 10,
    networks: int = 16,
    effort: str = "quick",
    quick: bool = False,
    full: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure a chip: for networks of one size of the cell space, or for any network.

    Rows that the table holds already are not measured again, so an interrupted profile goes on,
    and a table grows with every network size it is asked for.

    Args:
        device: a device's id or the path of its profile.
        browser: in place of ``device``, whatever browser opens the page; its profile is written.
        channels: channels C of the networks.
        layers: number of cells.
        input: shape of one image, "3x32x32".
        stem: "cifar" or "imagenet".
        classes: outputs of the classifier.
        networks: random networks to measure whole.
        effort: "quick" or "full".
        quick: measure random networks of every space instead, for at most 3 minutes: any ONNX
            file can then be predicted; the size options and ``effort`` do not matter.
        full: the same for at most 20 minutes.
        out: folder of the table; latency_tables/ of the user's home by default.
        seed: chooses the random networks.
        dry_run: only say how much would be measured.
        progress: where progress is reported.
    """
    if (device is None) == (browser is None):
        raise InputError(
            "it is not clear what to measure", fix="name one: --device ID, or --browser for a page"
        )
    if quick and full:
        raise InputError("quick and full exclude each other", fix="give one of them")
    device_profile = load_profile(device) if device is not None else any_browser(browser)
    if quick or full:
        name = "quick" if quick else "full"
        return _any_network(device_profile, browser, name, out, seed, dry_run, progress)
    spec = network_spec(channels, layers, input, stem, classes)
    effort_settings(effort)
    if not 0 <= networks <= 1000:
        raise InputError(f"networks = {networks} is not accepted", fix="give a number up to 1000")
    folder = Path(out) if out is not None else own_tables()
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": device_profile.id,
        "folder": str(folder),
    }
    if dry_run:
        kernels = len(kernels_of([spec], device_profile.dtype))
        return {**answer, "dry_run": True, "kernels": kernels, "networks": networks}
    started = time.monotonic()
    with _opened(device_profile, browser) as opened:
        device_profile = opened.profile
        describe = opened.describe()
        path = folder / table_name(describe)
        with LatencyTable.open(path, device_profile, describe) as table:
            measured = measure_chip(
                opened,
                table,
                [spec],
                networks=networks,
                pool=POOL,
                effort=effort,
                seed=seed,
                progress=progress,
            )
    return {
        **answer,
        "device": device_profile.id,
        "table": str(path),
        "kernels": measured.kernels.measured,
        "networks": measured.networks.measured,
        "skipped": measured.kernels.skipped + measured.networks.skipped,
        "failed": measured.failed,
        "reasons": {**measured.kernels.reasons, **measured.networks.reasons},
        "drift": measured.networks.drift or measured.kernels.drift,
        "seconds": round(time.monotonic() - started, 1),
        "describe": describe,
    }


def _opened(device_profile: DeviceProfile, browser: BrowserRequest | None) -> Device:
    return open_device(device_profile) if browser is None else open_browser(browser)


def _any_network(
    device_profile: DeviceProfile,
    browser: BrowserRequest | None,
    name: str,
    out: str | Path | None,
    seed: int,
    dry_run: bool,
    progress: Progress,
) -> dict[str, Any]:
    effort = effort_of(name)
    folder = Path(out) if out is not None else own_tables()
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": device_profile.id,
        "folder": str(folder),
        "effort": name,
    }
    if dry_run:
        efforts = {key: forecast(value) for key, value in ANY_EFFORTS.items()}
        return {**answer, "dry_run": True, "efforts": efforts, **efforts[name]}
    started = time.monotonic()
    with _opened(device_profile, browser) as opened:
        device_profile = opened.profile
        describe = opened.describe()
        path = folder / table_name(describe)
        with LatencyTable.open(path, device_profile, describe) as table:
            done = profile_chip(opened, table, effort, seed=seed, progress=progress)
    summary = done.summary
    return {
        **answer,
        "device": device_profile.id,
        "table": str(path),
        "networks": summary.measured,
        "kernels_in_place": summary.in_place,
        "failed": summary.failed,
        "reasons": summary.reasons,
        "repeated_blocks": summary.repeated_blocks,
        "marked_blocks": summary.marked_blocks,
        "drift": summary.drift,
        "rounds": done.rounds,
        "error_percent": done.rounds[-1]["error_percent"] if done.rounds else None,
        "stopped": done.stopped,
        "seconds": round(time.monotonic() - started, 1),
        "describe": describe,
    }


def fit(device: str | Path, *, run: str | Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Fit the predictor of a chip to its latency table, or to the table of a run folder.

    The predictor goes into latency_tables/predictors/ of the user's home, under the name and
    hash of its table; its errors on unseen networks are in ``report``.
    """
    device_profile = load_profile(device)
    table = table_for(device_profile) if run is None else run_table(device_profile, Path(run))
    predictor = LatencyPredictor.fit(table, seed=seed)
    path = predictor_path(table)
    predictor.save(path)
    return {
        "schema_version": SCHEMA_VERSION,
        "device": device_profile.id,
        "table": str(table.path),
        "predictor": str(path),
        "report": predictor.report,
    }
