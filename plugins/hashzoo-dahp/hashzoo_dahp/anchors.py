"""Anchor codes: one code per class, far apart, with every bit balanced over the classes."""

import numpy as np
import torch
from torch import Tensor


def balanced_anchors(num_classes: int, bits: int, seed: int = 0) -> Tensor:
    """Find C codes of K bits whose smallest pairwise Hamming distance is large, every bit split C/2 to C/2.

    Hadamard rows exist only for some K and waste their constant column; random codes collide. Here each column starts as
    a random half of the classes, and pairs of classes swap their bit in a column while that lowers the sum over pairs of
    exp(-2 distance), a smooth stand-in for the smallest distance. For 10 classes it reaches 6, 8, 12, 17, 26, 35 at 12, 16,
    24, 32, 48, 64 bits; no code exceeds K * C/2 * C/2 / (C (C-1)/2) (Plotkin's counting).

    Args:
        num_classes: C, at least 1.
        bits: K.
        seed: of the search.

    Returns:
        float32 (C, K) of -1 and +1; with two or more classes no column is constant.

    >>> balanced_anchors(10, 12).sum(0).abs().max()
    tensor(0.)
    """
    rng = np.random.default_rng(seed)
    half = np.where(np.arange(num_classes) < num_classes // 2, 1.0, -1.0)
    bound = int(bits * (num_classes // 2) * (-(-num_classes // 2)) // max(1, num_classes * (num_classes - 1) / 2))
    best, best_distance = np.empty((0, 0)), -1
    for _ in range(40 if num_classes * bits <= 1024 else 1):  # starts; long ones end all alike
        codes = np.stack([rng.permutation(half) for _ in range(bits)], axis=1)
        _spread(codes, rng, moves=max(3000, 6 * num_classes * bits))
        distance = (bits - codes @ codes.T) / 2
        smallest = int(distance[~np.eye(num_classes, dtype=bool)].min(initial=bits))
        if smallest > best_distance:
            best, best_distance = codes, smallest
        if best_distance >= bound:
            break
    return torch.from_numpy(best.astype(np.float32))


def _spread(codes: np.ndarray, rng: np.random.Generator, moves: int) -> None:
    """Swap bits of two classes within a column, in place, whenever that lowers the energy."""
    num_classes, bits = codes.shape
    if num_classes < 3:
        return
    distance = (bits - codes @ codes.T) / 2
    np.fill_diagonal(distance, np.inf)
    for _ in range(moves):
        column = rng.integers(bits)
        i, j = rng.integers(num_classes, size=2)
        if codes[i, column] == codes[j, column]:
            continue
        # i and j exchange their bits: against any other class m, one of them comes a step nearer, the other a step away
        step = codes[i, column] * codes[:, column]
        step[[i, j]] = 0.0
        row_i, row_j = distance[i] + step, distance[j] - step
        old, new = distance[[i, j]], np.stack([row_i, row_j])
        nearest = old.min()  # taken off, so that long codes do not underflow
        change = np.exp(2 * (nearest - new)) - np.exp(2 * (nearest - old))
        if change.sum() <= 0:
            distance[i], distance[:, i], distance[j], distance[:, j] = row_i, row_i, row_j, row_j
            codes[[i, j], column] = codes[[j, i], column]


def anchor_targets(anchors: Tensor, labels: Tensor, tie_break: Tensor) -> Tensor:
    """Give each item its anchor: of its class, or the bitwise majority of its classes' anchors.

    Args:
        anchors: (C, K) of -1 and +1.
        labels: int64 (N,), or 0/1 (N, C) for many labels.
        tie_break: (K,) of -1 and +1, the bit taken where the majority is even (CSQ's rule, Yuan et al., CVPR 2020).

    Returns:
        (N, K) of -1 and +1.

    >>> anchor_targets(torch.tensor([[1., 1.], [1., -1.]]), torch.tensor([[1., 1.]]), torch.tensor([-1., -1.]))
    tensor([[ 1., -1.]])
    """
    if labels.ndim == 1:
        return anchors[labels]
    votes = labels.to(anchors.dtype) @ anchors
    return torch.where(votes == 0, tie_break, votes.sign())
