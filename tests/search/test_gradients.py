"""Estimates of the architecture's gradient against autograd, on problems small enough for it."""

from __future__ import annotations

import dataclasses

import pytest
import search_tiny as tiny
import torch
import torch.nn.functional as F

from factory.search.amended import amended
from factory.search.gradient import EstimateSettings, first_order, moved
from factory.search.hessian import largest_eigenvalue
from factory.search.problem import StageProblem
from factory.search.schedule import Stage
from factory.search.unrolled import second_order

TRAIN, VALID = (torch.zeros(()), torch.zeros(())), (torch.ones(()), torch.zeros(()))


class Toy:
    """Two smooth losses of weights and architecture; ``quadratic`` or a small network."""

    def __init__(self, quadratic: bool, condition: float = 10.0, seed: int = 0, size: int = 6):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        self.quadratic = quadratic
        basis = torch.linalg.qr(draw(size, size))[0]
        values = torch.logspace(0, torch.log10(torch.tensor(condition)), size).double()
        self.hessian = basis @ torch.diag(values) @ basis.T
        self.mix, self.goal, self.slope = draw(size, size), draw(size), draw(size)
        self.x, self.y = draw(12, size), draw(12)
        self.weight_parameters = [draw(size).requires_grad_()]
        self.arch_parameters = [draw(size).requires_grad_()]
        self.momentum = [draw(size)]
        self.settings = EstimateSettings(0.05, 0.9, 3e-4, 0.1)

    def weight_momenta(self):
        return self.momentum

    def value(self, w, a, training):
        if self.quadratic:
            if training:
                away = w - self.mix @ a
                return 0.5 * away @ self.hessian @ away
            return 0.5 * (w - self.goal).square().sum() + self.slope @ a
        target = self.y if training else self.y.flip(0)
        out = torch.tanh(self.x * torch.sigmoid(a)) @ torch.tanh(w)
        return (out - target).square().mean()

    def loss(self, batch, *, detach_arch=False):
        a = self.arch_parameters[0]
        training = not bool(batch[0])
        return self.value(self.weight_parameters[0], a.detach() if detach_arch else a, training)


@pytest.mark.parametrize(("quadratic", "tolerance"), [(True, 1e-8), (False, 2e-3)])
def test_unrolled_is_the_derivative_of_the_unrolled_step(quadratic, tolerance):
    toy = Toy(quadratic)
    w, a = toy.weight_parameters[0].detach().requires_grad_(), toy.arch_parameters[0]
    g = torch.autograd.grad(toy.value(w, a, True), w, create_graph=True)[0]
    s = toy.settings
    stepped = w - s.weight_lr * (s.momentum * toy.momentum[0] + g + s.weight_decay * w)
    wanted_loss = toy.value(stepped, a, False)
    wanted = torch.autograd.grad(wanted_loss, a)[0]
    before = toy.weight_parameters[0].detach().clone()
    loss, (found,) = second_order(toy, VALID, TRAIN)
    torch.testing.assert_close(loss, wanted_loss.detach())
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    assert torch.equal(toy.weight_parameters[0].detach(), before)  # put back exactly


def _amended_by_autograd(toy):
    w, a = toy.weight_parameters[0].detach().requires_grad_(), toy.arch_parameters[0]
    direct, v = torch.autograd.grad(toy.value(w, a, False), [a, w])
    g = torch.autograd.grad(toy.value(w, a, True), w, create_graph=True)[0]
    u = torch.autograd.grad(g, w, v, retain_graph=True)[0]
    return direct - toy.settings.amended_eta * torch.autograd.grad(g, a, u)[0]


@pytest.mark.parametrize(("quadratic", "tolerance"), [(True, 1e-8), (False, 2e-3)])
def test_amended_products_are_those_of_autograd(quadratic, tolerance):
    toy = Toy(quadratic)
    _, (found,) = amended(toy, VALID, TRAIN)
    torch.testing.assert_close(found, _amended_by_autograd(toy), rtol=tolerance, atol=tolerance)


def test_angle_of_the_amended_gradient_is_logged_not_assumed(record_property):
    """Share of random quadratics where the amended term points into the true one's half space."""
    shares = {}
    for condition in (10.0, 1000.0):
        cosines = []
        for seed in range(100):
            toy = Toy(True, condition, seed)
            w, a = (
                p[0].detach().requires_grad_() for p in (toy.weight_parameters, toy.arch_parameters)
            )
            v = torch.autograd.grad(toy.value(w, a, False), w)[0]
            cross = -toy.mix.T @ toy.hessian  # d2 L_train / d alpha d w
            true = -cross @ torch.linalg.solve(toy.hessian, v)
            _, (direct,) = first_order(toy, VALID, TRAIN)
            _, (estimate,) = amended(toy, VALID, TRAIN)
            cosines.append(float(F.cosine_similarity(estimate - direct, true, dim=0)))
        shares[condition] = sum(c > 0 for c in cosines) / len(cosines)
        record_property(f"cosine_at_{condition:g}", sorted(cosines)[len(cosines) // 2])
        print(
            f"condition {condition:g}: below 90 degrees in {shares[condition]:.0%}, "
            f"median cosine {sorted(cosines)[len(cosines) // 2]:.2f}, least {min(cosines):.2f}"
        )
    assert shares[10.0] > shares[1000.0] > 0


def _supernet_problem(**settings):
    cfg = tiny.tiny_config(warmup_epochs=0, **settings)
    problem = StageProblem(
        tiny.CellSpace(tiny.SPEC), cfg, Stage(0, 0, 9, 3), 0, 1, torch.device("cpu")
    )
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 8, 8, generator=g)
    batch = (x, torch.arange(8) % 3)
    return problem, batch, (x.flip(0), batch[1])


def test_eta_zero_and_a_step_of_zero_are_first_order_exactly():
    problem, valid, train = _supernet_problem()
    wanted_loss, wanted = first_order(problem, valid, train)
    for estimate in (amended, second_order):
        problem.settings = dataclasses.replace(problem.settings, amended_eta=0.0, weight_lr=0.0)
        loss, found = estimate(problem, valid, train)
        assert torch.equal(loss, wanted_loss)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_estimates_on_a_supernet_are_finite_leave_the_weights_and_differ():
    problem, valid, train = _supernet_problem()
    problem.settings = EstimateSettings(0.1, 0.9, 3e-4, 0.1)
    before = [p.detach().clone() for p in problem.weight_parameters]
    plain = first_order(problem, valid, train)[1]
    for estimate in (amended, second_order):
        found = estimate(problem, valid, train)[1]
        assert all(bool(torch.isfinite(g).all()) for g in found)
        assert any(not torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, problem.weight_parameters, strict=True))


def test_values_come_back_even_after_an_error():
    p = torch.randn(3, requires_grad=True)
    before = p.detach().clone()
    with pytest.raises(RuntimeError), moved([p], [torch.ones(3)], 0.1):
        raise RuntimeError
    assert torch.equal(p.detach(), before)


def test_largest_eigenvalue_of_a_known_hessian():
    class Bowl:
        def __init__(self):
            self.arch_parameters = [torch.zeros(4, dtype=torch.float64, requires_grad=True)]

        def loss(self, batch, *, detach_arch=False):
            scales = torch.tensor([1.0, -7.0, 3.0, 0.5], dtype=torch.float64)
            return 0.5 * (scales * self.arch_parameters[0].square()).sum()

    assert largest_eigenvalue(Bowl(), VALID) == pytest.approx(-7.0, rel=1e-2)
