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
from factory.pipeline.profiling_plan import EFFORTS as SIZE_EFFORTS
from factory.pipeline.profiling_plan import effort_settings, kernels_of, measure_chip
from factory.pipeline.shapes import cell_space
from factory.pipeline.tables import (
    check_precision,
    mismatch,
    own_tables,
    predictor_path,
    run_table,
    table_for,
)
from factory.profiling.fusion_tests import measure_fusion
from factory.profiling.profiler import profile_networks
from factory.profiling.table import LatencyTable, table_name

SCHEMA_VERSION = 1
POOL = 256
BESIDE_A_KERNEL, BESIDE_A_NETWORK = 1.3, 1.6  # of the timed runs, on a two-core machine


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
    model: str | Path | None = None,
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
        quick: measure random networks of every space instead, for at most 3 minutes (10 where the
            device shows no trace of its kernels, as a browser): any ONNX file can then be
            predicted; the size options and ``effort`` do not matter.
        full: the same for at most 20 minutes.
        model: measure the network of this ONNX file (with random weights; a quantised file as it
            is) and its kernels within it, so that they are looked up from then on; the size
            options do not matter.
        out: folder of the table; latency_tables/ of the user's home by default.
        seed: chooses the random networks.
        dry_run: only say how much would be measured.
        progress: where progress is reported.
    """
    if (device is None) == (browser is None):
        raise InputError(
            "it is not clear what to measure", fix="name one: --device ID, or --browser for a page"
        )
    if sum([quick, full, model is not None]) > 1:
        raise InputError("quick, full and a model exclude each other", fix="give one of them")
    device_profile = load_profile(device) if device is not None else any_browser(browser)
    if quick or full:
        name = "quick" if quick else "full"
        return _any_network(device_profile, browser, name, out, seed, dry_run, progress)
    if model is not None:
        return _one_network(device_profile, browser, Path(model), out, effort, dry_run, progress)
    space = cell_space(channels, layers, input, stem, classes)
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
        kernels = kernels_of([space], device_profile.dtype)
        known = _known_table(device_profile, folder)
        left = [k for k in kernels if known is None or not known.has(str(k), kind="kernel")]
        efforts = {
            name: {
                "kernels": len(left),
                "networks": networks,
                "seconds": _forecast_seconds(name, len(left), networks),
            }
            for name in SIZE_EFFORTS
        }
        return {
            **answer,
            "dry_run": True,
            "effort": effort,
            "kernels": len(kernels),
            "measured_before": len(kernels) - len(left),
            "networks": networks,
            "seconds": efforts[effort]["seconds"],
            "efforts": efforts,
        }
    started = time.monotonic()
    with _opened(device_profile, browser) as opened:
        device_profile = opened.profile
        describe = opened.describe()
        path = folder / table_name(describe)
        with LatencyTable.open(path, device_profile, describe) as table:
            measured = measure_chip(
                opened,
                table,
                [space],
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


def _forecast_seconds(effort: str, kernels: int, networks: int) -> int:
    """About how long it takes: the timed runs, and what warm-up, trace and reference add."""
    settings = effort_settings(effort)
    kernels_ms = BESIDE_A_KERNEL * kernels * settings.min_time_ms
    return round((kernels_ms + BESIDE_A_NETWORK * networks * settings.network_time_ms) / 1e3)


def _known_table(device_profile: DeviceProfile, folder: Path) -> LatencyTable | None:
    """The device's table in ``folder`` as far as that can be said without opening the device."""
    for path in sorted(folder.glob(f"{device_profile.id}__*.csv")):
        table = LatencyTable.read(path)
        if not mismatch(table, device_profile):
            return table
    return None


def _one_network(
    device_profile: DeviceProfile,
    browser: BrowserRequest | None,
    model: Path,
    out: str | Path | None,
    effort: str,
    dry_run: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The network of a file, timed as a whole and kernel by kernel.

    Of a quantised file the file itself is timed: there are more kinds of them than are written.
    """
    from factory.graph.canonical import canonicalise, is_quantised, kernel_counts
    from factory.graph.onnx_build import named_after_outputs, to_onnx
    from factory.graph.onnx_import import read_graph
    from factory.graph.onnx_load import open_onnx

    graph = canonicalise(read_graph(model))
    settings = effort_settings(effort)
    counts = kernel_counts(graph)
    dtype = None if is_quantised(counts) else device_profile.dtype
    counts = kernel_counts(graph, dtype)
    check_precision(counts, device_profile, model)
    folder = Path(out) if out is not None else own_tables()
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": device_profile.id,
        "folder": str(folder),
        "model": str(model),
    }
    if dry_run:
        seconds = _forecast_seconds(effort, 0, 1)
        return {**answer, "dry_run": True, "kernels": len(counts), "networks": 1,
                "seconds": seconds}  # fmt: skip
    made = (
        named_after_outputs(open_onnx(model).model) if dtype is None else to_onnx(graph, dtype)
    ).SerializeToString(deterministic=True)
    with _opened(device_profile, browser) as opened:
        describe = opened.describe()
        path = folder / table_name(describe)
        with LatencyTable.open(path, opened.profile, describe) as table:
            counts = kernel_counts(graph, dtype, measure_fusion(opened, table, progress))
            done = profile_networks(opened, [(counts, made)], table, settings, progress)
    return {
        **answer,
        "device": opened.profile.id,
        "table": str(path),
        "kernels": len(counts),
        "kernels_in_place": done.in_place,
        "networks": done.measured,
        "skipped": done.skipped,
        "failed": done.failed,
        "reasons": done.reasons,
        "drift": done.drift,
        "seconds": done.seconds,
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
        traced = device_profile.transport != "browser"
        efforts = {
            key: forecast(value if traced else value.untraced())
            for key, value in ANY_EFFORTS.items()
        }
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
        "remeasured_blocks": summary.remeasured_blocks,
        "marked_blocks": summary.marked_blocks,
        "waited_s": round(summary.waited_s, 1),
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
        "simulated": bool((table.header.get("describe") or {}).get("simulated")),
        "report": predictor.report,
    }
