"""The shared loss terms against double loops in plain Python floats."""

import math

import pytest
import torch

from hashzoo import HashOutput, classification, pairwise_likelihood
from hashzoo.registry import registry


def pairwise_reference(codes, labels, scale, balanced):
    """Write the formula out pair by pair; `labels` is a list of sets of classes."""
    codes = codes.detach().tolist()
    similar, dissimilar = [], []
    for i, (b_i, labels_i) in enumerate(zip(codes, labels, strict=True)):
        for j, (b_j, labels_j) in enumerate(zip(codes, labels, strict=True)):
            if i == j:
                continue
            theta = scale / 2 * sum(x * y for x, y in zip(b_i, b_j, strict=True))
            softplus = max(theta, 0.0) + math.log1p(math.exp(-abs(theta)))
            if labels_i & labels_j:
                similar.append(softplus - theta)
            else:
                dissimilar.append(softplus)
    pairs = len(similar) + len(dissimilar)
    if not pairs:
        return 0.0
    if not balanced:
        return (sum(similar) + sum(dissimilar)) / pairs
    weight_similar = pairs / len(similar) if similar else 0.0
    weight_dissimilar = pairs / len(dissimilar) if dissimilar else 0.0
    return (weight_similar * sum(similar) + weight_dissimilar * sum(dissimilar)) / pairs


def relaxed(count, bits, seed=0):
    return torch.randn(count, bits, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SINGLE = {
    "mixed": [0, 2, 1, 0, 2, 2, 0],
    "one-class": [1, 1, 1, 1],
    "all-different": [3, 0, 2, 1],
    "batch-of-two": [0, 0],
    "batch-of-one": [2],
}
MULTI = {
    "mixed": [{0}, {0, 1}, {1}, {2, 3}, {1, 3}, set()],
    "one-class": [{1}, {1, 0}, {1, 2}],
    "none-shared": [{0}, {1, 2}, {3}],
    "no-labels": [set(), set()],
    "batch-of-one": [{0, 2}],
}


@pytest.mark.parametrize("bits", [4, 12, 48, 65])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("case", SINGLE)
def test_pairwise_single_label(case, balanced, bits):
    labels = SINGLE[case]
    for codes in (relaxed(len(labels), bits), relaxed(len(labels), bits).sign()):
        for scale in (1.0, 20 / bits):
            wanted = pairwise_reference(codes, [{label} for label in labels], scale, balanced)
            made = pairwise_likelihood(codes, torch.tensor(labels), scale, balanced)
            assert made.shape == ()
            assert made.item() == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("bits", [12, 48])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("case", MULTI)
def test_pairwise_multi_label(case, balanced, bits):
    labels = MULTI[case]
    targets = torch.zeros(len(labels), 4)
    for row, classes in zip(targets, labels, strict=True):
        row[list(classes)] = 1.0
    codes = relaxed(len(labels), bits)
    wanted = pairwise_reference(codes, labels, 20 / bits, balanced)
    assert pairwise_likelihood(codes, targets, 20 / bits, balanced).item() == pytest.approx(
        wanted, rel=1e-12, abs=1e-14
    )


def test_pairwise_counts_a_pair_once_however_many_labels_it_shares():
    codes = relaxed(3, 12)
    one = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    two = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert torch.equal(pairwise_likelihood(codes, one, 1.0), pairwise_likelihood(codes, two, 1.0))


def test_pairwise_is_small_only_where_codes_follow_labels():
    labels = torch.tensor([0, 0, 1, 1])
    right = torch.tensor([1.0, 1, -1, -1])[:, None].repeat(1, 12)
    wrong = torch.tensor([1.0, -1, 1, -1])[:, None].repeat(1, 12)
    assert pairwise_likelihood(right, labels, 20 / 12) < 1e-3
    assert pairwise_likelihood(wrong, labels, 20 / 12) > 9


def test_pairwise_does_not_overflow():
    codes = torch.full((3, 1024), 50.0, requires_grad=True)
    value = pairwise_likelihood(codes, torch.tensor([0, 0, 1]), 1.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(codes.grad).all()


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("labels", SINGLE.values(), ids=SINGLE)
def test_pairwise_gradient(labels, balanced):
    codes = (relaxed(len(labels), 5) / 2).requires_grad_()
    targets = torch.tensor(labels)
    assert torch.autograd.gradcheck(lambda u: pairwise_likelihood(u, targets, 0.7, balanced), (codes,))


def test_pairwise_of_one_item_is_zero_with_a_zero_gradient():
    codes = relaxed(1, 12).requires_grad_()
    value = pairwise_likelihood(codes, torch.tensor([0]), 1.0)
    value.backward()
    assert value.item() == 0
    assert torch.equal(codes.grad, torch.zeros_like(codes))


def classification_reference(logits, labels, classes):
    """Cross-entropy for a list of ints, mean binary cross-entropy over items and classes for a list of sets."""
    total, terms = 0.0, 0
    for row, label in zip(logits.tolist(), labels, strict=True):
        if isinstance(label, int):
            total += math.log(sum(math.exp(x) for x in row)) - row[label]
            terms += 1
        else:
            for c in range(classes):
                p = 1 / (1 + math.exp(-row[c]))
                total -= math.log(p if c in label else 1 - p)
                terms += 1
    return total / terms


@pytest.mark.parametrize("labels", [*SINGLE.values(), *MULTI.values()])
def test_classification(labels):
    logits = relaxed(len(labels), 4).requires_grad_()
    if isinstance(labels[0], int):
        targets = torch.tensor(labels)
    else:
        targets = torch.tensor([[float(c in label) for c in range(4)] for label in labels], dtype=torch.float64)
    wanted = classification_reference(logits, labels, 4)
    assert classification(logits, targets).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: classification(x, targets), (logits,))


@pytest.mark.parametrize("multi_label", [False, True])
def test_classification_as_a_loss(multi_label):
    loss = registry().build("loss", "classification", bits=12, num_classes=4, multi_label=multi_label)
    labels = MULTI["mixed"] if multi_label else SINGLE["mixed"]
    targets = (
        torch.tensor([[float(c in row) for c in range(4)] for row in labels]) if multi_label else torch.tensor(labels)
    )
    codes = relaxed(len(labels), 12).float()
    terms = loss(HashOutput(u=torch.zeros_like(codes), codes=codes), targets)
    wanted = classification_reference(loss.classifier(codes).detach(), labels, 4)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"class": wanted}, rel=1e-5)
