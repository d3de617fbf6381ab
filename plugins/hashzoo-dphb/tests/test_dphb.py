"""DPHB: its network, both terms of its loss against plain loops, and a few steps of its recipe."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hashzoo_dphb.backbone import AlexNet
from hashzoo_dphb.loss import DPHBLoss

from hashzoo import Backbone, ConfigError, HashNetwork, HashOutput, HashzooError, Loss
from hashzoo.registry import registry
from hashzoo.testing import Subject, parametrize_with_checks
from hashzoo.training import make_recipe


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def total(terms):
    return torch.stack(list(terms.values())).sum()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- the loss -------------------------------------------------------------------------------------------------------


def pair_reference(codes, labels, scale):
    """Mean over i != j of w_ij [log(1 + e^theta) - s theta], theta = scale / 2 * b_i . b_j; `labels` are sets."""
    terms = []
    for i in range(len(codes)):
        for j in range(len(codes)):
            if i != j:
                theta = scale / 2 * sum(x * y for x, y in zip(codes[i], codes[j], strict=True))
                s = 1.0 if labels[i] & labels[j] else 0.0
                terms.append((s, math.log(1 + math.exp(theta)) - s * theta))
    similar = sum(s for s, _ in terms)
    value = 0.0
    for s, term in terms:
        value += term * len(terms) / (similar if s else len(terms) - similar)
    return value / len(terms) if terms else 0.0


def label_reference(codes, weight, bias, labels, form, multi_label):
    """ "ce": cross-entropy, or binary cross-entropy averaged over items and classes; "l2": mean_i ||y_i - W b_i - c||^2."""
    values = []
    for b, wanted in zip(codes, labels, strict=True):
        row = [sum(w * x for w, x in zip(weights, b, strict=True)) + c for weights, c in zip(weight, bias, strict=True)]
        if form == "l2":
            values.append(sum((score - (c in wanted)) ** 2 for c, score in enumerate(row)))
        elif multi_label:
            for c, score in enumerate(row):
                p = 1 / (1 + math.exp(-score))
                values.append(-math.log(p if c in wanted else 1 - p))
        else:
            values.append(math.log(sum(math.exp(score) for score in row)) - row[min(wanted)])
    return sum(values) / len(values)


SINGLE = {"mixed": [0, 2, 1, 0, 2], "one-class": [1, 1, 1], "batch-of-one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {1}, {2}, set()], "one-class": [{1}, {1, 2}], "batch-of-one": [{0, 2}]}


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("form", ["ce", "l2"])
@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize(("kind", "case"), [("single", c) for c in SINGLE] + [("multi", c) for c in MULTI])
def test_terms(kind, case, bits, form, scale):
    multi_label = kind == "multi"
    if multi_label:
        labels = MULTI[case]
        targets = torch.tensor([[float(c in row) for c in range(3)] for row in labels], dtype=torch.float64)
    else:
        labels, targets = [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    torch.manual_seed(0)
    loss = DPHBLoss(bits, 3, multi_label, label=form, scale=scale).double()
    u, codes = seeded(len(labels), bits), seeded(len(labels), bits, seed=1).tanh()
    terms = loss(HashOutput(u=u, codes=codes), targets)
    rows, weight, bias = codes.tolist(), loss.classifier.weight.tolist(), loss.classifier.bias.tolist()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(  # and no quantisation regulariser
        {
            "pair": pair_reference(rows, labels, scale or 20 / bits),
            "label": label_reference(rows, weight, bias, labels, form, multi_label),
        },
        rel=1e-10,
    )


def test_weights_scale_their_own_term():
    output, targets = HashOutput(u=seeded(4, 12), codes=seeded(4, 12).tanh()), torch.tensor([0, 1, 0, 2])
    values = []
    for pair, label in ((1.0, 1.0), (2.0, 3.0)):
        torch.manual_seed(0)
        values.append(DPHBLoss(12, 3, pair_weight=pair, label_weight=label).double()(output, targets))
    ratios = {name: (values[1][name] / values[0][name]).item() for name in values[0]}
    assert ratios == pytest.approx({"pair": 2, "label": 3})


@pytest.mark.parametrize("form", ["ce", "l2"])
def test_both_terms_see_the_codes_and_not_u(form):
    loss, targets = DPHBLoss(12, 3, label=form).double(), torch.tensor([0, 1, 0, 2])
    codes = seeded(4, 12).tanh()
    one, two = (loss(HashOutput(u=seeded(4, 12, seed=seed), codes=codes), targets) for seed in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("form", ["ce", "l2"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_gradient(multi_label, form):
    torch.manual_seed(0)
    loss = DPHBLoss(5, 3, multi_label, label=form).double()
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]] if multi_label else torch.tensor([0, 1, 1, 2])
    u = seeded(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: total(loss(HashOutput(u=u, codes=u.tanh()), targets)), (u,))


# --- the network ----------------------------------------------------------------------------------------------------


def test_full_width_has_torchvision_s_parameters_without_fc8():
    with torch.device("meta"):  # 57 million numbers that nobody needs
        ours, theirs = AlexNet(), torchvision.models.alexnet()
    assert parameters(ours) == parameters(theirs) - parameters(theirs.classifier[6]) == 57_003_840


def test_network_is_alexnet_up_to_fc7():
    torch.manual_seed(0)
    net = AlexNet(fc_features=24).double().eval()
    images = seeded(2, 3, 64, 64)
    with torch.device("meta"):
        theirs = torchvision.models.alexnet()
    features = theirs.features.to_empty(device="cpu").double()
    features.load_state_dict(net.features.state_dict())
    h = theirs.avgpool(features(images)).flatten(1)
    assert h.shape == (2, 256 * 6 * 6)
    h = F.relu(F.linear(h, net.fc[1].weight, net.fc[1].bias))
    h = F.relu(F.linear(h, net.fc[4].weight, net.fc[4].bias))
    torch.testing.assert_close(net(images), h)
    assert h.std() > 0.1  # Kaiming's start keeps the signal's size


@pytest.mark.parametrize("fc_features", [8, 512])
def test_narrow_network(fc_features):
    net = AlexNet(fc_features=fc_features, dropout=0.25)
    assert isinstance(net, Backbone)
    assert (net.num_features, net.feature_shape) == (fc_features, (fc_features,))
    assert net(torch.zeros(2, 3, 63, 63)).shape == (2, fc_features)  # the smallest side it takes
    convolutions = 2_469_696
    assert parameters(net) == convolutions + (256 * 36 + 1) * fc_features + (fc_features + 1) * fc_features
    assert [layer.p for layer in net.modules() if isinstance(layer, torch.nn.Dropout)] == [0.25, 0.25]


def test_network_starts_at_kaiming_s_normal():
    torch.manual_seed(0)
    net = AlexNet(fc_features=512)
    layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 7
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.weight[0].numel()), rel=0.05)
        assert not layer.bias.any()


def test_pretrained_weights_are_asked_for_and_kept(monkeypatch):
    asked = []

    def published(weights, **how):
        asked.append((weights, how))
        return {name: torch.full_like(value, 0.25) for name, value in torchvision.models.alexnet().state_dict().items()}

    monkeypatch.setattr(torchvision.models.AlexNet_Weights, "get_state_dict", published)
    with torch.device("meta"):
        AlexNet()
    net = AlexNet(pretrained=True)
    assert asked == [(torchvision.models.AlexNet_Weights.DEFAULT, {"check_hash": True, "weights_only": True})]
    assert all((parameter == 0.25).all() for parameter in net.parameters())


# --- the plugin and its recipe --------------------------------------------------------------------------------------


SMALL = {"backbone": {"args": {"fc_features": 64}}, "preprocess": {"size": [64, 64]}}


@parametrize_with_checks(
    [
        Subject("backbone", "hashzoo-dphb/alexnet", {"fc_features": 64}),
        Subject("loss", "hashzoo-dphb/dphb"),
        Subject("loss", "hashzoo-dphb/dphb", {"label": "l2", "scale": 1.0}),
        Subject("method", "hashzoo-dphb/dphb", SMALL),
    ]
)
def test_conforms(check):
    check()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AlexNet(pretrained=True, fc_features=512), "fc_features = 4096, not 512"),
        (lambda: AlexNet(fc_features=0), "fc_features of 1 to 4096"),
        (lambda: AlexNet(fc_features=4097), "fc_features of 1 to 4096"),
        (lambda: AlexNet(dropout=1.5), "0 <= dropout < 1, not 4096 and 1.5"),
        (lambda: DPHBLoss(12, 3, label="bce"), "label loss is 'ce' or 'l2', not 'bce'"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_unknown_options_are_refused():
    with pytest.raises(HashzooError, match=r"'dphb' of hashzoo-dphb cannot be built.*margin"):
        registry().build("loss", "dphb", bits=12, num_classes=3, margin=2)


def test_recipes():
    usual = make_recipe("dphb", bits=12, dataset="elsewhere", protocol="elsewhere")
    assert (usual.preprocess.size, usual.backbone.args, usual.optimization.pretrained) == ((224, 224), {}, True)
    cifar = make_recipe("dphb", bits=48, dataset="cifar10", protocol="cifar10-full")
    assert cifar.name == "dphb-alexnet-cifar10-48bit"
    assert (cifar.preprocess.size, cifar.optimization.pretrained) == ((96, 96), False)
    assert {cifar.backbone.package, cifar.loss.package} == {"hashzoo-dphb"}
    assert {cifar.head.package, cifar.quantizer.package} == {"hashzoo"}


@pytest.mark.parametrize("form", ["ce", "l2"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_recipe_trains(multi_label, form):
    recipe = make_recipe(
        "dphb", bits=12, dataset="cifar10", protocol="cifar10-full",
        changes={"backbone": {"args": {"fc_features": 64, "dropout": 0.0}}, "loss": {"args": {"label": form}}},
    )  # fmt: skip
    torch.manual_seed(0)
    model = HashNetwork(recipe.backbone, recipe.head, recipe.quantizer, bits=12, preprocess=recipe.preprocess)
    loss = registry().build("loss", "dphb", bits=12, num_classes=4, multi_label=multi_label, **recipe.loss.args)
    assert isinstance(loss, Loss)
    targets = torch.arange(8) % 4
    images = seeded(4, 3, 64, 64).float()[targets] + seeded(8, 3, 64, 64, seed=1).float() / 2
    if multi_label:
        targets = F.one_hot(targets, 4).float() + F.one_hot(targets.flip(0), 4).float()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-3)
    values = []
    for step in range(25):
        output = model(images)
        value = total(loss(output, targets))
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            named = [*model.named_parameters(), *loss.named_parameters()]
            assert [name for name, parameter in named if parameter.grad is None or not parameter.grad.any()] == []
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    model.eval()
    with torch.inference_mode():
        output = model(images)
    assert torch.equal(output.codes, torch.where(output.u >= 0, 1.0, -1.0))
