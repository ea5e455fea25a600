"""Every model to every target: tiers of runs and torchvision networks, sizes, parity, checks, int8.

    python tools/bench_deploy.py targets --run runs/demo --out bench/deploy
    python tools/bench_deploy.py certificates --out bench/deploy --device local-cpu-t1-fp32

``targets`` exports the tiers of ``--run`` and the torchvision networks (random weights: they have
no accuracy) to all targets, one folder a model; what is there already is kept, so that it can be
stopped. ``certificates`` measures the fp32 and int8 files that ``targets`` left on a chip, issues a
certificate for each and checks it again; only its figures are timings. Both print a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from factory.api import export, verify
from factory.cli.output import table
from factory.core.files import read_json, write_json
from factory.pipeline.context import open_run

NETWORKS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "resnet18",
    "regnet_y_400mf",
)


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("targets", "certificates", "table"))
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run folder")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--input", default="3x224x224")
    parser.add_argument("--device", action="append", default=[], help="of the certificates")
    parser.add_argument("--seconds", type=float, default=240.0, help="stop starting new work then")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part == "targets":
        targets(options)
    elif options.part == "certificates":
        certificates(options)
    show(options.out)


def targets(options: argparse.Namespace) -> None:
    """Export what is not exported yet."""
    wanted: list[tuple[str, dict[str, Any]]] = []
    for run in options.run:
        for tier in open_run(run).recipe.tiers:
            wanted.append((f"{run.name}-{tier.name}", {"model": run, "tier": tier.name}))
    for name in options.networks:
        model = f"torchvision.models:{name}"
        wanted.append((name, {"model": model, "input": options.input}))
    for name, arguments in wanted:
        record = options.out / name / "bench.json"
        if record.exists():
            continue
        started = time.monotonic()
        answer = export(target=["all"], out=options.out / name, **arguments)
        write_json(record, {**answer, "seconds": round(time.monotonic() - started, 1)})
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def certificates(options: argparse.Namespace) -> None:
    """Measure, certify and check again, until the time is up."""
    deadline = time.monotonic() + options.seconds
    for folder in sorted(p for p in options.out.iterdir() if p.is_dir()):
        for device in options.device:
            target = "int8-cpu" if "int8" in device else "onnx-fp32"
            files = sorted(folder.glob(f"*-{target}.onnx"))
            certificate = folder / f"certificate-{device}.json"
            if not files or certificate.exists() or time.monotonic() > deadline:
                continue
            result = verify(files[0], device, issue=certificate)
            checked = verify(files[0], certificate=certificate, measure=False)
            write_json(
                folder / f"checked-{device}.json",
                {"verdict": result["verdict"], "holds": checked["holds"], "why": checked["reason"]},
            )
            print(f"{folder.name} on {device}: {result['median_ms']:.3f} ms", flush=True)


def show(folder: Path) -> None:
    """The tables of everything in the folder, and bench.json with the same."""
    rows, certified, values = [], [], []
    for record in sorted(folder.glob("*/bench.json")):
        answer = read_json(record)
        for entry in answer["targets"]:
            sizes = list(entry["sizes_bytes"].values())
            found = entry["agreement"] or {}
            rows.append(
                [
                    record.parent.name,
                    entry["target"],
                    entry["status"],
                    f"{sizes[0] / 1e6:.3f}" if sizes else "-",
                    f"{found['signal_db']:.0f}" if found else "-",
                    f"{found['accuracy']:.2%}" if found.get("accuracy") is not None else "-",
                    f"{found['drop_points']:.2f}" if found.get("drop_points") is not None else "-",
                    "; ".join(c["detail"] for c in entry["checks"] if "usability" in c["name"]),
                ]
            )
        for path in sorted(record.parent.glob("certificate-*.json")):
            value = read_json(path)
            latency = value["latency"] or {}
            checked = read_json(path.with_name(path.name.replace("certificate-", "checked-")))
            if latency:
                low, high = latency["median_interval_ms"]
                certified.append(
                    [
                        record.parent.name,
                        value["chip"]["device_id"],
                        f"{latency['median_ms']:.3f} ({low:.3f} to {high:.3f})",
                        f"{latency['cold_start_ms']:.1f}",
                        f"{latency['sustained']['drift_percent']:+.1f} %",
                        f"{value['peak_memory_bytes'] / 1e6:.0f}",
                        "holds" if checked["holds"] else checked["why"],
                    ]
                )
        values.append({"model": record.parent.name, **answer})
    write_json(folder / "bench.json", {"schema_version": 1, "models": values})
    head = ["model", "target", "status", "MB", "dB", "accuracy", "points lost", "mobile checker"]
    print("\n".join(table(head, rows)))
    if certified:
        head = [
            "model",
            "chip",
            "median ms (95 %)",
            "cold start ms",
            "drift",
            "peak MB",
            "re-check",
        ]
        print("\n" + "\n".join(table(head, certified)))
    print(json.dumps({"models": len(values), "certificates": len(certified)}))


if __name__ == "__main__":
    main()
