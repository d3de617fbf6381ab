"""DSBH: its network, every term of its loss against plain loops, and a few steps of its recipe."""

import math

import pytest
import torch
import torch.nn.functional as F
from hashzoo_dsbh.backbone import CNN3, CNN3Wide
from hashzoo_dsbh.loss import DSBHLoss, balance

from hashzoo import Backbone, ConfigError, HashNetwork, HashOutput, HashzooError, Loss
from hashzoo.registry import registry
from hashzoo.testing import Subject, parametrize_with_checks
from hashzoo.training import make_recipe


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def signs(*shape, seed=0):
    return torch.where(seeded(*shape, seed=seed) >= 0, 1.0, -1.0).double()


def total(terms):
    return torch.stack(list(terms.values())).sum()


# --- the loss -------------------------------------------------------------------------------------------------------


def pair_reference(codes, labels, bits):
    """Mean over i != j of w_ij [log(1 + e^theta) - s theta], theta = 10 / K * b_i . b_j; `labels` are sets."""
    terms = []
    for i in range(len(codes)):
        for j in range(len(codes)):
            if i != j:
                theta = 10 / bits * sum(x * y for x, y in zip(codes[i], codes[j], strict=True))
                s = 1.0 if labels[i] & labels[j] else 0.0
                terms.append((s, math.log(1 + math.exp(theta)) - s * theta))
    similar = sum(s for s, _ in terms)
    value = 0.0
    for s, term in terms:
        value += term * len(terms) / (similar if s else len(terms) - similar)
    return value / len(terms) if terms else 0.0


def class_reference(codes, weight, bias, labels, multi_label):
    """Cross-entropy of W b + c, or binary cross-entropy averaged over items and classes."""
    values = []
    for b, wanted in zip(codes, labels, strict=True):
        row = [sum(w * x for w, x in zip(weights, b, strict=True)) + c for weights, c in zip(weight, bias, strict=True)]
        if multi_label:
            for c, score in enumerate(row):
                p = 1 / (1 + math.exp(-score))
                values.append(-math.log(p if c in wanted else 1 - p))
        else:
            values.append(math.log(sum(math.exp(score) for score in row)) - row[min(wanted)])
    return sum(values) / len(values)


def balance_reference(codes, over):
    """Per bit: (1/K) sum_k (mean_i b_ik)^2; per sample: (1/N) sum_i (mean_k b_ik)^2."""
    items, bits = len(codes), len(codes[0])
    value = 0.0
    if over == "bit":
        for k in range(bits):
            value += (sum(codes[i][k] for i in range(items)) / items) ** 2 / bits
    else:
        for i in range(items):
            value += (sum(codes[i][k] for k in range(bits)) / bits) ** 2 / items
    return value


SINGLE = {"mixed": [0, 2, 1, 0, 2], "one-class": [1, 1, 1], "batch-of-one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {1}, {2}, set()], "one-class": [{1}, {1, 2}], "batch-of-one": [{0, 2}]}


@pytest.mark.parametrize("over", ["bit", "sample"])
@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize(("kind", "case"), [("single", c) for c in SINGLE] + [("multi", c) for c in MULTI])
def test_terms(kind, case, bits, over):
    multi_label = kind == "multi"
    if multi_label:
        labels = MULTI[case]
        targets = torch.tensor([[float(c in row) for c in range(3)] for row in labels], dtype=torch.float64)
    else:
        labels, targets = [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    torch.manual_seed(0)
    loss = DSBHLoss(bits, 3, multi_label, balance_over=over).double()
    u, codes = seeded(len(labels), bits), signs(len(labels), bits, seed=1)
    terms = loss(HashOutput(u=u, codes=codes), targets)
    rows, weight, bias = codes.tolist(), loss.classifier.weight.tolist(), loss.classifier.bias.tolist()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "pair": pair_reference(rows, labels, bits),
            "class": class_reference(rows, weight, bias, labels, multi_label),
            "balance": 0.1 * balance_reference(rows, over),
        },
        rel=1e-10,
    )


def test_weights_scale_their_own_term():
    output, targets = HashOutput(u=seeded(4, 12), codes=signs(4, 12)), torch.tensor([0, 1, 0, 2])
    values = []
    for weights in ((1.0, 1.0, 1.0), (2.0, 3.0, 5.0)):
        torch.manual_seed(0)
        pair, classes, even = weights
        loss = DSBHLoss(12, 3, pair_weight=pair, class_weight=classes, balance_weight=even).double()
        values.append(loss(output, targets))
    ratios = {name: (values[1][name] / values[0][name]).item() for name in values[0]}
    assert ratios == pytest.approx({"pair": 2, "class": 3, "balance": 5})


def test_every_term_sees_the_codes_and_not_u():
    loss, targets = DSBHLoss(12, 3).double(), torch.tensor([0, 1, 0, 2])
    codes = signs(4, 12)
    one, two = (loss(HashOutput(u=seeded(4, 12, seed=seed), codes=codes), targets) for seed in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("codes", "bit", "sample"),
    [
        ([[1, 1], [1, 1]], 1, 1),
        ([[1, -1], [-1, 1]], 0, 0),
        ([[1, 1, 1], [-1, -1, -1]], 0, 1),  # each bit splits the items; no code does
        ([[1, -1], [1, -1], [1, -1]], 1, 0),
        ([[1, 1, 1, -1]], 1, 0.25),
    ],
)
def test_balance_by_hand(codes, bit, sample):
    codes = torch.tensor(codes, dtype=torch.float64)
    assert balance(codes, "bit").item() == bit
    assert balance(codes, "sample").item() == sample


@pytest.mark.parametrize("over", ["bit", "sample"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_gradient(multi_label, over):
    torch.manual_seed(0)
    loss = DSBHLoss(5, 3, multi_label, balance_over=over).double()
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]] if multi_label else torch.tensor([0, 1, 1, 2])
    codes = seeded(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: total(loss(HashOutput(u=b, codes=b), targets)), (codes,))


# --- the network ----------------------------------------------------------------------------------------------------


def test_network_is_dsh_s():
    torch.manual_seed(0)
    net = CNN3().double()
    x = seeded(2, 3, 32, 32)
    w = [p.detach() for p in net.parameters()]
    h = F.max_pool2d(F.relu(F.conv2d(x, w[0], w[1], padding=2)), 3, 2)
    assert h.shape == (2, 32, 15, 15)
    h = F.avg_pool2d(F.relu(F.conv2d(h, w[2], w[3], padding=2)), 3, 2)
    h = F.avg_pool2d(F.relu(F.conv2d(h, w[4], w[5], padding=2)), 3, 2)
    assert h.shape == (2, 64, 3, 3)
    h = F.relu(F.linear(h.flatten(1), w[6], w[7]))
    torch.testing.assert_close(net(x), h)
    assert [tuple(p.shape) for p in w[::2]] == [(32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (500, 576)]


def test_network_says_what_it_gives():
    net = CNN3()
    assert isinstance(net, Backbone)
    assert (net.num_features, net.feature_shape, net.preprocess) == (500, (500,), {"size": (32, 32)})
    assert net(torch.zeros(3, 3, 32, 32)).shape == (3, *net.feature_shape)


def test_the_wide_network():
    torch.manual_seed(0)
    net = CNN3Wide().double().eval()
    assert sum(p.numel() for p in net.parameters()) + 500 * 48 + 48 == 2_206_744
    x = h = seeded(2, 3, 32, 32)
    state = list(net.state_dict().values())
    for start, channels in ((0, 64), (6, 128), (12, 256)):
        weight, scale, shift, mean, var, _ = state[start : start + 6]
        assert weight.shape[0] == channels
        h = F.relu(F.batch_norm(F.conv2d(h, weight, padding=2), mean, var, scale, shift))
        h = F.max_pool2d(h, 3, 2)
    weight, scale, shift, mean, var, _ = state[18:]
    torch.testing.assert_close(net(x), F.relu(F.batch_norm(F.linear(h.flatten(1), weight), mean, var, scale, shift)))
    assert isinstance(net, Backbone)
    assert (net.num_features, net.feature_shape, net.preprocess) == (500, (500,), {"size": (32, 32)})


def test_network_starts_at_kaiming_s_normal():
    torch.manual_seed(0)
    for layer in CNN3().layers:
        if hasattr(layer, "weight"):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
            assert not layer.bias.any()


# --- the plugin and its recipe --------------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        Subject("backbone", "hashzoo-dsbh/cnn3"),
        Subject("backbone", "hashzoo-dsbh/cnn3-wide"),
        Subject("loss", "hashzoo-dsbh/dsbh"),
        Subject("loss", "hashzoo-dsbh/dsbh", {"balance_over": "sample"}),
        Subject("method", "hashzoo-dsbh/dsbh"),
    ]
)
def test_conforms(check):
    check()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNN3(pretrained=True), "cnn3 has no published weights"),
        (lambda: CNN3Wide(pretrained=True), "cnn3-wide has no published weights"),
        (lambda: DSBHLoss(12, 3, balance_over="bits"), "balance is over 'bit' or 'sample', not 'bits'"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_unknown_options_are_refused():
    with pytest.raises(HashzooError, match=r"'dsbh' of hashzoo-dsbh cannot be built.*margin"):
        registry().build("loss", "dsbh", bits=12, num_classes=3, margin=2)


def from_recipe(bits, num_classes=4, multi_label=False):
    recipe = make_recipe("dsbh", bits=bits, dataset="cifar10", protocol="cifar10-full")
    torch.manual_seed(0)
    model = HashNetwork(
        recipe.backbone, recipe.head, recipe.quantizer,
        bits=bits, preprocess=recipe.preprocess, num_classes=num_classes, pretrained=recipe.optimization.pretrained,
    )  # fmt: skip
    args = {"bits": bits, "num_classes": num_classes, "multi_label": multi_label, **recipe.loss.args}
    return recipe, model, registry().build("loss", recipe.loss.name, **args)


def test_recipe():
    recipe, model, loss = from_recipe(48)
    assert recipe.name == "dsbh-cnn3-cifar10-48bit"
    assert {recipe.backbone.package, recipe.loss.package} == {"hashzoo-dsbh"}
    assert {recipe.head.package, recipe.quantizer.package} == {"hashzoo"}
    assert sum(p.numel() for p in model.parameters()) == 391_876  # DSH's net with 48 outputs
    assert isinstance(loss, Loss)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("bits", [12, 48])
def test_recipe_trains(bits, multi_label):
    _, model, loss = from_recipe(bits, multi_label=multi_label)
    targets = torch.arange(16) % 4
    images = seeded(4, 3, 32, 32).float()[targets] + seeded(16, 3, 32, 32, seed=1).float() / 2
    if multi_label:
        targets = F.one_hot(targets, 4).float() + F.one_hot(targets.flip(0), 4).float()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-3)
    values = []
    for step in range(40):
        output = model(images)
        assert output.codes.abs().eq(1).all()  # discrete in training too
        value = total(loss(output, targets))
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            named = [*model.named_parameters(), *loss.named_parameters()]
            assert [name for name, parameter in named if parameter.grad is None or not parameter.grad.any()] == []
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    model.eval()
    with torch.inference_mode():
        output = model(images)
    assert torch.equal(output.codes, torch.where(output.u >= 0, 1.0, -1.0))
