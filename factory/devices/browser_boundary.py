"""What entering and leaving the runtime costs in a page: it is paid once a network, not a kernel.

Every run copies its inputs from JavaScript into WebAssembly's memory and its outputs back into new
arrays. For a Relu of 32x32x32 that is 60 of 69 us, so sums of kernels timed alone would be twice
the network (measured in Chromium 150). Three tiny models give the cost of a run, of a byte in and
of a byte out; a kernel's row carries the share of its time that is such copying, in reorder_share.
Batches of runs make this work with the coarsest clock, unlike the runtime's trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factory.devices.base import Timing, TimingPlan

ELEMENTS = 65536
PLAN = TimingPlan(
    min_runs=64, max_runs=4000, min_time_ms=200.0, warmup_runs=5, warmup_time_ms=100.0
)
ROUNDS = 6
LARGEST_SHARE = 0.98
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Boundary:
    """Cost of the boundary: ``run_ms`` a run, and milliseconds a byte of inputs and outputs."""

    run_ms: float = 0.0
    input_ms_per_byte: float = 0.0
    output_ms_per_byte: float = 0.0

    def share(self, model: bytes, median_ms: float) -> float:
        """Share of ``median_ms`` that running ``model`` spends at the boundary, 0 to 1."""
        inputs, outputs = io_bytes(model)
        cost_ms = self.run_ms + inputs * self.input_ms_per_byte + outputs * self.output_ms_per_byte
        return min(cost_ms / median_ms, LARGEST_SHARE) if median_ms > 0 else 0.0

    def to_dict(self) -> dict[str, float]:
        """For the header of a table, in readable units."""
        return {
            "run_ms": round(self.run_ms, 5),
            "input_ms_per_mb": round(self.input_ms_per_byte * 1e6, 5),
            "output_ms_per_mb": round(self.output_ms_per_byte * 1e6, 5),
        }

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Boundary:
        """From the timings of :func:`models`; zero where one failed."""
        if not all(timing.ok for timing in timings):
            return cls()
        run_ms, slice_ms, identity_ms = (timing.median_ms for timing in timings)
        size = ELEMENTS * _FLOAT_BYTES
        input_ms = max(slice_ms - run_ms, 0.0) / size
        output_ms = max(identity_ms - run_ms, 0.0) / size - input_ms
        return cls(run_ms, input_ms, max(output_ms, 0.0))


NO_BOUNDARY = Boundary()


def models() -> list[bytes]:
    """One number in and out; many numbers in and one out; many in and out."""
    return [_model("Identity", 1, 1), _model("Slice", ELEMENTS, 1), _model("Identity", ELEMENTS)]


def io_bytes(model: bytes) -> tuple[int, int]:
    """Bytes of all inputs and of all outputs of a model with static shapes."""
    import onnx

    graph = onnx.load_from_string(model).graph
    return _bytes(graph.input), _bytes(graph.output)


def _bytes(values: Sequence[object]) -> int:
    import onnx

    total = 0
    for value in values:
        tensor = value.type.tensor_type  # type: ignore[attr-defined]
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        for dimension in tensor.shape.dim:
            size *= max(dimension.dim_value, 1)
        total += size
    return total


def _model(op: str, inputs: int, outputs: int | None = None) -> bytes:
    from onnx import TensorProto, helper

    float_in = helper.make_tensor_value_info("x", TensorProto.FLOAT, [inputs])
    float_out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [outputs or inputs])
    limits = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("from", 0), ("to", 1))
    ]
    sliced = op == "Slice"
    node = helper.make_node(op, ["x", "from", "to"] if sliced else ["x"], ["y"])
    graph = helper.make_graph([node], "boundary", [float_in], [float_out], limits if sliced else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    content: bytes = model.SerializeToString()
    return content
