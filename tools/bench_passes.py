"""The measured gain of every pass on every chip, and what the selection keeps.

    python tools/bench_passes.py --device local-cpu-t1-fp32 --models a.onnx b.onnx --out passes.json

For each fp32 ONNX file and chip: the optional passes one after the other, each timed alternately
with the model before it (factory/deployment/selection.py). On an int8 chip both are quantised
first. Trials that are in ``--out`` already are kept, so that long lists can be split.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from factory.cli.output import table
from factory.core.files import write_json
from factory.core.reading import read_json
from factory.deployment.chip_flags import wants_reduced_range
from factory.deployment.quantise import QuantiseConfig, Quantiser
from factory.deployment.selection import select_passes
from factory.devices.base import open_device
from factory.devices.profile import load_profile


def main() -> None:
    """Measure what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", action="append", required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0, help="stop starting new work then")
    options = parser.parse_args()
    done: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    deadline = time.monotonic() + options.seconds
    for device_id in options.device:
        with open_device(load_profile(device_id)) as device:
            for path in options.models:
                key = f"{path.stem} on {device_id}"
                if key in done or time.monotonic() > deadline:
                    continue
                model = onnx.load(path)
                int8 = device.profile.precision == "int8"
                prepare = quantised if int8 else onnx.ModelProto.SerializeToString
                _, trials = select_passes(model, device, prepare=prepare)
                done[key] = [trial.to_dict() for trial in trials]
                write_json(options.out, done)
                print(key, flush=True)
    rows = [
        [key, t["name"], t["status"], *_numbers(t)]
        for key, trials in sorted(done.items())
        for t in trials
        if t["status"] != "nothing to do"
    ]
    head = ["model on chip", "pass", "status", "before ms", "after ms", "gain (p10 to p90)", "wins"]
    print("\n".join(table(head, rows)))


def _numbers(trial: dict[str, Any]) -> list[str]:
    if trial["gain_percent"] is None:
        return ["-", "-", trial["reason"][:40], "-"]
    return [
        f"{trial['before_ms']:.3f}",
        f"{trial['after_ms']:.3f}",
        f"{trial['gain_percent']:+.1f} % ({trial['low_percent']:+.1f} to "
        f"{trial['high_percent']:+.1f})",
        f"{trial['wins']}/{trial['rounds']}",
    ]


def quantised(model: onnx.ModelProto) -> bytes:
    """The int8 model with ranges from random pictures: only its time counts here."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).standard_normal((8, *dims[1:]), dtype=np.float32)
    config = QuantiseConfig(reduce_range=wants_reduced_range(True))
    return Quantiser(model, images, config).model("minmax").SerializeToString()


if __name__ == "__main__":
    main()
