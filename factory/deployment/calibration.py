"""Calibration: the range of every activation, over real inputs, by onnxruntime.quantization.

Ranges are computed once a method and used for every file that is tried, so that leaving operators
in floats costs a rewrite of the graph and no second pass over the pictures. Histograms are
collected in chunks of pictures, because the runtime's calibrator keeps every activation of a
chunk in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import onnx

from factory.core.errors import InputError
from factory.core.temporary import TemporaryFolder
from factory.deployment.quiet import silenced
from factory.deployment.run_here import Samples, count, feeds, part

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
CHUNK_BYTES = 256 << 20
WIDEST_RANGE = 1e30  # beyond it lie masks, not values
HISTOGRAM_IMAGES = 128
"""Entropy and percentile are slow over many pictures and gain nothing beyond these."""


class Feeder:
    """Feeds one sample at a time; a CalibrationDataReader."""

    def __init__(self, model: onnx.ModelProto, samples: Samples) -> None:
        ranks = [(v.name, len(v.type.tensor_type.shape.dim)) for v in model.graph.input]
        self._feeds, self._count = feeds(samples, ranks), count(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, or None at the end."""
        return next(self._feeds, None)

    def __len__(self) -> int:
        return self._count


def calibrate(
    model: onnx.ModelProto,
    samples: Samples,
    method: Method,
    *,
    percentile: float = 99.99,
    leave_out: Collection[str] = (),
) -> Any:
    """Ranges of every activation of floats (a ``TensorsData`` of onnxruntime.quantization).

    Args:
        model: the fp32 model, with shapes inferred.
        samples: checked calibration values.
        method: how a range follows from the values.
        percentile: share of the values kept, method percentile.
        leave_out: tensors without a range, because it would be infinite.
    """
    from onnxruntime.quantization import calibrate as ort

    kinds = {
        "minmax": ort.MinMaxCalibrater,
        "percentile": ort.PercentileCalibrater,
        "entropy": ort.EntropyCalibrater,
    }
    if method != "minmax":
        samples = part(samples, slice(HISTOGRAM_IMAGES))
    # Symmetric would spend half of the steps of a Relu output on values that never occur.
    extra: dict[str, Any] = (
        {"percentile": percentile, "symmetric": False} if method == "percentile" else {}
    )
    chunk = max(1, CHUNK_BYTES // max(_activation_bytes(model), 1))
    with TemporaryFolder("calib") as folder, silenced() as said:
        path = folder / "model.onnx"
        onnx.save_model(model, path)
        try:
            # No list of operators: every flavour finds the ranges of what it quantises.
            calibrator: Any = kinds[method](
                path, [], augmented_model_path=str(folder / "augmented.onnx"), **extra
            )
            select = calibrator.select_tensors_to_calibrate

            def selected(graph: onnx.ModelProto) -> tuple[set[str], dict[str, Any]]:
                tensors, infos = select(graph)
                return tensors - set(leave_out), infos

            calibrator.select_tensors_to_calibrate = selected
            calibrator.augment_graph()
            calibrator.create_inference_session()
            for start in range(0, count(samples), chunk):
                calibrator.collect_data(Feeder(model, part(samples, slice(start, start + chunk))))
            return calibrator.compute_data()
        except Exception as error:
            raise InputError(
                f"calibrating by {method} failed",
                why=" ".join(str(error).split())[:300] or said.tail(),
                fix="check that the model runs in fp32 on the calibration inputs",
            ) from error


def infinite(ranges: Any) -> set[str]:
    """Tensors whose range is infinite, no number, or too wide for the scale of an int8 tensor."""
    found = set()
    for name, data in ranges.items():
        ends = np.concatenate([np.ravel(end) for end in data.range_value]).astype(np.float64)
        if not (np.isfinite(ends).all() and np.abs(ends).max(initial=0.0) < WIDEST_RANGE):
            found.add(name)
    return found


def _activation_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all activations of one picture."""
    total = 0
    for value in model.graph.value_info:
        size = 4
        for dim in value.type.tensor_type.shape.dim:
            size *= max(dim.dim_value, 1)
        total += size
    return total
