"""How well a chip's predictor knows what people deploy: timm and torchvision, measured, predicted.

Networks of timm, half of them with attention, and torchvision's segmenters and detectors without
their last selection of boxes, at their own input sizes, without weights, exported by torch's legacy
exporter at opset 17. Nothing in the factory is chosen on them. Any folder of further ONNX files can
be given too. Each is measured in several passes beside the profile's references; a block that was
disturbed is measured again.

    python tools/bench_any_network.py export --work WORK [--int8]
    python tools/bench_any_network.py measure --work WORK --device ID --table TABLE --seconds 280
    python tools/bench_any_network.py score --work WORK --device ID --table TABLE --out FILE.json

A device of precision int8 is judged on int8 files: `export --int8` makes them of the others as
`factory export --target int8-cpu` does, with random pictures (ranges do not change the time).

timm is no dependency of the factory: `pip install --target DIR --no-deps timm huggingface_hub`,
with DIR on PYTHONPATH. `export` and `measure` go on where they were; `score` writes FILE.json and
FILE.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_latency import PLAN, in_passes, summary

from factory.core.errors import InputError
from factory.core.files import write_atomic_text, write_json
from factory.core.provenance import provenance
from factory.core.reading import read_json
from factory.devices.profile import load_profile
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx, load_onnx
from factory.latency.facts import REFERENCE_SHARE
from factory.latency.predictor import LatencyPredictor
from factory.profiling.reference import KEY, usual_reference_ms
from factory.profiling.table import LatencyTable
from factory.profiling.trust import SteadyTimer

SCHEMA_VERSION = 1
OPSET = 17
_ATTENTION = (
    "deit_tiny_patch16_224 levit_128s tiny_vit_5m_224 mobilenetv4_hybrid_medium "
    "efficientformerv2_s0 efficientvit_m0 edgenext_xx_small mobilevitv2_050 swiftformer_xs "
    "mobilevit_xs efficientformer_l1 efficientvit_b1 pvt_v2_b1 levit_192 efficientvit_m4 "
    "cait_xxs24_224 crossvit_9_240 fastvit_sa12 mvitv2_tiny coatnet_pico_rw_224 "
    "xcit_tiny_12_p16_224 twins_pcpvt_small swin_tiny_patch4_window7_224 repvit_m1 nextvit_small"
)
_CONVOLUTIONS = (
    "tinynet_e fastvit_t8 mobilenetv4_conv_small mobilenetv3_large_100 mobilenetv2_100 "
    "efficientnet_b0 efficientnet_lite0 ghostnetv2_100 mobileone_s0 convnext_atto convnextv2_atto "
    "mnasnet_100 regnety_004 regnetx_004 resnet18 rexnet_100 mixnet_m lcnet_050 semnasnet_100 "
    "fbnetc_100 repvgg_a0 starnet_s2 inception_next_atto ese_vovnet19b_dw poolformer_s12"
)
SEGMENTERS = {  # torchvision's name -> side of the picture
    "deeplabv3_mobilenet_v3_large": 320,
    "lraspp_mobilenet_v3_large": 320,
    "fcn_resnet50": 224,
}
DETECTORS = {
    "ssdlite320_mobilenet_v3_large": 320,
    "ssd300_vgg16": 300,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
}


def names() -> list[str]:
    """'timm-levit_128s', ..., 'torchvision-fcn_resnet50'."""
    found = [f"timm-{name}" for name in (*_ATTENTION.split(), *_CONVOLUTIONS.split())]
    return found + [f"torchvision-{name}" for name in (*SEGMENTERS, *DETECTORS)]


def network(name: str) -> tuple[Any, tuple[int, ...]]:
    """The torch network and the shape of its picture."""
    import torch

    library, _, rest = name.partition("-")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        made = timm.create_model(rest, pretrained=False).eval()
        return made, tuple(made.default_cfg["input_size"])
    import torchvision

    if rest in SEGMENTERS:
        side = SEGMENTERS[rest]
        build = getattr(torchvision.models.segmentation, rest)
        made = build(weights=None, weights_backbone=None).eval()
        return _segmenter(made), (3, side, side)
    side = DETECTORS[rest]
    build = getattr(torchvision.models.detection, rest)
    return _detector(build(weights=None, weights_backbone=None).eval()), (3, side, side)


def _segmenter(made: Any) -> Any:
    import torch

    class Segmenter(torch.nn.Module):
        """Its first output alone."""

        def __init__(self) -> None:
            super().__init__()
            self.made = made

        def forward(self, x: Any) -> Any:
            """Classes of each pixel."""
            return self.made(x)["out"]

    return Segmenter().eval()


def _detector(made: Any) -> Any:
    import torch

    class Detector(torch.nn.Module):
        """Backbone and head; of two-stage detectors backbone and first stage."""

        def __init__(self) -> None:
            super().__init__()
            self.made = made

        def forward(self, x: Any) -> Any:
            """Scores and boxes of all places."""
            maps = list(self.made.backbone(x).values())
            if hasattr(self.made, "head"):
                return tuple(self.made.head(maps).values())
            scores, boxes = self.made.rpn.head(maps)
            return (*scores, *boxes)

    return Detector().eval()


def export(args: argparse.Namespace) -> None:
    """Write the files that are missing; what cannot be exported is said and left out."""
    import torch

    folder = args.work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names():
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        part = path.with_suffix(".part")
        try:
            made, shape = network(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    made, (torch.randn(1, *shape),), str(part), dynamo=False, opset_version=OPSET
                )
        except Exception as error:  # foreign code of many kinds: it is said, the others go on
            print(f"{name}: not exported, {' '.join(str(error).split())[:200]}")
            continue
        part.rename(path)
        print(f"{name}: {'x'.join(map(str, shape))}, {path.stat().st_size / 1e6:.1f} MB")
    if args.int8:
        quantise(args)


def quantise(args: argparse.Namespace) -> None:
    """Write the int8 files that are missing."""
    import onnx_ir as ir

    from factory.deployment.passes import clean_model
    from factory.deployment.quantise import quantise_onnx

    folder = args.work / "int8"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((args.work / "models").glob("*.onnx")):
        path, part = folder / source.name, folder / f"{source.stem}.part"
        if path.exists():
            continue
        try:
            clean = clean_model(ir.from_proto(load_onnx(source)))
            onnx.save(clean, part)
            shape = [size.dim_value for size in clean.graph.input[0].type.tensor_type.shape.dim]
            pictures = np.random.default_rng(0).standard_normal((2, *shape[1:]), np.float32)
            quantise_onnx(part, path, pictures)
        except Exception as error:  # of the quantiser, of many kinds: it is said
            print(f"{source.stem}: not quantised, {' '.join(str(error).split())[:200]}")
        part.unlink(missing_ok=True)


def files(args: argparse.Namespace) -> dict[str, Path]:
    """Name -> file of everything that is measured."""
    own = "int8" if load_profile(args.device).dtype == "i8" else "models"
    folders = [args.work / own, *args.files]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.onnx"))}


def measure(args: argparse.Namespace) -> None:
    """Measure the files, see :func:`bench_latency.in_passes`."""
    found = files(args)

    def rows(timer: SteadyTimer, block: Sequence[str]) -> Iterator[dict[str, Any]]:
        models = [found[name].read_bytes() for name in block]
        measured = timer.time(models, PLAN.network_plan(), PLAN.rounds)
        mark = measured.slower.sign if timer.disturbed(measured) else ""
        for timing in measured.timings:
            yield {
                "median_ms": timing.median_ms,
                "reference_ms": measured.speed.median_ms(KEY),
                "reason": timing.reason,
                "mark": mark,
            }

    in_passes(args, list(found), rows)


def _measured(args: argparse.Namespace, usual_ms: float) -> dict[str, dict[str, Any]]:
    """Name -> median over the passes at the speed of the profile, undisturbed ones if any."""
    state = read_json(args.work / f"{load_profile(args.device).id}.measured.json")
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in state["passes"].values():
        for name, row in one.items():
            rows.setdefault(name, []).append(row)
    found = {}
    for name, all_rows in rows.items():
        good = [row for row in all_rows if not row["reason"]]
        calm = [row for row in good if not row["mark"]] or good
        normal = [
            row["median_ms"] * (usual_ms / row["reference_ms"]) ** REFERENCE_SHARE
            if usual_ms and row["reference_ms"]
            else row["median_ms"]
            for row in calm
        ]
        found[name] = {
            "measured_ms": float(np.median(normal)) if normal else None,
            "disturbed": bool(calm and calm[0]["mark"]),
            "reason": "" if good else all_rows[0]["reason"],
        }
    return found


def score(args: argparse.Namespace) -> None:
    """Predict, compare; writes JSON and a table, prints the figures."""
    table = LatencyTable.read(args.table)
    started = time.monotonic()
    saved = args.predictor and LatencyPredictor.load(args.predictor)
    predictor = saved or LatencyPredictor.fit(table)
    fit_s = time.monotonic() - started
    measured = _measured(args, usual_reference_ms(table) or 0.0)
    rows: dict[str, dict[str, Any]] = {}
    for name, path in files(args).items():
        if name not in measured:
            continue
        row: dict[str, Any] = {**measured[name], "predicted_ms": None, "sentence": ""}
        try:
            graph = canonicalise(from_onnx(load_onnx(path)))
            dtype = table.dtype if table.dtype != "f32" else None
            prediction = predictor.predict(kernel_counts(graph, dtype, predictor.fusion))
        except InputError as error:
            row["sentence"] = " ".join(str(error).split())
        else:
            row["predicted_ms"] = prediction.latency_ms
            row["low_ms"], row["high_ms"] = prediction.low_ms, prediction.high_ms
            row["warnings"] = prediction.warnings
        rows[name] = row
    kinds = {f"timm-{name}": "attention" for name in _ATTENTION.split()}
    kinds |= {f"timm-{name}": "convolutions" for name in _CONVOLUTIONS.split()}
    figures = {"all": _figures(list(rows.values()))}
    for kind in ("attention", "convolutions", "torchvision", "files"):
        own = [
            row
            for name, row in rows.items()
            if kinds.get(name, "torchvision" if name.startswith("torchvision-") else "files")
            == kind
        ]
        if own:
            figures[kind] = _figures(own)
    answer = {
        "schema_version": SCHEMA_VERSION,
        "device": table.device_id,
        "table": Path(args.table).name,
        "provenance": provenance(),
        "fit_seconds": fit_s,
        "figures": figures,
        "networks": rows,
    }
    text = _markdown(rows, figures)
    print(text)
    if args.out:
        write_json(args.out, answer)
        write_atomic_text(args.out.with_suffix(".md"), text + "\n")


def _other(name: str) -> str:
    return "torchvision" if name.startswith("torchvision-") else "files"


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares within 5, 10 and 30 %, and how often the interval holds the truth."""
    both = [row for row in rows if row["predicted_ms"] and row["measured_ms"]]
    missing = {"networks": len(rows), "predicted": len(both)}
    if not both:
        return missing
    real = np.array([row["measured_ms"] for row in both])
    told = np.array([row["predicted_ms"] for row in both])
    inside = [row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in both]
    widths = [row["high_ms"] / row["predicted_ms"] - 1 for row in both]
    return {
        **summary(told / real - 1),
        **missing,
        "beyond_30_percent": float(np.mean(np.abs(told / real - 1) > 0.3)),
        "interval_covers": float(np.mean(inside)),
        "median_half_width": float(np.median(widths)),
    }


def _markdown(rows: dict[str, dict[str, Any]], figures: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| networks | predicted | within 5 % | 10 % | beyond 30 % | median error | covered |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, one in figures.items():
        if not one["predicted"]:
            continue
        lines.append(
            f"| {kind} | {one['predicted']} of {one['networks']} | {one['within_5_percent']:.0%} | "
            f"{one['within_10_percent']:.0%} | {one['beyond_30_percent']:.0%} | "
            f"{one['median_percent']:.1f} % | {one['interval_covers']:.0%} |"
        )
    lines += [
        "",
        "| network | measured ms | predicted ms | interval | error |",
        "|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        real, told = row["measured_ms"], row["predicted_ms"]
        measured = f"{real:.3g}" if real else row["reason"][:60]
        if told is None:
            lines.append(f"| {name} | {measured} | {row['sentence'][:120]} | | |")
            continue
        error = f"{told / real - 1:+.1%}" if real else ""
        interval = f"{row['low_ms']:.3g} to {row['high_ms']:.3g}"
        lines.append(f"| {name} | {measured} | {told:.3g} | {interval} | {error} |")
    return "\n".join(lines)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = parser.add_subparsers(dest="command", required=True)
    for name, run in (("export", export), ("measure", measure), ("score", score)):
        one = sub.add_parser(name)
        one.set_defaults(run=run)
        one.add_argument("--work", type=Path, required=True, help="folder of models, measurements")
        if name == "export":
            one.add_argument("--int8", action="store_true", help="make the int8 files too")
            continue
        one.add_argument("--device", required=True)
        one.add_argument("--files", type=Path, action="append", default=[], help="further models")
        one.add_argument("--table", type=Path, required=name == "score")
    one = sub.choices["measure"]
    one.add_argument("--passes", type=int, default=2)
    one.add_argument("--seconds", type=float, default=280.0)
    one = sub.choices["score"]
    one.add_argument("--predictor", type=Path, help="a fitted file; without it the table is fitted")
    one.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
