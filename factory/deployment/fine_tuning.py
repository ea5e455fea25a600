"""Quantisation-aware fine-tuning by torchao: the last thing the int8 gate tries.

The network trains on for some hundred steps with every tensor rounded as the int8 file will round
it, gradients passed straight through (Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877; batch normalisation folded in
training as there). Its statistics stay as they are, and the answers of the network before are part
of the loss (distillation, arXiv 1503.02531), so that it stays the same classifier:

    loss = (1 - w) CE(logits, labels) + w KL(softmax(fp32 logits) || softmax(logits))

What comes back is the same network with other weights. It is exported, calibrated and judged as
every other one, so that no number of the training's observers is trusted.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.deployment.flavours import Flavour
from factory.deployment.quiet import silenced

Batch = Callable[[int], tuple[Tensor, Tensor]]
BATCH_SIZE = 32
DISTILLATION = 0.5
LEARNING_RATE = 1e-3
HOW_TO_GET = "install it with `pip install 'model-factory[qat]'`"

WEIGHTED = {"conv1d", "conv2d", "linear"}
QUANTISED = WEIGHTED | {
    "batch_norm", "add", "mul", "cat", "mean", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d",
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu",
}  # fmt: skip
ABSORBED_BY = {"batch_norm", "relu", "relu6", "hardtanh"}  # one kernel with what feeds them


@dataclass(frozen=True)
class Rounding:
    """How an int8 file rounds, as far as it matters in training."""

    activations: bool = True
    activations_symmetric: bool = False
    per_channel: bool = True
    weight_bits: int = 8

    @classmethod
    def of(cls, flavour: Flavour, reduce_range: bool) -> Rounding:
        """The rounding of files of that flavour."""
        return cls(
            activations=flavour.activation != "none",
            activations_symmetric=flavour.activation_symmetric,
            per_channel=flavour.per_channel,
            weight_bits=7 if reduce_range else 8,
        )


@dataclass(frozen=True)
class Trainable:
    """A torch network and the pictures that it can be trained on; ``batch`` as in fine_tune."""

    network: nn.Module
    batch: Batch
    seed: int = 0


@dataclass(frozen=True)
class FineTuned:
    """A network after fine-tuning and what was done."""

    network: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)


def missing() -> str:
    """Why nothing can be fine-tuned here; "" when it can."""
    return "" if importlib.util.find_spec("torchao") else f"torchao is not there; {HOW_TO_GET}"


def fine_tune(
    network: nn.Module,
    batch: Batch,
    rounding: Rounding,
    *,
    steps: int,
    lr: float = LEARNING_RATE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> FineTuned:
    """``network`` after ``steps`` steps of Adam with simulated rounding; the argument is unchanged.

    Args:
        network: returns logits in evaluation mode.
        batch: normalised float pictures [N,C,H,W] and labels [N] of step 0, 1, ...
        rounding: what is simulated.
        steps: of training; the learning rate falls as a cosine.
        lr: the first learning rate.
        seed: of whatever the network itself draws.
        progress: where it reports.

    Raises:
        InputError: torchao is not there, or torch cannot trace the network.
    """
    why = missing()
    if why:
        raise InputError("quantisation-aware fine-tuning is not possible here", why=why)
    started = time.monotonic()
    teacher = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    pupil = copy.deepcopy(teacher).requires_grad_(True)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        prepared = _prepared(pupil, batch(0)[0], rounding)
        losses = _train(prepared, teacher, batch, steps, lr, progress)
    known = pupil.state_dict()
    learned = {k: v.detach() for k, v in prepared.state_dict().items() if k in known}
    absent = sorted({name for name, _ in pupil.named_parameters()} - set(learned))
    if absent:
        raise InputError(
            "fine-tuning lost a weight of the network",
            why=f"{absent[0]} is not in the traced graph",
            fix="export without fine-tuning",
        )
    pupil.load_state_dict({**known, **learned})
    last = losses[-max(1, len(losses) // 10) :]
    facts = {
        "steps": steps,
        "learning_rate": lr,
        "weight_bits": rounding.weight_bits,
        "first_loss": round(losses[0], 5),
        "last_loss": round(sum(last) / len(last), 5),
        "training_seconds": round(time.monotonic() - started, 3),
        "by": f"torchao {_version()}",
    }
    return FineTuned(pupil.requires_grad_(False).eval(), facts)


def tuned_onnx(
    trainable: Trainable,
    like: onnx.ModelProto,
    rounding: Rounding,
    steps: int,
    progress: Progress = SILENT,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The fp32 model of the fine-tuned network, rewritten and described as ``like``, and the facts.

    Args:
        trainable: network and pictures.
        like: the fp32 model of the network as it was, with its metadata; passes that were chosen
            for a chip and are named there are applied again.
        rounding, steps: of the training.
        progress: where it reports.
    """
    from factory.deployment.export import build_onnx
    from factory.deployment.selection import MEASURED_PASSES, rewrite

    tuned = fine_tune(
        trainable.network,
        trainable.batch,
        rounding,
        steps=steps,
        seed=trainable.seed,
        progress=progress,
    )
    dims = [d.dim_value for d in like.graph.input[0].type.tensor_type.shape.dim]
    model = build_onnx(tuned.network, (dims[1], dims[2], dims[3]))
    props = {p.key: p.value for p in like.metadata_props}
    kept = set(props.get("passes", "").split())
    for one_pass in MEASURED_PASSES:
        if one_pass.__name__ in kept:
            model = rewrite(model, one_pass) or model
    onnx.helper.set_model_props(model, props | {"fine_tuned": f"{steps} steps for int8"})
    model.graph.name = like.graph.name
    return model, tuned.facts


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _prepared(network: nn.Module, example: Tensor, rounding: Rounding) -> nn.Module:
    """The traced network with a rounding step after every tensor that the file quantises."""
    with silenced() as said:
        try:
            from torchao.quantization.pt2e import move_exported_model_to_eval
            from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

            count = torch.export.Dim("pictures", min=1, max=1 << 16)
            shapes = ({0: count},)
            example = torch.cat([example, example]) if len(example) == 1 else example
            traced = torch.export.export(network, (example,), dynamic_shapes=shapes).module()
            prepared: nn.Module = prepare_qat_pt2e(traced, _quantizer(rounding))
            # Its batch normalisations take each batch's statistics otherwise, which hides rounding.
            move_exported_model_to_eval(prepared)
        except Exception as error:
            raise InputError(
                f"the network {type(network).__name__} cannot be fine-tuned for int8",
                why=" ".join(str(error).split())[:300] or said.tail(),
            ) from error
    return prepared


def _quantizer(rounding: Rounding) -> Any:
    """Annotates what ONNX Runtime's quantiser would round; torchao inserts the rounding."""
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e import quantizer as parts

    # The package of its names differs between releases; the key itself does not.
    key = "quantization_annotation"

    def spec(dtype: Any, low: int, high: int, scheme: Any, observer: Any, **more: Any) -> Any:
        rounded = pt2e.FusedMovingAvgObsFakeQuantize.with_args(observer=observer)
        return parts.QuantizationSpec(
            dtype=dtype,
            quant_min=low,
            quant_max=high,
            qscheme=scheme,
            observer_or_fake_quant_ctr=rounded,
            **more,
        )

    top = 2 ** (rounding.weight_bits - 1) - 1
    if rounding.per_channel:
        observer = pt2e.MovingAveragePerChannelMinMaxObserver
        weight = spec(torch.int8, -top, top, torch.per_channel_symmetric, observer, ch_axis=0)
    else:
        observer = pt2e.MovingAverageMinMaxObserver
        weight = spec(torch.int8, -top, top, torch.per_tensor_symmetric, observer)
    activation = None
    if rounding.activations and rounding.activations_symmetric:
        observer = pt2e.MovingAverageMinMaxObserver
        activation = spec(torch.int8, -127, 127, torch.per_tensor_symmetric, observer)
    elif rounding.activations:
        observer = pt2e.MovingAverageMinMaxObserver
        activation = spec(torch.uint8, 0, 255, torch.per_tensor_affine, observer)

    class Everything(parts.Quantizer):
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                name = _op(node)
                if name not in QUANTISED:
                    continue
                inputs = {}
                if name in WEIGHTED:
                    inputs = {node.args[0]: activation, node.args[1]: weight}
                users = list(node.users)
                absorbed = len(users) == 1 and _op(users[0]) in ABSORBED_BY
                node.meta[key] = parts.QuantizationAnnotation(
                    input_qspec_map={k: v for k, v in inputs.items() if v is not None},
                    output_qspec=None if absorbed else activation,
                    _annotated=True,
                )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            """Nothing to refuse."""

    return Everything()


def _op(node: torch.fx.Node) -> str:
    """Name of the node's operator without its overload and the mark of in-place ones."""
    if node.op != "call_function":
        return ""
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def _train(
    prepared: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    steps: int,
    lr: float,
    progress: Progress,
) -> list[float]:
    """The loss of every step."""
    parameters = [p for p in prepared.parameters() if p.requires_grad]
    # What breaks in int8 is badly scaled; Adam's steps do not depend on a weight's scale.
    optimiser = torch.optim.Adam(parameters, lr=lr)
    losses = []
    with progress.task("quantisation-aware fine-tuning", total=steps) as task:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            x, labels = batch(step)
            with torch.no_grad():
                expected = functional.log_softmax(teacher(x), dim=1)
            logits = prepared(x)
            answers = functional.log_softmax(logits, dim=1)
            like_before = functional.kl_div(
                answers, expected, reduction="batchmean", log_target=True
            )
            right = functional.nll_loss(answers, labels)
            loss = (1 - DISTILLATION) * right + DISTILLATION * like_before
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise InputError(
                    f"fine-tuning for int8 diverged at step {step}", why=f"the rate was {lr:g}"
                )
            task.advance(note=f"loss {losses[-1]:.3f}")
    return losses
