"""Exact Hamming search on a torch device: `CudaCodes` keeps codes there and finds the `top_k` or all `within` a radius.

On a CUDA device with Triton the kernels of `triton_kernels.py` do the work; any other torch device, and a machine without
Triton, gets the same results from matrix products. Both give each pair of query and row one int64 key,
`distance << shift | row`, so the order of keys is the order of results.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from hashzoo.search.held import Ragged, TopK

PAD = 1024  # rows are held in multiples of this many, so that the kernels need no mask to read them
PUT = 1 << 20  # rows that are copied to the device at a time: no more of them are there twice
CELLS = 1 << 25  # without Triton: cells of the largest array made at a time (pairs, or unpacked bits)


class CudaCodes:
    """N codes of K bits in the memory of a torch device, as 32-bit words.

    One search runs at a time: several would share the GPU anyway, and each takes some hundred MiB of its memory.

    Args:
        size: N, the number of codes.
        bits: K. All codes are 0 until `put` writes them.
        device: any that torch knows; with "cpu" the tests run without a GPU.

    Attributes:
        words: int32 (ceil(K/32), N): the first words of all codes, then the second words, and so on; zeros behind a code.
            It is a view of storage with whole blocks of `PAD` rows, which the kernels rely on.

    >>> held = CudaCodes(size=4, bits=8, device="cpu")
    >>> held.put(0, np.array([[7], [0], [1], [0]], dtype=np.uint8))
    >>> distances, rows = held.top_k(np.array([[1]], dtype=np.uint8), k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    >>> offsets, distances, rows = held.within(np.array([[1], [7]], dtype=np.uint8), radius=1)
    >>> offsets.tolist(), distances.tolist(), rows.tolist()
    ([0, 3, 4], [0, 1, 1, 0], [2, 1, 3, 0])
    """

    def __init__(self, size: int, bits: int, device: str) -> None:
        self.size, self.bits = size, bits
        self.words = torch.zeros((-(-bits // 32), -(-size // PAD) * PAD), dtype=torch.int32, device=device)[:, :size]
        self._turn = threading.Lock()

    def put(self, start: int, packed: NDArray[np.uint8]) -> None:
        """Write packed codes uint8 (n, ceil(K/8)) to the rows from `start` on."""
        for first in range(0, len(packed), PUT):
            words = torch.from_numpy(_to_words(packed[first : first + PUT])).to(self.words.device)
            self.words[:, start + first : start + first + len(words)] = words.T

    def packed(self) -> NDArray[np.uint8]:
        """Copy the codes back: uint8 (N, ceil(K/8))."""
        words: NDArray[np.int32] = self.words.T.contiguous().cpu().numpy()
        return np.ascontiguousarray(words.view(np.uint8)[:, : -(-self.bits // 8)])

    def top_k(self, queries: NDArray[np.uint8], k: int, keep: NDArray[np.bool_] | None = None) -> TopK:
        """Find the k nearest rows of each query, as `HeldCodes.top_k` says."""
        with self._turn:
            kept, shift = self._kept(keep), self.size.bit_length()
            k = min(k, self.size if kept is None else len(kept))
            if not k or not len(queries):
                return np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)
            words = torch.from_numpy(_to_words(queries)).to(self.words.device)
            if _has_kernels(self.words):
                from hashzoo.search import triton_kernels

                keys = triton_kernels.nearest(words, self.words, kept, k, shift)
            else:
                keys = _nearest(words, self.words, kept, k, shift)
            return _split_keys(keys, shift)

    def within(
        self,
        queries: NDArray[np.uint8],
        radius: int,
        keep: NDArray[np.bool_] | None = None,
        check: Callable[[int], None] = lambda hits: None,
    ) -> Ragged:
        """Find all rows within a Hamming radius of each query, as `HeldCodes.within` says."""
        with self._turn:
            kept, shift = self._kept(keep), self.size.bit_length()
            offsets = np.zeros(len(queries) + 1, dtype=np.int64)
            if not len(queries) or not (self.size if kept is None else len(kept)):
                return offsets, np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64)
            words = torch.from_numpy(_to_words(queries)).to(self.words.device)
            radius = min(radius, 32 * len(self.words))
            if _has_kernels(self.words):
                from hashzoo.search import triton_kernels

                counts, keys = triton_kernels.within(words, self.words, kept, radius, shift)
            else:
                counts, keys = _within(words, self.words, kept, radius, shift)
            np.cumsum(counts.cpu().numpy(), out=offsets[1:])
            check(int(offsets[-1]))
            return offsets, *_split_keys(keys, shift)

    def _kept(self, keep: NDArray[np.bool_] | None) -> torch.Tensor | None:
        """Return the rows to look at, int64, ascending: the others then cost nothing."""
        return None if keep is None else torch.from_numpy(keep).to(self.words.device).nonzero()[:, 0]


def _to_words(packed: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Copy packed codes uint8 (N, P) into whole words int32 (N, ceil(P/4)), zeros behind."""
    rows, width = packed.shape
    padded = np.zeros((rows, -(-width // 4) * 4), dtype=np.uint8)
    padded[:, :width] = packed
    return padded.view(np.int32)


def _split_keys(keys: torch.Tensor, shift: int) -> TopK:
    """Split keys into distances uint16 and rows int64, of the same shape."""
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
