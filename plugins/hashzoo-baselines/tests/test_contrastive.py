"""CIBHash's loss against plain loops."""

import math

import pytest
import torch
from hashzoo_baselines.contrastive import CIBHash, view_contrast, view_divergence
from hashzoo_baselines.quantizers import Bernoulli

from hashzoo import HashOutput, Loss
from hashzoo.testing import Subject, parametrize_with_checks


@parametrize_with_checks([Subject("loss", "hashzoo-baselines/cibhash")])
def test_conforms(check):
    check()


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def contrast_reference(codes, temperature):
    """Mean over all items of -log exp(s(i, partner)) / sum over j != i of exp(s(i, j)), s = cosine / temperature."""
    count = len(codes)

    def similarity(i, j):
        product = sum(x * y for x, y in zip(codes[i], codes[j], strict=True))
        return product / math.hypot(*codes[i]) / math.hypot(*codes[j]) / temperature

    value = 0.0
    for i in range(count):
        partner = i + count // 2 if i < count // 2 else i - count // 2
        among = sum(math.exp(similarity(i, j)) for j in range(count) if j != i)
        value -= math.log(math.exp(similarity(i, partner)) / among)
    return value / count


def divergence_reference(u):
    """Mean over images of the sum over bits of (KL(p || q) + KL(q || p)) / 2, from the probabilities."""
    half = len(u) // 2
    value = 0.0
    for first, second in zip(u[:half], u[half:], strict=True):
        for a, b in zip(first, second, strict=True):
            p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
            forth = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            back = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
            value += (forth + back) / 2
    return value / half


@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_terms(images, bits):
    u, codes = seeded(2 * images, bits), seeded(2 * images, bits, seed=1).tanh()
    loss = CIBHash(bits, 0)
    terms = loss(HashOutput(u=u, codes=codes), torch.zeros(2 * images))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "contrast": contrast_reference(codes.tolist(), 0.3),
            "divergence": 0.001 * divergence_reference(u.tolist()),
        },
        rel=1e-10,
        abs=1e-15,
    )


def test_options_scale_what_they_say():
    u, codes = seeded(6, 12), seeded(6, 12, seed=1)
    output, targets = HashOutput(u=u, codes=codes), torch.zeros(6)
    usual, other = (
        CIBHash(12, 0)(output, targets),
        CIBHash(12, 0, temperature=1.0, divergence_weight=0.003)(output, targets),
    )
    assert (other["divergence"] / usual["divergence"]).item() == pytest.approx(3)
    assert other["contrast"].item() == pytest.approx(contrast_reference(codes.tolist(), 1.0))


def test_gradient():
    u = seeded(6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: view_contrast(u.tanh(), 0.3) + view_divergence(u), (u,))


def test_one_image_has_no_contrast():
    u = seeded(2, 12).requires_grad_()
    terms = CIBHash(12, 0)(HashOutput(u=u, codes=u.tanh()), torch.zeros(2))
    assert terms["contrast"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert u.grad.isfinite().all()


def test_views_are_paired_across_the_halves():
    """Codes in the order a, b, a, b agree view by view; a, a, b, b do not."""
    a, b = torch.ones(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert view_contrast(torch.stack([a, b, a, b]), 0.3) < 0.1 < 3 < view_contrast(torch.stack([a, a, b, b]), 0.3)
    assert view_divergence(torch.stack([a, b, a, b])) == 0 < view_divergence(torch.stack([a, a, b, b]))


def test_order_of_images_and_of_views_does_not_matter():
    u = seeded(8, 12)
    wanted = [view_contrast(u, 0.3), view_divergence(u)]
    for order in ([4, 5, 6, 7, 0, 1, 2, 3], [2, 0, 3, 1, 6, 4, 7, 5]):
        torch.testing.assert_close([view_contrast(u[order], 0.3), view_divergence(u[order])], wanted)


def test_large_u_stays_finite():
    u = (seeded(4, 12).float() * 1000).requires_grad_()
    torch.manual_seed(0)
    terms = CIBHash(12, 0)(HashOutput(u=u, codes=Bernoulli()(u)), torch.zeros(4))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite()
    assert u.grad.isfinite().all()


def test_targets_are_ignored_and_two_views_asked_for():
    loss, output = CIBHash(12, 3, multi_label=True), HashOutput(u=seeded(4, 12), codes=seeded(4, 12))
    one, two = loss(output, torch.tensor([0, 1, 0, 1])), loss(output, torch.eye(4, 3))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert isinstance(loss, Loss)
    assert CIBHash.views == 2
