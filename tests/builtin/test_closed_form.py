"""Heads without training by steps, against plain loops, numpy and the properties that define them; names of before."""

import itertools
import math

import numpy as np
import pytest
import torch

from hashzoo import ConfigError
from hashzoo.builtin.closed_form import ITQ, LSH, PCA, better_rotation, principal_directions, random_rotation
from hashzoo.registry import registry
from hashzoo.testing import Subject, parametrize_with_checks
from hashzoo.training import make_recipe

SMALL = {"backbone": {"name": "tiny", "args": {"pooled": True}}, "preprocess": {"size": [16, 16]}}


@parametrize_with_checks(
    [
        Subject("head", "lsh"),
        Subject("head", "pca"),
        Subject("head", "pca", {"rotation": True}),
        Subject("head", "itq"),
        *(Subject("method", name, SMALL) for name in ("lsh", "pca-sign", "pca-rotation", "itq")),
    ]
)
def test_conforms(check):
    check()


@pytest.mark.parametrize("dataset", ["cifar10", "tiny-imagenet"])
@pytest.mark.parametrize("name", ["lsh", "pca-sign", "pca-rotation", "itq"])
def test_methods_share_the_images_of_the_baselines(name, dataset):
    recipe, other = (make_recipe(n, bits=32, dataset=dataset, protocol="split") for n in (name, "csq"))
    assert recipe.backbone == other.backbone and recipe.preprocess == other.preprocess
    assert recipe.augment == other.augment and recipe.optimization.pretrained
    assert recipe.loss is None and recipe.frozen


@pytest.mark.parametrize(
    ("kind", "name"), [("head", "itq"), ("head", "lsh"), ("head", "pca"), ("method", "itq"), ("method", "pca-sign")]
)
def test_names_of_hashzoo_baselines_are_found(kind, name):
    assert registry().get(kind, f"hashzoo-baselines/{name}") == registry().get(kind, f"hashzoo/{name}")
    assert registry().get(kind, name)[0].owner == "hashzoo"


@pytest.mark.parametrize("target", [PCA, ITQ])
def test_more_bits_than_features(target):
    with pytest.raises(ConfigError, match="6 features have no more principal directions, and 7 bits"):
        target((6, 2, 2), 7)


def seeded(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lean(count=300, size=8):
    """Features of unequal variances along slanted axes, away from 0; float32, as training gives them."""
    return (seeded(count, size) * torch.arange(1, size + 1) @ random_slant(size) + 5).float()


def random_slant(size):
    return torch.linalg.qr(seeded(size, size, seed=7)).Q


NONE = torch.zeros(0)  # targets that no fit looks at


def pooled_reference(image):
    """Mean over the positions of (D, H, W)."""
    return [sum(x for line in channel for x in line) / sum(len(line) for line in channel) for channel in image]


@pytest.mark.parametrize("target", [LSH, PCA, ITQ])
@pytest.mark.parametrize("count", [1, 2, 300, 9000])  # 9000 is more than one part
def test_fit_centres(count, target):
    torch.manual_seed(0)
    head, features = target((8,), bits=4), lean(count)
    head.fit(features, NONE)
    wanted = [sum(column) / count for column in zip(*features.tolist(), strict=True)]
    assert head.mean.tolist() == pytest.approx(wanted, rel=1e-6)
    assert (head.mean.dtype, head.weight.dtype, head.weight.shape) == (torch.float32, torch.float32, (4, 8))
    assert head(features).mean(0).abs().max() < 1e-3
    row = [x - m for x, m in zip(features[0].tolist(), wanted, strict=True)]
    u = [sum(w * x for w, x in zip(ws, row, strict=True)) for ws in head.weight.tolist()]
    torch.testing.assert_close(head(features[:1])[0], torch.tensor(u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [LSH, PCA, ITQ])
def test_fit_takes_maps_too(target):
    images = seeded(40, 8, 2, 3).float()
    heads = []
    for features in (images, torch.tensor([pooled_reference(image) for image in images.tolist()])):
        torch.manual_seed(0)
        head = target((8, 2, 3), bits=4)
        head.fit(features, NONE)
        heads.append(head)
    torch.testing.assert_close(heads[0](images), heads[1](images), rtol=1e-3, atol=1e-4)


def test_lsh_is_drawn_and_keeps_what_it_drew():
    torch.manual_seed(0)
    head = LSH((500,), bits=64)
    drawn = head.weight.clone()
    head.fit(seeded(10, 500).float(), NONE)
    assert torch.equal(head.weight, drawn)
    assert drawn.mean().abs() < 5 / math.sqrt(drawn.numel())
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    torch.manual_seed(0)
    assert torch.equal(LSH((500,), bits=64).weight, drawn)
    assert not torch.equal(LSH((500,), bits=64).weight, drawn)


def test_lsh_s_bits_differ_with_the_angle():
    """P(a bit differs) = angle / pi: 4,096 bits, 5 standard deviations."""
    torch.manual_seed(0)
    head = LSH((2,), bits=4096)
    for angle in (0.1, 1.0, 2.5):
        a, b = head(torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])) >= 0
        p = angle / math.pi
        assert (a != b).double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 4096))


def test_principal_directions_are_numpy_s():
    features = lean()
    directions = principal_directions(features, 5)
    values, vectors = np.linalg.eigh(np.cov(features.double().numpy().T, bias=True))
    for found, value, vector in zip(directions.numpy(), values[::-1], vectors.T[::-1], strict=False):
        assert abs(found @ vector) == pytest.approx(1)
        assert found[np.abs(found).argmax()] > 0
        assert (features.double().numpy() @ found).var() == pytest.approx(value)
    torch.testing.assert_close(directions @ directions.T, torch.eye(5, dtype=torch.float64))


def test_pca_takes_the_largest_variances_in_order():
    features = lean()
    head = PCA((8,), bits=4)
    head.fit(features, NONE)
    torch.testing.assert_close(head.weight, principal_directions(features, 4).float())
    spreads = head(features).var(0, correction=0).tolist()
    assert spreads == sorted(spreads, reverse=True)
    assert spreads == pytest.approx(
        sorted(np.linalg.eigvalsh(np.cov(features.double().numpy().T, bias=True)))[:3:-1], rel=1e-4
    )
    again = PCA((8,), bits=4)
    again.fit(features.flip(0), NONE)
    torch.testing.assert_close(again.weight, head.weight)  # the sign too


def test_rotated_pca_spans_the_same_and_spreads_the_variance():
    features = lean()
    plain, turned, other = PCA((8,), bits=4), PCA((8,), bits=4, rotation=True), PCA((8,), bits=4, rotation=True)
    torch.manual_seed(0)
    for head in (plain, turned, other):
        head.fit(features, NONE)
    torch.testing.assert_close(turned.weight @ turned.weight.T, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned.weight.T @ turned.weight, plain.weight.T @ plain.weight, rtol=0, atol=1e-5)
    assert not torch.allclose(turned.weight, other.weight, atol=0.1)  # another draw
    assert turned(features).var(0).max() < plain(features).var(0).max()


def test_random_rotations_are_uniform():
    """Orthogonal, and every entry is 0 in the mean, which LAPACK's own choice of signs would not give."""
    torch.manual_seed(0)
    drawn = torch.stack([random_rotation(3) for _ in range(2000)])
    torch.testing.assert_close(drawn @ drawn.mT, torch.eye(3, dtype=torch.float64).expand(2000, 3, 3))
    assert drawn.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 2000)


def lost_reference(projected, rotation):
    """||sgn(V R) - V R||^2 by loops."""
    value = 0.0
    for row in projected.tolist():
        for k in range(len(row)):
            x = sum(v * rotation[j][k] for j, v in enumerate(row))
            value += ((1.0 if x >= 0 else -1.0) - x) ** 2
    return value


def test_itq_never_loses_more():
    torch.manual_seed(0)
    projected = seeded(60, 5) * torch.arange(1, 6) / 3
    projected -= projected.mean(0)
    rotation = random_rotation(5)
    lost = [lost_reference(projected, rotation.tolist())]
    for _ in range(20):
        rotation = better_rotation(projected, rotation)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(5, dtype=torch.float64))
        lost.append(lost_reference(projected, rotation.tolist()))
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(lost))
    assert lost[-1] < 0.95 * lost[0]


def test_itq_s_step_is_the_best_rotation_for_its_codes():
    """For K = 2: no rotation or mirroring of a fine grid fits the same B better."""
    projected, start = seeded(40, 2), random_slant(2)
    codes = torch.where(projected @ start >= 0, 1.0, -1.0).double()
    angles = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)
    rest = [
        (
            codes - projected @ torch.tensor([[a.cos(), -s * a.sin()], [a.sin(), s * a.cos()]], dtype=torch.float64)
        ).norm()
        for a in angles
        for s in (1, -1)
    ]
    best = (codes - projected @ better_rotation(projected, start)).norm()
    assert min(rest) - 1e-4 < best <= min(rest) + 1e-12


def test_itq_is_fifty_steps_from_a_random_rotation():
    features = lean()
    torch.manual_seed(0)
    head, plain = ITQ((8,), bits=4), PCA((8,), bits=4)
    plain.fit(features, NONE)
    projected = plain(features)
    torch.manual_seed(1)
    head.fit(features, NONE)
    torch.manual_seed(1)
    rotation = random_rotation(4).float()
    for _ in range(50):
        rotation = better_rotation(projected, rotation)
    torch.testing.assert_close(head(features), projected @ rotation, rtol=0, atol=1e-4)


def test_itq_loses_less_than_where_it_started():
    features = lean(2000)
    torch.manual_seed(0)
    head, turned, plain = ITQ((8,), bits=4), PCA((8,), bits=4, rotation=True), PCA((8,), bits=4)
    for fitted in (plain, head, turned):
        fitted.fit(features, NONE)
    lost = [lost_reference(fitted(features[:200]), torch.eye(4).tolist()) for fitted in (head, turned, plain)]
    assert lost[0] < min(lost[1:])
    torch.testing.assert_close(head.weight.T @ head.weight, plain.weight.T @ plain.weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [PCA, ITQ])
def test_fit_follows_torch_s_seed(target):
    options = {"rotation": True} if target is PCA else {}
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        head = target((8,), bits=4, **options)
        head.fit(lean(), NONE)
        weights.append(head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2], atol=1e-3)


@pytest.mark.parametrize("target", [LSH, PCA, ITQ])
def test_what_was_fitted_is_kept(target):
    head, other = target((8,), bits=4), target((8,), bits=4)
    head.fit(lean(), NONE)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(lean()), head(lean()))
    assert list(head.parameters()) == []
