"""Kept features: equal to what the backbone makes, known by all that they depend on, whole after a kill."""

import time

import numpy as np
import pytest
import torch

from hashzoo import machine
from hashzoo.config import ComponentRef, PreprocessConfig
from hashzoo.data import backbone_features
from hashzoo.data.features import PART
from hashzoo.errors import CodesError
from hashzoo.model import HashModel


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Give a cache of the test's own."""
    monkeypatch.setenv("HASHZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def direct(model, pool, positions):
    """The backbone's features of each image alone."""
    rows = []
    for position in positions:
        batch = model.preprocess([pool.images[position]])
        with torch.no_grad():
            rows.append(model.backbone(batch)[0])
    return torch.stack(rows)


def test_they_are_the_backbones_own(own_cache, make_model, tiny_pool):
    model, positions = make_model(), np.array([5, 0, 7, 159, *range(20, 60)])
    made = backbone_features(model, tiny_pool, positions)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, direct(model, tiny_pool, positions))
    assert torch.equal(backbone_features(model, tiny_pool, positions), made)


def test_maps_of_another_input_size(own_cache, tiny_pool):
    maps = ComponentRef(name="timm/resnet18", package="hashzoo", args={"pool": False})  # 7x7 at its usual 224 pixels
    linear, tanh = (ComponentRef(name=name, package="hashzoo") for name in ("linear", "tanh"))
    model = HashModel(maps, linear, tanh, bits=12, preprocess=PreprocessConfig(size=(64, 64))).eval()
    made = backbone_features(model, tiny_pool, np.arange(3))
    assert made.shape == (3, 512, 2, 2)
    torch.testing.assert_close(made, direct(model, tiny_pool, range(3)), rtol=1e-4, atol=1e-4)


def test_they_are_computed_once(own_cache, make_model, tiny_pool, monkeypatch):
    positions = np.arange(40)
    made = backbone_features(make_model(), tiny_pool, positions)
    monkeypatch.setattr(type(tiny_pool), "decode", None)  # no image is looked at again
    assert torch.equal(backbone_features(make_model(), tiny_pool, positions), made)


def test_what_they_depend_on(own_cache, make_model, tiny_pool, photo, encoded):
    positions = np.arange(8)
    backbone_features(make_model(), tiny_pool, positions)
    backbone_features(make_model(bits=24), tiny_pool, positions)  # another head
    assert len(list(own_cache.iterdir())) == 1
    backbone_features(make_model(seed=1), tiny_pool, positions)  # other weights
    backbone_features(make_model(), tiny_pool, positions[:4])
    backbone_features(make_model(), tiny_pool, positions, lambda images, generator: images, "same")
    other = type(tiny_pool)(
        tiny_pool.name, [encoded(photo(32, 32)), *tiny_pool.images[1:]], tiny_pool.labels, tiny_pool.classes,
        tiny_pool.bounds, 32,
    )  # fmt: skip
    backbone_features(make_model(), other, positions)
    cropped = make_model()
    cropped.preprocess.config = cropped.preprocess.config.model_copy(update={"mean": (0.0, 0.0, 0.0)})
    backbone_features(cropped, tiny_pool, positions)
    assert len(list(own_cache.iterdir())) == 6


def test_versions_are_drawn_once(own_cache, make_model, tiny_pool):
    model, positions = make_model(), np.arange(30)

    def noise(images, generator):
        return torch.randint(256, images.shape, dtype=torch.uint8, generator=generator)

    one, two = (backbone_features(model, tiny_pool, positions, noise, version) for version in ("one", "two"))
    assert not torch.equal(one, two)
    for path in own_cache.rglob("*.npy"):
        path.unlink()
    assert torch.equal(backbone_features(model, tiny_pool, positions, noise, "one"), one)


KILLED = """
import pickle, sys, time
import numpy as np
from hashzoo.data import backbone_features, features

folder = sys.argv[1]
with open(f"{folder}/all.pickle", "rb") as file:
    model, pool, positions = pickle.load(file)
decode = type(pool).decode

def slow(self, positions):
    time.sleep(0.3)
    return decode(self, positions)

type(pool).decode = slow
features.PART = 32
backbone_features(model, pool, positions)
"""


def test_a_killed_run_goes_on(own_cache, tmp_path, make_model, tiny_pool, start_python, monkeypatch):
    import pickle

    monkeypatch.setattr("hashzoo.data.features.PART", 32)
    model, positions = make_model(), np.arange(160)
    (tmp_path / "all.pickle").write_bytes(pickle.dumps((model, tiny_pool, positions)))
    child = start_python(KILLED, tmp_path, HASHZOO_CACHE=tmp_path / "cache")
    deadline = time.monotonic() + 120
    while len(list(own_cache.rglob("*.npy"))) < 2:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    kept = {path: path.read_bytes() for path in own_cache.rglob("*.npy")}
    assert 2 <= len(kept) < 5
    made = backbone_features(model, tiny_pool, positions)
    torch.testing.assert_close(made, direct(model, tiny_pool, positions))
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert len(list(own_cache.rglob("*.npy"))) == 5


def test_too_many_are_refused(own_cache, make_model, tiny_pool, monkeypatch):
    monkeypatch.setattr(
        "hashzoo.data.features.need_memory", lambda size, *words: machine.need_memory(size << 60, *words)
    )
    with pytest.raises(CodesError, match=r"The features of all images takes .* are left; use pooled features"):
        backbone_features(make_model(), tiny_pool, np.arange(160))
    assert not own_cache.exists()
    assert PART == 4096
