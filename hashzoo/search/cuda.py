"""Exact Hamming search on a torch device: `hold` codes there once, then ask for the `top_k` or all `within` a radius.

On a CUDA device with Triton the kernels of `hashzoo.search.triton_kernels` do the work; any other torch device, and a machine
without Triton, gets the same results from matrix products. Both carry one int64 key `distance << shift | row` for a
pair, so no tie is left to a sort.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

PAD = 1024  # rows are held in multiples of this many, so that the kernels need no mask to read them
CELLS = 1 << 25  # without Triton: cells of the largest array made at a time (pairs, or unpacked bits)

Matches = tuple[NDArray[np.uint16], NDArray[np.int64]]


def hold(packed: NDArray[np.uint8], device: str) -> torch.Tensor:
    """Copy packed codes uint8 (N, P) to a device, as 32-bit words.

    Returns:
        int32 (ceil(P/4), N): the first words of all codes, then the second words, and so on; zeros behind a code. It
        is a view of storage with whole blocks of `PAD` rows, which `top_k` and `within` rely on.

    >>> hold(np.array([[1, 0, 0, 0, 2], [3, 0, 0, 0, 4]], dtype=np.uint8), "cpu")
    tensor([[1, 3],
            [2, 4]], dtype=torch.int32)
    """
    words = _to_words(packed)
    rows, width = words.shape
    held = torch.zeros((width, -(-rows // PAD) * PAD), dtype=torch.int32, device=device)[:, :rows]
    return held.copy_(torch.from_numpy(words).to(device).T)


def packed(base: torch.Tensor, width: int) -> NDArray[np.uint8]:
    """Copy held codes back: uint8 (N, width), where width is the P they were held with.

    >>> packed(hold(np.array([[1, 2, 3, 4, 5]], dtype=np.uint8), "cpu"), width=5)
    array([[1, 2, 3, 4, 5]], dtype=uint8)
    """
    words: NDArray[np.int32] = base.T.contiguous().cpu().numpy()
    return np.ascontiguousarray(words.view(np.uint8)[:, :width])


def top_k(queries: NDArray[np.uint8], base: torch.Tensor, k: int, keep: NDArray[np.bool_] | None = None) -> Matches:
    """Find the k nearest rows of each query.

    Args:
        queries: packed codes uint8 (Q, P).
        base: N codes from `hold`; the search runs on their device.
        k: at least 1; more than there are rows counts as all rows.
        keep: bool (N,), the rows to look at; all of them if left out.

    Returns:
        Distances uint16 (Q, k) and rows int64 (Q, k), ascending by (distance, row).

    >>> codes = np.array([[7], [0], [1], [0]], dtype=np.uint8)
    >>> distances, rows = top_k(codes[2:3], hold(codes, "cpu"), k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    """
    kept, shift = _kept(base, keep), base.shape[1].bit_length()
    k = min(k, base.shape[1] if kept is None else len(kept))
    if not k or not len(queries):
        return np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)
    words = torch.from_numpy(_to_words(queries)).to(base.device)
    if _has_kernels(base):
        from hashzoo.search import triton_kernels

        keys = triton_kernels.nearest(words, base, kept, k, shift)
    else:
        keys = _nearest(words, base, kept, k, shift)
    return _matches(keys, shift)


def within(
    queries: NDArray[np.uint8],
    base: torch.Tensor,
    radius: int,
    keep: NDArray[np.bool_] | None = None,
    check: Callable[[int], None] = lambda hits: None,
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
    """Find all rows within a radius of each query.

    Args:
        queries: packed codes uint8 (Q, P).
        base: N codes from `hold`; the search runs on their device.
        radius: the largest distance to report, at least 0.
        keep: bool (N,), the rows to look at; all of them if left out.
        check: is told how many hits there are before memory of the host is taken for them, and may raise.

    Returns:
        Offsets int64 (Q+1,), distances uint16 (H,) and rows int64 (H,) of all H hits: those of query q lie from
        offsets[q] to offsets[q+1], ascending by (distance, row).

    >>> codes = np.array([[7], [0], [1], [0]], dtype=np.uint8)
    >>> offsets, distances, rows = within(codes[:3], hold(codes, "cpu"), radius=1)
    >>> offsets.tolist(), distances.tolist(), rows.tolist()
    ([0, 1, 4, 7], [0, 0, 0, 1, 0, 1, 1], [0, 1, 3, 2, 2, 1, 3])
    """
    kept, shift = _kept(base, keep), base.shape[1].bit_length()
    offsets = np.zeros(len(queries) + 1, dtype=np.int64)
    if not len(queries) or not (base.shape[1] if kept is None else len(kept)):
        return offsets, np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64)
    words = torch.from_numpy(_to_words(queries)).to(base.device)
    radius = min(radius, 32 * len(base))
    if _has_kernels(base):
        from hashzoo.search import triton_kernels

        counts, keys = triton_kernels.within(words, base, kept, radius, shift)
    else:
        counts, keys = _within(words, base, kept, radius, shift)
    np.cumsum(counts.cpu().numpy(), out=offsets[1:])
    check(int(offsets[-1]))
    return offsets, *_matches(keys, shift)


def _to_words(packed: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Copy packed codes uint8 (N, P) into whole words int32 (N, ceil(P/4)), zeros behind."""
    rows, width = packed.shape
    padded = np.zeros((rows, -(-width // 4) * 4), dtype=np.uint8)
    padded[:, :width] = packed
    return padded.view(np.int32)


def _kept(base: torch.Tensor, keep: NDArray[np.bool_] | None) -> torch.Tensor | None:
    """Return the rows to look at, int64, ascending: what is left out then costs nothing."""
    return None if keep is None else torch.from_numpy(keep).to(base.device).nonzero()[:, 0]


def _matches(keys: torch.Tensor, shift: int) -> Matches:
    found: NDArray[np.int64] = keys.cpu().numpy()
    return (found >> shift).astype(np.uint16), found & ((1 << shift) - 1)


def _has_kernels(base: torch.Tensor) -> bool:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return (base.is_cuda or interpreted) and importlib.util.find_spec("triton") is not None


def _nearest(queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, k: int, shift: int) -> torch.Tensor:
    """Return the k smallest keys of each query, int64 (Q, k), ascending: `triton_kernels.nearest` without Triton."""
    best = torch.full((len(queries), k), torch.iinfo(torch.int64).max, device=base.device)
    for part, distances, rows in _blocks(queries, base, kept):
        keys = (distances << shift | rows).topk(min(k, len(rows)), largest=False).values
        best[part] = torch.cat([best[part], keys], dim=1).topk(k, largest=False).values
    return best


def _within(
    queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, radius: int, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts int64 (Q,) and the keys within the radius, query by query: `triton_kernels.within` without Triton."""
    numbers, keys = [], []
    for part, distances, rows in _blocks(queries, base, kept):
        query, column = (distances <= radius).nonzero(as_tuple=True)
        numbers.append(query + part.start)
        keys.append(distances[query, column] << shift | rows[column])
    ordered, order = torch.cat(keys).sort()
    number, by_query = torch.cat(numbers)[order].sort(stable=True)
    return number.bincount(minlength=len(queries)), ordered[by_query]


def _blocks(
    queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield a part of the queries, its distances int64 (q, n) to some rows, and these rows int64 (n,).

    torch has no popcount, so distances come from a matrix product of codes in {-1, +1}: every partial sum is a whole
    number of at most 1024 and therefore exact in half precision.
    """
    bits = 32 * len(base)
    shifts = torch.arange(32, dtype=torch.int32, device=base.device)
    kind = torch.float32 if base.device.type == "cpu" else torch.float16  # CPUs are slow at halves

    def signs(words: torch.Tensor) -> torch.Tensor:  # int32 (n, W) -> (n, bits)
        return (((words[:, :, None] >> shifts) & 1) * 2 - 1).to(kind).flatten(1)

    rows = torch.arange(base.shape[1], device=base.device) if kept is None else kept
    block = max(1, min(len(rows), CELLS // bits))
    group = max(1, CELLS // max(block, bits))
    for some in rows.split(block):
        columns = signs(base[:, some].T).T
        for first in range(0, len(queries), group):
            part = slice(first, first + group)
            yield part, (bits - (signs(queries[part]) @ columns).long()) // 2, some
