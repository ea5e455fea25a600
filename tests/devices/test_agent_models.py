"""What may not come over the wire, on whole, nested, cut and damaged models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models

from factory.devices.agent_models import RefusedModel, check_wire_model


@pytest.mark.parametrize(
    "model",
    [tiny_models.conv(), tiny_models.add(), tiny_models.endless(), tiny_models.unknown_op()],
)
def test_models_without_files_pass(model):
    check_wire_model(model)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (tiny_models.external(), "weights in another file"),
        (tiny_models.inside_if(tiny_models.external()), "weights in another file"),
        (tiny_models.context_file(), "EPContext"),
        (b"", "empty"),
        (b"garbage", "not an ONNX model"),
        (b"\x08\x00\x00\x00ORTM" + bytes(40), "ORT format"),
        (b"\x0b\x0c" + tiny_models.add(), "not an ONNX model"),  # a group: the runtime skips it
    ],
)
def test_what_is_refused_says_why(model, reason):
    with pytest.raises(RefusedModel, match=reason):
        check_wire_model(model)


def test_a_bomb_of_nested_graphs_is_refused():
    graph = b""
    for _ in range(80):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            size = len(graph)
            length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
            graph = tag + length + graph
    size = len(graph)
    with pytest.raises(RefusedModel, match="nested deeper"):
        check_wire_model(b"\x3a" + bytes([size & 127 | 128, size >> 7]) + graph)


def test_cut_and_damaged_models_are_read_or_refused_and_nothing_else():
    rng = np.random.default_rng(0)
    model = tiny_models.conv(2, 4)
    outcomes = {outcome(model[:cut]) for cut in range(1, len(model))}
    for _ in range(300):
        damaged = bytearray(model)
        damaged[rng.integers(len(model))] = rng.integers(256)
        outcomes.add(outcome(bytes(damaged)))
    assert "these bytes are not an ONNX model (protobuf parsing failed)" in outcomes


def outcome(model: bytes) -> str:
    try:
        check_wire_model(model)
    except RefusedModel as refused:
        return str(refused)
    return "passed"
