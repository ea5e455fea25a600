"""Profile a device, predict networks it has not seen, measure them there, compare.

    python tools/bench_transport.py --device local-openvino-t1-fp32 --out runs/bench
    python tools/bench_transport.py --browser 2 --reloads 2 --out runs/bench   # headless Chromium

The networks of the fit and the unseen ones are random networks of the cell space at the size of
the demo. They are measured in one pass, shuffled, so that a clock that moves meanwhile moves both;
the predictor is then fitted to the rows of its own networks alone. With --reloads the page is
reloaded so often while the kernels are measured; all rows must be there nevertheless. Whatever was
measured is kept in --out: a second call goes on. Writes JSON beside the table and prints a summary;
exit code 1 when rows are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from factory.cli.progress import LineProgress
from factory.core.files import write_json
from factory.devices.base import Device, open_device
from factory.devices.profile import load_profile
from factory.latency.facts import at_usual_speed, parse_counts, reference_share
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.browser_profile import BrowserRequest, open_browser
from factory.pipeline.profiling_plan import (
    effort_settings,
    kernels_of,
    measure_chip,
    random_networks,
)
from factory.pipeline.shapes import cell_space
from factory.profiling.fusion_rules import fusion_rules
from factory.profiling.profiler import network_key, profile_networks
from factory.profiling.reference import reference_rows, usual_reference_ms
from factory.profiling.rows import Row
from factory.profiling.table import LatencyTable, table_name

TESTS = Path(__file__).resolve().parents[1] / "tests" / "devices"
POOL = 256
UNSEEN_SEED = 1000
WITHIN = 0.10


def open_target(arguments: argparse.Namespace) -> Device:
    """The device to be measured."""
    if arguments.browser:
        request = BrowserRequest(
            threads=arguments.browser, precision=arguments.precision, headless=True, port=0
        )
        return open_browser(request)
    return open_device(load_profile(arguments.device))


def reload_now_and_then(device: Any, times: int, over: threading.Event) -> int:
    """Reload the device's page while it measures; how often it was."""
    sys.path.insert(0, str(TESTS))
    from chromium import Remote

    remote, done = Remote(device), 0
    while done < times and not over.wait(8.0):
        if remote.text("phase").startswith("Measuring"):
            remote.reload()
            done += 1
    return done


def unseen_errors(
    predictor: LatencyPredictor, rows: list[Row], table: LatencyTable
) -> list[dict[str, float]]:
    """Predicted beside measured, for each network; also at the usual speed of the chip."""
    usual_ms = usual_reference_ms(table) or 0.0
    share = reference_share([row.median_ms for row in reference_rows(table)])
    found = []
    for row in rows:
        predicted_ms = predictor.predict(parse_counts(row.kernels)).latency_ms
        found.append(
            {
                "predicted_ms": round(predicted_ms, 5),
                "measured_ms": row.median_ms,
                "reference_ms": row.reference_ms,
                "error": predicted_ms / row.median_ms - 1.0,
                "error_at_usual_speed": predicted_ms
                / (row.median_ms * at_usual_speed(row, usual_ms, share))
                - 1.0,
            }
        )
    return found


def errors_text(errors: np.ndarray) -> str:
    """Median, largest and share within 10 %, in words."""
    return (
        f"median error {np.median(errors):.1%}, largest {errors.max():.1%}, "
        f"{np.mean(errors <= WITHIN):.0%} within 10 %"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--device", help="id or path of a device profile")
    which.add_argument("--browser", type=int, metavar="THREADS", help="headless Chromium")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--networks", type=int, default=16, help="networks of the fit")
    parser.add_argument("--unseen", type=int, default=16, help="networks to be predicted")
    parser.add_argument("--reloads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec, progress = cell_space(8, 5, "3x32x32", "cifar", 10), LineProgress()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(open_target(arguments))
        describe, dtype = device.describe(), device.profile.dtype
        reloads, over = [0], threading.Event()
        if arguments.reloads:
            thread = threading.Thread(
                target=lambda: reloads.append(reload_now_and_then(device, arguments.reloads, over))
            )
            thread.start()
        name = table_name(describe)
        table = stack.enter_context(
            LatencyTable.open(arguments.out / name, device.profile, describe)
        )
        try:
            measure_chip(
                device,
                table,
                [spec],
                networks=0,
                pool=POOL,
                effort="quick",
                seed=0,
                progress=progress,
            )
        finally:
            over.set()
        if arguments.reloads:
            thread.join()
        fusion = fusion_rules(table)
        samples = random_networks([spec], dtype, arguments.networks, POOL, 0, fusion)
        chosen = {network_key(model) for _, model in samples}
        others = random_networks([spec], dtype, arguments.unseen, POOL, UNSEEN_SEED, fusion)
        others = [sample for sample in others if network_key(sample[1]) not in chosen]
        both = [*samples, *others]
        random.Random(0).shuffle(both)
        profile_networks(device, both, table, effort_settings("quick"), progress)
        profiled_s = time.monotonic() - started
    hidden = {network_key(model) for _, model in others}
    known = [row for row in table.rows() if row.key.rpartition("@")[2] not in hidden]
    predictor = LatencyPredictor.fit(LatencyTable(table.path, table.header, known))
    unseen = [row for row in table.rows("network") if row.key in hidden]
    rows = unseen_errors(predictor, [row for row in unseen if row.ok], table)
    errors = np.abs([row["error"] for row in rows])
    steady = np.abs([row["error_at_usual_speed"] for row in rows])
    keys = {row.key for row in table.rows("kernel")}
    expected = {str(kernel) for kernel in kernels_of([spec], dtype)}
    answer = {
        "schema_version": 1,
        "device": describe,
        "kernels": len(expected),
        "missing": sorted(expected - keys),
        "failed": {row.key: row.reason for row in table.rows("kernel") if not row.ok},
        "networks_of_the_fit": len(chosen),
        "failed_networks": {row.key: row.reason for row in unseen if not row.ok},
        "reloads": reloads[-1],
        "profile_seconds": round(profiled_s, 1),
        "unseen": rows,
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
        "share_within_10_percent": float((errors <= WITHIN).mean()),
        "share_within_10_percent_at_usual_speed": float((steady <= WITHIN).mean()),
    }
    write_json(arguments.out / f"bench-{describe['device']}.json", answer)
    print(
        f"{describe['device']}: {len(expected)} kernels, {len(answer['missing'])} missing, "
        f"{len(answer['failed'])} failed, {reloads[-1]} reloads, {profiled_s:.0f} s\n"
        f"{len(rows)} unseen networks: {errors_text(errors)}\n"
        f"at the usual speed of the chip: {errors_text(steady)}"
    )
    return 1 if answer["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
