"""DAHP: attention, anchors and loss against plain loops, the network, and a few steps of its recipe."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hashzoo_dahp.anchors import anchor_targets, balanced_anchors
from hashzoo_dahp.attention import ChannelAttention, DualAttentionHead, PositionAttention
from hashzoo_dahp.backbone import ResNet18
from hashzoo_dahp.loss import DAHPLoss

from hashzoo import Backbone, ConfigError, HashNetwork, HashOutput, HashzooError, Loss
from hashzoo.registry import registry
from hashzoo.testing import Subject, parametrize_with_checks
from hashzoo.training import make_recipe


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def total(terms):
    return torch.stack(list(terms.values())).sum()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- attention ------------------------------------------------------------------------------------------------------


def softmax_reference(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def convolution_reference(layer, pixel):
    """A 1x1 convolution at one position."""
    weight, bias = layer.weight[:, :, 0, 0].tolist(), layer.bias.tolist()
    return [sum(w * x for w, x in zip(row, pixel, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def position_reference(module, image):
    """out_i = x_i + gamma * sum_j softmax_j(q_i . k_j) v_j over the positions of one image, as {(y, x): [channels]}."""
    channels, height, width = image.shape
    pixels = {(y, x): image[:, y, x].tolist() for y in range(height) for x in range(width)}
    query, key, value = (
        {place: convolution_reference(layer, pixel) for place, pixel in pixels.items()}
        for layer in (module.query, module.key, module.value)
    )
    out = {}
    for place, pixel in pixels.items():
        row = [sum(q * k for q, k in zip(query[place], key[other], strict=True)) for other in pixels]
        weights = softmax_reference(row)
        out[place] = [
            pixel[d] + module.gamma.item() * sum(w * value[other][d] for w, other in zip(weights, pixels, strict=True))
            for d in range(channels)
        ]
    return out


def channel_reference(module, image):
    """out_d = x_d + beta * sum_e softmax_e(max_f E_df - E_de) x_e, E = X X^T, over the channels of one image."""
    channels, height, width = image.shape
    rows = [[image[d, y, x].item() for y in range(height) for x in range(width)] for d in range(channels)]
    out = {(y, x): [] for y in range(height) for x in range(width)}
    for d in range(channels):
        energy = [sum(a * b for a, b in zip(rows[d], rows[e], strict=True)) for e in range(channels)]
        weights = softmax_reference([max(energy) - value for value in energy])
        for n, place in enumerate(out):
            mixed = sum(weights[e] * rows[e][n] for e in range(channels))
            out[place].append(rows[d][n] + module.beta.item() * mixed)
    return out


MAPS = [(2, 16, 2, 3), (1, 8, 1, 1), (3, 8, 3, 1), (1, 24, 2, 2)]


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("gamma", [0.0, 0.7, -1.5])
def test_position_attention(shape, gamma):
    torch.manual_seed(0)
    module = PositionAttention(shape[1]).double()
    assert module.gamma.item() == 0
    module.gamma.data.fill_(gamma)
    for layer in (module.query, module.key):  # so that attention is far from uniform
        layer.weight.data.mul_(3)
    x = seeded(*shape)
    made = module(x)
    assert made.shape == shape
    for image, ours in zip(x, made, strict=True):
        for (y, column), wanted in position_reference(module, image).items():
            assert ours[:, y, column].tolist() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("beta", [0.0, 0.7, -1.5])
def test_channel_attention(shape, beta):
    module = ChannelAttention().double()
    assert module.beta.item() == 0
    module.beta.data.fill_(beta)
    x = seeded(*shape) / 2
    made = module(x)
    assert made.shape == shape
    assert made.dtype == x.dtype
    for image, ours in zip(x, made, strict=True):
        for (y, column), wanted in channel_reference(module, image).items():
            assert ours[:, y, column].tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_channel_attention_favours_the_channels_least_alike():
    module = ChannelAttention()
    module.beta.data.fill_(1.0)
    x = torch.tensor([[2.0, 2.0], [2.0, 2.0], [-2.0, -2.0]]).view(1, 3, 1, 2)
    mixed = module(x) - x
    assert (mixed[0, 0] < -1.9).all()  # the first channel took up the third, its opposite
    assert (mixed[0, 2] > 1.9).all()


def test_position_attention_gradient():
    torch.manual_seed(0)
    module = PositionAttention(8).double()
    module.gamma.data.fill_(0.5)
    assert torch.autograd.gradcheck(module, (seeded(1, 8, 2, 2).requires_grad_(),))


def test_channel_attention_gradient():
    """Against differences of the loop reference, because the module takes its energies in float32."""
    module = ChannelAttention().double()
    module.beta.data.fill_(0.5)
    x, upstream = (seeded(1, 4, 1, 3) / 2).requires_grad_(), seeded(1, 4, 1, 3, seed=1)
    module(x).backward(upstream)

    def value(image):
        out = channel_reference(module, image)
        return sum(w * upstream[0, d, y, c].item() for (y, c), row in out.items() for d, w in enumerate(row))

    for d in range(4):
        for c in range(3):
            step = torch.zeros(4, 1, 3, dtype=torch.float64)
            step[d, 0, c] = 1e-5
            difference = (value(x.detach()[0] + step) - value(x.detach()[0] - step)) / 2e-5
            assert x.grad[0, d, 0, c].item() == pytest.approx(difference, rel=1e-3, abs=1e-4)


def test_channel_attention_is_exact_under_autocast():
    """1.997 is 2 in bfloat16, and 128 such positions move an energy by 0.76."""
    module = ChannelAttention()
    module.beta.data.fill_(1.0)
    flat = torch.full((3, 128), 2.0)
    flat[1] = 1.997
    flat[1, 0], flat[2, :2] = 1.5, 1.5
    x = flat.view(1, 3, 16, 8)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        made = module(x).float()
    torch.testing.assert_close(made, exact, rtol=0, atol=2e-2)


def test_attention_of_large_features_stays_finite():
    torch.manual_seed(0)
    head = DualAttentionHead((16, 2, 2), bits=12)
    head.position.gamma.data.fill_(1.0)
    head.channel.beta.data.fill_(1.0)
    features = (seeded(2, 16, 2, 2, dtype=torch.float32) * 1e4).requires_grad_()
    u = head(features)
    u.sum().backward()
    assert torch.isfinite(u).all()
    assert torch.isfinite(features.grad).all()


def test_head_starts_as_plain_pooling():
    """At gamma = beta = 0 both branches are the map itself, so that their sum pools to twice the mean."""
    torch.manual_seed(0)
    head = DualAttentionHead((16, 3, 2), bits=12, num_classes=7).double()
    features = seeded(4, 16, 3, 2)
    torch.testing.assert_close(head(features), head.linear(2 * features.mean((2, 3))))
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not head.linear.bias.any()


def test_head_sums_its_branches():
    torch.manual_seed(0)
    head = DualAttentionHead((16, 2, 3), bits=12).double()
    head.position.gamma.data.fill_(0.5)
    head.channel.beta.data.fill_(2.0)
    image = seeded(16, 2, 3) / 2
    position, channel = position_reference(head.position, image), channel_reference(head.channel, image)
    pooled = [sum(position[p][d] + channel[p][d] for p in position) / 6 for d in range(16)]
    wanted = [sum(w * x for w, x in zip(row, pooled, strict=True)) for row in head.linear.weight.tolist()]
    assert head(image[None])[0].tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


# --- anchors --------------------------------------------------------------------------------------------------------


def smallest_distance(anchors):
    rows = anchors.tolist()
    return min(sum(x != y for x, y in zip(rows[i], rows[j], strict=True)) for i in range(len(rows)) for j in range(i))


def check_balance(anchors, num_classes, bits):
    assert anchors.shape == (num_classes, bits)
    assert anchors.dtype == torch.float32
    assert anchors.abs().eq(1).all()
    ones = anchors.eq(1).sum(0)
    assert torch.equal(torch.minimum(ones, num_classes - ones), torch.full((bits,), num_classes // 2))


@pytest.mark.parametrize(("bits", "least"), [(12, 6), (16, 8), (24, 12), (32, 17), (48, 26), (64, 34)])
def test_ten_anchors_are_as_far_apart_as_known(bits, least):
    anchors = balanced_anchors(10, bits)
    check_balance(anchors, 10, bits)
    found = smallest_distance(anchors)
    assert found <= 5 * bits // 9  # each column parts 25 of the 45 pairs
    assert found >= least
    assert bits == 64 or found == least


@pytest.mark.parametrize(
    ("num_classes", "bits", "least"),
    [
        (2, 4, 4),
        (2, 48, 48),
        (2, 1024, 1024),
        (3, 4, 2),
        (3, 12, 8),
        (3, 48, 32),
        (10, 4, 1),
        (100, 16, 4),
        (100, 64, 24),
    ],
)
def test_other_numbers_of_classes(num_classes, bits, least):
    anchors = balanced_anchors(num_classes, bits)
    check_balance(anchors, num_classes, bits)  # no constant column among them
    assert smallest_distance(anchors) >= least


@pytest.mark.parametrize(("num_classes", "bits", "least"), [(3, 1024, 682), (10, 1024, 568)])
def test_long_codes_are_spread_too(num_classes, bits, least):
    """exp(-2 * distance) is 0 in float64 beyond a distance of 372."""
    anchors = balanced_anchors(num_classes, bits)
    check_balance(anchors, num_classes, bits)
    assert smallest_distance(anchors) == least  # the bound


def test_one_class():
    assert balanced_anchors(1, 12).abs().eq(1).all()
    assert balanced_anchors(1, 12).shape == (1, 12)


def test_anchors_follow_the_seed():
    assert torch.equal(balanced_anchors(10, 16), balanced_anchors(10, 16))
    assert not torch.equal(balanced_anchors(10, 16), balanced_anchors(10, 16, seed=1))


@pytest.mark.parametrize("tie_break", [[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
def test_anchor_targets_by_hand(tie_break):
    anchors = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [-1, -1, -1, 1]])
    t = tie_break
    labels = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    made = anchor_targets(anchors, labels, torch.tensor(t)).tolist()
    assert made[0] == [1, 1, 1, 1]
    assert made[1] == [1, 1, 1, -1]  # two of three
    assert made[2] == [1, 1, t[2], t[3]]  # even votes fall to the tie-break
    assert made[3] == [t[0], t[1], t[2], 1]
    assert made[4] == t  # no label, no votes
    assert made[5] == [1, t[1], t[2], t[3]]


def test_anchor_targets_of_single_labels():
    anchors = balanced_anchors(5, 12)
    labels = torch.tensor([3, 0, 3, 4])
    for row, label in zip(anchor_targets(anchors, labels, torch.ones(12)), labels.tolist(), strict=True):
        assert torch.equal(row, anchors[label])
    one_hot = F.one_hot(labels, 5).float()
    assert torch.equal(anchor_targets(anchors, one_hot, torch.ones(12)), anchors[labels])


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


def bce_reference(u, labels, anchors, tie_break):
    """Mean over items and bits of -log P(bit = the anchor's), P(1) = (1 + tanh u) / 2; ties of the vote by tie_break."""
    values = []
    for row, classes in zip(u, labels, strict=True):
        for k, value in enumerate(row):
            votes = sum(anchors[c][k] for c in classes)
            wanted = tie_break[k] if votes == 0 else votes
            p = (1 + math.tanh(value)) / 2
            values.append(-math.log(p if wanted > 0 else 1 - p))
    return sum(values) / len(values)


def cosine_reference(u, labels, anchors, margin):
    """Mean cross-entropy over sqrt(K) (cos(u, h_c) - margin [c = y])."""
    values = []
    for row, classes in zip(u, labels, strict=True):
        (label,) = classes
        scores = []
        for c, anchor in enumerate(anchors):
            length = math.sqrt(sum(x * x for x in row)) * math.sqrt(len(row))
            cosine = sum(x * h for x, h in zip(row, anchor, strict=True)) / length
            scores.append(math.sqrt(len(row)) * (cosine - (margin if c == label else 0.0)))
        values.append(math.log(sum(math.exp(score) for score in scores)) - scores[label])
    return sum(values) / len(values)


SINGLE = {"mixed": [0, 2, 1, 0, 2], "one-class": [1, 1, 1], "batch-of-one": [2]}
MULTI = {"mixed": [{0}, {0, 1}, {1}, {2}, set()], "one-class": [{1}, {1, 2}], "batch-of-one": [{0, 2}]}
CASES = [("single", case, form) for case in SINGLE for form in ("bce", "cosine")] + [("multi", c, "bce") for c in MULTI]


@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize(("kind", "case", "form"), CASES)
def test_terms(kind, case, form, bits):
    if kind == "multi":
        labels = MULTI[case]
        targets = torch.tensor([[float(c in row) for c in range(3)] for row in labels], dtype=torch.float64)
    else:
        labels, targets = [{c} for c in SINGLE[case]], torch.tensor(SINGLE[case])
    loss = DAHPLoss(bits, 3, kind == "multi", anchor=form, margin=0.25, pair_weight=0.5).double()
    u, codes = seeded(len(labels), bits), seeded(len(labels), bits, seed=1).tanh()
    terms = loss(HashOutput(u=u, codes=codes), targets)
    if form == "bce":
        anchor = bce_reference(u.tolist(), labels, loss.anchors.tolist(), loss.tie_break.tolist())
    else:
        anchor = cosine_reference(u.tolist(), labels, loss.anchors.tolist(), 0.25)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"anchor": anchor, "pair": 0.5 * pair_reference(codes.tolist(), labels, bits)}, rel=1e-10
    )


def test_defaults():
    loss, same = DAHPLoss(12, 4), DAHPLoss(12, 4, anchor="bce", margin=0.2, pair_weight=0.1)
    output, targets = HashOutput(u=seeded(4, 12).float(), codes=seeded(4, 12).float()), torch.tensor([0, 1, 0, 3])
    one, two = loss(output, targets), same(output, targets)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_anchors_are_fixed():
    loss = DAHPLoss(12, 10)
    assert list(loss.parameters()) == []
    assert torch.equal(loss.anchors, balanced_anchors(10, 12))
    assert torch.equal(loss.tie_break, DAHPLoss(12, 10).tie_break)
    assert sorted(loss.tie_break.unique().tolist()) == [-1, 1]


@pytest.mark.parametrize("form", ["bce", "cosine"])
def test_anchor_term_is_smallest_at_the_own_anchor(form):
    loss = DAHPLoss(12, 4, anchor=form, pair_weight=0.0)
    label = torch.tensor([1])
    values = [loss(HashOutput(u=3 * row[None], codes=row[None]), label)["anchor"].item() for row in loss.anchors]
    assert min(range(4), key=values.__getitem__) == 1


@pytest.mark.parametrize(("form", "multi_label"), [("bce", False), ("bce", True), ("cosine", False)])
def test_gradient(form, multi_label):
    loss = DAHPLoss(5, 3, multi_label, anchor=form).double()
    targets = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2]] if multi_label else torch.tensor([0, 1, 1, 2])
    u = seeded(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: total(loss(HashOutput(u=u, codes=u.tanh()), targets)), (u,))


# --- the network ----------------------------------------------------------------------------------------------------


def test_imagenet_stem_is_torchvision_s_network():
    torch.manual_seed(0)
    ours = ResNet18().eval()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    images = seeded(1, 3, 64, 96, dtype=torch.float32)
    with torch.inference_mode():
        h = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        h = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(h))))
        assert h.shape == (1, 512, 2, 3)
        assert torch.equal(ours(images), h)
    assert parameters(ours) == parameters(theirs) - parameters(theirs.fc)


@pytest.mark.parametrize(("stem", "side", "first"), [("imagenet", 224, (64, 3, 7, 7)), ("cifar", 32, (64, 3, 3, 3))])
def test_stems(stem, side, first):
    net = ResNet18(stem=stem).eval()
    assert isinstance(net, Backbone)
    assert net.preprocess == {"size": (side, side)}
    assert net.stem[0].weight.shape == first
    assert parameters(net) == 11_176_512 - 64 * 3 * 49 + math.prod(first)
    with torch.inference_mode():
        features = net(torch.zeros(2, 3, side, side))
    assert features.shape == (2, *net.feature_shape)
    assert net.num_features == net.feature_shape[0] == 512


def test_parameter_count_of_the_whole():
    with torch.device("meta"):
        net, head = ResNet18(), DualAttentionHead((512, 7, 7), bits=48)
    assert parameters(head) - parameters(head.linear) == 328_322
    assert parameters(net) + parameters(head) == 11_529_458


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_pretrained_weights_are_asked_for_and_kept(monkeypatch, stem):
    asked = []

    def published(weights, **how):
        asked.append((weights, how))
        return {
            name: torch.full_like(value, 0.25) for name, value in torchvision.models.resnet18().state_dict().items()
        }

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", published)
    ResNet18(stem=stem)
    net = ResNet18(pretrained=True, stem=stem)
    assert asked == [(torchvision.models.ResNet18_Weights.DEFAULT, {"check_hash": True, "weights_only": True})]
    fresh = [name for name, parameter in net.named_parameters() if (parameter != 0.25).any()]
    assert fresh == (["stem.0.weight"] if stem == "cifar" else [])


# --- the plugin and its recipe --------------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        Subject("backbone", "hashzoo-dahp/resnet18", {"stem": "cifar"}),
        Subject("head", "hashzoo-dahp/dual-attention"),
        Subject("loss", "hashzoo-dahp/dahp"),
        Subject("loss", "hashzoo-dahp/dahp", {"anchor": "cosine"}),
        Subject("method", "hashzoo-dahp/dahp"),  # with the cosine form, as cifar10 has it
    ]
)
def test_conforms(check):
    check()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNet18(stem="tiny"), "stem is 'imagenet' or 'cifar', not 'tiny'"),
        (
            lambda: DualAttentionHead((512,), bits=12),
            r"needs a feature map \(D, H, W\), not features of shape \(512,\)",
        ),
        (lambda: DualAttentionHead((7, 4, 4), bits=12), "at least 8 channels, not 7"),
        (lambda: DAHPLoss(12, 3, anchor="hinge"), "anchor loss is 'cosine' or 'bce', not 'hinge'"),
        (lambda: DAHPLoss(12, 3, True, anchor="cosine"), "use anchor='bce' for multi-label"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_unknown_options_are_refused():
    with pytest.raises(HashzooError, match=r"'dahp' of hashzoo-dahp cannot be built.*balance"):
        registry().build("loss", "dahp", bits=12, num_classes=3, balance=2)


def test_recipes():
    usual = make_recipe("dahp", bits=12, dataset="elsewhere", protocol="elsewhere")
    assert usual.backbone.args == {"stem": "imagenet"}
    assert usual.loss.args == {"anchor": "bce", "pair_weight": 0.1}
    assert (usual.preprocess.size, usual.optimization.pretrained) == ((224, 224), True)
    cifar = make_recipe("dahp", bits=48, dataset="cifar10", protocol="cifar10-full")
    assert cifar.name == "dahp-resnet18-cifar10-48bit"
    assert cifar.backbone.args == {"stem": "cifar"}
    assert cifar.loss.args == {"anchor": "cosine", "pair_weight": 0.1}
    assert (cifar.preprocess.size, cifar.optimization.pretrained) == ((32, 32), False)
    assert {cifar.backbone.package, cifar.head.package, cifar.loss.package} == {"hashzoo-dahp"}
    assert cifar.quantizer.package == "hashzoo"


@pytest.mark.parametrize(("form", "multi_label"), [("cosine", False), ("bce", True)])
def test_recipe_trains(form, multi_label):
    recipe = make_recipe(
        "dahp", bits=48, dataset="cifar10", protocol="cifar10-full", changes={"loss": {"args": {"anchor": form}}}
    )
    torch.manual_seed(0)
    model = HashNetwork(recipe.backbone, recipe.head, recipe.quantizer, bits=48, preprocess=recipe.preprocess)
    loss = registry().build("loss", "dahp", bits=48, num_classes=4, multi_label=multi_label, **recipe.loss.args)
    assert isinstance(loss, Loss)
    images = seeded(8, 3, 32, 32, dtype=torch.float32)
    targets = torch.arange(8) % 4
    if multi_label:
        targets = F.one_hot(targets, 4).float() + F.one_hot((targets + 1) % 4, 4).float() * (targets > 1)[:, None]
    # attention is learned from gamma = 0, which holds back the gradient of its convolutions for one step
    waiting = {f"head.position.{layer}.{kind}" for layer in ("query", "key", "value") for kind in ("weight", "bias")}
    # and a bias of the key moves all energies of a row alike, which softmax does not see: its gradient is rounding
    waiting_later = {"head.position.key.bias"}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for step in range(6):
        output = model(images)
        value = total(loss(output, targets))
        optimizer.zero_grad()
        value.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
        assert still == waiting if step == 0 else still <= waiting_later
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    model.eval()
    with torch.inference_mode():
        output = model(images)
    assert torch.equal(output.codes, torch.where(output.u >= 0, 1.0, -1.0))
