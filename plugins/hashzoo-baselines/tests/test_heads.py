"""Heads against plain loops, numpy and the properties that define them."""

import math

import pytest
import torch
from hashzoo_baselines.heads import MLP, ClassLabel, LinearBN

from hashzoo import ConfigError
from hashzoo.testing import Subject, parametrize_with_checks


@parametrize_with_checks(
    [
        Subject("head", "hashzoo-baselines/linear-bn"),
        Subject("head", "hashzoo-baselines/mlp"),
        Subject("head", "hashzoo-baselines/mlp", {"hidden": 16}),
        Subject("head", "hashzoo-baselines/class-label"),
    ]
)
def test_conforms(check):
    check()


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def affine_reference(weight, bias, row):
    return [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]


def pooled_reference(image):
    """Mean over the positions of (D, H, W)."""
    return [sum(x for line in channel for x in line) / sum(len(line) for line in channel) for channel in image]


def test_linear_bn():
    torch.manual_seed(0)
    head = LinearBN((6, 2, 3), bits=4).double()
    images = seeded(5, 6, 2, 3)
    weight = head.linear.weight.tolist()
    rows = [affine_reference(weight, [0.0] * 4, pooled_reference(image)) for image in images.tolist()]
    means = [sum(row[k] for row in rows) / 5 for k in range(4)]
    spreads = [sum((row[k] - means[k]) ** 2 for row in rows) / 5 for k in range(4)]
    wanted = [[(row[k] - means[k]) / math.sqrt(spreads[k] + 1e-5) for k in range(4)] for row in rows]
    torch.testing.assert_close(head(images), torch.tensor(wanted, dtype=torch.float64))
    head.eval()  # one step of momentum 0.1 from mean 0 and variance 1; the running variance is unbiased
    wanted = [
        [(row[k] - 0.1 * means[k]) / math.sqrt(0.9 + 0.1 * spreads[k] * 5 / 4 + 1e-5) for k in range(4)] for row in rows
    ]
    torch.testing.assert_close(head(images), torch.tensor(wanted, dtype=torch.float64))


def test_mlp():
    torch.manual_seed(0)
    head = MLP((6,), bits=4, hidden=7).double()
    w1, b1, w2, b2 = (p.tolist() for p in head.parameters())
    features = seeded(3, 6)
    wanted = [
        affine_reference(w2, b2, [max(0.0, x) for x in affine_reference(w1, b1, row)]) for row in features.tolist()
    ]
    torch.testing.assert_close(head(features), torch.tensor(wanted, dtype=torch.float64))
    assert [tuple(p.shape) for p in MLP((6,), bits=4).parameters()] == [(1024, 6), (1024,), (4, 1024), (4,)]


@pytest.mark.parametrize(("num_classes", "bits"), [(1, 4), (10, 12), (16, 4), (200, 48)])
def test_class_label(num_classes, bits):
    torch.manual_seed(0)
    head = ClassLabel((6,), bits, num_classes)
    features = seeded(50, 6).float()
    u, logits = head(features)
    assert torch.equal(logits, head.classifier(features))
    for row, scores in zip(u, logits.tolist(), strict=True):
        assert torch.equal(row, head.codes[max(range(num_classes), key=scores.__getitem__)])
    assert head.codes.shape == (num_classes, bits)
    assert head.codes.abs().eq(1).all()
    assert len({tuple(code) for code in head.codes.tolist()}) == num_classes
    assert torch.equal(head.codes, ClassLabel((6,), bits, num_classes).codes)  # no draw of the run's
    assert not u.requires_grad
    logits.square().sum().backward()
    assert all(parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClassLabel((6,), 4, 17), "4 bits give 16 codes, and 17 classes"),
        (lambda: ClassLabel((6,), 4), "and 0 classes"),
    ],
)
def test_what_cannot_be_built(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
