"""Where 16-bit floats lose too much, the operators that lose most stay in 32 bits.

What each computing operator reads and gives is rounded to 16 bits alone: by how much that disturbs
the output is its sensitivity (a value beyond 65,504 becomes infinite, so that its operator comes
first). The most sensitive 1, 2, 4, ... stay in 32 bits until the outputs lie as close to fp32 as
asked, at most half of them: the int8 gate's way (:mod:`factory.deployment.gate`). The sensitivity
is looked at on the selection pictures, the test pictures judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from factory.core.progress import SILENT, Progress
from factory.deployment.agreement import BOUNDS, LARGEST_DB, Agreement, compare
from factory.deployment.gate import growing
from factory.deployment.rounded import round_alone, run_rounded
from factory.deployment.run_here import Samples, count, part, run_model

SENSITIVITY_IMAGES = 8
MOST_SHARE = 0.5
BOUND = BOUNDS["fp16"]
# These choose or move values: what they get in 16 bits they give on unchanged.
MOVES = {
    "Cast", "Clip", "Concat", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape",
    "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
Convert = Callable[[Collection[str]], onnx.ModelProto]
"""From the names of the nodes that stay in 32 bits to the model."""


@dataclass
class HalfRepair:
    """What was left in 32 bits, and what that gave.

    Attributes:
        model: the model; None when half of the operators do not help.
        float_nodes: operators left in 32 bits, those that only pass their values on included.
        test: the last attempt beside fp32 on the test pictures.
        trail: every attempt, in order.
    """

    model: onnx.ModelProto | None
    float_nodes: tuple[str, ...]
    test: Agreement
    reason: str
    trail: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": "refused" if self.model is None else "repaired",
            "reason": self.reason,
            "float_nodes": list(self.float_nodes),
            "test": self.test.to_dict(),
            "trail": self.trail,
        }


def repair_half(
    source: onnx.ModelProto,
    convert: Convert,
    selection_images: Samples,
    test_images: Samples,
    test_labels: np.ndarray | None,
    before: Agreement,
    progress: Progress = SILENT,
) -> HalfRepair:
    """Leave operators of ``source`` in 32 bits until BOUND holds on the test samples.

    Args:
        source: the fp32 model.
        convert: makes the 16-bit model, all but the named nodes.
        selection_images: for the sensitivity.
        test_images, test_labels: judge.
        before: the file that is 16-bit throughout, on the test pictures.
        progress: where the search reports.
    """
    trail: list[dict[str, Any]] = []
    order = _sensitivities(
        source, part(selection_images, slice(SENSITIVITY_IMAGES)), trail, progress
    )
    reference = run_model(source.SerializeToString(), test_images)
    most = int(len(order) * MOST_SHARE + 1e-9)
    kept, test = (), before  # type: tuple[tuple[str, ...], Agreement]
    for number in growing(most):
        started = time.monotonic()
        kept = with_followers(source, order[:number])
        model = convert(kept)
        test = compare(run_rounded(model, test_images), reference, test_labels)
        trail.append(
            {
                "step": f"leave {number} in 32 bits",
                "float_nodes": order[:number],
                "test": test.to_dict(),
                "seconds": round(time.monotonic() - started, 3),
            }
        )
        story = (
            f"{_shown(before)} with 16 bits throughout ({BOUND.signal_db:g} dB are asked for), "
            f"{_shown(test)} with {number} operator{'s' if number > 1 else ''} in 32 bits"
        )
        if not test.lacks(BOUND):
            return HalfRepair(model, kept, test, story, trail)
    story = (
        f"{_shown(before)} with 16 bits throughout ({BOUND.signal_db:g} dB are asked for), still "
        f"{_shown(test)} with {most} of {len(order)} operators in 32 bits"
    )
    missed = test.lacks(BOUND)
    story += f": {missed}; alone in 16 bits worst: {', '.join(order[:3])}" if order else ""
    return HalfRepair(None, kept, test, story, trail)


def _shown(found: Agreement) -> str:
    """Signal to noise against fp32, or that there is none."""
    return "an overflow" if found.signal_db <= -LARGEST_DB else f"{found.signal_db:.1f} dB"


def _sensitivities(
    source: onnx.ModelProto,
    images: Samples,
    trail: list[dict[str, Any]],
    progress: Progress,
) -> list[str]:
    """Computing operators, the most sensitive first: signal to noise when alone in 16 bits."""
    started = time.monotonic()
    computing = [node.name for node in source.graph.node if node.op_type not in MOVES]
    reference = run_model(source.SerializeToString(), images)
    decibels = {}
    with progress.task("sensitivity to 16 bits", total=len(computing)) as task:
        for name in computing:
            outputs = run_model(round_alone(source, name).SerializeToString(), images)
            decibels[name] = compare(outputs, reference).signal_db
            task.advance(note=name)
    order = sorted(decibels, key=lambda name: decibels[name])
    trail.append(
        {
            "step": "sensitivity",
            "images": count(images),
            "signal_db": {name: round(decibels[name], 2) for name in order[:20]},
            "seconds": round(time.monotonic() - started, 3),
        }
    )
    return order


def with_followers(source: onnx.ModelProto, names: Sequence[str]) -> tuple[str, ...]:
    """``names`` and the operators that only pass on what those computed, in the graph's order."""
    chosen, kept = set(names), []
    made_in_floats: set[str] = set()
    weights = {weight.name for weight in source.graph.initializer}
    for node in source.graph.node:
        inputs = [name for name in node.input if name and name not in weights]
        follows = node.op_type in MOVES and inputs and made_in_floats.issuperset(inputs)
        if node.name in chosen or follows:
            kept.append(node.name)
            made_in_floats.update(node.output)
    return tuple(kept)
