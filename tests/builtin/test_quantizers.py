"""Quantizers: what goes forward, what comes back, and that evaluation is u >= 0 exactly."""

import math

import pytest
import torch

from hashzoo import ConfigError, Quantizer
from hashzoo.builtin.quantizers import Sign, Tanh, sign
from hashzoo.registry import registry

EDGES = [-torch.inf, -3.0, -1.0, -0.5, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0, 3.0, torch.inf]
CODES = [-1.0] * 5 + [1.0] * 7  # -0.0 is a zero: +1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sign_of_zero_is_plus_one(dtype):
    made = sign(torch.tensor([-2.0, -0.5, -0.0, 0.0, 0.5, 2.0], dtype=dtype))
    assert made.tolist() == [-1, -1, 1, 1, 1, 1]
    assert made.dtype == dtype


@pytest.mark.parametrize("quantizer", [Sign("hard-tanh"), Sign("identity"), Tanh(), Tanh(10.0), Tanh(1.0, 10.0)])
def test_evaluation_is_the_sign(quantizer):
    quantizer.eval()
    finite = torch.tensor([EDGES[1:-1]])
    assert quantizer(finite).tolist() == [CODES[1:-1]]
    u = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    codes = quantizer(u)
    assert torch.equal(codes > 0, u >= 0)
    assert torch.equal(codes.abs(), torch.ones_like(u))
    assert torch.equal(quantizer(u[5:6]), codes[5:6])  # each row depends on itself alone


@pytest.mark.parametrize("quantizer", [Sign("hard-tanh"), Sign("identity"), Tanh()])
def test_evaluation_of_infinity(quantizer):
    assert quantizer.eval()(torch.tensor([EDGES])).tolist() == [CODES]


U = [-2.0, -1.0, -0.999, -0.5, -0.0, 0.0, 0.5, 1.0, 1.001, 7.0]
UPSTREAM = [1.0, -2.0, 3.0, 4.0, 5.0, -6.0, 7.0, 8.0, 9.0, -10.0]


@pytest.mark.parametrize(
    ("gradient", "passed"), [("hard-tanh", [0, 1, 1, 1, 1, 1, 1, 1, 0, 0]), ("identity", [1] * 10)]
)
def test_sign_gradient_goes_straight_through(gradient, passed):
    u = torch.tensor(U, dtype=torch.float64, requires_grad=True)
    codes = Sign(gradient).train()(u)
    assert codes.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1]
    codes.backward(torch.tensor(UPSTREAM, dtype=torch.float64))
    assert u.grad.tolist() == [g * p for g, p in zip(UPSTREAM, passed, strict=True)]


def test_sign_is_exact_in_training():
    u = torch.randn(1000, 12, generator=torch.Generator().manual_seed(0)) * 100
    for gradient in ("hard-tanh", "identity"):
        assert torch.equal(Sign(gradient)(u), torch.where(u >= 0, 1.0, -1.0))


def test_sign_default_is_hard_tanh():
    u = torch.tensor([3.0], requires_grad=True)
    Sign()(u).backward(torch.ones(1))
    assert u.grad.item() == 0


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_tanh_in_training(beta):
    quantizer = Tanh(beta)
    values = [-2.0, -0.3, 0.0, 0.1, 1.5]
    u = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    made = quantizer(u)
    made.sum().backward()
    assert made.tolist() == pytest.approx([math.tanh(beta * x) for x in values], rel=1e-14)
    assert u.grad.tolist() == pytest.approx([beta * (1 - math.tanh(beta * x) ** 2) for x in values], rel=1e-12)
    assert torch.autograd.gradcheck(quantizer, (u,))


def test_tanh_continuation_goes_in_a_line():
    quantizer = Tanh(1.0, 10.0)
    u = torch.tensor([[0.2]], dtype=torch.float64)
    for progress, beta in [(None, 1.0), (0.0, 1.0), (0.25, 3.25), (0.5, 5.5), (1.0, 10.0)]:
        if progress is not None:
            quantizer.set_progress(progress)
        assert quantizer(u).item() == pytest.approx(math.tanh(beta * 0.2), rel=1e-14)
    assert quantizer.eval()(u).item() == 1


def test_tanh_without_end_keeps_its_slope():
    quantizer = Tanh(2.0)
    quantizer.set_progress(1.0)
    assert quantizer(torch.tensor([0.2], dtype=torch.float64)).item() == pytest.approx(math.tanh(0.4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sign("straight"), r"gradient is 'hard-tanh' or 'identity', not 'straight'"),
        (lambda: Sign(None), r"not None"),
        (lambda: Tanh(0.0), r"0 < beta <= beta_end, not beta=0\.0"),
        (lambda: Tanh(-1.0), r"beta=-1\.0"),
        (lambda: Tanh(2.0, 1.0), r"beta=2\.0, beta_end=1\.0"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_registered_under_their_names():
    assert isinstance(registry().build("quantizer", "sign", gradient="identity"), Sign)
    assert isinstance(registry().build("quantizer", "tanh", beta_end=4.0), Tanh)
    assert isinstance(Sign(), Quantizer)
