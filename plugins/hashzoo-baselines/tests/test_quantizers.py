"""Quantizers in training against plain loops; the kit holds them to the sign in evaluation."""

import math

import pytest
import torch
from hashzoo_baselines.quantizers import Bernoulli, BiHalf, Clamp

from hashzoo import sign
from hashzoo.testing import Subject, parametrize_with_checks


@parametrize_with_checks(
    [Subject("quantizer", f"hashzoo-baselines/{name}") for name in ("bihalf", "bernoulli", "clamp")]
)
def test_conforms(check):
    check()


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def halves_reference(u):
    """By bit: +1 to the items of the upper half, -1 to the lower, the sign to the middle one of an odd batch."""
    count, bits = len(u), len(u[0])
    codes = [[0.0] * bits for _ in range(count)]
    for k in range(bits):
        order = sorted(range(count), key=lambda i: (-u[i][k], i))
        for place, i in enumerate(order):
            if place < count // 2:
                codes[i][k] = 1.0
            elif place >= count - count // 2:
                codes[i][k] = -1.0
            else:
                codes[i][k] = 1.0 if u[i][k] >= 0 else -1.0
    return codes


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_bihalf(count, shift):
    u = seeded(count, 12) + shift
    made = BiHalf()(u)
    assert made.tolist() == halves_reference(u.tolist())
    assert made.sum(0).abs().max() == count % 2


def test_bihalf_s_equals_are_halved_by_place():
    assert BiHalf()(torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])).tolist() == [
        [1, 1],
        [1, 1],
        [-1, -1],
        [-1, -1],
    ]
    same = torch.zeros(1000, 1)  # an unstable sort would mix them
    assert torch.equal(BiHalf()(same).flatten(), torch.ones(1000).index_fill(0, torch.arange(500, 1000), -1.0))


@pytest.mark.parametrize(("options", "gamma"), [({}, 3.0), ({"gamma": 0.0}, 0.0), ({"gamma": 6.0}, 6.0)])
def test_bihalf_s_gradient(options, gamma):
    u, upstream = seeded(5, 4).requires_grad_(), seeded(5, 4, seed=1)
    codes = BiHalf(**options)(u)
    codes.backward(upstream)
    for i in range(5):
        for k in range(4):
            wanted = upstream[i, k] + gamma * (u[i, k] - codes[i, k]) / 20
            assert u.grad[i, k].item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("quantizer", [BiHalf(), Bernoulli(), Clamp()])
def test_evaluation_sees_neither_batch_nor_chance(quantizer):
    u = seeded(9, 12) + 2
    u[0, :2] = torch.tensor([0.0, -0.0])
    whole = quantizer.eval()(u)
    assert torch.equal(whole, sign(u))
    assert torch.equal(torch.cat([quantizer(row[None]) for row in u]), whole)
    quantizer.train()


def test_bernoulli_s_chance():
    """Over 20,000 draws the share of +1 is sigmoid(u), to 5 standard deviations."""
    torch.manual_seed(0)
    for u in (-2.0, -0.5, 0.0, 1.0, 3.0):
        made = Bernoulli()(torch.full((20_000, 1), u))
        assert made.abs().eq(1).all()
        p = 1 / (1 + math.exp(-u))
        assert made.eq(1).double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000))


def test_bernoulli_draws_each_bit_for_itself():
    torch.manual_seed(0)
    made = Bernoulli()(torch.zeros(20_000, 3))
    assert (made.T @ made / 20_000 - torch.eye(3)).abs().max() < 5 / math.sqrt(20_000)


def test_bernoulli_s_gradient_is_its_mean_s():
    u, upstream = seeded(5, 4).requires_grad_(), seeded(5, 4, seed=1)
    Bernoulli()(u).backward(upstream)
    for i in range(5):
        for k in range(4):
            p = 1 / (1 + math.exp(-u[i, k].item()))
            assert u.grad[i, k].item() == pytest.approx(upstream[i, k].item() * 2 * p * (1 - p))


def test_clamp():
    u = torch.tensor([[-3.0, -1.0, -0.25, 0.0, 0.5, 7.0]], requires_grad=True)
    codes = Clamp()(u)
    assert codes.tolist() == [[-1, -1, -0.25, 0, 0.5, 1]]
    codes.sum().backward()
    assert u.grad[0, [0, 2, 3, 4, 5]].tolist() == [0, 1, 1, 1, 0]
