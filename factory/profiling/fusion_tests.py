"""Fusion tests: which operators a device folds into the one before, found by small models.

An execution provider that compiles a partition shows one node, so what it fused can only be told
by times (nn-Meter, Zhang et al., MobiSys 2021, section 4). nn-Meter compares a pair with its two
operators timed alone, each of which carries a session and warm caches. Here the same operators run
in one model in two orders,

    chained:  x -> pool -> first -> second -> pool -> pool
    apart:    x -> pool -> first -> pool -> second -> pool
    bare:     x -> pool -> first -> pool -> pool

so that only the fusion differs. ``second`` is folded where most of what it costs alone (less the
same operator on a single pixel: a session) is saved by the chained order, and where the chained
order takes hardly longer than the bare one. (The first alone is not enough: with OpenVINO a leaky
ReLU after a pool takes twice as long as after anything else.) The pool is an average: a maximum may
change places with an activation. A second operand comes from a pool of its own, since a sum cannot
overwrite an input of the graph; what it costs is not in the bare order, which therefore does not
judge operators of two.

The models' times are rows of the latency table (kind "fusion"), so that rules can be checked and a
killed profile goes on. A device that shows the graph it runs is not tested, and another one only
before its first network, whose kernels are counted by these rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, TimingPlan
from factory.graph.fusion import MERGES, NO_RULES, PAIRS, SILU, FusionRules
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling.fusion_rules import (
    ALONE,
    APART,
    BARE,
    CHAINED,
    KIND,
    PIXEL,
    fusion_rules,
    fusion_tests,
    rules_row,
    settled_row,
)
from factory.profiling.profiler import Build, measure_models
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable

CHANNELS, SIDE = 64, 56  # an element-wise operator on them takes tens of microseconds on a core
NARROW = {"conv_dense": 8, "conv_pointwise": 16, "Concat": 32}  # so that a first costs little
GROUPS = 16
LOOK = TimingPlan(min_runs=1, max_runs=2, min_time_ms=0, warmup_time_ms=0, profile_runs=1,
                  optimised_graph=True)  # fmt: skip
SETTINGS = ProfileSettings(rounds=8, min_time_ms=100.0, trace_runs=0, longest_wait_s=5.0)


def measure_fusion(
    device: Device,
    table: LatencyTable,
    progress: Progress = SILENT,
) -> FusionRules:
    """The rules of a table's device; tests it where that is needed and not done yet.

    A table that holds networks already keeps the rules that they were counted by.
    """
    if settled_row(table) is not None:
        return fusion_rules(table)
    if table.rows("network"):
        if not table.rows("in_place"):
            progress.message(
                f"{table.path.name} has networks from before its device was tested for what it "
                "folds: every operator of theirs is counted (a new folder, --out, starts afresh)"
            )
        return NO_RULES
    if not table.rows(KIND) and _shows_graph(device, table.dtype):
        return NO_RULES
    time_pairs(device, table, progress)
    table.append(rules_row(table))
    rules, tests = fusion_rules(table), len(fusion_tests(table))
    failed = f"; {len(PAIRS) - tests} could not be tested" if tests < len(PAIRS) else ""
    progress.message(
        f"{device.profile.id} does not show the graph that it runs; {len(rules)} of {tests} tested "
        f"pairs of operators are one there{failed}"
    )
    return rules


def time_pairs(device: Device, table: LatencyTable, progress: Progress = SILENT) -> None:
    """Measure every model of the tests that the table does not hold yet."""
    models = fusion_models(table.dtype)
    label = f"fusion tests on {device.profile.id}"
    measure_models(device, KIND, models, table, SETTINGS, progress, label)


def fusion_models(dtype: str) -> Mapping[str, Build]:
    """Key of a row -> how to build its model; those that are compared stand side by side."""
    models: dict[str, Build] = {}
    for first in dict.fromkeys(rule.first for rule in PAIRS):
        models[f"{first}:{BARE}"] = partial(_pair, first, "", BARE, dtype)
        for rule in (rule for rule in PAIRS if rule.first == first):
            for order in (CHAINED, APART):
                models[f"{rule}:{order}"] = partial(_pair, first, rule.second, order, dtype)
    for second in dict.fromkeys(rule.second for rule in PAIRS):
        for size, key in ((SIDE, ALONE), (1, PIXEL)):
            models[f"{second}:{key}"] = partial(_alone, second, size, dtype)
    return models


def _pair(first: str, second: str, order: str, dtype: str) -> bytes:
    b = GraphBuilder(f"{first}+{second}:{order}")
    narrow = NARROW.get(first, CHANNELS)
    x = _first(b, first, _pool(b, b.input("x", (1, narrow, SIDE, SIDE))))
    other = _pool(b, b.input("z", b.shape(x))) if second in MERGES else ""
    for step in {CHAINED: (second, "", ""), APART: ("", second, ""), BARE: ("", "")}[order]:
        x = _second(b, step, x, other) if step else _pool(b, x)
    return _content(b, x, dtype)


def _alone(second: str, size: int, dtype: str) -> bytes:
    shape = (1, CHANNELS if size > 1 else 1, size, size)
    b = GraphBuilder(f"{second}:{size}")
    x = b.input("x", shape)
    other = b.input("z", shape) if second in MERGES else ""
    return _content(b, _second(b, second, x, other), dtype)


def _content(b: GraphBuilder, output: str, dtype: str) -> bytes:
    content: bytes = to_onnx(b.finish([output]), dtype).SerializeToString(deterministic=True)
    return content


def _pool(b: GraphBuilder, x: str) -> str:
    return b.avg_pool(x, 3, 1, 1)


def _first(b: GraphBuilder, name: str, x: str) -> str:
    if name == "conv_dense":
        return b.conv(x, CHANNELS, 3, padding=1)
    if name == "conv_pointwise":
        return b.conv(x, CHANNELS, 1)
    if name in ("conv_depthwise", "conv_grouped"):
        groups = CHANNELS if name == "conv_depthwise" else GROUPS
        return b.conv(x, CHANNELS, 3, padding=1, groups=groups)
    other = _pool(b, b.input("y", b.shape(x)))
    return b.add(x, other) if name == "Add" else b.concat([x, other])


def _second(b: GraphBuilder, name: str, x: str, other: str) -> str:
    if name in MERGES:
        return b.add(x, other) if name == "Add" else b.mul(x, other)
    if name == SILU:
        return b.mul(x, b.unary("Sigmoid", x))
    return b.unary(name, x, _ATTRS.get(name, ()))


_ATTRS = {"Clip": (("min", "0"), ("max", "6")), "LeakyRelu": (("alpha", "0.1"),)}


def _shows_graph(device: Device, dtype: str) -> bool:
    """Whether the device tells the graph as it runs; a look that fails is taken again once."""
    model = _pair(PAIRS[0].first, "", BARE, dtype)
    for _ in range(2):
        timing = device.time_many([model], LOOK)[0]
        if timing.ok:
            return bool(timing.optimised)
    return False
