"""Every model to every target, each run where a runtime is here: sizes, parity, accuracy, checks.

    python tools/bench_deploy.py targets --run runs/demo --out bench/deploy
    python tools/bench_deploy.py targets --flowers bench/flowers --photos flower_photos \\
        --networks --out bench/deploy
    python tools/bench_deploy.py runtimes --out bench/deploy
    python tools/bench_deploy.py certificates --out bench/deploy --device local-cpu-t1-fp32

``targets`` exports the tiers of ``--run``, the networks that tools/bench_flowers.py trained and
torchvision's networks with random weights (settled, see tools/settled_networks.py: they have no
accuracy) to all targets, one folder a model. ``runtimes`` runs their files on OpenVINO, on the
emulator of Qualcomm's NPU and on ONNX Runtime Web in Chromium, and compares with fp32 on the CPU.
``certificates`` measures the fp32 and int8 files on a chip, issues a certificate for each and
checks it again; only its figures are timings. What is there already is kept, so that everything can
be stopped. Each prints the tables of what is there.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools.<name>:function
from factory.api import export, verify
from factory.cli.output import table
from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.deployment.agreement import compare
from factory.deployment.run_here import run_images
from factory.devices.base import Device, TimingPlan, open_device
from factory.devices.local import LocalDevice
from factory.devices.placement import place
from factory.devices.profile import load_profile
from factory.graph.model_inputs import AskedInputs
from factory.pipeline.browser_profile import BrowserRequest, open_browser
from factory.pipeline.context import open_run
from factory.pipeline.export_source import Asked, open_source
from tools.settled_networks import NETWORKS

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SOURCE_OPTIONS = ("tier", "weights")
ONE_RUN = TimingPlan(
    min_runs=1, max_runs=1, min_time_ms=0.0, warmup_runs=1, warmup_time_ms=0.0, profile_runs=1
)


def _device(name: str) -> Callable[[], Device]:
    return lambda: open_device(load_profile(name))


def _web() -> Device:
    return open_browser(BrowserRequest(headless=True, port=0, name="bench-web"))


# runtime -> how it is opened, the targets it runs, and of how many pictures at most
RUNTIMES: dict[str, tuple[Callable[[], Device], tuple[str, ...], int]] = {
    "OpenVINO": (_device("local-openvino-t1-fp32"), ("onnx-fp32", "onnx-fp16", "int8-cpu"), 1000),
    "ORT Web": (_web, ("onnx-fp32", "onnx-fp16", "int8-cpu"), 400),
    "QNN emulator": (_device("qnn-htp-sm8550-int8"), ("int8-qnn",), 200),
}


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("targets", "runtimes", "certificates", "table"))
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run folder")
    parser.add_argument("--flowers", type=Path, help="what tools/bench_flowers.py left")
    parser.add_argument("--photos", type=Path, help="the flower photos, train/ and val/")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--input", default="3x224x224")
    parser.add_argument("--runtime", action="append", choices=list(RUNTIMES), default=[])
    parser.add_argument("--models", nargs="*", help="folders of --out; all by default")
    parser.add_argument("--target", action="append", help="make only these anew, keep the others")
    parser.add_argument("--device", action="append", default=[], help="of the certificates")
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the latency again when a certificate is checked",
    )
    parser.add_argument("--seconds", type=float, default=240.0, help="stop starting new work then")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.deadline = time.monotonic() + options.seconds
    {"targets": targets, "runtimes": runtimes, "certificates": certificates}.get(
        options.part, lambda _: None
    )(options)
    show(options.out)


def targets(options: argparse.Namespace) -> None:
    """Export what is not exported yet."""
    wanted: list[tuple[str, dict[str, Any]]] = []
    for run in options.run:
        for tier in open_run(run).recipe.tiers:
            wanted.append((f"{run.name}-{tier.name}", {"model": str(run), "tier": tier.name}))
    for trained in sorted(options.flowers.glob("*/flowers.json")) if options.flowers else []:
        facts, name = read_json(trained), trained.parent.name
        arguments = {
            "model": f"tools.bench_flowers:{name}",
            "weights": str(trained.with_name("weights.safetensors")),
            "input": f"3x{facts['pixels']}x{facts['pixels']}",
            "data": str(options.photos),
            "mean": tuple(facts["mean"]),
            "std": tuple(facts["std"]),
        }
        wanted.append((f"flowers-{name}", arguments))
    for name in options.networks:
        model = f"tools.settled_networks:{name}"
        wanted.append((name, {"model": model, "input": options.input, **IMAGENET}))
    for name, arguments in wanted:
        record = options.out / name / "bench.json"
        again = bool(options.target) and record.exists()
        if (record.exists() and not again) or time.monotonic() > options.deadline:
            continue
        if options.models and name not in options.models:
            continue
        started = time.monotonic()
        answer = export(target=options.target or ["all"], out=options.out / name, **arguments)
        if again:
            answer = _merged(read_json(record), answer, options.out / name)
        seconds = round(time.monotonic() - started, 1)
        write_json(record, {**answer, "arguments": arguments, "seconds": seconds})
        print(f"{name}: {seconds:.0f} s", flush=True)


def _merged(old: dict[str, Any], new: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The earlier answer with the targets that were made anew; runs of another file are stale."""
    made = {entry["target"]: entry for entry in new["targets"]}
    before = {entry["target"]: entry["sha256"] for entry in old["targets"]}
    for name, entry in made.items():
        if entry["sha256"] != before.get(name):
            for stale in folder.glob(f"on-*-{name}.json"):
                stale.unlink()
    kept = [made.pop(entry["target"], entry) for entry in old["targets"]]
    return {**new, "targets": [*kept, *made.values()]}


def _folders(options: argparse.Namespace) -> list[Path]:
    found = [path.parent for path in sorted(options.out.glob("*/bench.json"))]
    return [path for path in found if not options.models or path.name in options.models]


def _files(folder: Path, targets: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for entry in read_json(folder / "bench.json")["targets"]:
        if entry["status"] == "ok" and entry["target"] in targets:
            yield entry["target"], folder / entry["files"][0]


def runtimes(options: argparse.Namespace) -> None:
    """Run the files where they have not run yet; a failure is a row with its reason."""
    for runtime in options.runtime or list(RUNTIMES):
        start, wanted, most = RUNTIMES[runtime]
        todo = [
            (folder, target, path, folder / f"on-{runtime.replace(' ', '-')}-{target}.json")
            for folder in _folders(options)
            for target, path in _files(folder, wanted)
        ]
        todo = [entry for entry in todo if not entry[3].exists()]
        if not todo or time.monotonic() > options.deadline:
            continue
        with start() as device:
            for folder, target, path, record in todo:
                if time.monotonic() > options.deadline:
                    break
                images, labels = _pictures(folder, most)
                started = time.monotonic()
                found = _on_runtime(device, path, folder, images, labels)
                found |= {"runtime": runtime, "target": target}
                write_json(record, {**found, "seconds": round(time.monotonic() - started, 1)})
                print(f"{folder.name} {target} on {runtime}: {found['status']}", flush=True)


@functools.lru_cache(maxsize=16)
def _pictures(folder: Path, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The test pictures that the export compared with, at most so many, evenly chosen."""
    arguments = read_json(folder / "bench.json")["arguments"]
    with tempfile.TemporaryDirectory() as scratch:
        options = {key: arguments[key] for key in SOURCE_OPTIONS if key in arguments}
        told = {key: arguments[key] for key in ("mean", "std") if key in arguments}
        told["inputs"] = AskedInputs.of(arguments.get("input"))
        folder_of = Path(arguments["data"]) if arguments.get("data") else None
        asked = Asked(data=folder_of, **told)
        data = open_source(arguments["model"], Path(scratch), asked, **options).data
    assert isinstance(data.test_images, np.ndarray)
    count = len(data.test_images)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    labels = None if data.test_labels is None else data.test_labels[chosen]
    return data.test_images[chosen], labels


def _on_runtime(
    device: Device, path: Path, folder: Path, images: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """Placement, and the outputs beside those of the fp32 file on this CPU."""
    content = path.read_bytes()
    try:
        providers = _providers(device, content)
        outputs = device.run_batch(content, images).reshape(len(images), -1)
    except InputError as error:
        return {"status": "failed", "reason": str(error)}
    fp32 = next(file for _, file in _files(folder, ("onnx-fp32",)))
    found = compare(outputs, run_images(fp32, images), labels)
    return {"status": "ok", "providers": providers, "agreement": found.to_dict()}


def _providers(device: Device, content: bytes) -> dict[str, int]:
    """Nodes by provider; InputError where none of them ran where it was asked to."""
    if isinstance(device, LocalDevice):
        placed = place(device, content)
        if placed.failure or not placed.taken:
            raise InputError(placed.failure or "the provider takes no node")
        counts: dict[str, int] = {}
        for node in placed.nodes:
            counts[node.provider] = counts.get(node.provider, 0) + 1
        return counts
    timing = device.time_many([content], ONE_RUN)[0]
    if not timing.ok:
        raise InputError(timing.reason)
    return dict(timing.providers or {})


def certificates(options: argparse.Namespace) -> None:
    """Measure, certify and check again, until the time is up."""
    for folder in _folders(options):
        for device in options.device:
            target = "int8-cpu" if "int8" in device else "onnx-fp32"
            certificate = folder / f"certificate-{device}.json"
            if certificate.exists() or time.monotonic() > options.deadline:
                continue
            for _, path in _files(folder, (target,)):
                arguments = read_json(folder / "bench.json")["arguments"]
                data = arguments["model"] if "tier" in arguments else arguments.get("data")
                result = verify(path, device, issue=certificate, data=data)
                checked = verify(path, certificate=certificate, measure=options.measure)
                known = {"verdict": result["verdict"], "holds": checked["holds"]}
                known |= {"why": checked["reason"], "checks": len(checked["checks"])}
                write_json(folder / f"checked-{device}.json", known)
                print(f"{folder.name} on {device}: {result['median_ms']:.3f} ms", flush=True)


def show(folder: Path) -> None:
    """The tables of everything in the folder, and bench.json with the same."""
    rows, ran, certified, values = [], [], [], []
    for record in sorted(folder.glob("*/bench.json")):
        answer, name = read_json(record), record.parent.name
        for entry in answer["targets"]:
            rows.append([name, *_target_row(entry)])
        for path in sorted(record.parent.glob("on-*.json")):
            ran.append([name, *runtime_row(read_json(path))])
        for path in sorted(record.parent.glob("certificate-*.json")):
            checked = path.with_name(path.name.replace("certificate-", "checked-"))
            if checked.exists():
                certified.append([name, *certificate_row(read_json(path), read_json(checked))])
        values.append({"model": name, **answer})
    write_json(folder / "bench.json", {"schema_version": 1, "models": values})
    head = "model|target|status|MB|dB|accuracy|points lost|int8 gate|checks"
    print("\n".join(table(head.split("|"), rows)))
    if ran:
        head = "model|runtime|target|nodes|pictures|dB|same class|accuracy|points lost"
        print("\n" + "\n".join(table(head.split("|"), ran)))
    if certified:
        head = "model|chip|median ms (95 %)|p10|p90|cold start ms|sustained|peak MB"
        head += "|accuracy (95 %)|re-check"
        print("\n" + "\n".join(table(head.split("|"), certified)))
    counts = {"models": len(values), "runs": len(ran), "certificates": len(certified)}
    print(json.dumps(counts))


def _target_row(entry: dict[str, Any]) -> list[str]:
    sizes = list(entry["sizes_bytes"].values())
    gate = entry["gate"] or {}
    told = f"{gate['method']}: {gate['verdict']}" if gate else "-"
    if entry.get("repair"):
        told = f"{len(entry['repair']['float_nodes'])} nodes in 32 bits"
    checks = [c["detail"] for c in entry["checks"] if c["name"] != "onnx checker"]
    return [
        entry["target"],
        entry["status"],
        f"{sizes[0] / 1e6:.3f}" if sizes else "-",
        *_agreement_cells(entry["agreement"] or {}),
        told,
        entry["reason"] or "; ".join(checks),
    ]


def _agreement_cells(found: dict[str, Any]) -> list[str]:
    judged = found.get("accuracy") is not None
    return [
        f"{found['signal_db']:.1f}" if found else "-",
        f"{found['accuracy']:.2%}" if judged else "-",
        f"{found['drop_points']:.2f}" if judged else "-",
    ]


def runtime_row(entry: dict[str, Any]) -> list[str]:
    """Cells of one file on another runtime."""
    if entry["status"] != "ok":
        return [entry["runtime"], entry["target"], entry["reason"][:120], *"-----"]
    found = entry["agreement"]
    nodes = ", ".join(f"{n} {k.removesuffix('ExecutionProvider')}" for k, n in
                      sorted(entry["providers"].items()))  # fmt: skip
    decibels, *judged = _agreement_cells(found)
    same = f"{found['same_class']:.1%}"
    return [entry["runtime"], entry["target"], nodes, str(found["images"]), decibels, same, *judged]


def certificate_row(value: dict[str, Any], checked: dict[str, Any]) -> list[str]:
    """Cells of one certificate and its re-check."""
    latency, accuracy = value["latency"], value["accuracy"]
    if not latency:
        return [value["chip"]["device_id"], value["unmeasured"], *"-------"]
    low, high = latency["median_interval_ms"]
    steady = latency["sustained"]
    cold, peak = latency["cold_start_ms"], value["peak_memory_bytes"]
    share = "-"
    if accuracy:
        share = f"{accuracy['value']:.2%} ({accuracy['interval'][0]:.1%} to "
        share += f"{accuracy['interval'][1]:.1%})"
    return [
        value["chip"]["device_id"],
        f"{latency['median_ms']:.3f} ({low:.3f} to {high:.3f})",
        f"{latency['p10_ms']:.3f}",
        f"{latency['p90_ms']:.3f}",
        f"{cold:.1f}" if cold is not None else "-",
        f"{steady['runs']} in {steady['seconds']:.1f} s, {steady['drift_percent']:+.1f} %",
        f"{peak / 1e6:.0f}" if peak else "-",
        share,
        f"{checked.get('checks', '')} hold" if checked["holds"] else checked["why"],
    ]


if __name__ == "__main__":
    main()
