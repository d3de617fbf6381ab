"""The pairwise losses against loops over pairs in plain Python, and what their formulas promise at the edges."""

import math

import pytest
import torch
from hashzoo_baselines.pairwise import DBDH, DCH, DHN, DPSH, DSH, HashNet, quantization, similar

from hashzoo import ConfigError, HashOutput, Loss
from hashzoo.testing import Subject, parametrize_with_checks

LOSSES = [DSH, DHN, HashNet, DCH, DBDH]
SINGLE = {"mixed": [0, 2, 1, 0, 2, 0], "one-class": [1, 1, 1], "all-apart": [0, 1, 2], "one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {1}, {2}, set(), set()], "one-class": [{1}, {1, 2}], "one": [{0, 2}]}
CASES = [("single", case) for case in SINGLE] + [("multi", case) for case in MULTI]


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def total(terms):
    return torch.stack(list(terms.values())).sum()


def make_targets(kind, case):
    """Sets of labels, and the same as a loss gets them."""
    if kind == "single":
        return [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    rows = MULTI[case]
    return rows, torch.tensor([[float(c in row) for c in range(3)] for row in rows], dtype=torch.float64)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def mean(values):
    return sum(values) / len(values) if values else 0.0


def pair_mean(rows, labels, term):
    """Mean of term(a, b, s) over i != j."""
    n = len(rows)
    return mean(
        [
            term(rows[i], rows[j], 1 if labels[i] & labels[j] else 0)
            for i in range(n)
            for j in range(n)
            if i != j
        ]
    )  # fmt: skip


def balanced_mean(rows, labels, term):
    """The same, each pair times S / S1 if similar and S / S0 if not."""
    s = [bool(a & b) for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j]
    weights = {1: len(s) / max(1, sum(s)), 0: len(s) / max(1, len(s) - sum(s))}
    return pair_mean(rows, labels, lambda a, b, near: weights[near] * term(a, b, near))


def likelihood(slope):
    return lambda a, b, s: math.log(1 + math.exp(slope * dot(a, b))) - s * slope * dot(a, b)


def distance(a, b):
    """K / 2 (1 - cos)."""
    return len(a) / 2 * (1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)))


def dsh_reference(rows, labels):
    def term(a, b, s):
        d = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        return d / 2 if s else max(0.0, 2 * len(a) - d) / 2

    return {
        "pair": pair_mean(rows, labels, term),
        "quantization": 0.01 * 2 * mean([sum(abs(abs(x) - 1) for x in row) for row in rows]),
    }


def dhn_reference(rows, labels):
    penalty = [math.log(math.cosh(abs(x) - 1)) for row in rows for x in row]
    return {"pair": pair_mean(rows, labels, likelihood(1)), "quantization": 0.1 * mean(penalty)}


def hashnet_reference(rows, labels):
    return {"pair": balanced_mean(rows, labels, likelihood(10 / len(rows[0])))}


def dch_reference(rows, labels):
    def term(a, b, s):
        probability = 20 / (20 + distance(a, b))
        return -math.log(probability if s else 1 - probability)

    corner = [math.log(1 + distance([abs(x) for x in row], [1.0] * len(row)) / 20) for row in rows]
    return {"pair": balanced_mean(rows, labels, term), "quantization": 0.1 * mean(corner)}


def dbdh_reference(rows, labels):
    bits = len(rows[0])
    return {
        "pair": pair_mean(rows, labels, likelihood(2 / bits)),
        "balance": 0.1 * mean([mean([row[k] for row in rows]) ** 2 for k in range(bits)]),
    }


def dpsh_reference(rows, labels):
    penalty = [(x - (1 if x >= 0 else -1)) ** 2 for row in rows for x in row]
    return {"pair": pair_mean(rows, labels, likelihood(1 / 2)), "quantization": 0.1 * mean(penalty)}


REFERENCES = {
    DSH: dsh_reference,
    DHN: dhn_reference,
    HashNet: hashnet_reference,
    DCH: dch_reference,
    DBDH: dbdh_reference,
}


@pytest.mark.parametrize("classes", [3, 50])  # the number of classes must not scale anything
@pytest.mark.parametrize("bits", [4, 12])
@pytest.mark.parametrize(("kind", "case"), CASES)
@pytest.mark.parametrize("method", LOSSES)
def test_terms(method, kind, case, bits, classes):
    labels, targets = make_targets(kind, case)
    codes = seeded(len(labels), bits).clamp(-1, 1)
    terms = method(bits, classes, kind == "multi")(HashOutput(u=codes * 9, codes=codes), targets)
    wanted = REFERENCES[method](codes.tolist(), labels)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("bits", [4, 12])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_dpsh_within_the_batch(kind, case, bits):
    labels, targets = make_targets(kind, case)
    u = seeded(len(labels), bits)
    loss = DPSH(bits, 3, kind == "multi", memory=False)
    loss.start(targets)
    assert not loss.memory.numel()
    terms = loss(HashOutput(u=u, codes=u * 9), targets)
    wanted = dpsh_reference(u.tolist(), labels)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (DSH, {"alpha": 0.03}),
        (DHN, {"quantization_weight": 0.3}),
        (DCH, {"quantization_weight": 0.3}),
        (DBDH, {"balance_weight": 0.3}),
        (DPSH, {"memory": False, "eta": 0.3}),
    ],
)
def test_weights_scale_the_second_term(method, options):
    output, targets = HashOutput(u=seeded(4, 12), codes=seeded(4, 12)), torch.tensor([0, 1, 0, 2])
    plain = {name: value for name, value in options.items() if name == "memory"}
    one, three = (method(12, 3, **args)(output, targets) for args in (plain, options))
    pair, second = one
    assert three[pair] == one[pair] and three[second].item() == pytest.approx(3 * one[second].item())


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", LOSSES)
def test_gradient(method, multi_label):
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]] if multi_label else torch.tensor([0, 1, 1, 2])
    loss = method(5, 3, multi_label)
    codes = seeded(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: total(loss(HashOutput(u=b, codes=b), targets)), (codes,))


# --- by hand --------------------------------------------------------------------------------------------------------


def test_dsh_margin_is_half_the_bits():
    """On codes of -1 and +1, a dissimilar pair costs nothing from K / 2 differing bits on."""
    one, targets = torch.ones(16), torch.tensor([0, 1])
    values = []
    for differing in (7, 8, 9):
        other = torch.where(torch.arange(16) < differing, -1.0, 1.0)
        codes = torch.stack([one, other])
        values.append(DSH(16, 2)(HashOutput(u=codes, codes=codes), targets)["pair"].item())
    assert values == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(("method", "scale"), [(DSH, 1), (DHN, 1), (DCH, 3), (DPSH, 1)])
def test_quantization_is_least_at_codes_of_both_signs(method, scale):
    """A code of -1 and +1 costs nothing, also where it is -1; DCH's term sees the direction only."""
    loss = method(4, 2, **({"memory": False} if method is DPSH else {}))
    codes = scale * torch.tensor([[1.0, -1.0, -1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]])
    value = loss(HashOutput(u=codes, codes=codes), torch.tensor([0, 1]))["quantization"]
    assert value.item() == pytest.approx(0, abs=1e-7)
    off = codes * torch.tensor([0.5, 1.0, 1.0, 1.0])
    assert loss(HashOutput(u=off, codes=off), torch.tensor([0, 1]))["quantization"] > 1e-5


def test_dhn_is_stable_where_cosh_overflows():
    codes = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    value = DHN(2, 2, quantization_weight=1.0)(HashOutput(u=codes, codes=codes), torch.tensor([0]))["quantization"]
    assert value.item() == pytest.approx(999 - math.log(2))
    assert torch.autograd.grad(value, codes)[0].tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    "rows", [[[0.5, -0.2, 0.7]] * 2, [[0.5, 0.0, 0.0]] * 2, [[0.0] * 3, [0.5, 0.1, 0.2]], [[0.0] * 3] * 2]
)
def test_dch_at_identical_rows_and_zeros(rows, same):
    codes = torch.tensor(rows, requires_grad=True)
    terms = DCH(3, 2)(HashOutput(u=codes, codes=codes), torch.tensor([0, 0 if same else 1]))
    (gradient,) = torch.autograd.grad(total(terms), codes)
    assert all(term.isfinite() and term >= -1e-6 for term in terms.values())
    assert gradient.isfinite().all() and gradient.abs().max() < 1e4


def test_quantization_squares_and_counts_zero_as_one():
    assert quantization(torch.tensor([[0.0, 3.0, -1.0, -0.5]])).item() == (1 + 4 + 0 + 0.25) / 4


def test_items_without_labels_are_similar_to_none():
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert similar(labels, labels).tolist() == [[True, True, False], [True, True, False], [False, False, False]]


# --- the memory of DPSH ---------------------------------------------------------------------------------------------


def against_memory(batch, labels, memory, all_labels, index):
    """Mean over the batch's i and the j of the memory that are met and are not i; `memory` maps j to its u."""
    terms = []
    for row, wanted, i in zip(batch, labels, index, strict=True):
        for j, other in memory.items():
            if j != i:
                theta = torch.dot(row, other) / 2
                s = 1.0 if wanted & all_labels[j] else 0.0
                terms.append(torch.log(1 + torch.exp(theta)) - s * theta)
    return torch.stack(terms).mean() if terms else batch.sum() * 0


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_dpsh_against_the_memory(kind):
    """Three batches, the third with items met before: values and gradients as from a loop over a growing memory."""
    labels, targets = make_targets(kind, "mixed")
    loss = DPSH(4, 3, kind == "multi").double()
    assert isinstance(loss, Loss)
    loss.start(targets)
    memory = {}
    for step, index in enumerate([[4], [5, 0, 2], [2, 1, 4]]):
        u = seeded(len(index), 4, seed=step).requires_grad_()
        output = HashOutput(u=u, codes=u * 9, index=torch.tensor(index))
        pair = loss(output, targets[index])["pair"]
        memory |= dict(zip(index, u.detach(), strict=True))
        wanted = against_memory(u, [labels[i] for i in index], memory, labels, index)
        assert pair.item() == pytest.approx(wanted.item(), rel=1e-9)
        torch.testing.assert_close(*(torch.autograd.grad(value, u)[0] for value in (pair, wanted)))
    assert memory.keys() == {0, 1, 2, 4, 5}
    expected = torch.stack([memory.get(i, torch.zeros(4, dtype=torch.float64)) for i in range(6)])
    assert torch.equal(loss.memory, expected)


def test_dpsh_does_not_depend_on_the_order_of_the_batch():
    targets, u, index = torch.tensor([0, 1, 0, 2, 1]), seeded(4, 6), torch.tensor([3, 0, 4, 2])
    values = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        loss = DPSH(6, 3).double()
        loss.start(targets)
        terms = loss(HashOutput(u=u[order], codes=u[order], index=index[order]), targets[index[order]])
        values.append(total(terms).item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_dpsh_starts_and_goes_on_from_its_state():
    targets, u, index = torch.tensor([0, 1, 0]), seeded(2, 6).float(), torch.tensor([0, 1])
    one, two = DPSH(6, 2), DPSH(6, 2)
    one.start(targets)
    one(HashOutput(u=u, codes=u, index=index), targets[index])
    two.start(targets)
    two.load_state_dict(one.state_dict())
    output = HashOutput(u=u[:1], codes=u[:1], index=index[:1])
    assert total(one(output, targets[:1])) == total(two(output, targets[:1]))
    assert torch.equal(two.memory[1], u[1])


@pytest.mark.parametrize("started", [False, True])
def test_dpsh_says_what_its_memory_needs(started):
    loss, u, targets = DPSH(6, 2), seeded(2, 6).float(), torch.tensor([0, 1])
    if started:
        loss.start(targets)
    index = None if started else torch.tensor([0, 1])
    with pytest.raises(ConfigError, match=r"DPSH remembers .* start\(targets\)"):
        loss(HashOutput(u=u, codes=u, index=index), targets)


def test_wrong_options():
    with pytest.raises(ConfigError, match="gamma is a distance above 0, not 0"):
        DCH(12, 3, gamma=0)


@parametrize_with_checks(
    [Subject("loss", name) for name in ("dsh", "dhn", "hashnet", "dch", "dbdh")]
    + [Subject("loss", "dpsh", {"memory": memory}) for memory in (True, False)]
)
def test_conforms(check):
    check()
