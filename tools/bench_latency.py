"""How well a chip's predictor knows networks it has never seen: measured against predicted.

Random networks of every supported space and nine torchvision networks are measured in several
passes, interleaved with a reference network and with the profile's own reference model, which show
what the machine did meanwhile. The measured time of a network is the median over its passes, each
brought to these passes' usual speed (half of the reference's deviation) and all of them to the
speed that the chip had while it was profiled; errors against the raw medians stand beside. Then
the predictor fitted to the chip's latency table predicts each of them, with exact lookup and
without.

    python tools/bench_latency.py measure --device local-cpu-t1-fp32 --work WORK --seconds 330
    python tools/bench_latency.py score --table TABLE.csv --work WORK --out latency.json

With `--table` a block in which the machine is disturbed against what the profile's references took
while the table was measured is waited for and measured again; after four attempts it does not
count.

`measure` stops after `--seconds` and goes on where it was when called again; it is done when it
says so. The benchmark's networks have seeds of their own: no profile ever draws them.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.files import write_json
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.devices.base import open_device
from factory.devices.profile import load_profile
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.fusion import NO_RULES, FusionRules, rule_texts
from factory.graph.kernel import Kernel
from factory.graph.onnx_build import to_onnx
from factory.graph.onnx_import import from_onnx, load_onnx
from factory.latency.facts import REFERENCE_SHARE, parse_counts
from factory.latency.predictor import LatencyPredictor
from factory.pipeline.network_samples import sample_network
from factory.profiling.profiler import counts_text
from factory.profiling.reference import KEY, usual_reference_ms
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable
from factory.profiling.trust import SteadyTimer, Usual

SCHEMA_VERSION = 1
SEED = 50_000  # first part of the seeds of this benchmark's networks
_TORCHVISION = (
    "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0 efficientnet_b0 "
    "shufflenet_v2_x1_0 squeezenet1_1 resnet18 regnet_y_400mf"
)
TORCHVISION = _TORCHVISION.split()
REFERENCE = ("mobile", SEED, 999)  # a network of some milliseconds, heavier than the profile's own
BLOCK = 6
ATTEMPTS, WAIT_S = 4, 60.0  # at a block that the chip was slow in; wait before another
PLAN = ProfileSettings(rounds=3, network_time_ms=180.0, min_runs=9, network_trace_runs=0)


def network_names(args: argparse.Namespace) -> list[str]:
    """'cell-3', 'mobile-17', ..., 'torchvision-resnet18'."""
    mobile, cell = (range(args.first, args.first + number) for number in (args.mobile, args.cell))
    names = [f"mobile-{i}" for i in mobile] + [f"cell-{i}" for i in cell]
    return names + ([] if args.no_torchvision else [f"torchvision-{name}" for name in TORCHVISION])


def network_model(
    name: str, dtype: str, work: Path, fusion: FusionRules = NO_RULES
) -> tuple[dict[Kernel, float], bytes]:
    """Kernel counts by a chip's fusion rules, and ONNX file, of a network of the benchmark."""
    space, _, rest = name.partition("-")
    if space != "torchvision":
        graph = sample_network(space, SEED, int(rest))
        model = to_onnx(graph, dtype).SerializeToString()
        return dict(kernel_counts(graph, dtype, fusion)), model
    path = work / "torchvision" / f"{rest}.onnx"
    if not path.exists():
        _export(rest, path)
    graph = canonicalise(from_onnx(load_onnx(path)))
    if dtype == "f32":
        return dict(kernel_counts(graph, fusion=fusion)), path.read_bytes()
    return dict(kernel_counts(graph, dtype, fusion)), to_onnx(graph, dtype).SerializeToString()


def _export(name: str, path: Path) -> None:
    import torch
    import torchvision

    from factory.deployment.export import build_onnx

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build_onnx(network, (3, 224, 224)).SerializeToString())


def measure(args: argparse.Namespace) -> None:
    """Measure the random networks beside a larger reference of the benchmark's own."""
    profile = load_profile(args.device)
    reference = to_onnx(sample_network(*REFERENCE), profile.dtype).SerializeToString()

    def rows(timer: SteadyTimer, block: Sequence[str]) -> Iterator[dict[str, Any]]:
        models = [network_model(name, profile.dtype, args.work)[1] for name in block]
        measured = timer.time([*models, reference], PLAN.network_plan(), PLAN.rounds)
        *timings, base = measured.timings
        mark = measured.slower.sign if timer.disturbed(measured) else ""
        for timing in timings:
            yield {
                "median_ms": timing.median_ms,
                "p10_ms": timing.p10_ms,
                "min_ms": timing.min_ms,
                "reference_ms": base.median_ms,
                "profile_reference_ms": measured.speed.median_ms(KEY),
                "reason": timing.reason or mark,
            }

    in_passes(args, network_names(args), rows)


def in_passes(
    args: argparse.Namespace,
    names: Sequence[str],
    rows: Callable[[SteadyTimer, Sequence[str]], Iterable[dict[str, Any]]],
) -> None:
    """Measure blocks of ``names`` until the time is up; each is on disk before the next begins.

    Args:
        args: work, device, table, passes, seconds.
        names: of the networks; each pass takes them in an order of its own.
        rows: what is kept of each network of a block.
    """
    deadline = time.monotonic() + args.seconds
    profile = load_profile(args.device)
    path = args.work / f"{profile.id}.measured.json"
    state = read_json(path) if path.exists() else {"schema_version": SCHEMA_VERSION, "passes": {}}
    usual = Usual.of_table(LatencyTable.read(args.table)) if args.table else None
    with open_device(profile) as device:
        state["describe"] = device.describe()
        timer = SteadyTimer(device, usual, repeats=ATTEMPTS - 1)
        for number in range(args.passes):
            done = state["passes"].setdefault(str(number), {})
            todo = [name for name in names if name not in done]
            random.Random(number).shuffle(todo)
            for start in range(0, len(todo), BLOCK):
                if time.monotonic() > deadline:
                    print(f"pass {number}: {len(done)} of {len(names)}; call again to go on")
                    return
                block = todo[start : start + BLOCK]
                timer.patience_s = (ATTEMPTS - 1) * WAIT_S
                done.update(zip(block, rows(timer, block), strict=True))
                write_json(path, state)
    print(f"done: {len(names)} networks in {args.passes} passes, {path}")


def collect(
    args: argparse.Namespace, device_id: str, table_reference_ms: float = 0.0
) -> dict[str, dict[str, float]]:
    """Network -> measured median over the passes, and how far apart the passes are.

    ``normalised_ms``: at the speed that the chip had while it was profiled, when the profile's
    reference model took ``table_reference_ms``; at the usual speed of these passes without it.
    """
    state = read_json(args.work / f"{device_id}.measured.json")
    found: dict[str, list[dict[str, float]]] = {}
    for rows in state["passes"].values():
        for name, row in rows.items():
            if not row["reason"]:
                found.setdefault(name, []).append(row)
    references = [row["reference_ms"] for rows in found.values() for row in rows]
    usual = float(np.median(references))
    own = [row.get("profile_reference_ms", 0.0) for rows in found.values() for row in rows]
    shift = table_reference_ms / float(np.median(own)) if table_reference_ms and min(own) else 1.0
    result = {}
    for name, rows in sorted(found.items()):
        medians = np.array([row["median_ms"] for row in rows])
        here = np.array([row["reference_ms"] for row in rows])
        normal = shift * medians * (usual / here) ** REFERENCE_SHARE
        result[name] = {
            "measured_ms": float(np.median(medians)),
            "normalised_ms": float(np.median(normal)),
            "speed_shift": shift,
            "pass_spread": float(np.max(medians) / np.min(medians) - 1),
            "noise": float(np.mean(np.abs(medians / np.median(medians) - 1))),
            "normalised_noise": float(np.mean(np.abs(normal / np.median(normal) - 1))),
            "passes": len(rows),
        }
    return result


def summary(relative: np.ndarray) -> dict[str, float]:
    """Shares within 5 and 10 %, and the errors in percent."""
    percent = 100 * np.abs(relative)
    return {
        "networks": len(percent),
        "within_5_percent": float(np.mean(percent <= 5)),
        "within_10_percent": float(np.mean(percent <= 10)),
        "median_percent": float(np.median(percent)),
        "p90_percent": float(np.quantile(percent, 0.9)),
        "max_percent": float(percent.max()),
        "bias_percent": float(100 * np.median(relative)),
    }


def _macs_only(counts: list[dict[Kernel, float]], measured: np.ndarray) -> np.ndarray:
    """Held-out a * MACs + b in ten folds on the benchmark itself: in the baseline's favour."""
    macs = np.array([sum(k.macs * n for k, n in one.items()) for one in counts])
    columns = np.stack([macs / macs.mean(), np.ones(len(macs))], axis=1)
    predicted = np.empty(len(macs))
    for fold in np.array_split(np.random.default_rng(0).permutation(len(macs)), 10):
        keep = np.setdiff1d(np.arange(len(macs)), fold)
        rows = columns[keep] / measured[keep][:, None]
        predicted[fold] = columns[fold] @ np.linalg.lstsq(rows, np.ones(len(keep)), rcond=None)[0]
    return predicted


def score(args: argparse.Namespace) -> None:
    """Fit, predict, compare; writes JSON and prints the table."""
    table = LatencyTable.read(args.table)
    started = time.monotonic()
    predictor = LatencyPredictor.fit(table)
    fit_s = time.monotonic() - started
    blind = predictor.without_lookup()
    measured = collect(args, table.device_id, usual_reference_ms(table) or 0.0)
    rules = "+".join(rule_texts(predictor.fusion))
    digest = f"-{hashlib.sha256(rules.encode()).hexdigest()[:8]}" if rules else ""
    cache_path = args.work / f"counts-{table.dtype}{digest}.json"
    cache: dict[str, str] = read_json(cache_path) if cache_path.exists() else {}
    rows: dict[str, dict[str, Any]] = {}
    all_counts = []
    for name, facts in measured.items():
        if name not in cache:
            counted, _ = network_model(name, table.dtype, args.work, predictor.fusion)
            cache[name] = counts_text(counted)
        counts = parse_counts(cache[name])
        all_counts.append(counts)
        prediction = predictor.predict(counts)
        known = sum(k in predictor.measured_ms for k in counts)
        rows[name] = {
            **facts,
            "space": name.partition("-")[0],
            "predicted_ms": prediction.latency_ms,
            "low_ms": prediction.low_ms,
            "high_ms": prediction.high_ms,
            "without_lookup_ms": blind.predict(counts).latency_ms,
            "kernels": len(counts),
            "kernels_measured": known,
        }
    write_json(cache_path, cache)
    names = list(rows)
    raw = np.array([rows[name]["measured_ms"] for name in names])
    real = np.array([rows[name]["normalised_ms"] for name in names])
    macs_ms = _macs_only(all_counts, real)
    columns = {
        "predicted": np.array([rows[n]["predicted_ms"] for n in names]),
        "without lookup": np.array([rows[n]["without_lookup_ms"] for n in names]),
        "MACs only": macs_ms,
    }
    spaces = np.array([rows[name]["space"] for name in names])
    low = np.array([rows[n]["low_ms"] for n in names])
    high = np.array([rows[n]["high_ms"] for n in names])
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": table.device_id,
        "table": Path(args.table).name,
        "provenance": provenance(),
        "fit_seconds": fit_s,
        "report": predictor.report,
        "networks": rows,
        "scores": {},
    }
    print(
        f"{table.device_id}: {len(names)} networks, fit {fit_s:.1f} s, "
        f"{predictor.report['n_kernels']} kernels, {predictor.report['n_networks']} networks"
    )
    for space in ("random", *sorted(set(spaces))):
        which = spaces != "torchvision" if space == "random" else spaces == space
        if not which.any():
            continue
        answer["scores"][space] = {
            label: summary(values[which] / real[which] - 1) for label, values in columns.items()
        }
        inside = (real >= low) & (real <= high)
        width = (high - low) / 2 / columns["predicted"]
        answer["scores"][space]["predicted, against raw medians"] = summary(
            columns["predicted"][which] / raw[which] - 1
        )
        answer["scores"][space]["interval"] = {
            "coverage": float(inside[which].mean()),
            "median_half_width": float(np.median(width[which])),
        }
        answer["scores"][space]["range_ms"] = [float(real[which].min()), float(real[which].max())]
        answer["scores"][space]["pass_noise"] = float(
            np.mean([rows[n]["normalised_noise"] for n, w in zip(names, which, strict=True) if w])
        )
        for label in (*columns, "predicted, against raw medians"):
            one = answer["scores"][space][label]
            print(
                f"{space:12s} {label:30s} n {one['networks']:3d}  within 5 % "
                f"{one['within_5_percent']:6.1%}  10 % {one['within_10_percent']:6.1%}  median "
                f"{one['median_percent']:5.2f}  max {one['max_percent']:6.2f}  bias "
                f"{one['bias_percent']:+.2f}"
            )
        interval = answer["scores"][space]["interval"]
        print(
            f"{space:12s} interval covers {interval['coverage']:.1%}, half width "
            f"{interval['median_half_width']:.1%}; passes scatter "
            f"{answer['scores'][space]['pass_noise']:.1%}"
        )
    for name in names:
        if name.startswith("torchvision"):
            row = rows[name]
            print(
                f"{name:32s} measured {row['normalised_ms']:8.3f} predicted "
                f"{row['predicted_ms']:8.3f} {row['predicted_ms'] / row['normalised_ms'] - 1:+7.1%}"
                f"  without lookup {row['without_lookup_ms'] / row['normalised_ms'] - 1:+7.1%}"
                f"  known kernels {row['kernels_measured']}/{row['kernels']}"
            )
    if args.out:
        write_json(args.out, answer)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = parser.add_subparsers(dest="command", required=True)
    for name, run in (("measure", measure), ("score", score)):
        one = sub.add_parser(name)
        one.set_defaults(run=run)
        one.add_argument("--work", type=Path, required=True, help="folder of the measurements")
    one = sub.choices["measure"]
    one.add_argument("--device", required=True)
    one.add_argument("--mobile", type=int, default=100)
    one.add_argument("--cell", type=int, default=60)
    one.add_argument(
        "--first", type=int, default=0, help="number of the first network: others, others again"
    )
    one.add_argument("--no-torchvision", action="store_true")
    one.add_argument("--table", type=Path, help="latency table whose speed the chip must have")
    one.add_argument("--passes", type=int, default=4)
    one.add_argument("--seconds", type=float, default=330.0)
    one = sub.choices["score"]
    one.add_argument("--table", type=Path, required=True)
    one.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
