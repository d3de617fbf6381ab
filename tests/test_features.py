"""Kept features: equal to what the backbone makes, known by all that they depend on, whole after a kill."""

import io
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from hashzoo import machine, provenance
from hashzoo.config import ComponentRef, PreprocessConfig
from hashzoo.errors import CodesError
from hashzoo.features import PART, PIPELINE, backbone_features, code_of
from hashzoo.network import HashNetwork
from hashzoo.registry import Component, Plugin, Registry, discover, registry, using


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Give a cache of the test's own."""
    monkeypatch.setenv("HASHZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def looked_at(tiny_pool, monkeypatch):
    """Give a list of the positions whose images were decoded since; it takes those of `fitted` and of `decode`."""
    positions = []

    def watch(method):
        def watched(self, wanted, how):
            positions.extend(wanted.tolist())
            return method(self, wanted, how)

        return watched

    for name in ("fitted", "decode"):
        monkeypatch.setattr(type(tiny_pool), name, watch(getattr(type(tiny_pool), name)))
    return positions


def direct(model, pool, positions):
    """The backbone's features of each image alone."""
    rows = []
    for position in positions:
        batch = model.preprocess([pool.images[position]])
        with torch.no_grad():
            rows.append(model.backbone(batch)[0])
    return torch.stack(rows)


def test_they_are_the_backbones_own(own_cache, make_model, tiny_pool, looked_at):
    model, positions = make_model(), np.array([5, 0, 7, 159, *range(20, 60)])
    made = backbone_features(model, tiny_pool, positions)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, direct(model, tiny_pool, positions))
    assert torch.equal(backbone_features(model, tiny_pool, positions), made)
    assert looked_at == positions.tolist()


def test_maps_of_another_input_size(own_cache, tiny_pool):
    maps = ComponentRef(name="timm/resnet18", package="hashzoo", args={"pool": False})  # 7x7 at its usual 224 pixels
    linear, tanh = (ComponentRef(name=name, package="hashzoo") for name in ("linear", "tanh"))
    model = HashNetwork(maps, linear, tanh, bits=12, preprocess=PreprocessConfig(size=(64, 64))).eval()
    made = backbone_features(model, tiny_pool, np.arange(3))
    assert made.shape == (3, 512, 2, 2)
    torch.testing.assert_close(made, direct(model, tiny_pool, range(3)), rtol=1e-4, atol=1e-4)


def test_they_are_computed_once(own_cache, make_model, tiny_pool, looked_at):
    positions = np.arange(40)
    made = backbone_features(make_model(), tiny_pool, positions)
    assert looked_at == positions.tolist()
    assert torch.equal(backbone_features(make_model(), tiny_pool, positions), made)
    assert looked_at == positions.tolist()  # no image is looked at again


def test_what_they_depend_on(own_cache, make_model, tiny_pool, photo, encoded, looked_at):
    positions = np.arange(8)
    backbone_features(make_model(), tiny_pool, positions)
    backbone_features(make_model(bits=24), tiny_pool, positions)  # another head
    assert len(list(own_cache.iterdir())) == 1 and len(looked_at) == 8
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


class Power(nn.Module):
    """A backbone whose argument shows in no weight, and not in its text."""

    feature_shape, preprocess = (3,), {"size": (32, 32)}

    def __init__(self, pretrained=False, power: float = 1.0):
        super().__init__()
        self.power = power
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.zeros(()), persistent=False)

    def forward(self, images):
        return (images.abs().mean((2, 3)) * self.scale) ** self.power + self.shift


def with_backbone(name, size=(32, 32), **args):
    torch.manual_seed(0)
    refs = (ComponentRef(name=name, args=args), ComponentRef(name="linear"), ComponentRef(name="sign"))
    return HashNetwork(*refs, bits=8, preprocess=PreprocessConfig(size=size)).eval()


def is_its_own(model, pool):
    """The features are those of the model at hand, whatever the cache holds, and come from the cache the second time."""
    made = backbone_features(model, pool, np.arange(4))
    torch.testing.assert_close(made, direct(model, pool, range(4)), rtol=1e-4, atol=1e-4)
    assert torch.equal(backbone_features(model, pool, np.arange(4)), made)


def test_arguments_and_buffers(own_cache, tiny_pool):
    power = Plugin("p", "p", "0", (Component("backbone", "power", "p", Power, "x"),))
    with using(Registry([*registry().plugins, power])):
        for value in (1.0, 2.0):
            is_its_own(with_backbone("power", power=value), tiny_pool)
        model = with_backbone("power")
        for value in (1.0, 2.0):
            model.backbone.shift.fill_(value)
            is_its_own(model, tiny_pool)
    assert len(list(own_cache.iterdir())) == 4
    for args in ({"pool": True}, {"pool": False}, {"pool": True, "output_stride": 8}):
        is_its_own(with_backbone("timm/resnet18", (64, 64), **args), tiny_pool)


PLUGIN = {
    "changing/__init__.py": """
from hashzoo import hookimpl

@hookimpl
def hashzoo_register_backbones(register):
    register("changing", "changing.net:Net", summary="A mean, times a factor that another module holds.")
""",
    "changing/net.py": """
import torch
from changing.factor import FACTOR

class Net(torch.nn.Module):
    feature_shape, preprocess = (3,), {"size": (32, 32)}

    def __init__(self, pretrained=False):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        return images.abs().mean((2, 3)) * self.scale * FACTOR
""",
    "changing/factor.py": "FACTOR = 1\n",
}


def test_a_plugins_changed_code(own_cache, tiny_pool, site):
    """The same name, arguments, weights and version of the package, but another file of it has changed."""
    site.add("hashzoo-changing", PLUGIN, {"changing": "changing"})
    for text in ("FACTOR = 1\n", "FACTOR = 2.5\n"):
        (site.folder / "changing" / "factor.py").write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] == "changing"]:
            del sys.modules[name]
        with using(discover()):
            is_its_own(with_backbone("changing"), tiny_pool)
    assert len(list(own_cache.iterdir())) == 2


def test_code_that_no_file_holds(run_python):
    """It is told from all other, since nothing tells what it does."""
    code = """
from hashzoo.features import code_of
class Net: pass
first = code_of([Net])
assert code_of([Net]) == first
class Net: pass  # as in a notebook's cell that is run again
assert code_of([Net]) != first
print(code_of([Net]))
"""
    one, two = (run_python(code) for _ in range(2))
    assert one.stdout and one.stdout != two.stdout, one.stderr
    assert code_of([nn.Linear]) == {}


def test_the_code_that_reads_and_fits_pictures_counts():
    owners = {"hashzoo.pictures.decode", "hashzoo.pictures.fit", "hashzoo.preprocess", "hashzoo.data.datasets"}
    assert set(code_of(PIPELINE)) == owners


def test_precision_and_libraries(own_cache, make_model, tiny_pool, monkeypatch):
    positions = np.arange(8)
    full = backbone_features(make_model(), tiny_pool, positions)
    with monkeypatch.context() as patch:
        patch.setattr("hashzoo.features.PRECISION", "bfloat16")
        assert not torch.equal(backbone_features(make_model(), tiny_pool, positions), full)
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0"})
    backbone_features(make_model(), tiny_pool, positions)
    assert len(list(own_cache.iterdir())) == 3


def as_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"no array" * 100,
        lambda data: as_file(np.zeros((3, 2), np.float32)),
        lambda data: as_file(np.load(io.BytesIO(data)).astype(np.float64)),
        lambda data: as_file(np.array([{}], dtype=object)),
    ],
    ids=["a byte short", "half a header", "empty", "garbage", "shape", "dtype", "pickle"],
)
def test_a_damaged_part_is_computed_anew(own_cache, make_model, tiny_pool, monkeypatch, looked_at, damage):
    monkeypatch.setattr("hashzoo.features.PART", 32)
    positions = np.arange(80)
    made = backbone_features(make_model(), tiny_pool, positions)
    part = next(own_cache.rglob("000000032.npy"))
    whole = part.read_bytes()
    part.write_bytes(damage(whole))
    looked_at.clear()
    assert torch.equal(backbone_features(make_model(), tiny_pool, positions), made)
    assert looked_at == list(range(32, 64))
    assert part.read_bytes() == whole


def test_versions_are_drawn_once(own_cache, make_model, tiny_pool, looked_at):
    model, positions = make_model(), np.arange(30)

    def noise(images, generator):
        return torch.randint(256, images.shape, dtype=torch.uint8, generator=generator)

    one, two = (backbone_features(model, tiny_pool, positions, noise, version) for version in ("one", "two"))
    assert not torch.equal(one, two)
    assert torch.equal(backbone_features(model, tiny_pool, positions, noise, "one"), one)
    assert looked_at == 2 * positions.tolist()
    for path in own_cache.rglob("*.npy"):
        path.unlink()
    assert torch.equal(backbone_features(model, tiny_pool, positions, noise, "one"), one)


SLOW = """
import pickle, sys, time
import numpy as np
from hashzoo import features
from hashzoo.features import backbone_features

folder = sys.argv[1]
with open(f"{folder}/all.pickle", "rb") as file:
    model, pool, positions = pickle.load(file)
fitted = type(pool).fitted

def slow(self, positions, preprocess):
    time.sleep(0.3)
    return fitted(self, positions, preprocess)

type(pool).fitted = slow
features.PART = 32
backbone_features(model, pool, positions)
"""


def test_a_killed_run_goes_on(own_cache, tmp_path, make_model, tiny_pool, start_python, monkeypatch, looked_at):
    import pickle

    monkeypatch.setattr("hashzoo.features.PART", 32)
    model, positions = make_model(), np.arange(160)
    (tmp_path / "all.pickle").write_bytes(pickle.dumps((model, tiny_pool, positions)))
    child = start_python(SLOW, tmp_path, HASHZOO_CACHE=tmp_path / "cache")
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
    assert looked_at == list(range(32 * len(kept), 160))
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert len(list(own_cache.rglob("*.npy"))) == 5


def test_two_processes_at_once(own_cache, tmp_path, make_model, tiny_pool, start_python, monkeypatch, looked_at):
    import pickle

    monkeypatch.setattr("hashzoo.features.PART", 32)
    model, positions = make_model(), np.arange(160)
    (tmp_path / "all.pickle").write_bytes(pickle.dumps((model, tiny_pool, positions)))
    children = [start_python(SLOW, tmp_path, HASHZOO_CACHE=tmp_path / "cache") for _ in range(2)]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0 and "Computing features" in said, said
    torch.testing.assert_close(backbone_features(model, tiny_pool, positions), direct(model, tiny_pool, positions))
    assert looked_at == []
    assert len(list(own_cache.rglob("*"))) == 6  # the folder, and no part of a part


def test_too_many_are_refused(own_cache, make_model, tiny_pool, monkeypatch):
    monkeypatch.setattr("hashzoo.features.need_memory", lambda size, *words: machine.need_memory(size << 60, *words))
    with pytest.raises(CodesError, match=r"The features of all images takes .* are left; use pooled features"):
        backbone_features(make_model(), tiny_pool, np.arange(160))
    assert not own_cache.exists()
    assert PART == 4096
