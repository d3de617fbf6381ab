"""Data sets through Hugging Face `datasets`: a name, a folder of Parquet files, or an image folder."""

from __future__ import annotations

import hashlib
import importlib.resources
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hashzoo.config import PreprocessConfig, Schema, validate
from hashzoo.errors import DataError, require_extra, unknown
from hashzoo.machine import local_data, need_memory
from hashzoo.pictures.decode import decode
from hashzoo.pictures.fit import prepare
from hashzoo.preprocess import Preprocess


class DatasetSpec(Schema):
    """An entry of datasets.toml."""

    hub: str
    license: str
    image: str
    label: str
    side: int
    splits: tuple[str, ...]
    protocol: str
    copies: dict[str, str] = Field(default_factory=dict)
    pixels: dict[str, str] = Field(default_factory=dict)
    encodings: dict[str, str] = Field(default_factory=dict)


@cache
def _specs() -> dict[str, DatasetSpec]:
    text = importlib.resources.files("hashzoo.data").joinpath("datasets.toml").read_text(encoding="utf-8")
    return {name: validate(DatasetSpec, data, f"datasets.toml, {name}") for name, data in tomllib.loads(text).items()}


def dataset_names() -> list[str]:
    """Names of the data sets that hashzoo knows."""
    return sorted(_specs())


def public_name(name: str) -> str:
    """What a data set is called in files that may be published: its name, or its folder's without the way there.

    A folder is never called as a data set that hashzoo knows, whose terms and splits it need not have.

    >>> [public_name(name) for name in ("cifar10", "/home/me/pictures/", "/home/me/cifar10")]
    ['cifar10', 'pictures', 'cifar10-folder']
    """
    if name in _specs():
        return name
    folder = Path(name).resolve().name
    return f"{folder}-folder" if folder in _specs() else folder


def is_at_hand(name: str) -> bool:
    """Whether a data set that hashzoo knows is in one of the folders that `$HASHZOO_DATA` lists; no other name is looked up."""
    return name in _specs() and any(path.is_dir() for path in local_data(name))


def default_protocol(name: str) -> str:
    """The protocol of a named data set; "split" for a folder.

    >>> default_protocol("cifar10")
    'cifar10-full'
    """
    return _specs()[name].protocol if name in _specs() else "split"


@dataclass(frozen=True)
class ImagePool:
    """All images of a data set in a fixed order, still encoded, with their labels.

    Attributes:
        name: of the data set, see `public_name`.
        images: encoded files, one bytes object an image.
        labels: int64 (N,), or bool (N, C) where the label column holds lists.
        classes: C names.
        bounds: split -> (first, past the last) position in the pool.
        side: of the images, in pixels, where all are squares of one size; else None.
    """

    name: str
    images: list[bytes]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    bounds: dict[str, tuple[int, int]]
    side: int | None

    def __len__(self) -> int:
        return len(self.images)

    def fitted(self, positions: NDArray[np.int64], preprocess: Preprocess) -> Tensor:
        """Decode images, and fit each as `encode` does: uint8 (N, 3, *size)."""
        return torch.stack([preprocess.fitted(self.images[position]) for position in positions])

    def decode(self, positions: NDArray[np.int64], config: PreprocessConfig) -> Tensor:
        """Decode images for training, which cuts windows from them: uint8 (N, 3, side, side).

        Where the data set has no side, it is a seventh more than that of the input; other images are squashed or cut to it as
        `config` says.

        Raises:
            CodesError: they do not fit into memory.
        """
        side = self.side or max(config.size) * 8 // 7
        need_memory(
            3 * side**2 * len(positions),
            f"Decoding {len(positions):,} images to {side}x{side} pixels",
            "train on fewer",
        )
        squares = PreprocessConfig(size=(side, side), fit=config.fit, interpolation="bicubic")
        out = torch.empty((len(positions), 3, side, side), dtype=torch.uint8)
        for row, position in enumerate(positions):
            out[row] = torch.from_numpy(prepare(self.images[position], squares)).permute(2, 0, 1)
        return out

    def count_in(self, positions: NDArray[np.int64], other: ImagePool, others: NDArray[np.int64]) -> int:
        """How many of the images at `positions` have the same pixels as one of another pool's at `others`."""
        if self.side and other.side and self.side != other.side:
            return 0
        there = {hashlib.sha256(decode(other.images[row]).data).digest() for row in others}
        return sum(hashlib.sha256(decode(self.images[row]).data).digest() in there for row in positions)

    @property
    def license(self) -> str | None:
        """Terms of the images, where hashzoo knows them."""
        return _specs()[self.name].license if self.name in _specs() else None

    @cached_property
    def copy(self) -> str:
        """Which copy of the data this is, told by the sha256 over all encoded images in order, or else over their pixels."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(image)
        key, spec = digest.hexdigest(), _specs().get(self.name)
        known = spec.copies.get(key) if spec else None
        if spec and spec.pixels and not known:
            pixels = spec.encodings.get(key) or self._pixels_sha256()
            if official := spec.pixels.get(pixels):
                return f"{official} (sha256 of all pixels {pixels[:16]})"
        return f"{known or 'copy not known to hashzoo'} (sha256 {key[:16]})"

    def _pixels_sha256(self) -> str:
        """The sha256 over all decoded images in order, each uint8 (H, W, 3)."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(decode(image).data)
        return digest.hexdigest()


def open_pool(name: str) -> ImagePool:
    """Load a data set's images (encoded) and labels.

    Looked for in this order: `<name>` in the folders that `$HASHZOO_DATA` lists; a folder `name` itself (Parquet files named
    after their split, or an image folder of one folder a class in one folder a split); the Hub id of a known name.

    Raises:
        UnknownNameError: neither a known data set nor a folder.
        DataError: a split or column is missing, or labels are.
        MissingExtraError: hashzoo[train] is not installed.
    """
    require_extra("train", "datasets")
    spec = _specs().get(name)
    local = [path for path in local_data(name) if path.is_dir()]
    folder = local[0] if local else Path(name) if Path(name).is_dir() else None
    if folder is None and spec is None:
        raise unknown(
            "data set", name, _specs(), f"known are {', '.join(dataset_names())}, or give a folder of Parquet files."
        )
    image_column, label_column = (spec.image, spec.label) if spec else ("image", "label")
    splits = spec.splits if spec else ("train", "test")
    loaded = _load(name, folder, spec.hub if spec else "", splits)
    images: list[bytes] = []
    labels: list[Any] = []
    bounds: dict[str, tuple[int, int]] = {}
    classes: tuple[str, ...] = ()
    for split in splits:
        data = _columns(name, loaded, split, image_column, label_column)
        feature = data.features[label_column]
        classes = tuple(
            getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", ()) or classes
        )
        first = len(images)
        for cell in data[image_column]:
            images.append(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes())
        labels.extend(data[label_column])
        bounds[split] = (first, len(images))
    if any(label is None or label == -1 for label in labels):  # -1 is the Hub's mark
        raise DataError(f"Data set {name!r} has images without a label; training and evaluation need all.")
    if not classes and all(isinstance(label, str) for label in labels):
        classes = tuple(sorted(set(labels)))
        labels = np.searchsorted(classes, labels).tolist()
    side = spec.side if spec else None
    return ImagePool(public_name(name), images, _label_array(labels, classes), classes or _names(labels), bounds, side)


def _load(name: str, folder: Path | None, hub: str, splits: tuple[str, ...]) -> Any:
    """Load the splits of a folder, or of the Hub where there is none.

    Raises:
        DataError: they are not to be had.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        if folder is None:
            return {split: datasets.load_dataset(hub, split=split) for split in splits}
        if not any(folder.rglob("*.parquet")):
            return datasets.load_dataset("imagefolder", data_dir=str(folder))
        files = {split: [str(path) for path in sorted(folder.rglob(f"{split}-*.parquet"))] for split in splits}
        missing = [split for split, found in files.items() if not found]
        if missing:
            raise DataError(f"{folder} has no Parquet file of split {missing[0]!r} (named {missing[0]}-*.parquet).")
        return datasets.load_dataset("parquet", data_files=files)
    except DataError:
        raise
    except Exception as error:  # datasets raises many kinds; all mean that the data is not to be had
        raise DataError(
            f"Data set {name!r} cannot be loaded ({type(error).__name__}: {error}); put its Parquet files under "
            "$HASHZOO_DATA or check the network."
        ) from error


def _columns(name: str, loaded: Any, split: str, image_column: str, label_column: str) -> Any:
    """Give a split that has both columns, with its images still encoded.

    Raises:
        DataError: the split or a column is missing.
    """
    import datasets

    if split not in loaded:
        raise DataError(f"Data set {name!r} has no split {split!r}; it has {', '.join(loaded)}.")
    data = loaded[split]
    for column in (image_column, label_column):
        if column not in data.column_names:
            raise DataError(f"Data set {name!r} has no column {column!r} in split {split!r}; labels and images needed.")
    return data.cast_column(image_column, datasets.Image(decode=False))


def _label_array(labels: list[Any], classes: tuple[str, ...]) -> NDArray[Any]:
    if labels and isinstance(labels[0], list):
        many = np.zeros((len(labels), len(classes) or 1 + max(max(row, default=0) for row in labels)), dtype=bool)
        for row, present in enumerate(labels):
            many[row, present] = True
        return many
    return np.asarray(labels, dtype=np.int64)


def _names(labels: list[Any]) -> tuple[str, ...]:
    array = _label_array(labels, ())
    return tuple(str(index) for index in range(array.shape[1] if array.ndim == 2 else int(array.max()) + 1))
