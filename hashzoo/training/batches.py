"""What a training step sees: the images of the training list, drawn and changed at random, and those kept aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from hashzoo import metrics
from hashzoo.codes import Codes
from hashzoo.data import ImagePool
from hashzoo.features import backbone_features
from hashzoo.network import HashNetwork
from hashzoo.training.recipe import Augment, Recipe


def training_inputs(model: HashNetwork, recipe: Recipe, pool: ImagePool, positions: NDArray[np.int64]) -> Tensor:
    """Decode the images of the training list, or give their features where the backbone is frozen.

    Returns:
        uint8 (n, 3, S, S); of a frozen backbone its features, float32 (1 + versions, n, ...), of unchanged images first.
    """
    if not recipe.frozen:
        Console(stderr=True).print(
            f"Decoding {len(positions):,} images of {pool.name}: {pool.copy}", highlight=False, soft_wrap=True
        )
        return pool.decode(positions, recipe.preprocess)
    made = [_plain_features(model, pool, positions)]
    changing = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"plain_epochs": 0})})
    for version in range(recipe.augment.versions if recipe.loss else 0):  # a head in closed form sees no changed image
        rule = f"{recipe.augment.model_dump_json(exclude={'versions', 'plain_epochs'})} {version}"
        made.append(
            backbone_features(
                model, pool, positions, lambda images, generator: augment(images, changing, 0, generator), rule
            )
        )
    return torch.stack(made)


def _plain_features(model: HashNetwork, pool: ImagePool, positions: NDArray[np.int64]) -> Tensor:
    whole = np.arange(len(pool))  # evaluation needs them all, so they are computed and kept once
    return backbone_features(model, pool, whole)[torch.from_numpy(positions)]


def move_if_it_fits(images: Tensor, device: torch.device) -> Tensor:
    """Move the whole list to the device if that leaves half of its free memory; else it stays, and batches move."""
    if device.type == "cuda" and 2 * images.nbytes < torch.cuda.mem_get_info(device)[0]:
        return images.to(device)
    return images


def keep_aside(
    labels: NDArray[np.generic], positions: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a training list into what is trained on and what is kept aside, the same share of every class.

    Args:
        labels: of the whole pool, int64 (N,), or bool (N, C), where the share is of all.
        positions: of the training list, int64 (n,).
        share: of each class, 0 to 0.5.
        seed: of the draw.

    Returns:
        Both lists, ascending.
    """
    order = np.random.default_rng(seed).permutation(positions)
    groups = [order] if labels.ndim == 2 else [order[labels[order] == label] for label in np.unique(labels[order])]
    aside = np.concatenate([group[: round(share * len(group))] for group in groups])
    return np.setdiff1d(positions, aside), np.sort(aside)


@dataclass
class Validation:
    """Images of the training list that are not trained on: every second one is a query, the others are its database.

    Attributes:
        images: fitted, uint8 (n, 3, H, W); of a frozen backbone its features.
        labels: int64 (n,) or bool (n, C).
    """

    images: Tensor
    labels: NDArray[np.generic]

    @classmethod
    def of(cls, model: HashNetwork, recipe: Recipe, pool: ImagePool, positions: NDArray[np.int64]) -> Validation:
        """Load the images at these positions of the pool, in an order that spreads each class over both halves."""
        labels = pool.labels[positions]
        if labels.ndim == 1:
            positions = positions[np.argsort(labels, kind="stable")]
        images = _plain_features(model, pool, positions) if recipe.frozen else pool.fitted(positions, model.preprocess)
        return cls(images, pool.labels[positions])

    def mean_average_precision(self, model: HashNetwork, frozen: bool) -> float:
        """Tie-aware mAP of one half against the other, over all ranks."""
        bits = [u.numpy() >= 0 for u in self._relaxed(model, frozen)]
        packed = np.packbits(np.concatenate(bits), axis=1)
        query, database = (Codes(np.ascontiguousarray(packed[half::2]), model.bits) for half in (0, 1))
        return metrics.mean_average_precision(
            metrics.distance_histograms(query, database, self.labels[::2], self.labels[1::2])
        )

    def _relaxed(self, model: HashNetwork, frozen: bool) -> Iterator[Tensor]:
        for batch in self.images.split(500):
            if frozen:
                with model.encoding() as network:
                    yield network.from_features(batch.to(model.device)).u.cpu()
            else:
                yield model.relaxed(batch)


def draw_batch(
    images: Tensor, chosen: Tensor, recipe: Recipe, epoch: int, views: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Make a step's batch of the images `chosen`, int64 (n,); with several views, view by view.

    Args:
        images: of the whole list, as `training_inputs` gives them, on any device; the batch is made there.
        chosen: rows of the list, on the CPU.
        recipe: says how images are changed.
        epoch: counted from 0.
        views: changed copies of each image. Of a frozen backbone each is of another stored version while there are enough.
        generator: of all that is random, on the CPU.

    Returns:
        The batch, and which row of the list each of its items is, int64 (views * n,), on the CPU.
    """
    rows = chosen.repeat(views)
    view = torch.arange(views).repeat_interleave(len(chosen))
    if not recipe.frozen:
        return augment(images[rows.to(images.device)], recipe, epoch, generator, rows + view), rows
    version = torch.randint(len(images), (len(chosen),), generator=generator).repeat(views)
    return images[((version + view) % len(images)).to(images.device), rows.to(images.device)], rows


def augment(
    images: Tensor, recipe: Recipe, epoch: int, generator: torch.Generator, rows: Tensor | None = None
) -> Tensor:
    """Cut, mirror, blank and fit a uint8 batch (N, 3, S, S) for training, on the device where it is.

    Args:
        images: the batch.
        recipe: its `augment`, and the network's input.
        epoch: counted from 0.
        generator: on the CPU, so that every device draws the same.
        rows: int64 (N,), tells images apart from epoch to epoch; for `flip = "alternating"`.

    Returns:
        uint8 (N, 3, s, s): s is the network's input side, times the window's share of S if the window is smaller.
    """
    rule, side, device = recipe.augment, images.shape[-1], images.device
    if epoch >= recipe.optimization.epochs - rule.plain_epochs:
        rule = Augment(flip=False, shift=0)
    window = window_side(rule, epoch, side)
    border = max(0, rule.shift - (side - window) // 2)
    if border:
        images = F.pad(images.float(), (border,) * 4, mode="reflect").to(torch.uint8)
    # the window's top left corner lies within `shift` of the centred one's, as far as there are pixels
    centre = (images.shape[-1] - window) // 2
    low, high = max(0, centre - rule.shift), min(images.shape[-1] - window, centre + rule.shift)
    cut = _squares(images, torch.randint(low, high + 1, (2, len(images)), generator=generator), window)
    if rule.flip == "alternating":
        assert rows is not None
        turn = (
            rows * 2_654_435_761 // 65_536 + recipe.seed + epoch
        ) % 2  # Knuth's hash: half of the images start mirrored
        mirrored = turn.bool()
    elif rule.flip:
        mirrored = torch.rand(len(cut), generator=generator) < 0.5
    if rule.flip:
        cut = torch.where(mirrored.to(device)[:, None, None, None], cut.flip(3), cut)
    if rule.cutout:
        corner = torch.randint(0, window - rule.cutout + 1, (2, len(cut), 1), generator=generator).to(device)
        line = torch.arange(window, device=device)
        inside = (line >= corner) & (line < corner + rule.cutout)  # rows, then columns: (2, N, window)
        mean = (255 * torch.tensor(recipe.preprocess.mean, device=device)).round().to(torch.uint8)
        cut = torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], mean.view(1, 3, 1, 1), cut)
    height, width = recipe.preprocess.size
    target = [height * window // side, width * window // side]
    if list(cut.shape[2:]) == target:
        return cut
    if device.type == "cpu":
        return F.interpolate(cut.contiguous(), size=target, mode=recipe.preprocess.interpolation, antialias=True)
    fitted = F.interpolate(cut.float(), size=target, mode=recipe.preprocess.interpolation, antialias=True)
    return fitted.round().clamp(0, 255).to(torch.uint8)  # CUDA fits no bytes


def _squares(images: Tensor, corner: Tensor, side: int) -> Tensor:
    """Cut a square from each image: corner, int64 (2, N), is its first row and column."""
    span = corner[:, :, None].to(images.device) + torch.arange(side, device=images.device)
    items = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[items, span[0][:, :, None], span[1][:, None, :]].permute(0, 3, 1, 2)


def window_side(rule: Augment, epoch: int, side: int) -> int:
    """The crop's side in pixels at an epoch (counted from 0)."""
    return ([side] + [crop for start, crop in sorted(rule.crops) if start <= epoch])[-1]
