"""Every form of networks of torchvision and timm, calibrated with pictures: good, or refused.

    PYTHONPATH=.:EXTRA python tools/bench_forms.py --pictures FOLDER --out bench/forms --markdown

The weights are random, the activations settled (tools/settled_networks.py); the pictures are
prepared as ImageNet's. A network whose answer is there already is not exported again. The table
shows, for each form, signal to noise of the worst output, operators left in floats, and the
reason of what was refused; ``below`` counts forms called ok below their bound, which must be 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.api import export
from factory.core.errors import FactoryError
from factory.core.reading import read_json
from factory.deployment.agreement import BOUNDS
from tools.settled_networks import TIMM_NETWORKS

NETWORKS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "mnasnet1_0",
    *TIMM_NETWORKS[:5],
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT = "3x224x224"


def made(name: str, pictures: Path, out: Path, targets: list[str], side: str) -> dict[str, Any]:
    """The export's answer for one network, kept in ``out``."""
    record = out / f"{name}.json"
    if record.is_file():
        found: dict[str, Any] = read_json(record)
        return found
    started = time.monotonic()
    try:
        answer = export(
            f"tools.settled_networks:{name}",
            target=targets,
            calibration=pictures,
            mean=MEAN,
            std=STD,
            input=side,
            out=out / name,
        )
    except FactoryError as error:
        answer = {"targets": [], "refused": str(error)}
    answer["seconds"] = round(time.monotonic() - started, 1)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(answer))
    return answer


def rows(name: str, answer: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """One row a form."""
    if "refused" in answer:
        yield name, "all", "refused", "", "", answer["refused"]
    for entry in answer["targets"]:
        found, decided = entry["agreement"], entry["gate"] or entry["repair"] or {}
        yield (
            name,
            entry["target"],
            entry["status"],
            f"{found['signal_db']:.1f}" if found else "",
            str(len(decided.get("float_nodes", ())) or ""),
            entry["reason"],
        )


def below(answer: dict[str, Any]) -> int:
    """Forms called ok with an output below the bound of their precision."""
    wrong = 0
    for entry in answer["targets"]:
        bound = BOUNDS[entry["precision"]]
        outputs = (entry["agreement"] or {}).get("outputs", [])
        wrong += entry["status"] == "ok" and any(
            (one["signal_db"] is not None and one["signal_db"] < bound.signal_db)
            or (one["signal_db"] is None and one["same"] < bound.same)
            for one in outputs
        )
    return wrong


def main() -> None:
    """Export, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", default=["all"])
    parser.add_argument("--input", default=INPUT)
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    options = parser.parse_args()
    head = ("network", "form", "result", "dB", "in floats", "why")
    table, wrong = [head], 0
    for name in options.networks:
        answer = made(name, options.pictures, options.out, options.targets, options.input)
        print(f"{name}: {answer['seconds']} s", flush=True)
        table += rows(name, answer)
        wrong += below(answer)
    if options.markdown:
        table.insert(1, ("---",) * len(head))
    for row in table:
        print("| " + " | ".join(row) + " |" if options.markdown else "\t".join(row))
    ok = sum(row[2] == "ok" for row in table)
    print(
        f"{ok} forms ok, {len(table) - ok - 1 - options.markdown} not; below their bound: {wrong}"
    )


if __name__ == "__main__":
    main()
