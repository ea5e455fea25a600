"""Second-order DARTS: the gradient through one unrolled step of the weights.

DARTS (arXiv 1806.09055), equations 7 and 8. With g = d L_train / d w and
w' = w - xi (mu m + g + wd w):

    d L_val(w', alpha) / d alpha - xi (d2 L_train(w) / d alpha d w) v,   v = d L_val(w') / d w',

the product by a central difference of d L_train / d alpha at w +- R v, R = 0.01 / |v|. xi is the
current learning rate of the weights. Gradients towards the weights are computed twice, not four
times: the two shifted evaluations need only those towards the architecture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factory.search.gradient import Batch, BilevelProblem, central_difference, gradients, moved

RADIUS = 0.01


def second_order(
    problem: BilevelProblem, validation: Batch, training: Batch
) -> tuple[Tensor, list[Tensor]]:
    """Validation loss after the unrolled step, and the gradient through that step."""
    weights, arch = list(problem.weight_parameters), list(problem.arch_parameters)
    settings = problem.settings
    step = gradients(problem.loss(training, detach_arch=True), weights)
    with torch.no_grad():
        for i, (weight, momentum) in enumerate(zip(weights, problem.weight_momenta(), strict=True)):
            step[i] = step[i] + settings.weight_decay * weight
            if momentum is not None:
                step[i] = step[i] + settings.momentum * momentum
    with moved(weights, step, -settings.weight_lr):
        loss = problem.loss(validation)
        grads = gradients(loss, arch + weights)
    direct, v = grads[: len(arch)], grads[len(arch) :]
    if settings.weight_lr == 0.0:
        return loss.detach(), direct
    product = central_difference(
        lambda: gradients(problem.loss(training), arch), weights, v, RADIUS
    )
    return loss.detach(), [d - settings.weight_lr * p for d, p in zip(direct, product, strict=True)]
