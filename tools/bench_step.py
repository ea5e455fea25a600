"""Time and memory of one search step, ours beside the reference code, in turn.

A step moves the architecture once (first order or unrolled) and the weights once. Both sides get
the same weights and pictures; what they compute is compared before it is timed. Peak memory is
that of a child process that takes two steps. Needs checkouts of the reference code:
    python tools/bench_step.py --darts darts --pc-darts PC-DARTS --unrolled --out step.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from reference_supernets import ReferenceStep, copy_weights
from torch import Tensor, nn

from factory.core.files import write_json
from factory.devices.start_up import peak_bytes
from factory.search.axes import GRADIENTS
from factory.search.gradient import Batch, EstimateSettings, gradients
from factory.search.relaxation import ArchParameters
from factory.spaces.cell_space import CellSpace
from factory.spaces.cell_supernet import Supernet
from factory.spaces.network_spec import NetworkSpec

CLASSES = 10
SETTINGS = argparse.Namespace(  # published; the architecture's rate is the PC-DARTS code's
    learning_rate=0.025,
    momentum=0.9,
    weight_decay=3e-4,
    grad_clip=5.0,
    arch_learning_rate=6e-4,
    arch_weight_decay=1e-3,
)
TARGETS = {"darts": 4.0, "pc-darts": 3.0, "darts unrolled": 2.0}


class OurStep:
    """The same step with the supernet, relaxation and gradients of factory.search."""

    def __init__(self, spec: NetworkSpec, partial: int) -> None:
        self.net = Supernet(spec, partial, seed=0)
        self.arch = ArchParameters(CellSpace(spec), seed=0, edge_normalisation=partial > 1)
        self.weight_parameters = list(self.net.parameters())
        self.arch_parameters = self.arch.trainable()
        s = SETTINGS
        self.weight_optimizer = torch.optim.SGD(
            self.weight_parameters, s.learning_rate, s.momentum, weight_decay=s.weight_decay
        )
        self.arch_optimizer = torch.optim.Adam(
            self.arch_parameters,
            s.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=s.arch_weight_decay,
        )

    def loss(self, batch: Batch, *, detach_arch: bool = False) -> Tensor:
        """Cross-entropy, as factory.search.bilevel computes it."""
        return F.cross_entropy(self.net(batch[0], self.arch.mixing(detach_arch)), batch[1])

    @property
    def settings(self) -> EstimateSettings:
        """xi is the weights' learning rate."""
        s = SETTINGS
        return EstimateSettings(s.learning_rate, s.momentum, s.weight_decay)

    def weight_momenta(self) -> list[Tensor | None]:
        """SGD's momentum buffers."""
        state = self.weight_optimizer.state
        return [state.get(p, {}).get("momentum_buffer") for p in self.weight_parameters]

    def __call__(self, training: Batch, validation: Batch, unrolled: bool) -> float:
        """The step as factory.search.bilevel takes it; the training loss."""
        estimate = GRADIENTS.get("second_order" if unrolled else "first_order").load()
        _, grads = estimate(self, validation, training)
        for parameter, grad in zip(self.arch_parameters, grads, strict=True):
            parameter.grad = grad
        self.arch_optimizer.step()
        loss = self.loss(training, detach_arch=True)
        grads = gradients(loss, self.weight_parameters)
        for parameter, grad in zip(self.weight_parameters, grads, strict=True):
            parameter.grad = grad
        nn.utils.clip_grad_norm_(self.weight_parameters, SETTINGS.grad_clip)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def batches(args: argparse.Namespace) -> tuple[Batch, Batch]:
    """Random pictures: (training, validation)."""
    generator = torch.Generator().manual_seed(0)
    found = [
        (
            torch.randn(args.batch, 3, args.size, args.size, generator=generator),
            torch.randint(0, CLASSES, (args.batch,), generator=generator),
        )
        for _ in range(2)
    ]
    return found[0], found[1]


def build(side: str, method: str, args: argparse.Namespace) -> Callable[..., float]:
    """The step of one side ("ours" or "reference") of a method ("darts" or "pc-darts")."""
    torch.manual_seed(0)
    if side == "reference":
        checkout = args.darts if method == "darts" else args.pc_darts
        return ReferenceStep(checkout, args.channels, args.layers, CLASSES, SETTINGS)
    spec = NetworkSpec(args.channels, args.layers, "cifar", (3, args.size, args.size), CLASSES)
    return OurStep(spec, 1 if method == "darts" else 4)


def same_mathematics(ours: Any, reference: Any, data: tuple[Batch, Batch]) -> dict[str, float]:
    """Largest differences of loss and gradients at the same weights, relative to the largest.

    In double precision; both sides are in it afterwards.
    """
    copy_weights(reference.net, ours.net)
    ours.net.double()
    reference.net.double()
    theirs = list(reference.net.arch_parameters())
    with torch.no_grad():
        pairs = zip([*ours.arch.alpha.values(), *ours.arch.beta.values()], theirs, strict=False)
        for mine, other in pairs:
            mine.copy_(other)
    for parameter in (*theirs, *ours.arch.parameters()):
        parameter.data = parameter.data.double()
    x, y = data[0][0].double(), data[0][1]
    expected = F.cross_entropy(reference.net(x), y)
    found = ours.loss((x, y))
    wanted = [*theirs, reference.net.stem[0].weight, reference.net.classifier.weight]
    their_grads = torch.autograd.grad(expected, wanted)
    mine = [*ours.arch.alpha.values(), *ours.arch.beta.values()][: len(theirs)]
    our_grads = torch.autograd.grad(
        found, [*mine, ours.net.stem.weights[0], ours.net.classifier_weight]
    )
    names = ["alpha normal", "alpha reduce", "beta normal", "beta reduce"][: len(theirs)]
    result = {"loss": float(abs(found - expected).detach() / expected.detach())}
    for name, a, b in zip([*names, "stem", "classifier"], our_grads, their_grads, strict=True):
        result[name] = float((a - b).abs().max() / b.abs().max())
    return {name: float(f"{value:.2g}") for name, value in result.items()}


def child(args: argparse.Namespace) -> None:
    """Two steps of one side in this process; its peak memory in MB, and that before the first."""
    side, method, order = args.child.split(",")
    step, data = build(side, method, args), batches(args)
    before = peak_mb()
    for _ in range(2):
        step(*data, unrolled=order == "unrolled")
    print(json.dumps({"peak_mb": round(peak_mb()), "before_mb": round(before)}))


def peak_mb() -> float:
    """Largest resident memory of this very process, in MB (rusage would give its parent's)."""
    return (peak_bytes() or 0) / 2**20


def peak_memory(side: str, method: str, order: str) -> dict[str, int]:
    """Peak memory of a fresh process (see :func:`child`)."""
    command = [sys.executable, *sys.argv, "--child", f"{side},{method},{order}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(method: str, unrolled: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Medians of both sides in turn, ratios of pairs, memory and the check of the mathematics."""
    order = "unrolled" if unrolled else "first"
    sides = ("reference", "ours")
    memory = {} if args.no_memory else {side: peak_memory(side, method, order) for side in sides}
    data = batches(args)
    steps = {side: build(side, method, args) for side in sides}
    difference = same_mathematics(steps["ours"], steps["reference"], data)
    steps = {side: build(side, method, args) for side in sides}
    times: dict[str, list[float]] = {side: [] for side in steps}
    losses = {side: [step(*data, unrolled=unrolled)] for side, step in steps.items()}  # warm-up
    for _ in range(args.rounds):
        for side, step in steps.items():
            start = time.perf_counter()
            losses[side].append(step(*data, unrolled=unrolled))
            times[side].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(times["reference"], times["ours"], strict=True)]
    result: dict[str, Any] = {
        "median_step_ms": {k: round(1e3 * statistics.median(t), 1) for k, t in times.items()},
        "speedup": round(statistics.median(ratios), 2),
        "speedup_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "relative_difference": difference,
        "losses": {k: [round(v, 5) for v in t] for k, t in losses.items()},
        "memory": memory,
    }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--darts", type=Path, help="checkout of github.com/quark0/darts")
    parser.add_argument("--pc-darts", type=Path, help="checkout of github.com/yuhuixu1993/PC-DARTS")
    parser.add_argument("--unrolled", action="store_true", help="DARTS's unrolled step as well")
    parser.add_argument("--only-unrolled", action="store_true")
    for name, default in (("channels", 16), ("layers", 8), ("batch", 16), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args)
        return
    wanted = []
    if args.darts and not args.only_unrolled:
        wanted.append(("darts", False))
    if args.darts and (args.unrolled or args.only_unrolled):
        wanted.append(("darts", True))
    if args.pc_darts and not args.only_unrolled:
        wanted.append(("pc-darts", False))
    if not wanted:
        parser.error("give --darts and/or --pc-darts, checkouts of the reference code")
    results: dict[str, Any] = {}
    for method, unrolled in wanted:
        name = f"{method} unrolled" if unrolled else method
        found = results[name] = compare(method, unrolled, args)
        ms, peak = found["median_step_ms"], found["memory"]
        print(
            f"{name}: reference {ms['reference']:.0f} ms, ours {ms['ours']:.0f} ms, "
            f"{found['speedup']:.2f} times faster ({found['speedup_range'][0]:.2f} to "
            f"{found['speedup_range'][1]:.2f}; target {TARGETS[name]:.0f})"
        )
        for side, values in peak.items():
            print(f"  peak memory {side}: {values['peak_mb']} MB ({values['before_mb']} before)")
        print(f"  relative differences: {found['relative_difference']}")
    if args.out:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        settings |= {"torch": torch.__version__, "processor": platform.processor()}
        write_json(args.out, {"schema_version": 1, "settings": settings, "results": results})


if __name__ == "__main__":
    main()
