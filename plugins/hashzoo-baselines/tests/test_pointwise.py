"""Pointwise losses and class codes against plain loops."""

import math

import pytest
import torch
from hashzoo_baselines.centres import centre_of, hash_centres, random_codes
from hashzoo_baselines.pointwise import CSQ, DPN, GreedyHash, Logits, OrthoHash

from hashzoo import ConfigError, HashOutput, sign
from hashzoo.testing import Subject, parametrize_with_checks


@parametrize_with_checks(
    [
        Subject("loss", "hashzoo-baselines/greedyhash"),
        Subject("loss", "hashzoo-baselines/csq"),
        Subject("loss", "hashzoo-baselines/dpn"),
        Subject("loss", "hashzoo-baselines/orthohash"),
        Subject("loss", "hashzoo-baselines/logits"),
    ]
)
def test_conforms(check):
    check()


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values(terms):
    return {name: term.item() for name, term in terms.items()}


# --- references: lists of floats; `labels` are sets -----------------------------------------------------------------


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def class_reference(scores, labels, multi_label):
    """Cross-entropy of the class's score, or binary cross-entropy averaged over items and classes."""
    if not multi_label:
        return mean(
            math.log(sum(math.exp(s) for s in row)) - row[min(y)] for row, y in zip(scores, labels, strict=True)
        )
    return mean(
        math.log(1 + math.exp(-s if c in y else s))
        for row, y in zip(scores, labels, strict=True)
        for c, s in enumerate(row)
    )


def goal_reference(y, centres, tie):
    """The bitwise majority of the labels' codes; `tie` where it is even."""
    votes = [sum(centres[c][k] for c in y) for k in range(len(tie))]
    return [tie[k] if vote == 0 else math.copysign(1, vote) for k, vote in enumerate(votes)]


def greedyhash_reference(loss, u, codes, labels, multi_label):
    weight, bias = loss.classifier.weight.tolist(), loss.classifier.bias.tolist()
    scores = [[dot(w, b) + c for w, c in zip(weight, bias, strict=True)] for b in codes]
    return {
        "class": class_reference(scores, labels, multi_label),
        "quantization": 0.1 * mean(abs(abs(x) - 1) ** 3 for row in u for x in row),
    }


def csq_reference(loss, u, codes, labels, multi_label):
    centres, tie = loss.centres.tolist(), loss.tie.tolist()
    terms = []
    for row, y in zip(u, labels, strict=True):
        for x, h in zip(row, goal_reference(y, centres, tie), strict=True):
            p = (1 + math.tanh(x)) / 2
            terms.append(-math.log(p if h > 0 else 1 - p))
    return {"centre": mean(terms), "quantization": 1e-4 * mean((abs(b) - 1) ** 2 for row in codes for b in row)}


def dpn_reference(loss, u, codes, labels, multi_label):
    centres, tie = loss.centres.tolist(), loss.tie.tolist()
    goals = [goal_reference(y, centres, tie) for y in labels]
    pairs = [(x, t) for row, goal in zip(u, goals, strict=True) for x, t in zip(row, goal, strict=True)]
    return {"polarisation": mean(max(0.0, 1 - x * t) for x, t in pairs)}


def orthohash_reference(loss, u, codes, labels, multi_label):
    terms = []
    for row, y in zip(u, labels, strict=True):
        length = math.sqrt(dot(row, row)) * math.sqrt(len(row))
        cosines = [dot(row, h) / length for h in loss.centres.tolist()]
        scores = [math.sqrt(len(row)) * (cosine - 0.2 * (c in y)) for c, cosine in enumerate(cosines)]
        total = math.log(sum(math.exp(s) for s in scores))
        terms.append(mean(total - scores[c] for c in y) if y else 0.0)
    return {"class": mean(terms)}


SINGLE = {"mixed": [0, 2, 1, 0, 2], "one-class": [1, 1, 1], "batch-of-one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {0, 1, 2}, {2}, set()], "one-class": [{1}, {1, 2}], "batch-of-one": [{0, 2}]}
REFERENCES = {
    GreedyHash: greedyhash_reference,
    CSQ: csq_reference,
    DPN: dpn_reference,
    OrthoHash: orthohash_reference,
}


@pytest.mark.parametrize("target", REFERENCES)
@pytest.mark.parametrize("bits", [4, 12, 16])
@pytest.mark.parametrize(("kind", "case"), [("single", c) for c in SINGLE] + [("multi", c) for c in MULTI])
def test_terms(kind, case, bits, target):
    multi_label = kind == "multi"
    if multi_label:
        labels = MULTI[case]
        targets = torch.tensor([[float(c in y) for c in range(3)] for y in labels], dtype=torch.float64)
    else:
        labels, targets = [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    torch.manual_seed(0)
    loss = target(bits, 3, multi_label).double()
    u = 2 * seeded(len(labels), bits)
    codes = sign(u) if target is GreedyHash else u.tanh()
    wanted = REFERENCES[target](loss, u.tolist(), codes.tolist(), labels, multi_label)
    assert values(loss(HashOutput(u=u, codes=codes), targets)) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("target", REFERENCES)
@pytest.mark.parametrize("multi_label", [False, True])
def test_gradient(multi_label, target):
    torch.manual_seed(0)
    loss = target(5, 3, multi_label).double()
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]] if multi_label else torch.tensor([0, 1, 1, 2])

    def total(u):
        return torch.stack(list(loss(HashOutput(u=u, codes=u.tanh()), targets).values())).sum()

    assert torch.autograd.gradcheck(total, (seeded(4, 5).requires_grad_(),))


@pytest.mark.parametrize(
    ("target", "option", "value", "term"),
    [(GreedyHash, "quantization_weight", 0.1, "quantization"), (CSQ, "quantization_weight", 1e-4, "quantization")],
)
def test_weights_scale_their_own_term(target, option, value, term):
    u, targets = seeded(4, 12), torch.tensor([0, 1, 0, 2])
    results = []
    for factor in (1, 3):
        torch.manual_seed(0)
        results.append(target(12, 3, **{option: factor * value}).double()(HashOutput(u=u, codes=u.tanh()), targets))
    assert {name: (results[1][name] / results[0][name]).item() for name in results[0]} == pytest.approx(
        {name: 3.0 if name == term else 1.0 for name in results[0]}
    )


def test_greedyhash_classifies_codes_and_holds_u_to_one():
    """Its penalty is of |u| - 1: a sign in place of the magnitude would make it 0, or even, on either side."""
    loss, targets = GreedyHash(3, 4), torch.tensor([0])
    u = torch.tensor([[0.5, -1.0, -3.0]], requires_grad=True)
    terms = loss(HashOutput(u=u, codes=torch.ones(1, 3)), targets)
    assert terms["quantization"].item() == pytest.approx(0.1 * (0.125 + 0 + 8) / 3)
    assert torch.equal(terms["class"], loss(HashOutput(u=-u, codes=torch.ones(1, 3)), targets)["class"])
    (gradient,) = torch.autograd.grad(terms["quantization"], u)
    assert gradient[0].tolist() == pytest.approx([-0.1 * 0.75 / 3, 0, -0.1 * 12 / 3])


def test_dpn_s_margin_is_to_the_right_side_only():
    loss = DPN(12, 4, margin=2.0)
    label = torch.tensor([1])
    at = {x: loss(HashOutput(u=x * loss.centres[1:2], codes=loss.centres[1:2]), label) for x in (3.0, 2.0, 0.5, -1.0)}
    assert [values(terms)["polarisation"] for terms in at.values()] == [0.0, 0.0, 1.5, 3.0]


def test_orthohash_s_margin_makes_the_own_class_harder():
    u, targets = seeded(6, 12), torch.arange(6) % 4
    none, some, more = (
        OrthoHash(12, 4, margin=m).double()(HashOutput(u=u, codes=u), targets)["class"] for m in (0.0, 0.2, 0.5)
    )
    assert none < some < more
    scaled = OrthoHash(12, 4).double()(HashOutput(u=9 * u, codes=u), targets)["class"]
    assert scaled.item() == pytest.approx(some.item())  # only u's direction counts


def test_orthohash_reaches_every_row_that_has_labels():
    targets = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]])
    for multi_label, labels, reached in ((False, torch.tensor([0, 1, 2, 0]), 4), (True, targets, 3)):
        u = seeded(4, 12).requires_grad_()
        OrthoHash(12, 3, multi_label).double()(HashOutput(u=u, codes=u), labels)["class"].backward()
        assert u.grad.any(dim=1).sum() == reached


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits(multi_label):
    labels = [{0}, {0, 2}, {1}] if multi_label else [{0}, {2}, {1}]
    rows = [[float(c in y) for c in range(3)] for y in labels]
    targets = torch.tensor(rows) if multi_label else torch.tensor([0, 2, 1])
    logits = seeded(3, 3).bfloat16()
    terms = Logits(12, 3, multi_label)(HashOutput(u=seeded(3, 12), codes=seeded(3, 12), logits=logits), targets)
    assert terms["class"].dtype == torch.float32
    assert values(terms) == pytest.approx({"class": class_reference(logits.tolist(), labels, multi_label)}, rel=1e-5)


def test_logits_needs_a_head_that_makes_some():
    with pytest.raises(ConfigError, match=r"head that makes class logits.*class-label"):
        Logits(12, 3)(HashOutput(u=seeded(2, 12), codes=seeded(2, 12)), torch.tensor([0, 1]))


# --- the codes of classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_codes, hash_centres])
@pytest.mark.parametrize(
    ("num_classes", "bits"),
    [
        (1, 4),
        (2, 4),
        (8, 4),
        (9, 4),
        (16, 4),
        (10, 12),
        (100, 16),
        (33, 16),
        (10, 48),
        (200, 65),
        (81, 64),
        (1000, 1024),
    ],
)
def test_codes_of_classes(num_classes, bits, make):
    codes = make(num_classes, bits)
    assert codes.shape == (num_classes, bits)
    assert codes.dtype == torch.float32
    assert codes.abs().eq(1).all()
    assert len({tuple(row) for row in codes.tolist()}) == num_classes
    assert torch.equal(codes, make(num_classes, bits))
    if num_classes > 1:
        assert not torch.equal(codes, make(num_classes, bits, seed=1))


@pytest.mark.parametrize("target", [CSQ, DPN, OrthoHash])
@pytest.mark.parametrize(("num_classes", "bits"), [(17, 4), (0, 12)])
def test_more_classes_than_codes(num_classes, bits, target):
    with pytest.raises(ConfigError, match=rf"{bits} bits give {2**bits} codes, and {num_classes} classes"):
        target(bits, num_classes)


@pytest.mark.parametrize(
    ("num_classes", "bits"), [(4, 4), (5, 4), (8, 4), (10, 8), (10, 16), (10, 32), (10, 64), (20, 16), (64, 64)]
)
def test_hadamard_centres(num_classes, bits):
    """Any two are K/2 bits apart, or K if one is the other's negative; no bit is the same for all classes."""
    for seed in range(20):
        rows = hash_centres(num_classes, bits, seed).tolist()
        products = [dot(rows[i], rows[j]) for i in range(num_classes) for j in range(i)]
        assert set(products) <= {0, -bits}
        assert products.count(-bits) == max(0, num_classes - bits)
        assert all(len({row[k] for row in rows}) == 2 for k in range(bits))


def test_drawn_codes_are_even():
    """Bits are +1 half the time, in every column: 4 standard deviations."""
    codes = random_codes(4000, 24)
    assert codes.mean(0).abs().max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize("tie", [[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
def test_majority(tie):
    centres = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [-1, -1, -1, 1]])
    labels = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    made = centre_of(labels, centres, torch.tensor(tie)).tolist()
    assert made == [goal_reference({c for c in range(4) if row[c]}, centres.tolist(), tie) for row in labels]
    assert made[1:3] == [[1, 1, 1, -1], [1, 1, tie[2], tie[3]]]
    assert torch.equal(centre_of(torch.tensor([2, 0]), centres, torch.tensor(tie)), centres[[2, 0]])


@pytest.mark.parametrize("target", [CSQ, DPN, OrthoHash])
def test_codes_are_kept_and_not_learned(target):
    loss = target(12, 10)
    assert list(loss.parameters()) == []
    assert "centres" in loss.state_dict()
    label = torch.tensor([1])
    found = [values(loss(HashOutput(u=3 * h[None], codes=h[None]), label)) for h in loss.centres]
    totals = [sum(terms.values()) for terms in found]
    assert min(range(10), key=totals.__getitem__) == 1
