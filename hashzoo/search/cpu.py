"""Exact Hamming search on the CPU: the public calls, and how the work is shared among threads.

`planes.py` says how codes lie in memory, `kernels.py` how they are compared.

Two rules make the order (distance, row) exact at no cost. A kernel visits rows in ascending order, so a row at the same
distance as the k-th best so far cannot enter: an earlier row already has the place. And the parts of the rows that
several threads search are merged in ascending order of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashzoo import machine
from hashzoo.machine import need_memory
from hashzoo.search import kernels
from hashzoo.search.held import Ragged, TopK
from hashzoo.search.kernels import BLOCK, bounds_of
from hashzoo.search.planes import Planes, words_of_bits

SMALL = 4 << 20  # bytes of codes compared (queries x codes) below which a second thread costs more than it saves
HIT = 64  # the cost of one of a query's k nearest, in bytes of codes compared
FEW_HITS = 1 << 20  # an answer of fewer hits takes so little memory that there is no need to ask for it
PART_ROWS = 1000  # a part of the rows has at least this many rows for each row that it looks at one by one
PART_HITS = 1 << 22  # hits that all parts together may keep, 40 MiB; where they would keep more, there is one part


class CpuCodes:
    """N codes of K bits in host memory, searched by kernels that are compiled for this processor.

    Args:
        size: N, the number of codes.
        bits: K. All codes are 0 until `put` writes them.

    >>> held = CpuCodes(size=4, bits=8)
    >>> held.put(0, np.array([[7], [0], [1], [0]], dtype=np.uint8))
    >>> distances, rows = held.top_k(np.array([[1]], dtype=np.uint8), k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    >>> offsets, distances, rows = held.within(np.array([[1], [255]], dtype=np.uint8), radius=1)
    >>> offsets.tolist(), distances.tolist(), rows.tolist()
    ([0, 3, 3], [0, 1, 1], [2, 1, 3])
    """

    def __init__(self, size: int, bits: int) -> None:
        self.size, self.bits = size, bits
        self.planes = Planes(size, -(-bits // 8))

    def put(self, start: int, packed: NDArray[np.uint8]) -> None:
        """Write packed codes uint8 (n, ceil(K/8)) to the rows from `start` on, which were not written before."""
        self.planes.put(start, packed)

    def packed(self) -> NDArray[np.uint8]:
        """Copy the codes back: uint8 (N, ceil(K/8))."""
        return self.planes.packed()

    def top_k(
        self,
        queries: NDArray[np.uint8],
        k: int,
        keep: NDArray[np.bool_] | None = None,
        threads: int | None = None,
    ) -> TopK:
        """Find the k nearest rows of each query, as `HeldCodes.top_k` says, on at most `threads` threads (None: all cores).

        Raises:
            CodesError: there is too little memory for the search.
        """
        live = self._live(keep)
        k = min(k, self.size if keep is None else int(keep.sum()))
        queries = np.array(queries, dtype=np.uint8, order="C")
        if not k or not len(queries):
            return np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)
        words = self.planes.words
        shares, bounds = _share(len(queries), words, threads, k), bounds_of(words.shape[1])
        parts = len(shares.blocks)
        kept = k if parts == 1 else min(k, -(-len(words) // parts) * BLOCK)
        if len(queries) * (k + 1024) > FEW_HITS:
            _need_memory(len(queries), len(words), k, kept, shares)
        distances = np.empty((parts, len(queries), kept), dtype=np.uint16)
        rows = np.empty(distances.shape, dtype=np.int64)

        def search(part: int, blocks: slice, some: slice) -> None:
            kernels.top_k(
                words, live, blocks.start, blocks.stop, queries[some], bounds, distances[part, some], rows[part, some]
            )

        _run(search, shares)
        if parts == 1:
            return distances[0], rows[0]
        nearest = np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)

        def merge(part: int, blocks: slice, some: slice) -> None:
            kernels.merge(distances, rows, some.start, some.stop, *nearest)

        threads = min(shares.threads, HIT * nearest[0].size // (SMALL + 1) + 1)
        _run(merge, _Shares([slice(0)], _slices(len(queries), threads), threads))
        return nearest

    def within(
        self,
        queries: NDArray[np.uint8],
        radius: int,
        keep: NDArray[np.bool_] | None = None,
        check: Callable[[int], None] = lambda hits: None,
    ) -> Ragged:
        """Find all rows within a Hamming radius of each query, as `HeldCodes.within` says."""
        words = self.planes.words
        live, radius = self._live(keep), min(radius, words.shape[1])
        queries = np.array(queries, dtype=np.uint8, order="C")
        shares, bounds = _share(len(queries), words, None, radius + 1), bounds_of(words.shape[1])
        # The rows are visited twice: first the kernel counts, then it writes each hit where the counts say.
        counts = np.zeros((len(queries), radius + 1, len(shares.blocks)), dtype=np.int64)

        def visit(part: int, blocks: slice, some: slice) -> None:
            kernels.within(
                words, live, blocks.start, blocks.stop, queries[some], bounds, targets[some, :, part], distances, rows
            )

        targets, distances, rows = counts, np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64)
        _run(visit, shares)
        ends = np.cumsum(counts.ravel())
        total = int(ends[-1]) if ends.size else 0
        check(total)
        offsets = np.concatenate([[0], np.cumsum(counts.sum(axis=(1, 2)))]).astype(np.int64)
        if total:
            targets = (ends - counts.ravel()).reshape(counts.shape)
            distances, rows = np.empty(total, dtype=np.uint16), np.empty(total, dtype=np.int64)
            _run(visit, shares)
        return offsets, distances, rows

    def histograms(
        self, queries: NDArray[np.uint8], relevant: NDArray[np.bool_], which: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count, for each query, the rows at each distance and the relevant ones among them.

        Args:
            queries: packed codes uint8 (Q, ceil(K/8)).
            relevant: bool (R, N), sets of relevant rows.
            which: int64 (Q,), each query's set.

        Returns:
            int64 (2, Q, K + 1): all rows, and the relevant ones.

        >>> held = CpuCodes(size=3, bits=8)
        >>> held.put(0, np.array([[7], [0], [1]], dtype=np.uint8))
        >>> held.histograms(np.array([[1]], dtype=np.uint8), np.array([[True, False, True]]), np.array([0])).tolist()
        [[[1, 1, 1, 0, 0, 0, 0, 0, 0]], [[1, 0, 1, 0, 0, 0, 0, 0, 0]]]
        """
        queries, words = np.array(queries, dtype=np.uint8, order="C"), self.planes.words
        sets = np.stack([words_of_bits(rows) for rows in relevant])
        bins = self.bits + 1
        shares, bounds = _share(len(queries), words, None, 2 * bins), bounds_of(words.shape[1])
        # What a task writes is contiguous however the work is shared: numba would compile again for another layout.
        counts = np.zeros((len(shares.blocks), len(queries), 2, bins), dtype=np.int64)

        def count(part: int, blocks: slice, some: slice) -> None:
            kernels.histograms(
                words, self.planes.live, blocks.start, blocks.stop, queries[some], sets, which[some], bounds,
                counts[part, some],
            )  # fmt: skip

        _run(count, shares)
        return counts.sum(axis=0).swapaxes(0, 1)

    def _live(self, keep: NDArray[np.bool_] | None) -> NDArray[np.uint64]:
        """Mark the rows that a search may return, as `Planes.live` does."""
        return self.planes.live if keep is None else words_of_bits(keep)


class _Shares(NamedTuple):
    """How a search is cut into tasks: each slice of blocks with each slice of queries is one task."""

    blocks: list[slice]
    queries: list[slice]
    threads: int
    small: bool = False  # so little work that it is done before a thread of the pool would wake up


def _share(queries: int, words: NDArray[np.uint64], threads: int | None, kept: int) -> _Shares:
    """Share the work: by queries where there are enough of them, else by rows too.

    Each part of the rows keeps up to `kept` numbers for each query. To find them it looks one by one at the rows of its
    first block and at about `kept` more. Many parts repeat that work, so a part has many more rows than that, unless
    there are fewer queries than threads.
    """
    blocks = len(words)
    work = queries * (words.nbytes + HIT * kept)
    threads = min(threads or machine.cores(), work // (SMALL + 1) + 1)
    if threads == 1:
        return _Shares([slice(0, blocks)], [slice(0, queries)], 1, small=work <= SMALL)
    if queries >= 8 * threads:
        # Give each thread several tasks to even out their run times, but keep enough queries in each task to share the
        # lookup table of a block.
        tasks = threads * min(max(queries // (64 * threads), 1), 4)
        return _Shares([slice(0, blocks)], _slices(queries, tasks), threads)
    most = max(1, min(2 * threads, blocks, PART_HITS // (queries * kept)))
    large = max(1, min(most, blocks * BLOCK // (PART_ROWS * (BLOCK + kept))))
    groups = min(-(-threads // large), queries)
    parts = max(large, threads) if groups == 1 else threads // groups  # up to two a thread, where they are large
    return _Shares(_slices(blocks, min(parts, most)), _slices(queries, groups), threads)


def _need_memory(queries: int, blocks: int, k: int, kept: int, shares: _Shares) -> None:
    """Refuse a search for the k nearest, of which each part of the rows finds `kept`, that does not fit in memory."""
    parts, groups = len(shares.blocks), len(shares.queries)
    hits = queries * (k if parts == 1 else k + parts * kept)
    capacity = kernels.capacity_of.py_func(-(-blocks // parts) * BLOCK, k)
    candidates = (
        min(shares.threads, parts * groups) * capacity * kernels.tile_of.py_func(-(-queries // groups), capacity)
    )
    need_memory(
        10 * hits + 8 * candidates,
        f"A search of {queries:,} queries for {k:,} codes each",
        "ask for fewer (k) or search fewer queries at a time",
    )


def _slices(size: int, count: int) -> list[slice]:
    """Cut `size` items into `count` slices of about the same length."""
    edges = [size * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def _run(work: Callable[[int, slice, slice], None], shares: _Shares) -> None:
    """Run `work(part, blocks, queries)` for each task, where `part` numbers the slices of blocks."""
    tasks = [partial(work, part, blocks, some) for part, blocks in enumerate(shares.blocks) for some in shares.queries]
    if shares.small:
        tasks[0]()
    else:
        machine.run_all(tasks, shares.threads)
