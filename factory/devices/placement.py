"""Truth about placement: which nodes of a model an accelerator takes, which it refuses and why.

``get_providers()`` proves nothing: a missing backend or an unknown SoC only logs, and the session
runs on the CPU while the accelerator is still listed. So the runtime's own record of the assignment
is asked, and the reasons are read from what the provider says while it validates nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.core.errors import InputError
from factory.core.made_up import first_of
from factory.devices.base import CPU
from factory.devices.local import LocalDevice

if TYPE_CHECKING:
    from factory.graph.model_inputs import ModelInputs

# A group of nodes (Q and DQ around an operator) that the provider validated and refused.
_GROUP = re.compile(
    r"FAILED for \d+ nodes in OrtNodeUnit \((?P<unit>\S+)\) *:\s*"
    r"(?P<nodes>(?:Operator type: .*\s+)+?)REASON : (?P<why>.+)"
)
_NODE = re.compile(r"Operator type: (?P<op>\S+) Node name: (?P<name>.*?) Node index: \d+")
_DETAIL = re.compile(r"\] (?P<text>\S+ failed for node `(?P<name>[^`]+)`.*)")
_GENERATED = re.compile(r"_token_\d+$")
_CONVERSION = re.compile(r"(QuantizeLinear|DequantizeLinear|Transpose)_token_\d+")
_FAULT = re.compile(r"\[E:[^\]]*\]\s*(?P<text>.+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\[m$")
BORDER = re.compile(r"consume a graph input|(produce|generate)s? a graph output", re.I)
ADDED = "the runtime added it when it changed the layout at a border"
CHANGES = (
    (re.compile(ADDED), "harmless: one copy at the border"),
    (BORDER, "harmless: one conversion at the border; quantised inputs and outputs would save it"),
    (re.compile(r"dynamic|unknown (shape|dim)", re.I), "export the model with fixed shapes"),
    (re.compile(r"\brank\b|\b5-?D\b|dimensions", re.I), "reshape to at most four dimensions"),
    (
        re.compile(r"data ?type|float|precision", re.I),
        "quantise it: Q and DQ nodes at all its inputs and outputs",
    ),
)
THINNED = (
    "its convolution is strided and dilated: `factory export --target int8-qnn` writes the same "
    "sums without dilation"
)
NOTHING_COMPILED = "the execution provider compiled nothing of this model"
_DEFAULT = "replace {op} by operators that it takes, or move it to the end of the network"


@dataclass(frozen=True)
class PlacedNode:
    """One node: who runs it; on the CPU also why, and what to change, where that is known."""

    name: str
    op: str
    provider: str
    reason: str = ""
    change: str = ""


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a model run on a device.

    Attributes:
        nodes: after the runtime's own rewrites, so Q/DQ and layout nodes may be new. Without a
            session: those that the provider said it refuses (their provider is "").
        partitions: provider -> number of connected pieces; each border costs a copy.
        failure: why there is no session at all; "" when there is one.
        faults: errors that the runtime only logged.
    """

    provider: str
    nodes: tuple[PlacedNode, ...] = ()
    partitions: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""
    faults: tuple[str, ...] = ()

    @property
    def taken(self) -> int:
        """Nodes that run on the provider."""
        return sum(node.provider == self.provider for node in self.nodes)

    @property
    def refused(self) -> tuple[PlacedNode, ...]:
        """Nodes that run elsewhere."""
        return tuple(node for node in self.nodes if node.provider != self.provider)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        data = asdict(self)
        return {**data, "nodes": [asdict(node) for node in self.nodes], "taken": self.taken}


def place(device: LocalDevice, model: bytes) -> Placement:
    """Ask the runtime of ``device`` where it would run each node of ``model``."""
    reply, _ = device.ask("place", model)
    provider = device.profile.execution_provider
    if reply["reply"] == "error":
        return Placement(provider, failure=str(reply["reason"]))
    log = _COLOUR.sub("", reply["log"])
    reasons = _reasons(log)
    faults = tuple(dict.fromkeys(found["text"].strip()[:400] for found in _FAULT.finditer(log)))
    both = _strided_and_dilated(model)
    nodes = []
    for node in reply["nodes"]:
        reason = change = ""
        if node["provider"] != provider:
            reason = reasons.get(node["name"], ("", "", ""))[2]
            if not reason and _CONVERSION.fullmatch(node["name"]):
                reason = ADDED
            elif not reason:
                reason = faults[0] if faults else "the provider does not say why"
            change = _change(node["name"], reason, node["op"], both, whole=bool(faults))
        nodes.append(PlacedNode(node["name"], node["op"], node["provider"], reason, change))
    if reply["failure"]:
        nodes += [
            PlacedNode(name, op, "", why, _change(name, why, op, both, whole=False))
            for name, (unit, op, why) in reasons.items()
            if op == unit and not BORDER.search(why)
        ]
    return Placement(provider, tuple(nodes), reply["partitions"], reply["failure"], faults)


def _reasons(log: str) -> dict[str, tuple[str, str, str]]:
    """Name of a refused node -> operator of its group, its own operator, why."""
    details = {_plain(found["name"]): found["text"].strip() for found in _DETAIL.finditer(log)}
    reasons = {}
    for group in _GROUP.finditer(log):
        members = [(_plain(node["name"]), node["op"]) for node in _NODE.finditer(group["nodes"])]
        detail = next((details[name] for name, _ in members if name in details), "")
        why = group["why"].strip() + (f" {detail}" if detail else "")
        reasons.update({name: (group["unit"], op, why) for name, op in members})
    return reasons


def _plain(name: str) -> str:
    """A node's name without what the change of layout appended."""
    return _GENERATED.sub("", name.strip())


def _strided_and_dilated(model: bytes) -> set[str]:
    """Names of the convolutions that are both; empty where the model cannot be read."""
    import onnx

    try:
        nodes = onnx.load_from_string(model).graph.node
    except Exception:  # the runtime has said what is wrong with it
        return set()
    found = set()
    for node in nodes:
        ints = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        both = zip(ints.get("strides", []), ints.get("dilations", []), strict=False)
        if node.op_type == "Conv" and any(s > 1 and d > 1 for s, d in both):
            found.add(node.name)
    return found


def _change(name: str, reason: str, op: str, both: set[str], *, whole: bool) -> str:
    if _plain(name) in both:
        return THINNED
    for pattern, change in CHANGES:
        if pattern.search(reason):
            return change
    if whole:
        return "correct the provider's options (backend, soc_model): it could not start"
    return _DEFAULT.format(op=op)


def compile_context(device: LocalDevice, model: bytes) -> bytes:
    """``model`` compiled ahead for the SoC of ``device``'s profile, as an ONNX file.

    Raises InputError when the provider took no node: a context of the CPU is none.
    """
    reply, contents = device.ask("compile", model)
    if reply["reply"] == "compiled" and contents and _has_context(contents[0]):
        return contents[0]
    why = str(reply.get("reason", ""))
    if not why or why == NOTHING_COMPILED:  # only the log tells
        placement = place(device, model)
        why = placement.failure or "; ".join(placement.faults) or "it took no node of the model"
    raise InputError(
        f"{device.profile.execution_provider} compiled nothing for device {device.profile.id!r}",
        why=why,
        fix="check provider_options (soc_model) of the profile",
    )


def _has_context(content: bytes) -> bool:
    import onnx

    return any(node.op_type == "EPContext" for node in onnx.load_from_string(content).graph.node)


def cosine(
    device: LocalDevice, model: bytes, inputs: ModelInputs, runs: int = 2, seed: int = 0
) -> float:
    """Cosine of the outputs of ``device`` and of the CPU provider, over made-up or given inputs.

    The CPU provider is that of the same runtime, so only the accelerator's arithmetic differs.
    Values that are not finite count as 0.
    """
    update = {"execution_provider": CPU, "provider_options": {}, "precision": "fp32"}
    profile = device.profile.model_copy(update=update)
    local = getattr(profile, "local", None)
    if local is not None:
        plain = local.model_copy(update={"provider_library": ""})
        profile = profile.model_copy(update={"local": plain})
    ours, theirs = [], []
    with LocalDevice(profile) as reference:
        for number in range(1 if inputs.given else runs):
            tries = inputs.feeds(seed + number)
            feeds, outputs = first_of(lambda feeds: reference.run(model, feeds), tries)
            theirs.append(outputs)
            ours.append(device.run(model, feeds))
    a, b = (np.concatenate(list(map(_flat, outputs))) for outputs in (ours, theirs))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else float(np.array_equal(a, b))


def _flat(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    parts = [np.zeros(0), *(array.ravel().astype(np.float64) for array in outputs.values())]
    return np.nan_to_num(np.concatenate(parts), nan=0.0, posinf=0.0, neginf=0.0)
