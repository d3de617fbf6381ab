"""Features of a frozen backbone, computed once and kept: a head is then trained and measured in seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hashzoo.data.datasets import ImagePool
from hashzoo.files import replacing
from hashzoo.machine import need_memory
from hashzoo.model import HashModel
from hashzoo.precision import Precision

PART = 4096  # images a file: what a kill can lose
BATCH = 16  # on two cores, larger batches leave the cache and are slower
PRECISION: Precision = "float32"


def cache_folder() -> Path:
    """Where features are kept: `$HASHZOO_CACHE`, or `~/.cache/hashzoo`. All of it may be removed at any time."""
    return Path(os.environ.get("HASHZOO_CACHE") or Path.home() / ".cache" / "hashzoo")


def backbone_features(
    model: HashModel,
    pool: ImagePool,
    positions: NDArray[np.int64],
    change: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    version: str = "plain",
) -> Tensor:
    """Give the backbone's features of images, from the cache as far as it holds them.

    The cache knows them by the backbone's weights and arguments, the preprocessing, the copy of the data, the positions,
    the kind of device, the precision, and `version`. A part of 4,096 images is written whole or not at all; a killed run
    goes on.

    Args:
        model: its backbone makes them, in evaluation mode and float32, on the device where it is.
        pool: the data set.
        positions: int64 (n,), into the pool.
        change: maps decoded images, uint8 (N, 3, S, S), to the network's input, uint8, at random; default: the model's own
            preprocessing.
        version: names `change` and its seed; any text.

    Returns:
        float32 (n, D), or (n, D, H, W) as the backbone maps this input size, on the CPU.

    Raises:
        CodesError: they do not fit into memory.
    """
    backbone: Any = model.backbone
    with model.encoding(PRECISION):  # H and W of `feature_shape` are those of the backbone's usual input size
        blank = torch.zeros(1, 3, *model.preprocess.config.size, dtype=torch.uint8, device=model.device)
        shape = backbone(model.preprocess.normalise(blank)).shape[1:]
    need_memory(4 * len(positions) * int(np.prod(shape)), "The features of all images", "use pooled features")
    folder = cache_folder() / "features" / _key(model, pool, positions, version)
    out = torch.empty((len(positions), *shape))
    console = Console(stderr=True)
    starts = range(0, len(positions), PART)
    missing = [start for start in starts if not (folder / f"{start:09}.npy").exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        console.print(
            f"Computing features of {len(positions):,} images of {pool.name} once; they are kept in {folder}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for start in track(
        missing, "features", console=console, transient=True, disable=not (missing and console.is_terminal)
    ):
        made: list[Tensor] = []
        seed = hashlib.sha256(f"{version}:{start}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(seed))
        for first in range(start, min(start + PART, len(positions)), BATCH):
            batch = positions[first : min(first + BATCH, start + PART)]
            if change:
                fitted = change(pool.decode(batch, model.preprocess.config), generator)
            else:
                fitted = pool.fitted(batch, model.preprocess)
            with model.encoding(PRECISION):
                made.append(backbone(model.preprocess.normalise(fitted.to(model.device))).float().cpu())
        with replacing(folder / f"{start:09}.npy") as partial, partial.open("wb") as file:
            np.save(file, torch.cat(made).numpy())
    for start in starts:
        out[start : start + PART] = torch.from_numpy(np.load(folder / f"{start:09}.npy"))
    return out


def _key(model: HashModel, pool: ImagePool, positions: NDArray[np.int64], version: str) -> str:
    """Name what features depend on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    facts = (str(model.backbone), model.preprocess.hash, pool.copy, pool.side, model.device.type, PRECISION, version)
    digest.update(repr(facts).encode())
    digest.update(positions.astype("<i8").tobytes())
    return digest.hexdigest()[:32]
