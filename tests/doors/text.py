"""Doors for text that people and other programs write: recipes, profiles, tables, records."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from door import Door

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("training", "search/strategies")]

SIMULATED = b"""\
schema_version = 1
id = "sim"
chip = "a chip"
transport = "simulated"
execution_provider = "SimulatedExecutionProvider"
threads = 1
precision = "fp32"
timeout_s = 5.0
notes = "its times are made up"

[provider_options]
depth = 2

[simulated]
fp32_gmacs_per_s = 20.0
bandwidth_gb_per_s = 10.0
"""
AGENT = b"""\
id = "sim"
chip = "any"
transport = "agent"
threads = "all"

[agent]
url = "http://board:8765"
"""
MAPPING = b"""\
schema_version = 1

[table]
device = "phone-tflite"
chip = "Some phone SoC"
runtime = "tflite"
threads = 4
source = "a spreadsheet"

[columns]
median = "latency_us"
unit = "us"
runs = "n"
operator = "type"
date = "day"

[operators.conv]
op = "Conv"
x = "1x{cin}x{hw}x{hw}"
w = "{cout}x{cin}x{k}x{k}"
attrs = { s = "{stride}", p = "{(k-1)//2}", d = "1", g = "1", act = "{act}" }

[values.act]
RELU6 = "clip6"

[skip]
type = ["softmax"]
"""
FOREIGN = b"""\
type,cin,cout,hw,k,stride,act,latency_us,n,day
conv,16,32,14,3,1,RELU6,120.5,50,2026-01-01
conv,32,32,14,1,1,none,80.1,50,
softmax,10,10,1,1,1,none,3,50,
"""


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


# -- recipes, profiles ----------------------------------------------------------------------------


def _recipe(content: bytes, folder: Path) -> None:
    from factory.pipeline.recipe_loading import changed_keys, load_recipe

    recipe, _ = load_recipe(_write(folder, "r.toml", content), scale="small", seed=3)
    before, _ = load_recipe("demo")
    changed_keys(before.as_dict(), recipe.as_dict())


def _recipe_seeds() -> Sequence[bytes]:
    return [(TESTS.parent / "recipes/cifar10.toml").read_bytes()]


def _dry_run(content: bytes, folder: Path) -> None:
    """`build --dry-run`: the recipe with its data, its chips and its space."""
    from factory import api

    os.environ["FACTORY_HOME"] = str(folder)
    _write(folder, "device_profiles/sim.toml", SIMULATED)
    api.build(_write(folder, "r.toml", content), out=folder / "run", dry_run=True)


def _tiny_recipe() -> Sequence[bytes]:
    return [
        b"""\
[recipe]
name = "tiny"
seed = 3
[data]
kind = "digits"
image_size = 16
max_train = 64
max_test = 12
[space]
channels = 4
layers = 3
[profile]
networks = 6
pool = 32
[search]
preset = "short"
channels = 8
layers = 3
batch_size = 16
epochs = 3
warmup_epochs = 1
[training]
epochs = 3
batch_size = 16
[[tiers]]
name = "sim"
device = "sim"
max_latency_ms = 4.0
max_macs = 2e6
"""
    ]


def _profile(content: bytes, folder: Path) -> None:
    from factory.devices.profile import load_profile, with_patience
    from factory.devices.simulated import Roofline

    profile = with_patience(load_profile(_write(folder, "sim.toml", content)), 1.0)
    if profile.transport == "simulated":
        Roofline.of(profile)
    repr(profile.chip_name)


# -- tables ---------------------------------------------------------------------------------------


def _import(mapping: bytes, foreign: bytes, folder: Path) -> None:
    from factory import api

    os.environ["FACTORY_HOME"] = str(folder)
    made = api.import_table(
        _write(folder, "f.csv", foreign), mapping=_write(folder, "m.toml", mapping)
    )
    api.show_table(made["table"])


@functools.cache
def _table() -> bytes:
    """A measured table of a simulated chip: kernels, networks, references."""
    import tempfile

    from factory.devices.simulated import SimulatedDevice
    from factory.graph.canonical import canonicalise, kernel_counts
    from factory.graph.kernel import Kernel
    from factory.graph.onnx_build import to_onnx
    from factory.graph.opgraph import GraphBuilder
    from factory.profiling.profiler import profile_kernels, profile_networks
    from factory.profiling.settings import ProfileSettings
    from factory.profiling.table import LatencyTable

    chip, settings = SimulatedDevice(noise=0.02), ProfileSettings(block_size=8)
    kernels = [
        Kernel.parse(f"Conv(x=1x{a}x8x8,w={b}x{a}x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)")
        for a in (8, 16, 32)
        for b in (8, 16, 32)
    ]
    networks = []
    for width in range(8, 30, 2):
        builder = GraphBuilder("n")
        x = builder.relu(builder.conv(builder.input("x", (1, 8, 8, 8)), width, 3, padding=1))
        graph = builder.finish([builder.linear(builder.global_avg_pool(x), 10)])
        model = to_onnx(graph, seed=3).SerializeToString()
        networks.append((kernel_counts(canonicalise(graph)), model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with LatencyTable.open(path, chip.profile, chip.describe()) as table:
            profile_kernels(chip, kernels, table, settings)
            profile_networks(chip, networks, table, settings)
        return path.read_bytes()


def _check_table(content: bytes, folder: Path) -> None:
    from factory import api

    path = _write(folder, "t.csv", content)
    api.check_table(path, dry_run=True)
    api.check_table(path, repair=True)
    api.show_table(path)


def _merge_tables(content: bytes, folder: Path) -> None:
    from factory import api

    path, good = _write(folder, "t.csv", content), _write(folder, "good.csv", _table())
    api.compare_tables(good, path)
    api.merge_tables([path, good], out=folder / "m.csv")


def _fit_table(content: bytes, folder: Path) -> None:
    from factory.latency.predictor import LatencyPredictor
    from factory.profiling.table import LatencyTable

    _use(LatencyPredictor.fit(LatencyTable.read(_write(folder, "t.csv", content))))


def _quarantine(content: bytes, folder: Path) -> None:
    from factory import api

    path = _write(folder, "t.csv", _table())
    _write(folder, "t.quarantine.json", content)
    api.show_table(path)
    api.check_table(path)
    api.check_table(path, release=["all"])


def _quarantine_seeds() -> Sequence[bytes]:
    entry = {
        "kind": "kernel", "key": "Relu(x=1x8,dtype=f32)", "median_ms": 1.5, "date": "2026-01-01",
        "by": "neighbours", "expected_ms": 0.5, "reason": "3 times", "since": "", "released": False,
    }  # fmt: skip
    return [_bytes({"schema_version": 1, "table": "t.csv", "rows": {"0123456789ab": entry}})]


def _tabular(content: bytes, folder: Path) -> None:
    from factory.search.strategies.tabular import Table201

    Table201.load(_write(folder, "t.csv", content))


def _tabular_seeds() -> Sequence[bytes]:
    lines = ["arch_idx,rep_arch_idx,framework,lat_ms_median,accuracy"]
    lines += [f"{i},{i},onnx,{1 + i / 1e4},{i % 100}" for i in range(15_625)]
    return ["\n".join(lines).encode()]


# -- predictors -----------------------------------------------------------------------------------


def _use(predictor: Any) -> None:
    """What `predict` makes of a predictor."""
    from factory.graph.kernel import Kernel
    from factory.latency.baselines import predict_baselines
    from factory.latency.explanation import explain, worth_measuring
    from factory.latency.start_up import predict_start_up

    counts = {
        Kernel.parse(text): 2
        for text in (
            "Conv(x=1x8x8x8,w=16x8x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)",
            "Conv(x=1x8x8x8,w=24x8x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)",
            "Add(x=1x8x8x8+1x8x8x8,dtype=f32)",
        )
    }
    prediction = predictor.predict(counts)
    worth_measuring(explain(prediction, predictor), predictor.infers)
    predict_start_up(predictor.report.get("start_up", {}), counts, prediction.latency_ms)
    predict_baselines(predictor.report.get("baseline_models", {}), counts)
    for regressor in predictor.regressors.values():
        regressor.deviation(list(counts))
    json.dumps([prediction.to_dict(), predictor.to_dict()], allow_nan=False)


@functools.cache
def _predictor() -> bytes:
    import tempfile

    from factory.latency.predictor import LatencyPredictor
    from factory.profiling.table import LatencyTable

    with tempfile.TemporaryDirectory() as folder:
        table = _write(Path(folder), "t.csv", _table())
        LatencyPredictor.fit(LatencyTable.read(table)).save(Path(folder) / "p.json")
        return (Path(folder) / "p.json").read_bytes()


def _load_predictor(content: bytes, folder: Path) -> None:
    from factory.latency.predictor import LatencyPredictor

    _use(LatencyPredictor.load(_write(folder, "p.json", content)))


def _module(content: bytes, folder: Path) -> None:
    import torch

    from factory.latency.network_module import NetworkLatency

    module = NetworkLatency.load(_write(folder, "m.safetensors", content))
    module({name: torch.full(shape, 1 / shape[1]) for name, shape in module.shapes.items()})


def _module_seeds() -> Sequence[bytes]:
    import tempfile

    from factory.latency.network_module import NetworkLatency

    with tempfile.TemporaryDirectory() as folder:
        NetworkLatency({"normal": (4, 3)}, hidden=(8,)).save(Path(folder) / "m")
        return [(Path(folder) / "m").read_bytes()]


# -- architectures, certificates, run folders -----------------------------------------------------


def _genotype(content: bytes, folder: Path) -> None:
    from factory import api
    from factory.spaces.genotype import Genotype

    path = _write(folder, "g.json", content)
    str(Genotype.load(path))
    api.inspect(path, channels=4, layers=3)


def _genotype_seeds() -> Sequence[bytes]:
    from factory.spaces.genotype import PUBLISHED

    return [_bytes(one.to_dict()) for one in PUBLISHED.values()]


def _cell201(content: bytes, folder: Path) -> None:
    from factory.core.reading import read_json
    from factory.spaces import read_architecture

    read_architecture(read_json(_write(folder, "g.json", content)), "g.json").to_dict()


def _cell201_seeds() -> Sequence[bytes]:
    from factory.spaces.nas_bench_201 import Cell201

    return [_bytes(Cell201(("nor_conv_3x3", "none", "skip_connect") * 2).to_dict())]


def _certificate(content: bytes, folder: Path) -> None:
    from factory.reporting.certificate_page import write_certificate_page
    from factory.verification.certificate import Certificate
    from factory.verification.recheck import check_file

    path = _write(folder, "c.json", content)
    model = _write(folder, "m.onnx", b"no model")
    _write(folder, "labels.txt", b"a\nb\n")
    write_certificate_page(path, folder / "c.html")
    check_file(Certificate.load(path), model, "2026-03-01T00:00:00Z")


def _certificate_seeds() -> Sequence[bytes]:
    value = {
        "schema_version": 1, "issued": "2026-01-01T00:00:00Z", "expires": "2026-06-30T00:00:00Z",
        "model": {
            "file": "m.onnx", "sha256": "ab" * 32, "size_bytes": 123456, "target": "int8-cpu",
            "precision": "int8", "macs": 7_000_000, "class_names": ["a", "b"],
            "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 32, 32]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 10]}],
            "preprocessing": {"mean": [0.5], "fit": "cover"},
        },
        "chip": {
            "device_id": "t1", "fingerprint": {"chip": "x86", "runtime_version": "1.32.0"},
            "profile_sha256": "cd" * 32, "flags": ["avx2"], "int8": "no VNNI",
            "reduced_range": True, "simulated": False,
        },
        "placement": {"CPUExecutionProvider": 12},
        "latency": {
            "rounds": 5, "runs": 500, "median_ms": 0.42, "median_interval_ms": [0.41, 0.43],
            "p10_ms": 0.4, "p10_interval_ms": [0.39, 0.41], "p90_ms": 0.5,
            "p90_interval_ms": [0.48, 0.52], "min_ms": 0.39, "spread_percent": 2.0,
            "cold_start_ms": 8.0, "first_run_ms": 1.0, "session_ms": 7.0,
            "sustained": {"seconds": 3.0, "runs": 70, "median_ms": 0.43, "drift_percent": 1.5},
        },
        "accuracy": {
            "value": 0.98, "interval": [0.96, 0.99], "correct": 353, "images": 360,
            "data": "digits", "fp32": 0.985, "drop_points": 0.5,
        },
        "budget": {
            "max_latency_ms": 0.6, "verdict": "holds", "margin_percent": 30.0, "reasons": [],
            "limits": [{"name": "params", "limit": 9000.0, "value": 8100, "margin_percent": 10.0,
                        "holds": True}],
        },
        "probe": {"seed": 1, "inputs": "normal", "outputs": [0.5, 1.5], "tolerance": 0.01},
    }  # fmt: skip
    return [_bytes(value)]


@functools.cache
def _run_files() -> dict[str, Any]:
    """Every file of a run folder that a report is made from, parsed."""
    import importlib.util
    import tempfile

    where = TESTS / "reporting" / "conftest.py"
    spec = importlib.util.spec_from_file_location("reporting_run", where)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.search_rows = functools.partial(made.search_rows, steps=80)
    with tempfile.TemporaryDirectory() as folder:
        made.write_run(Path(folder), ["a", "b"], ["passed", "failed"])
        found: dict[str, Any] = {}
        for path in sorted(Path(folder).rglob("*.json*")):
            name = path.relative_to(folder).as_posix()
            text = path.read_text()
            lines = name.endswith("jsonl")
            found[name] = [json.loads(t) for t in text.splitlines()] if lines else json.loads(text)
        return found


def _write_run(content: bytes, folder: Path) -> Path:
    """The files of a run folder, from one JSON object of them."""
    root = folder / "run"
    try:
        files = json.loads(content)
    except (ValueError, RecursionError):  # as it is, in place of two of them
        files = None
    if not isinstance(files, dict):
        files = dict(_run_files())
        for name in ("03-search/a/result.json", "06-verify/a.json"):
            del files[name]
            _write(root, name, content)
    for name in _run_files():
        if name not in files:
            continue
        value = files[name]
        if name.endswith("jsonl") and isinstance(value, list):
            text = "".join(json.dumps(row) + "\n" for row in value)
        else:
            text = json.dumps(value)
        _write(root, name, text.encode())
    return root


def _report_numbers(content: bytes, folder: Path) -> None:
    from factory.reporting import search_view
    from factory.reporting.artefacts import read_run
    from factory.reporting.comparison import why
    from factory.reporting.kernel_view import kernel_rows, node_rows
    from factory.reporting.summary import summarise

    run = read_run(_write_run(content, folder))
    summary = summarise(run)
    json.dumps(summary, allow_nan=False)
    for tier, row in zip(run.tiers, summary["tiers"], strict=True):
        kernel_rows(tier.verify.get("kernels"))
        node_rows(tier.verify.get("nodes"))
        search_view.diagnostics(tier)
        search_view.seed_rows(tier)
        why(row, tier.verify.get("kernels"))


def _report_page(content: bytes, folder: Path) -> None:
    from factory.reporting.comparison import write_comparison
    from factory.reporting.report import write_report

    root = _write_run(content, folder)
    write_comparison(root)
    write_report(root)


def _run_record(content: bytes, folder: Path) -> None:
    from factory.pipeline.context import open_run
    from factory.pipeline.run_folder import RunFolder

    os.environ["FACTORY_HOME"] = str(folder)
    _write(folder, "device_profiles/sim.toml", SIMULATED)
    _write(folder, "run.json", content)
    ctx = open_run(folder)
    RunFolder(folder).finish_stage("profile", [], 0.0)
    ctx.folder.claim(ctx.recipe.as_dict(), seed=ctx.seed)


def _run_record_seeds() -> Sequence[bytes]:
    import tomllib

    from factory.pipeline.recipe import Recipe

    recipe = Recipe.model_validate(tomllib.loads(_tiny_recipe()[0].decode())).as_dict()
    stages = [{"stage": "profile", "seconds": 1.0, "date": "2026-01-01T00:00:00Z"}]
    return [_bytes({"schema_version": 1, "recipe": recipe, "seed": 3, "stages": stages})]


def _marker(content: bytes, folder: Path) -> None:
    from factory.pipeline.run_folder import RunFolder

    unit = RunFolder(folder).unit("search", "a", {"recipe": "ab"})
    _write(unit.folder, "DONE", content)
    _write(folder, "x", b"x")
    unit.is_done()
    unit.seconds()
    RunFolder(folder).stage_is_current("search", [unit])
    unit.begin()


def _targets(content: bytes, folder: Path) -> None:
    from factory.pipeline.targets import Targets

    targets = Targets(_write(folder, "t.json", content), "b")
    targets.start("a", 4.0)
    targets.count("a", "verify", since_verify=True)
    targets.tighten("a", "verify", measured_ms=5.0, limit_ms=4.0, smallest_ms=0.1)


def _manifest(content: bytes, folder: Path) -> None:
    from factory.deployment.app_snippets import app_snippet
    from factory.deployment.manifest import ModelManifest
    from factory.deployment.snippet import run_snippet

    path = _write(folder, "manifest.json", content)
    manifest = ModelManifest.load(path).model_dump(mode="json")
    run_snippet(manifest)
    for language in ("kotlin", "swift"):
        app_snippet(language, manifest, threads=1, execution_provider="CPUExecutionProvider")


def _manifest_seeds() -> Sequence[bytes]:
    value = {
        "schema_version": 1, "file": "model.onnx", "sha256": "ab" * 32, "size_bytes": 100,
        "opset": 17, "ir_version": 8, "precision": "fp32",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 2]}],
        "nodes": {"Conv": 3},
        "metadata": {"class_names": ["a", "b"], "preprocessing": {
            "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "size": [32, 32], "scale": 0.004,
            "fit": "cover", "colour": "RGB"}},
    }  # fmt: skip
    return [_bytes(value)]


def _labels(content: bytes, folder: Path) -> None:
    from factory.core.reading import read_names

    "".join(read_names(_write(folder, "labels.txt", content), "labels")).encode()


# -- searches and trainings -----------------------------------------------------------------------


def _search_result(content: bytes, folder: Path) -> None:
    from factory.search.result import SearchResult

    _write(folder, "search.json", content)
    json.dumps(SearchResult.load(folder).to_dict())


def _search_result_seeds() -> Sequence[bytes]:
    from factory.search.result import SearchResult
    from factory.spaces.genotype import PUBLISHED

    found = SearchResult(
        tier="a", genotype=PUBLISHED["PDARTS"], discretised=PUBLISHED["DARTS_V2"], repaired=True,
        expected={"latency_ms": 1.0}, predicted={"latency_ms": 1.0}, limits={"latency_ms": 2.0},
        multipliers={"latency_ms": 0.5}, smallest={"latency_ms": 0.1}, skip_share=0.2, entropy=1.0,
        steps=10, alphas={"alpha": {"normal": [[0.1] * 8]}}, history=Path("history.jsonl"),
    )  # fmt: skip
    return [_bytes({**found.to_dict(), "fingerprint": "ab"})]


def _search_checkpoint(content: bytes, folder: Path) -> None:
    from factory.search import checkpoint

    path = _write(folder, "c.safetensors", content)
    checkpoint.step_of(path)
    checkpoint.load(path, "f")


def _search_checkpoint_seeds() -> Sequence[bytes]:
    import tempfile

    import torch

    from factory.search import checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        values = {"fingerprint": "f", "step": 3, "budgets": {"multipliers": {"latency_ms": 0.1}}}
        checkpoint.save(path, {"a": torch.ones(3, 2), "b": torch.tensor(1)}, values)
        return [path.read_bytes()]


def _history(content: bytes, folder: Path) -> None:
    from factory.search.checkpoint import History

    History(_write(folder, "history.jsonl", content)).rows()


def _journal(content: bytes, folder: Path) -> None:
    from toy_problem import toy_problem

    from factory.search.strategies import RandomSearch
    from factory.search.strategies.study import run_search

    path = _write(folder, "trials.jsonl", content)
    run_search(toy_problem(), RandomSearch(), queries=8, path=path)


def _journal_seeds() -> Sequence[bytes]:
    import tempfile

    import optuna
    from toy_problem import toy_problem

    from factory.search.strategies import RandomSearch
    from factory.search.strategies.study import run_search

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trials.jsonl"
        run_search(toy_problem(), RandomSearch(), queries=5, path=path)
        return [path.read_bytes()]


@functools.cache
def _trained() -> dict[str, bytes]:
    """Files of a tiny training: its checkpoint before the end, and what it leaves."""
    import tempfile
    from unittest import mock

    from factory.training import loop

    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        save = loop.save_checkpoint

        def kept(path: Path, state: dict[str, Any]) -> None:
            save(path, state)
            found["checkpoint.pt"] = path.read_bytes()

        with mock.patch.object(loop, "save_checkpoint", kept):
            _trainer(Path(folder))()
        for name in ("weights.safetensors", "result.json", "history.jsonl"):
            found[name] = (Path(folder) / name).read_bytes()
    return found


def _trainer(folder: Path) -> Any:
    from tiny_training import CONFIG, TinyNetwork, tiny_data

    from factory.training.loop import train_network

    config = CONFIG.model_copy(update={"epochs": 1})
    return functools.partial(train_network, TinyNetwork(), tiny_data(), config, folder, seed=3)


def _training_checkpoint(content: bytes, folder: Path) -> None:
    _write(folder, "checkpoint.pt", content)
    _trainer(folder)()


def _training_result(content: bytes, folder: Path) -> None:
    for name, known in _trained().items():
        if name != "checkpoint.pt":
            _write(folder, name, content if name == "result.json" else known)
    _trainer(folder)()


def _training_history(content: bytes, folder: Path) -> None:
    for name, known in _trained().items():
        if name != "checkpoint.pt":
            _write(folder, name, content if name == "history.jsonl" else known)
    _trainer(folder)()


def _weights(content: bytes, folder: Path) -> None:
    from tiny_training import TinyNetwork

    from factory.training.weights import load_weights

    load_weights(TinyNetwork(), _write(folder, "w.safetensors", content))


DOORS = [
    Door("recipe", _recipe_seeds, _recipe, "toml"),
    Door("recipe-dry-run", _tiny_recipe, _dry_run, "toml", share=0.3),
    Door("device-profile", lambda: [SIMULATED, AGENT], _profile, "toml"),
    Door("table-mapping", lambda: [MAPPING], lambda c, f: _import(c, FOREIGN, f), "toml"),
    Door("foreign-table", lambda: [FOREIGN], lambda c, f: _import(MAPPING, c, f), "csv"),
    Door("table-check", lambda: [_table()], _check_table, "csv", share=0.3),
    Door("table-merge", lambda: [_table()], _merge_tables, "csv"),
    Door("table-fit", lambda: [_table()], _fit_table, "csv", share=0.1),
    Door("quarantine", _quarantine_seeds, _quarantine, "json"),
    Door("table-of-cells", _tabular_seeds, _tabular, "csv", share=0.3),
    Door("predictor", lambda: [_predictor()], _load_predictor, "json"),
    Door("latency-module", _module_seeds, _module, "header"),
    Door("genotype", _genotype_seeds, _genotype, "json"),
    Door("cell-201", _cell201_seeds, _cell201, "json"),
    Door("certificate", _certificate_seeds, _certificate, "json"),
    Door("report-numbers", lambda: [_bytes(_run_files())], _report_numbers, "json", share=0.3),
    Door("report-page", lambda: [_bytes(_run_files())], _report_page, "json", share=0.02),
    Door("run-record", _run_record_seeds, _run_record, "json"),
    Door("marker", lambda: [_bytes({"schema_version": 1, "inputs": {"recipe": "ab"},
                                    "outputs": {"x": "ab"}, "units": {"x": "y"},
                                    "seconds": 1.5})], _marker, "json"),
    Door("targets", lambda: [_bytes({"schema_version": 1, "budgets": "b", "tiers": {
        "a": [{"kind": "budget", "target_ms": 3.5}]}})], _targets, "json"),
    Door("manifest", _manifest_seeds, _manifest, "json"),
    Door("labels", lambda: ["cat\nHund\nÃ©\n".encode()], _labels),
    Door("search-result", _search_result_seeds, _search_result, "json"),
    Door("search-checkpoint", _search_checkpoint_seeds, _search_checkpoint, "header"),
    Door("search-history", lambda: [b'{"step": 1, "loss": 0.5}\n{"step": 2}\n'], _history,
         "lines"),
    Door("trials", _journal_seeds, _journal, "lines", share=0.3),
    Door("training-checkpoint", lambda: [_trained()["checkpoint.pt"]], _training_checkpoint,
         share=0.3),
    Door("training-result", lambda: [_trained()["result.json"]], _training_result, "json",
         share=0.3),
    Door("training-history", lambda: [_trained()["history.jsonl"]], _training_history, "lines",
         share=0.3),
    Door("weights", lambda: [_trained()["weights.safetensors"]], _weights, "header"),
]  # fmt: skip
