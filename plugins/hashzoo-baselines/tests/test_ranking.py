"""DTSH against a loop over all triplets in plain Python."""

import math

import pytest
import torch
from hashzoo_baselines.ranking import DTSH

from hashzoo import HashOutput
from hashzoo.testing import Subject, parametrize_with_checks

SINGLE = {"mixed": [0, 2, 1, 0, 2, 0], "one-class": [1, 1, 1], "all-apart": [0, 1, 2], "one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {1}, {2}, set(), set()], "one-class": [{1}, {1, 2}], "one": [{0, 2}]}
CASES = [("single", case) for case in SINGLE] + [("multi", case) for case in MULTI]


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_targets(kind, case):
    """Sets of labels, and the same as a loss gets them."""
    if kind == "single":
        return [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    rows = MULTI[case]
    return rows, torch.tensor([[float(c in row) for c in range(3)] for row in rows], dtype=torch.float64)


def reference(rows, labels, margin=5.0):
    """The mean over triplets, and their number."""
    values, n = [], len(rows)

    def theta(i, j):
        return sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / 2

    for i in range(n):
        for p in range(n):
            for q in range(n):
                if i not in (p, q) and labels[i] & labels[p] and not labels[i] & labels[q]:
                    x = theta(i, p) - theta(i, q) - margin
                    values.append(-(x - math.log(1 + math.exp(x))))
    return sum(values) / max(1, len(values)), len(values)


@pytest.mark.parametrize("bits", [4, 12])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_terms(kind, case, bits):
    labels, targets = make_targets(kind, case)
    u = seeded(len(labels), bits)
    terms = DTSH(bits, 3, kind == "multi")(HashOutput(u=u, codes=u * 9), targets)
    triplet, number = reference(u.tolist(), labels)
    assert (number > 0) == (case == "mixed")
    penalty = [(x - (1 if x >= 0 else -1)) ** 2 for row in u.tolist() for x in row]
    wanted = {"triplet": triplet, "quantization": sum(penalty) / len(penalty)}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-9)


def test_options():
    labels, targets = make_targets("single", "mixed")
    u = seeded(6, 4)
    one, other = (
        DTSH(4, 3, **options)(HashOutput(u=u, codes=u), targets)
        for options in ({}, {"margin": 2.0, "quantization_weight": 0.5})
    )
    assert other["triplet"].item() == pytest.approx(reference(u.tolist(), labels, 2.0)[0])
    assert other["quantization"].item() == pytest.approx(0.5 * one["quantization"].item())


def test_gradient():
    loss, targets = DTSH(5, 3), torch.tensor([0, 1, 1, 2, 0])
    u = seeded(5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(loss(HashOutput(u=x, codes=x), targets).values()), (u,))


def test_batch_of_256():
    """Two classes make the most triplets, 256 * 127 * 128; where their codes agree or are opposite, all are alike."""
    loss, targets = DTSH(64, 2), torch.arange(256) % 2
    opposite = torch.where(targets[:, None] == 0, 1.0, -1.0).repeat(1, 64)
    for codes, wanted in [(opposite, 0.0), (torch.ones(256, 64), math.log(1 + math.exp(5)))]:
        value = loss(HashOutput(u=codes, codes=codes), targets)["triplet"]
        assert value.item() == pytest.approx(wanted, rel=1e-5, abs=1e-12)
    u = seeded(256, 64).float().requires_grad_()
    loss(HashOutput(u=u, codes=u), targets)["triplet"].backward()
    assert u.grad.isfinite().all() and u.grad.any(dim=1).all()


@parametrize_with_checks([Subject("loss", "dtsh")])
def test_conforms(check):
    check()
