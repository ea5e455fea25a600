"""Fusion tests against what a runtime says that it did: do the rules come out again, are they true?

A device is tested several times, also one that shows the graph it runs. Beside the shares that the
tests saw saved stands whether the runtime's own graph has fewer nodes where the pair is chained
than where it is apart: ONNX Runtime tells it of its CPU provider, and OpenVINO of itself, in an
environment that holds the `openvino` package.

    python tools/bench_fusion.py --device local-cpu-t1-fp32 --out fusion-cpu.json
    python tools/bench_fusion.py --device local-openvino-t1-fp32 --openvino ENV/bin/python

A rule is about time: a pair that is one node and takes as long as its parts is no rule.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from factory.core.errors import InputError
from factory.core.files import write_json
from factory.core.provenance import provenance
from factory.devices.base import Device, open_device
from factory.devices.profile import load_profile
from factory.graph.fusion import PAIRS
from factory.profiling.fusion_rules import APART, CHAINED, ENOUGH, fusion_tests
from factory.profiling.fusion_tests import LOOK, fusion_models, time_pairs
from factory.profiling.table import LatencyTable

SCHEMA_VERSION = 1
LAYOUT = ("Reorder", "ReorderInput", "ReorderOutput", "Reshape", "Transpose")
BORDERS = ("Input", "Output", "Const", "Parameter", "Result", "Constant")
_OPENVINO = """
import json, sys
import openvino
core = openvino.Core()
answer = {}
for name, path in json.load(sys.stdin).items():
    ran = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1}).get_runtime_model()
    answer[name] = [op.get_rt_info()["layerType"].value for op in ran.get_ops()]
print(json.dumps([openvino.__version__, answer]))
"""


def shares(device: Device, repeats: int) -> dict[str, list[float]]:
    """Pair -> share saved in each repeat of the tests."""
    found: dict[str, list[float]] = {str(pair): [] for pair in PAIRS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            with LatencyTable.open(path, device.profile, device.describe()) as table:
                time_pairs(device, table)
                for test in fusion_tests(table):
                    found[str(test.rule)].append(test.share)
    return found


def own_graph(device: Device, models: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Model -> operators that ONNX Runtime runs; empty where it does not tell."""
    graphs = {}
    for name, timing in zip(models, device.time_many(list(models.values()), LOOK), strict=True):
        if timing.optimised:
            graph = onnx.load_from_string(base64.b64decode(timing.optimised)).graph
            graphs[name] = [node.op_type for node in graph.node]
    return graphs


def openvino_graph(
    interpreter: Path, models: Mapping[str, bytes]
) -> tuple[str, dict[str, list[str]]]:
    """(version, model -> layers that OpenVINO runs)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{i}.onnx") for i, name in enumerate(models)}
        for name, model in models.items():
            Path(paths[name]).write_bytes(model)
        done = subprocess.run(
            [str(interpreter), "-c", _OPENVINO],
            input=json.dumps(paths),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise InputError("OpenVINO does not tell its graphs", why=done.stderr[-300:])
    version, graphs = json.loads(done.stdout.splitlines()[-1])
    return version, graphs


def compare(
    found: Mapping[str, list[float]], graphs: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """For each pair what the tests say and, where there are graphs, what the runtime says."""
    rows = []
    for pair, saved in found.items():
        nodes = [graphs.get(f"{pair}:{order}") for order in (CHAINED, APART)]
        sizes = [
            None if one is None else sum(op not in (*LAYOUT, *BORDERS) for op in one)
            for one in nodes
        ]
        chained, apart = sizes
        rows.append(
            {
                "pair": pair,
                "shares": saved,
                "rule": [share >= ENOUGH for share in saved],
                "one_node": None if chained is None or apart is None else chained < apart,
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table, and how often rules and graphs agree."""
    for row in rows:
        saved = row["shares"]
        said = {None: "?", True: "one node", False: "two"}[row["one_node"]]
        print(
            f"{row['pair']:28s} saved {np.median(saved):5.2f} ({min(saved):5.2f} to "
            f"{max(saved):5.2f})  a rule {sum(row['rule'])} of {len(saved)}  graph: {said}"
        )
    known = [row for row in rows if row["one_node"] is not None]
    steady = sum(len(set(row["rule"])) == 1 for row in rows)
    print(f"{steady} of {len(rows)} pairs come out alike every time")
    false = [row["pair"] for row in known if any(row["rule"]) and not row["one_node"]]
    missed = [row["pair"] for row in known if row["one_node"] and not all(row["rule"])]
    print(f"rules where the graph has two nodes: {', '.join(false) or 'none'}")
    print(f"one node and (not always) a rule: {', '.join(missed) or 'none'}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", required=True)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--openvino", type=Path, help="interpreter with the openvino package")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    profile = load_profile(args.device)
    wanted = [f"{pair}:{order}" for pair in PAIRS for order in (CHAINED, APART)]
    built = fusion_models(profile.dtype)
    models = {name: built[name]() for name in wanted}
    with open_device(profile) as device:
        describe = device.describe()
        found = shares(device, args.repeats)
        graphs, version = own_graph(device, models), ""
    if args.openvino:
        version, graphs = openvino_graph(args.openvino, models)
    rows = compare(found, graphs)
    print_rows(rows)
    if args.out:
        answer = {
            "schema_version": SCHEMA_VERSION,
            "device": profile.id,
            "describe": describe,
            "openvino": version,
            "provenance": provenance(),
            "pairs": rows,
        }
        write_json(args.out, answer)


if __name__ == "__main__":
    main()
