"""DSDH and ADSH against loops over items, bits and pairs, and their discrete steps against trying every bit."""

import itertools
import math

import pytest
import torch
from hashzoo_baselines.discrete import ADSH, DSDH, descend, ridge

from hashzoo import ConfigError, HashOutput, Loss
from hashzoo.testing import Subject, parametrize_with_checks

LABELS = {"single": [{0}, {2}, {1}, {0}, {2}, {0}, {1}], "multi": [{0}, {0, 1}, {1}, {2}, set(), {0}, {1, 2}]}
METHODS = [DSDH, ADSH]


@parametrize_with_checks([Subject("loss", "dsdh"), Subject("loss", "dsdh", {"memory": False}), Subject("loss", "adsh")])
def test_conforms(check):
    check()


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def signs(*shape, seed=0):
    return torch.where(seeded(*shape, seed=seed) >= 0, 1.0, -1.0).double()


def make_targets(kind, classes=3):
    rows = LABELS[kind]
    if kind == "single":
        return torch.tensor([min(row) for row in rows])
    return torch.tensor([[float(c in row) for c in range(classes)] for row in rows], dtype=torch.float64)


def started(method, kind, bits=4, **options):
    loss = method(bits, 3, kind == "multi", **options).double()
    loss.start(make_targets(kind))
    return loss


def step(loss, kind, index, u):
    return loss(HashOutput(u=u, codes=torch.tanh(u), index=torch.tensor(index)), make_targets(kind)[index])


# --- the solvers ----------------------------------------------------------------------------------------------------


def quadratic(codes, gram, pull):
    """tr(B G B^T) - 2 tr(B P^T), in a loop over the items."""
    return sum((b @ gram @ b - 2 * b @ p).item() for b, p in zip(codes, pull, strict=True))


def test_descend_takes_the_better_value_of_each_bit_in_turn():
    codes, weight, pull = signs(5, 6), seeded(6, 3, seed=1), 3 * seeded(5, 6, seed=2)
    gram = weight @ weight.T
    wanted = codes.clone()
    for item, bit in itertools.product(range(5), range(6)):
        tries = []
        for value in (-1.0, 1.0):
            wanted[item, bit] = value
            tries.append((quadratic(wanted[item : item + 1], gram, pull[item : item + 1]), value))
        wanted[item, bit] = min(tries)[1]
    made = descend(codes, gram, pull)
    assert torch.equal(made, wanted)
    assert not torch.equal(made, codes) and torch.equal(codes, signs(5, 6))
    assert quadratic(made, gram, pull) < quadratic(codes, gram, pull)


def test_ridge_is_where_the_gradient_is_zero():
    codes, labels = signs(7, 4), make_targets("multi")
    weight = ridge(codes, labels, 0.3).requires_grad_()
    value = (labels - codes @ weight).square().sum() + 0.3 * weight.square().sum()
    assert torch.autograd.grad(value, weight)[0].abs().max() < 1e-10


# --- DSDH -----------------------------------------------------------------------------------------------------------


def dsdh_objective(loss, kind, codes, weight):
    """Mean over items of mu ||y - W^T b||^2 + eta ||b - u||^2, plus nu / n ||W||^2; u is the memory."""
    value = 0.0
    for b, u, labels in zip(codes.tolist(), loss.memory.tolist(), LABELS[kind], strict=True):
        for c in range(3):
            score = sum(b[k] * weight[k, c].item() for k in range(len(b)))
            value += loss.mu * ((c in labels) - score) ** 2
        value += loss.eta * sum((x - y) ** 2 for x, y in zip(b, u, strict=True))
    return (value + loss.nu * sum(w**2 for w in weight.flatten().tolist())) / len(codes)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("kind", LABELS)
def test_dsdh_terms(kind, memory):
    """Before codes are solved for they are the signs of u; then they are the solved ones."""
    loss = started(DSDH, kind, memory=memory, eta=0.3)
    assert isinstance(loss, Loss)
    u, rows = seeded(7, 4), LABELS[kind]
    codes = torch.where(u >= 0, 1.0, -1.0).double()
    for index in ([0, 3, 5], [1, 2, 4, 6], [6, 0, 2]):
        if index[0] == 6:
            codes = signs(7, 4, seed=3)
            loss.codes = codes
        terms = step(loss, kind, index, u[index])
        others = loss.memory.any(dim=1).nonzero().flatten().tolist() if memory else index
        pairs = []
        for i, j in itertools.product(index, others):
            if i != j:
                theta = (u[i] @ u[j]).item() / 2
                pairs.append(math.log(1 + math.exp(theta)) - (theta if rows[i] & rows[j] else 0.0))
        far = [sum((codes[i, k] - u[i, k]).item() ** 2 for k in range(4)) for i in index]
        wanted = {"pair": sum(pairs) / len(pairs), "quantization": 0.3 * sum(far) / len(far)}
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("eta", [0.011, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", LABELS)
def test_dsdh_epochs_never_raise_the_objective(kind, eta):
    loss = started(DSDH, kind, bits=6, eta=eta)
    labels = torch.tensor([[float(c in row) for c in range(3)] for row in LABELS[kind]], dtype=torch.float64)
    weight, falls = torch.zeros(6, 3), []
    for epoch in range(4):
        step(loss, kind, list(range(7)), seeded(7, 6, seed=epoch) / 3)
        codes = loss.codes if epoch else torch.where(loss.memory >= 0, 1.0, -1.0).double()
        before = dsdh_objective(loss, kind, codes, weight)
        weight = ridge(codes, labels, loss.nu / loss.mu)
        loss.end_epoch()
        assert loss.codes.abs().eq(1).all()
        after = dsdh_objective(loss, kind, loss.codes, weight)
        falls.append(before - after)
        for item, bit in itertools.product(range(7), range(6)):  # no single bit would do better
            flipped = loss.codes.clone()
            flipped[item, bit] *= -1
            assert dsdh_objective(loss, kind, flipped, weight) >= after - 1e-12
    assert min(falls) >= -1e-12 and max(falls) > 0


@pytest.mark.parametrize("kind", LABELS)
def test_dsdh_quantization_alone_keeps_the_signs_of_u(kind):
    loss, u = started(DSDH, kind, eta=1e3), seeded(7, 4)
    step(loss, kind, list(range(7)), u)
    loss.end_epoch()
    assert torch.equal(loss.codes, torch.where(u >= 0, 1.0, -1.0).double())


# --- ADSH -----------------------------------------------------------------------------------------------------------


def far(rows):
    """Minus the number of similar over the number of dissimilar pairs, not below -1."""
    near = sum(bool(a & b) for a in rows for b in rows)
    return -min(1.0, near / max(1, len(rows) ** 2 - near))


def adsh_reference(u, index, codes, kind, gamma=200.0):
    """Both terms from the paper's sums over N n K^2."""
    rows, (n, bits) = LABELS[kind], codes.shape
    scale, apart = len(index) * n * bits**2, far(rows)
    pair = quantization = 0.0
    for x, i in zip(u, index, strict=True):
        for j in range(n):
            s = 1 if rows[i] & rows[j] else apart
            pair += ((x @ codes[j]).item() - bits * s) ** 2
        quantization += (codes[i] - x).square().sum().item()
    return {"pair": pair / scale, "quantization": gamma * quantization / scale}


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([[1, 0], [1, 0], [0, 1], [0, 0]], -5 / 11),  # the last is similar to none, not even itself
        ([[1, 0], [1, 1], [1, 0], [0, 1]], -1),  # 12 of 16 pairs are similar
        ([[1, 0], [1, 0]], -1),
    ],
)
def test_adsh_weighs_dissimilar_pairs_by_their_number(rows, wanted):
    loss = ADSH(4, 2, True)
    loss.start(torch.tensor(rows).float())
    assert loss.far.item() == pytest.approx(wanted)
    assert loss.far.item() == pytest.approx(far([{c for c in range(2) if row[c]} for row in rows]))


@pytest.mark.parametrize("kind", LABELS)
def test_adsh_terms(kind):
    loss = started(ADSH, kind)
    assert isinstance(loss, Loss) and len(loss.sets) < 7  # some items share all their labels
    for epoch, index in enumerate([[2, 4, 0], [1, 3], [6, 5, 4]]):
        u = seeded(len(index), 4, seed=epoch)
        terms = step(loss, kind, index, u)
        wanted = adsh_reference(torch.tanh(u), index, loss.codes, kind)
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-9)
        assert torch.equal(loss.memory[index], torch.tanh(u))
        before = loss.codes
        loss.end_epoch()
        assert loss.codes.abs().eq(1).all() and not torch.equal(loss.codes, before)


@pytest.mark.parametrize("kind", LABELS)
def test_adsh_gradient(kind):
    loss, index = started(ADSH, kind), [2, 4, 0]
    u = seeded(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(step(loss, kind, index, x).values()), (u,))


@pytest.mark.parametrize("gamma", [200.0, 0.5])
@pytest.mark.parametrize("kind", LABELS)
def test_adsh_epoch_takes_the_better_value_of_each_bit_in_turn(kind, gamma):
    """The epoch's step against trying both values of every bit in the whole objective."""
    loss, everything = started(ADSH, kind, gamma=gamma), list(range(7))
    for epoch in range(2):
        u = torch.tanh(seeded(7, 4, seed=epoch))
        step(loss, kind, everything, torch.atanh(u))
        wanted = loss.codes.clone()
        before = sum(adsh_reference(u, everything, wanted, kind, gamma).values())
        for bit, item in itertools.product(range(4), range(7)):
            tries = []
            for value in (-1.0, 1.0):
                wanted[item, bit] = value
                tries.append((sum(adsh_reference(u, everything, wanted, kind, gamma).values()), value))
            wanted[item, bit] = min(tries)[1]
        loss.end_epoch()
        assert torch.equal(loss.codes, wanted)
        assert sum(adsh_reference(u, everything, wanted, kind, gamma).values()) < before


def test_adsh_starts_the_same_each_time():
    one, two = started(ADSH, "single", bits=12), started(ADSH, "single", bits=12)
    assert torch.equal(one.codes, two.codes) and one.codes.abs().eq(1).all()
    assert 0.3 < one.codes.eq(1).double().mean() < 0.7


def test_adsh_size_depends_neither_on_bits_nor_on_items():
    for bits, items in [(8, 50), (64, 50), (64, 2000)]:
        loss = ADSH(bits, 10)
        targets = torch.arange(items) % 10
        loss.start(targets)
        u, index = seeded(20, bits).float(), torch.arange(20)
        terms = loss(HashOutput(u=u, codes=torch.tanh(u), index=index), targets[:20])
        assert 0.1 < terms["pair"] < 1  # it is the mean square of s, 1/9, where codes are random and many


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_batch(method, kind):
    values = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        loss, index, u = started(method, kind), torch.tensor([3, 0, 6, 2])[order], seeded(4, 4)[order]
        terms = step(loss, kind, index.tolist(), u)
        loss.end_epoch()
        values.append([*(term.item() for term in terms.values()), *loss.codes.flatten().tolist()])
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("method", METHODS)
def test_goes_on_from_its_state(method, kind):
    one, two, u = started(method, kind), started(method, kind), seeded(7, 4)
    step(one, kind, list(range(7)), u)
    one.end_epoch()
    two.load_state_dict(one.state_dict())
    for loss in (one, two):
        step(loss, kind, [1, 4], seeded(2, 4, seed=1))
        loss.end_epoch()
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
    first, second = (step(loss, kind, [0, 5], u[:2]) for loss in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", [[[0.0] * 4] * 2, [[100.0, -300.0, 0.0, 2.0], [1.0, 1.0, -1.0, 1.0]], [[1.0] * 4]])
@pytest.mark.parametrize("method", METHODS)
def test_finite(method, rows):
    loss, u = started(method, "single").float(), torch.tensor(rows, requires_grad=True)
    total = sum(step(loss, "single", list(range(len(rows))), u).values())
    total.backward()
    assert total.isfinite() and u.grad.isfinite().all()
    loss.end_epoch()
    assert loss.codes.abs().eq(1).all()


@pytest.mark.parametrize("method", METHODS)
def test_says_what_it_needs(method):
    u = seeded(2, 4)
    output = HashOutput(u=u, codes=u, index=torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match=rf"{method.__name__} remembers .* start\(targets\)"):
        method(4, 3).double()(output, torch.tensor([0, 1]))


def test_wrong_options():
    with pytest.raises(ConfigError, match=r"mu and nu are weights above 0, not 1 and 0"):
        DSDH(12, 3, mu=1, nu=0)
