"""What binds a kernel, told from the best rates that were measured."""

from types import SimpleNamespace

import pytest

from factory.graph.kernel import Kernel
from factory.latency.explanation import explain, worth_measuring
from factory.latency.prediction import Part, Prediction
from factory.latency.rates import COMPUTE, FIXED, MEMORY, Rates, fit_rates

DENSE = Kernel.parse("Conv(x=1x64x28x28,w=64x64x3x3,s=1,p=1,d=1,g=1,act=relu,dtype=f32)")
ADD = Kernel.parse("Add(x=1x64x28x28+1x64x28x28,dtype=f32)")
TINY = Kernel.parse("Relu(x=1x8,dtype=f32)")
DEPTHWISE = Kernel.parse("Conv(x=1x64x28x28,w=64x1x3x3,s=1,p=1,d=1,g=64,act=relu,dtype=f32)")
RATES = Rates(macs_per_ms=3e7, bytes_per_ms=2e7, fixed_ms=0.002)


def test_the_longer_of_the_two_bounds_binds():
    compute, memory = RATES.bounds_ms(DENSE)
    assert compute > memory
    assert RATES.binding(DENSE, 2 * compute) == (COMPUTE, pytest.approx(0.5))
    _, memory = RATES.bounds_ms(ADD)
    assert RATES.binding(ADD, memory) == (MEMORY, 1.0)
    assert RATES.binding(TINY, 0.003)[0] == FIXED
    assert RATES.binding(DEPTHWISE, 0.1)[0] == MEMORY


def test_best_rates_are_not_those_of_what_was_folded_away():
    times = {DENSE: 1.0, DEPTHWISE: 0.1, ADD: 0.05}
    for size in range(20, 30):
        text = f"Add(x=1x64x{size}x{size}+1x64x{size}x{size},dtype=f32)"
        times[Kernel.parse(text)] = 0.05
    folded = {**times, Kernel.parse("Add(x=1x512x56x56+1x512x56x56,dtype=f32)"): 1e-5}
    assert fit_rates(folded, 0.002) == fit_rates(times, 0.002)
    assert fit_rates({TINY: 0.001}, 0.001).macs_per_ms == 0


def predictor(**report):
    regressor = SimpleNamespace(in_range=lambda kernels: [kernels[0] != DENSE])
    return SimpleNamespace(
        report={"rates": RATES.to_dict(), **report},
        failed={str(ADD): "no kernel for it"},
        regressor=dict.fromkeys(("conv_dense", "conv_depthwise", "unary"), regressor).get,
    )


def table(*rows):
    return SimpleNamespace(rows=lambda kind: rows)


def place(kernel, ms, share=0.0, reason=""):
    return SimpleNamespace(
        key=f"{kernel}@net:0", status="ok", median_ms=ms, reorder_share=share, reason=reason
    )


def test_layout_fallback_failure_and_range_are_said():
    parts = [
        Part(DENSE, 1, 3.0, 0.6, "regressor"),
        Part(DEPTHWISE, 2, 1.0, 0.2, "measured"),
        Part(ADD, 1, 1.0, 0.2, "roofline"),
        Part(TINY, 1, 0.0, 0.001, "regressor"),
    ]
    seen = table(
        place(DEPTHWISE, 0.2, 0.5), place(DEPTHWISE, 0.6, 0.1, "drift: slow; fallback: it ran on X")
    )
    prediction = Prediction(5.0, 4.0, 6.0, parts)
    dense, depthwise, add, tiny = explain(
        prediction, predictor(reorder_share={"conv_dense": 0.3}), seen
    )
    assert dense["outside"]
    assert "30 % of it are changes of layout; it lies outside of what was measured" in dense["why"]
    assert depthwise["reorder_share"] == pytest.approx(0.2)
    assert depthwise["fallback"] == "it ran on X"
    assert "memory-bound" in depthwise["why"]
    assert add["fallback"] == "no kernel for it"
    assert "nothing of its kind was measured" in add["why"]
    assert tiny["why"].startswith("free")
    assert worth_measuring([dense, depthwise, add, tiny]) == [str(DENSE), str(ADD)]
