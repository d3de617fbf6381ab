"""Features of a frozen backbone, computed once and kept: a head is then trained and measured in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hashzoo import provenance
from hashzoo.data.datasets import ImagePool
from hashzoo.files import replacing, sha256
from hashzoo.machine import need_memory
from hashzoo.network import HashNetwork
from hashzoo.pictures.decode import decode
from hashzoo.pictures.fit import prepare
from hashzoo.precision import Precision
from hashzoo.preprocess import Preprocess

PART = 4096  # images a file: what a kill can lose
BATCH = 16  # on two cores, larger batches leave the cache and are slower
PRECISION: Precision = "float32"
PIPELINE = (decode, prepare, Preprocess, ImagePool)  # what makes the backbone's input of a file
_TOKENS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of classes and functions that no file holds


def cache_folder() -> Path:
    """Where features are kept: `$HASHZOO_CACHE`, or `~/.cache/hashzoo`. All of it may be removed at any time."""
    return Path(os.environ.get("HASHZOO_CACHE") or Path.home() / ".cache" / "hashzoo")


def backbone_features(
    model: HashNetwork,
    pool: ImagePool,
    positions: NDArray[np.int64],
    change: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    version: str = "plain",
) -> Tensor:
    """Give the backbone's features of images, from the cache as far as it holds them.

    The cache knows them by all that decides them: the backbone's name, arguments, weights, buffers and code (see
    `code_of`), the preprocessing, the copy of the data, the positions, the kind of device, the precision, the versions of
    the libraries, `change` and `version`. A part of 4,096 images is written whole or not at all; a killed run
    goes on. A part that cannot be read, or is of another shape, is computed anew.

    Args:
        model: its backbone makes them, in evaluation mode and float32, on the device where it is.
        pool: the data set.
        positions: int64 (n,), into the pool.
        change: maps decoded images, uint8 (N, 3, S, S), to the network's input, uint8, at random; default: the model's own
            preprocessing.
        version: names what `change` does and its seed; any text. The code of `change` need not be named.

    Returns:
        float32 (n, D), or (n, D, H, W) as the backbone maps this input size, on the CPU.

    Raises:
        CodesError: they do not fit into memory.
    """
    shape = _feature_shape(model)
    need_memory(4 * len(positions) * int(np.prod(shape)), "The features of all images", "use pooled features")
    folder = cache_folder() / "features" / _key(model, pool, positions, change, version)
    out = torch.empty((len(positions), *shape))
    missing = []
    for start in range(0, len(positions), PART):
        part = out[start : start + PART]
        kept = _read(folder / f"{start:09}.npy", tuple(part.shape))
        if kept is None:
            missing.append(start)
        else:
            part.copy_(kept)
    console = Console(stderr=True)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        line = f"Computing features of {len(positions):,} images of {pool.name} once; they are kept in {folder}"
        console.print(line, highlight=False, soft_wrap=True)
    hidden = not (missing and console.is_terminal)
    for start in track(missing, "features", console=console, transient=True, disable=hidden):
        part = out[start : start + PART]
        seed = hashlib.sha256(f"{version}:{start}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(seed))
        _compute(model, pool, positions[start : start + PART], change, generator, part)
        with replacing(folder / f"{start:09}.npy") as partial, partial.open("wb") as file:
            np.save(file, part.numpy())
    return out


def _feature_shape(model: HashNetwork) -> tuple[int, ...]:
    """The shape of an image's features at the model's input size; `feature_shape` has that at the backbone's usual size."""
    with model.encoding(PRECISION) as network:
        blank = torch.zeros(1, 3, *model.preprocess.config.size, dtype=torch.uint8, device=model.device)
        return tuple(network.backbone(model.preprocess.normalise(blank)).shape[1:])


def _compute(
    model: HashNetwork,
    pool: ImagePool,
    positions: NDArray[np.int64],
    change: Callable[[Tensor, torch.Generator], Tensor] | None,
    generator: torch.Generator,
    out: Tensor,
) -> None:
    """Write the features of the images at `positions` into `out`, batch by batch."""
    for first in range(0, len(positions), BATCH):
        batch = positions[first : first + BATCH]
        if change:
            fitted = change(pool.decode(batch, model.preprocess.config), generator)
        else:
            fitted = pool.fitted(batch, model.preprocess)
        with model.encoding(PRECISION) as network:
            features = network.backbone(model.preprocess.normalise(fitted.to(model.device)))
        out[first : first + BATCH].copy_(features)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Read a part; None if it is missing, damaged, or not float32 of this shape."""
    try:
        kept = np.load(path, mmap_mode="r")  # the file must be as long as its header says
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(np.array(kept)) if (kept.shape, kept.dtype) == (shape, np.float32) else None


def _key(
    model: HashNetwork,
    pool: ImagePool,
    positions: NDArray[np.int64],
    change: Callable[..., Tensor] | None,
    version: str,
) -> str:
    """Name all that features depend on."""
    digest = hashlib.sha256()
    for name, tensor in chain(model.backbone.named_parameters(), model.backbone.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    facts = {
        "backbone": model.refs["backbone"].model_dump(),
        "structure": str(model.backbone),
        "code": code_of([*PIPELINE, *map(type, model.backbone.modules()), *([change] if change else [])]),
        "libraries": provenance.versions() | {"pillow": PIL.__version__},
        "preprocess": model.preprocess.id,
        "data": (pool.copy, pool.side),
        "device": model.device.type,
        "precision": PRECISION,
        "version": version,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    digest.update(positions.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def code_of(things: Iterable[Any]) -> dict[str, str]:
    """Tell the code of classes and functions by the sha256 of the files that hold it.

    Of a plugin, or any other package, all its Python files count, since one may use another; of hashzoo the module alone.
    torch, torchvision and timm are known by their versions and left out. A class or function that is in no file, as in a
    notebook, is told from all others by a random key: defined anew, it has another.

    Returns:
        Name of the package or module, or of the class or function in no file -> what tells its code.

    >>> code_of([provenance.versions, torch.nn.Linear])  # doctest: +ELLIPSIS
    {'hashzoo.provenance': '...'}
    """
    found: dict[str, str] = {}
    for thing in sorted(set(things), key=lambda thing: (thing.__module__, thing.__qualname__)):
        module = thing.__module__
        parts = module.split(".")
        if parts[0] in ("torch", "torchvision", "timm"):
            continue
        outer = [module] if parts[0] == "hashzoo" else [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        files = {name: Path(getattr(sys.modules.get(name), "__file__", None) or "/") for name in outer}
        name, path = next(((name, path) for name, path in files.items() if path.is_file()), (module, None))
        if path is None:
            found[f"{module}.{thing.__qualname__}"] = _TOKENS.setdefault(thing, secrets.token_hex(16))
        elif name not in found:
            found[name] = _code_of_file(path)
    return found


def _code_of_file(path: Path) -> str:
    """Hash a module's file; of a package all its Python files."""
    if path.name != "__init__.py":
        return sha256(path)
    sources = {each.relative_to(path.parent).as_posix(): sha256(each) for each in path.parent.rglob("*.py")}
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
