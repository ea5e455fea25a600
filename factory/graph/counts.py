"""Parameters, MACs and peak activation memory of a raw operator graph.

Two conventions for MACs. ``macs``: convolutions and matrix products. ``macs_darts_paper``: that
plus two for every BatchNorm element and one for every ReLU element, each ReLU counted where it is
written, as the ImageNet figures of P-DARTS (arXiv 1904.12760) and PC-DARTS (arXiv 1907.05737) are.
"""

from __future__ import annotations

from dataclasses import dataclass

from factory.graph.canonical import canonicalise
from factory.graph.kernel import BYTES
from factory.graph.opgraph import OpGraph
from factory.graph.shapes import elements


@dataclass(frozen=True)
class Counts:
    """What a network costs, whatever it runs on."""

    params: int
    macs: int
    macs_darts_paper: int
    peak_memory_bytes: int

    @property
    def peak_memory_mb(self) -> float:
        """Peak activation memory in megabytes (1e6 bytes)."""
        return self.peak_memory_bytes / 1e6


def count(graph: OpGraph) -> Counts:
    """Count a raw (not canonicalised) graph."""
    params = macs = extra = 0
    for node in graph.nodes:
        params += node.params
        macs += node.kernel().macs
        extra += 2 * node.bn_elements
        if node.op == "Relu":
            extra += elements(node.out_shape)
    if graph.params is not None:
        params = graph.params
    return Counts(params, macs, macs + extra, peak_memory_bytes(graph))


def peak_memory_bytes(graph: OpGraph) -> int:
    """Largest sum of live activations when the canonical graph runs node by node.

    A tensor lives from the node that makes it to its last reader; graph inputs from the start,
    graph outputs to the end; nothing is computed in place.
    """
    graph = canonicalise(graph)
    size = {name: elements(shape) * BYTES["f32"] for name, shape in graph.inputs.items()}
    last = dict.fromkeys(size, -1)
    for step, node in enumerate(graph.nodes):
        for name, shape in ((node.output, node.out_shape), *node.more_outputs):
            size[name] = elements(shape) * BYTES[node.dtype]
            last[name] = step
        last.update(dict.fromkeys(node.inputs, step))
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    freed = [0] * (len(graph.nodes) + 1)
    for name, step in last.items():
        if step >= 0:
            freed[step] += size[name]
    live = peak = sum(size[name] for name in graph.inputs)
    for step, node in enumerate(graph.nodes):
        live += sum(size[name] for name in node.outputs)
        peak = max(peak, live)
        live -= freed[step]
    return peak
