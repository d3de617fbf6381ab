"""Fixtures of all tests; heavy imports stay inside them, so that light tests stay light."""

import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# No test asks the real Hub. Those of tests/hub talk to a hub of their own, from processes that do not inherit this.
os.environ["HF_HUB_OFFLINE"] = "1"


@dataclass
class Site:
    """A folder on sys.path that holds fake installed packages."""

    folder: Path

    def add(self, distribution, files=(), entry_points=(), version="1.0"):
        """Write the modules, and a dist-info folder as an installer would."""
        for name, text in dict(files).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in dict(entry_points).items()]
        (info / "entry_points.txt").write_text("\n".join(["[hashzoo.plugins]", *lines, ""]))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Give an empty folder on sys.path; modules imported from it are forgotten afterwards."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("HASHZOO_PLUGINS", raising=False)
    monkeypatch.delenv("HASHZOO_STRICT_PLUGINS", raising=False)
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(folder) in str(getattr(module, "__file__", None)):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep hashzoo's cache out of the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("HASHZOO_CACHE")
    os.environ["HASHZOO_CACHE"] = str(folder)
    yield folder
    os.environ.pop("HASHZOO_CACHE")
    if before is not None:
        os.environ["HASHZOO_CACHE"] = before


@pytest.fixture
def start_python():
    """Start Python on a piece of code with arguments; what still runs at the end is killed."""
    running = []

    def start(code, *arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def run_python(start_python):
    """Run Python on a piece of code to its end; return the finished process with its output."""

    def run(code, *arguments, **variables):
        process = start_python(code, *arguments, **variables)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def photo():
    """Make a photo-like uint8 array (height, width, 3): smooth colours, edges, some noise."""

    def make(height=40, width=48, seed=0):
        random = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(x / random.uniform(3, 9) + random.uniform(0, 6)) + np.cos(y / random.uniform(3, 9)) for _ in "rgb"
        ]
        pixels = 128 + 50 * np.stack(waves, axis=-1) + random.normal(0, 8, (height, width, 3))
        pixels[height // 4 : height // 2, width // 4 : width // 2] = random.integers(0, 256, 3)
        return np.clip(pixels, 0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def encoded():
    """Encode a uint8 array or PIL image as the bytes of an image file."""
    from PIL import Image

    def encode(image, kind="PNG", **options):
        buffer = io.BytesIO()
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def real_pool():
    """Open a real data set that `$HASHZOO_DATA` holds; where it does not, skip the test."""
    from hashzoo.data import open_pool
    from hashzoo.machine import local_data

    def open_it(name):
        if not any(folder.is_dir() for folder in local_data(name)):
            pytest.skip(f"no real {name} to check the protocols on: HASHZOO_DATA is {os.environ.get('HASHZOO_DATA')!r}")
        return open_pool(name)

    return open_it


@pytest.fixture
def make_model():
    """Build a small untrained model from a seed: the three-layer CNN of hashzoo-dsbh."""
    import torch

    from hashzoo.config import ComponentRef, PreprocessConfig
    from hashzoo.network import HashNetwork

    def make(bits=12, seed=0, name="demo", backbone="cnn3"):
        torch.manual_seed(seed)
        return HashNetwork(
            ComponentRef(name=backbone), ComponentRef(name="linear"), ComponentRef(name="sign"),
            bits=bits, preprocess=PreprocessConfig(size=(32, 32)), name=name,
        ).eval()  # fmt: skip

    return make


@pytest.fixture(scope="session")
def tiny_pool(photo, encoded):
    """A data set laid out as cifar10 is: 10 classes, 12 training and 4 test images each, in mixed order."""
    from hashzoo.data import ImagePool

    random = np.random.default_rng(0)
    labels = np.concatenate([random.permutation(np.repeat(np.arange(10), count)) for count in (12, 4)])
    images = [encoded(photo(32, 32, seed=int(label) + 10 * row)) for row, label in enumerate(labels)]
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return ImagePool("cifar10", images, labels.astype(np.int64), names, {"train": (0, 120), "test": (120, 160)}, 32)
