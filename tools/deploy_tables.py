"""The tables of docs/results/deployment.md as Markdown, from what the benchmarks left.

    python tools/deploy_tables.py --bench bench/deploy --passes passes.json > tables.md

``--bench`` is the folder of tools/bench_deploy.py, ``--passes`` the file of tools/bench_passes.py.
Nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from factory.core.reading import read_json
from tools.bench_deploy import certificate_row, runtime_row

Json = dict[str, Any]


def main() -> None:
    """Print every table of which something is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--passes", type=Path)
    options = parser.parse_args()
    records = {path.parent.name: read_json(path) for path in options.bench.glob("*/bench.json")}
    judged = {name: r for name, r in sorted(records.items()) if r["judged"]}
    others = {name: r for name, r in sorted(records.items()) if not r["judged"]}
    for title, group in (("with an accuracy", judged), ("random weights", others)):
        if group:
            show(f"Targets, {title}", ["target", *group], target_rows(group))
    head = "model|fp32|int8-cpu|points lost|gate"
    show("Int8 with an accuracy", head.split("|"), gate_rows(judged))
    head = "model|runtime|target|nodes|pictures|dB|same class|accuracy|points lost"
    show("Other runtimes", head.split("|"), runtime_rows(options.bench))
    head = "model|chip|median ms (95 %)|p10|p90|cold start ms|sustained|peak MB|accuracy (95 %)|"
    show("Certificates", (head + "checks").split("|"), certificate_rows(options.bench))
    if options.passes:
        head = "model|chip|pass||before ms|after ms|gain, % (p10 to p90)|rounds won"
        show("Passes", head.split("|"), pass_rows(read_json(options.passes)))


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One Markdown table under its title."""
    print(f"## {title}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def target_rows(records: dict[str, Json]) -> list[list[str]]:
    """A row a target: size, signal to noise, points lost, and what was found."""
    names = [entry["target"] for entry in next(iter(records.values()))["targets"]]
    found = {
        model: {entry["target"]: entry for entry in record["targets"]}
        for model, record in records.items()
    }
    return [[name, *(_cell(found[model].get(name)) for model in records)] for name in sorted(names)]


def _cell(entry: Json | None) -> str:
    if entry is None:
        return "-"
    if entry["status"] != "ok":
        return entry["status"]
    sizes = list(entry["sizes_bytes"].values())
    parts = [f"{sizes[0] / 1e6:.2f} MB" if sizes[0] > 1e6 else f"{sizes[0] / 1e3:.0f} kB"]
    agreement = entry["agreement"]
    if agreement:
        parts.append(f"{agreement['signal_db']:.0f} dB")
        if agreement["drop_points"] is not None:
            parts.append(f"{agreement['drop_points']:+.2f}")
    if entry.get("repair"):
        parts.append(f"{len(entry['repair']['float_nodes'])} nodes in 32 bits")
    for check in entry["checks"]:
        if "usability" in check["name"]:
            parts.append(check["detail"].split(" nodes in ")[0])
    return ", ".join(parts)


def gate_rows(records: dict[str, Json]) -> list[list[str]]:
    """What int8-cpu lost and how the gate decided."""
    rows = []
    for model, record in records.items():
        entry = next(e for e in record["targets"] if e["target"] == "int8-cpu")
        gate = entry["gate"]
        test = gate["test"]
        told = f"{gate['method']}: {gate['verdict']}"
        if gate["float_nodes"]:
            told += f", {len(gate['float_nodes'])} operators in floats"
        shares = [f"{test[key]:.2%}".replace("%", " %") for key in ("accuracy_fp32", "accuracy")]
        rows.append([model, *shares, f"{test['drop_points']:.2f}", told])
    return rows


def runtime_rows(bench: Path) -> list[list[str]]:
    """Every file that ran on another runtime."""
    paths = sorted(bench.glob("*/on-*.json"))
    return [[path.parent.name, *runtime_row(read_json(path))] for path in paths]


def certificate_rows(bench: Path) -> list[list[str]]:
    """Every certificate that was checked again."""
    rows = []
    for path in sorted(bench.glob("*/certificate-*.json")):
        checked = path.with_name(path.name.replace("certificate-", "checked-"))
        if checked.exists():
            rows.append([path.parent.name, *certificate_row(read_json(path), read_json(checked))])
    return rows


def pass_rows(done: dict[str, list[Json]]) -> list[list[str]]:
    """Every pass that had something to do."""
    rows = []
    for key, trials in sorted(done.items()):
        model, chip = key.replace("-onnx-fp32 on ", " on ").split(" on ")
        for trial in trials:
            if trial["status"] == "nothing to do":
                continue
            row = [model, chip, trial["name"], trial["status"]]
            if trial["gain_percent"] is None:
                rows.append([*row, "-", "-", trial["reason"][:60], "-"])
                continue
            gain = f"{trial['gain_percent']:+.1f} ({trial['low_percent']:+.1f} to "
            gain += f"{trial['high_percent']:+.1f})"
            times = [f"{trial['before_ms']:.3f}", f"{trial['after_ms']:.3f}"]
            rows.append([*row, *times, gain, f"{trial['wins']}/{trial['rounds']}"])
    return rows


if __name__ == "__main__":
    main()
