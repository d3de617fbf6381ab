"""Exact top-k by Hamming distance over codes in 64-bit words, on the CPU (numpy) and on a GPU (torch).

A kernel is `top_k(queries, base, k)`; it returns the k nearest rows of each query in (distance, row) order, and every
kernel returns the same. Both here carry one int64 key `distance * N + row` for a pair: the order of the keys is the
ranking, so no tie is left to a sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

BLOCK_ROWS = 1 << 15  # numpy: base rows at a time; what a query touches of a block stays in the L2 cache
BLOCK_CELLS = 1 << 25  # torch: cells of the largest array made at a time (pairs, or unpacked bits)

TopK = tuple[NDArray[np.uint16], NDArray[np.int64]]


def to_words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Copy packed codes uint8 (N, B) into whole words uint64 (N, ceil(B/8)), zeros behind.

    >>> to_words(np.full((2, 6), 255, dtype=np.uint8)).view(np.uint8)[0]
    array([255, 255, 255, 255, 255, 255,   0,   0], dtype=uint8)
    """
    rows, width = packed.shape
    padded = np.zeros((rows, -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = packed
    return padded.view(np.uint64)


def top_k(queries: NDArray[np.uint64], base: NDArray[np.uint64] | torch.Tensor, k: int) -> TopK:
    """Find the k nearest base rows of each query, on the device that holds the base.

    Args:
        queries: uint64 (Q, W).
        base: uint64 (N, W) as a numpy array, or the same words as an int64 tensor on any torch device.
        k: at least 1; more than N counts as N.

    Returns:
        Distances uint16 (Q, k) and rows int64 (Q, k), ascending by (distance, row).

    >>> base = to_words(np.array([[7], [0], [1], [0]], dtype=np.uint8))
    >>> distances, rows = top_k(base[2:3], base, k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    """
    k = min(k, len(base))
    if not k or not len(queries):
        return np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)
    keys = _keys_numpy(queries, base, k) if isinstance(base, np.ndarray) else _keys_torch(queries, base, k)
    return (keys // len(base)).astype(np.uint16), keys % len(base)


def _keys_numpy(queries: NDArray[np.uint64], base: NDArray[np.uint64], k: int) -> NDArray[np.int64]:
    """Return the k smallest keys of each query, int64 (Q, k), ascending."""
    best = [np.empty(0, dtype=np.int64)] * len(queries)
    limits: list[int | None] = [None] * len(queries)  # distance of the k-th best so far
    for start in range(0, len(base), BLOCK_ROWS):
        words = np.ascontiguousarray(base[start : start + BLOCK_ROWS].T)
        for number, query in enumerate(queries):
            distances = np.bitwise_count(words ^ query[:, None]).sum(axis=0, dtype=np.uint16)
            limit = limits[number]
            if limit is None:  # all rows up to the distance at which k of this block are found
                limit = int(np.searchsorted(np.cumsum(np.bincount(distances)), k)) + 1
            near = np.flatnonzero(distances < limit)  # at the limit itself, an earlier row has the place
            if not near.size:
                continue
            keys = np.concatenate([best[number], distances[near].astype(np.int64) * len(base) + (near + start)])
            if keys.size >= k:
                keys = np.partition(keys, k - 1)[:k]
                limits[number] = int(keys[-1]) // len(base)
            best[number] = keys
    return np.sort(np.stack(best), axis=1)


def _keys_torch(queries: NDArray[np.uint64], base: torch.Tensor, k: int) -> NDArray[np.int64]:
    """Return the k smallest keys of each query, int64 (Q, k), ascending.

    torch has no popcount, so distances come from a matrix product of codes in {-1, +1}: every partial sum is a whole
    number of at most 1024 and therefore exact in half precision.
    """
    import torch

    total, bits = len(base), 64 * base.shape[1]
    shifts = torch.arange(8, dtype=torch.uint8, device=base.device)

    def signs(words: torch.Tensor) -> torch.Tensor:
        unpacked = (words.view(torch.uint8)[:, :, None] >> shifts) & 1
        return unpacked.reshape(len(words), bits).half() * 2 - 1

    words = torch.from_numpy(queries.view(np.int64)).to(base.device)
    best = torch.full((len(queries), k), torch.iinfo(torch.int64).max, device=base.device)
    block = max(1, min(total, BLOCK_CELLS // bits))
    group = max(1, BLOCK_CELLS // max(block, bits))
    for start in range(0, total, block):
        rows = torch.arange(start, min(start + block, total), device=base.device)
        columns = signs(base[start : start + block]).T
        for first in range(0, len(queries), group):
            distances = (bits - (signs(words[first : first + group]) @ columns).long()) // 2
            keys = (distances * total + rows).topk(min(k, len(rows)), largest=False).values
            merged = torch.cat([best[first : first + group], keys], dim=1)
            best[first : first + group] = merged.topk(k, largest=False).values
    return best.cpu().numpy()
