"""A run folder as the line leaves it, with made-up but consistent numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAST = {
    "schema_version": 1,
    "normal": [
        ["skip_connect", 0], ["sep_conv_3x3", 1], ["skip_connect", 0], ["dil_conv_3x3", 1],
        ["max_pool_3x3", 1], ["skip_connect", 2], ["avg_pool_3x3", 0], ["sep_conv_3x3", 3],
    ],
    "normal_concat": [2, 3, 4, 5],
    "reduce": [
        ["max_pool_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 0], ["skip_connect", 2],
        ["skip_connect", 2], ["max_pool_3x3", 1], ["skip_connect", 2], ["dil_conv_5x5", 3],
    ],
    "reduce_concat": [2, 3, 4, 5],
}  # fmt: skip
LARGE = {
    "schema_version": 1,
    "normal": [
        ["sep_conv_5x5", 0], ["sep_conv_3x3", 1], ["sep_conv_5x5", 0], ["sep_conv_5x5", 2],
        ["dil_conv_5x5", 3], ["sep_conv_3x3", 2], ["sep_conv_5x5", 4], ["sep_conv_3x3", 1],
    ],
    "normal_concat": [2, 3, 4, 5],
    "reduce": [
        ["sep_conv_5x5", 0], ["sep_conv_5x5", 1], ["sep_conv_5x5", 2], ["dil_conv_5x5", 1],
        ["sep_conv_3x3", 3], ["sep_conv_5x5", 2], ["dil_conv_3x3", 4], ["max_pool_3x3", 0],
    ],
    "reduce_concat": [2, 3, 4, 5],
}  # fmt: skip
KERNELS = [
    ("Conv(x=1x16x32x32,w=16x1x3x3,s=1,p=1,d=1,g=16,act=none,dtype=f32)", 12, 0.21),
    ("Conv(x=1x32x16x16,w=32x32x1x1,s=1,p=0,d=1,g=1,act=relu,dtype=f32)", 18, 0.19),
    ("Conv(x=1x64x32x32,w=16x64x1x1,s=1,p=0,d=1,g=1,act=none,dtype=f32)", 4, 0.13),
    ("Conv(x=1x32x16x16,w=32x1x5x5,s=1,p=4,d=2,g=32,act=none,dtype=f32)", 6, 0.11),
    ("Conv(x=1x3x32x32,w=48x3x3x3,s=1,p=1,d=1,g=1,act=none,dtype=f32)", 1, 0.09),
    ("Add(x=1x16x32x32+1x16x32x32,dtype=f32)", 16, 0.07),
    ("MaxPool(x=1x32x16x16,k=3,s=2,p=1,dtype=f32)", 3, 0.06),
    ("Relu(x=1x64x16x16,dtype=f32)", 5, 0.05),
    ("Gemm(x=1x256,w=10x256,act=none,dtype=f32)", 1, 0.01),
    ("no kernel at all <b>", 1, 0.05),
    ("constant", 1, 0.03),
]
DEVICES = ("local-cpu-all-fp32", "local-cpu-t1-fp32", "local-cpu-t1-int8")
BUDGETS = (2.4, 4.0, 1.9)


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def search_rows(limit: float | None, steps: int = 300) -> list[dict[str, Any]]:
    rows = []
    for step in range(steps):
        warm, t = step < steps // 4, step / steps
        row: dict[str, Any] = {
            "step": step, "epoch": step // 40, "phase": "warmup" if warm else "search",
            "loss": 2.3 * math.exp(-3 * t) + 0.1 * math.sin(step), "skip_share": 0.14 + 0.2 * t,
            "entropy": 2.0 - t,
        }  # fmt: skip
        if not warm:
            row["val_loss"] = row["loss"] + 0.05
        if limit and not warm:
            row |= {
                "expected": {
                    "latency_ms": limit * (1 + 0.8 * math.exp(-8 * (t - 0.25))),
                    "macs": 1e7,
                },
                "limits": {"latency_ms": limit, "macs": 2e7},
                "multipliers": {"latency_ms": 0.6 * (1 - math.exp(-9 * (t - 0.25))), "macs": 0.0},
            }
        if not warm and step % 40 == 39:
            row |= epoch_end(t)
        rows.append(row)
    return rows


CANDIDATES = {
    "operators": ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
                  "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"],
    "edges": [[node, source] for node in range(2, 6) for source in range(node)],
}  # fmt: skip


def epoch_end(t: float) -> dict[str, Any]:
    """What the last step of an epoch has more: operators that decide as ``t`` grows."""
    probabilities = {}
    for shift, name in enumerate(("normal", "reduce")):
        edges = [
            [math.exp(4 * t * ((e + o + shift) % 8 == 3)) for o in range(8)] for e in range(14)
        ]
        probabilities[name] = [[v / sum(edge) for v in edge] for edge in edges]
    return {
        "skip_share_by_cell": {"normal": 0.25 * t, "reduce": 0.5 * t},
        "gap": 1.5 - t,
        "probabilities": probabilities,
        "hessian_eigenvalue": 0.2 + t,
    }


def seeds() -> dict[str, Any]:
    """Statistics of three searches."""
    gap = {"mean": 0.5, "stdev": 0.1, "least": 0.4, "largest": 0.6, "all": [0.4, 0.5, 0.6]}
    return {
        "schema_version": 1,
        "seeds": [3, 4, 5],
        "best_seed": 4,
        "different_genotypes": 3,
        "stopped": [None, "stopped after epoch 4", None],
        "values": {"gap": gap, "latency_ms": {**gap, "stdev": None}},
    }


def write_tier(root: Path, name: str, device: str, limit: float, index: int, verdict: str) -> None:
    median = limit * (0.93 if verdict == "passed" else 1.18)
    precision = "int8" if device.endswith("int8") else "fp32"
    predicted = median * (1 + 0.03 * (-1) ** index)
    budget = {"max_latency_ms": limit, "max_macs": 2.2e7}
    sizes = {
        "macs": 15_234_567 + 1_000_000 * index,
        "macs_darts_paper": 16_400_000,
        "params": 80_123,
    }
    interval = {"predicted_ms": predicted, "low_ms": predicted * 0.95, "high_ms": predicted * 1.06}
    search = root / "03-search" / name
    dump(search / "genotype.json", FAST)
    dump(
        search / "result.json",
        {"tier": name, "device_id": device, "budget": budget, **sizes, **interval,
         "smallest_ms": limit * 0.6, "checked_ms": median * 1.01, "rounds": [],
         "method": {"preset": "pc-darts-cifar", "gradient": "amended"}, "entropy": 0.42, "gap": 0.5,
         "skip_share_by_cell": {"normal": 0.25, "reduce": 0.5}, "stopped": None,
         "candidates": CANDIDATES},
    )  # fmt: skip
    dump(search / "seeds.json", seeds())
    lines(search / "history.jsonl", search_rows(limit * 0.95))
    accuracy = 0.9833 - 0.003 * index
    dump(root / "04-train" / name / "result.json", {"test_accuracy": accuracy + 0.001})
    lines(
        root / "04-train" / name / "history.jsonl",
        [
            {"epoch": e, "train_loss": 2.0 * math.exp(-e / 4), "lr": 0.1,
             "test_accuracy": accuracy - 0.5 * math.exp(-e / (3 + index))}
            for e in range(20)
        ],
    )  # fmt: skip
    dump(
        root / "05-deploy" / name / "manifest.json",
        {
            "schema_version": 1, "file": "model.onnx", "sha256": "ab" * 32, "size_bytes": 345_678,
            "opset": 20, "ir_version": 10, "precision": precision, "nodes": {"Conv": 60},
            "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 32, 32]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 10]}],
            "metadata": {
                "class_names": [str(i) for i in range(10)], "task": "image_classification",
                "preprocessing": {"mean": [0.3, 0.3, 0.3], "std": [0.37, 0.37, 0.37],
                                  "size": [32, 32], "scale": 1 / 255, "layout": "NCHW",
                                  "colour": "RGB", "resize": "bilinear"},
            },
        },
    )  # fmt: skip
    dump(
        root / "06-verify" / f"{name}.json",
        {
            "tier": name, "device_id": device, "precision": precision, "budget": budget, **sizes,
            **interval, "describe": describe(device), "median_ms": median, "p10_ms": median * 0.98,
            "p90_ms": median * 1.05, "min_ms": median * 0.97,
            "relative_error": (predicted - median) / median,
            "parity": {"max_relative_difference": 2.3e-6, "images": 64}, "accuracy": accuracy,
            "accuracy_fp32": accuracy + 0.002, "accuracy_drop_points": 0.2,
            "providers": {"CPUExecutionProvider": 71},
            "kernels": [
                {"kernel": k, "count": c, "predicted_ms": s * predicted, "share": s}
                for k, c, s in KERNELS
            ],
            "nodes": [{"name": f"n{i}", "op": op, "share": s} for i, (op, s) in
                      enumerate([("Conv", 0.5), ("Conv", 0.2), ("ReorderOutput", 0.1)])],
            "model_bytes": 345_678, "verdict": verdict, "rounds": 1,
            "reasons": [] if verdict == "passed"
            else [f"measured {median:.2f} ms, budget {limit} ms (+18 %)"],
        },
    )  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    return {
        "simulated": False, "pinned": True, "load_1min": 0.31,
        "fingerprint": {"chip": "x86_64/Example CPU 3000/6.85/2c", "onnxruntime": "1.32.0",
                        "threads": 1 if "t1" in device else 2},
    }  # fmt: skip


def write_run(root: Path, names: list[str], verdicts: list[str]) -> Path:
    errors = {"median_percent": 2.1, "mean_percent": 2.6, "max_percent": 6.4,
              "within_5_percent": 0.9, "within_10_percent": 1.0}  # fmt: skip
    tiers = [
        {"name": n, "device": DEVICES[i % 3], "max_latency_ms": BUDGETS[i % 3] + i // 3,
         "max_macs": 2.2e7}
        for i, n in enumerate(names)
    ]  # fmt: skip
    dump(
        root / "run.json",
        {
            "schema_version": 1, "seed": 7, "recipe_sha256": "cd" * 32,
            "recipe": {"recipe": {"name": "demo", "seed": 7, "description": "Three chips"},
                       "data": {"kind": "digits"}, "tiers": tiers},
            "provenance": {"factory": "0.1.0", "python": "3.11.2", "platform": "Linux",
                           "chip": "x86_64/Example CPU 3000/6.85/2c",
                           "date": "2026-01-02T03:04:05Z", "packages": {"torch": "2.15.0"}},
            "stages": [{"stage": s, "seconds": 61.0} for s in
                       ("profile", "fit", "search", "train", "deploy", "verify")],
        },
    )  # fmt: skip
    used = sorted({t["device"] for t in tiers})
    dump(
        root / "01-profile" / "summary.json",
        {d: {"kernels": 212, "failed": 1, "seconds": 40.2, "describe": describe(d)} for d in used},
    )
    report = {
        "n_kernels": 212, "n_failed": 1, "n_networks": 16, "protocol": "five repeats of 2/3, 1/3",
        "held_out": errors, "noise": {"reference_spread_percent": 1.3},
        "baselines": {"macs_line": {**errors, "median_percent": 11.7, "within_10_percent": 0.41},
                      "uncorrected_sum": {**errors, "median_percent": 8.8}},
    }  # fmt: skip
    dump(root / "02-fit" / "report.json", dict.fromkeys(used, report))
    for index, tier in enumerate(tiers):
        write_tier(
            root, tier["name"], tier["device"], tier["max_latency_ms"], index, verdicts[index]
        )
    base = root / "03-search" / "no-latency"
    dump(base / "genotype.json", LARGE)
    dump(
        base / "result.json",
        {"tier": "no-latency", "macs": 34_000_000, "macs_darts_paper": 36_000_000,
         "params": 150_000, "predicted_ms_by_device": dict.fromkeys(used, 9.9),
         "measured_ms_by_device": dict(zip(used, (4.44, 7.77, 3.33), strict=False))},
    )  # fmt: skip
    lines(base / "history.jsonl", search_rows(None))
    return root


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    def make(names=("digits-all", "digits-t1", "digits-int8"), verdicts=None) -> Path:
        names = list(names)
        return write_run(tmp_path / "run", names, list(verdicts or ["passed"] * len(names)))

    return make
