"""The Triton kernels behind `hashzoo.search.cuda`: exact Hamming search that never writes the distance matrix.

A pair of query and row is one int64 key, `distance << shift | row`, so the order of keys is the ranking. `_scan`
compares tiles of queries x rows and appends, per query, the keys below that query's limit. For a top-k, the limit
starts as the k-th key of a few rows and `_tighten` lowers it after every stretch of rows; stretches grow, so that most
rows meet a limit that nearly none of them pass. Row tiles are visited in an order that spreads any first part of it
over the whole base: codes are often stored class by class, and the first rows alone would say little about the rest.

The module needs Triton. With TRITON_INTERPRET=1 it runs on CPU tensors.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments of a Triton kernel have no Python types.
from __future__ import annotations

import math
import os
from itertools import count

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

TILE = 512  # pairs that one warp compares at a time: 16 a lane; hashzoo.search.cuda.PAD is a multiple
QUERIES = 8  # queries of a tile, where there are as many: a row's word is loaded once for all of them
PROGRAMS = 1 << 14  # as many keep every multiprocessor of a large GPU busy; from there on a program takes more queries
SLOTS = 4096  # survivors of a query between two tightenings, at least
SLOTS_PER_K = 16
KEYS = 1 << 25  # survivors of all queries searched at a time: 256 MiB
GOLDEN = 0.618  # the next tile to visit is this share of the base away: any first tiles are spread over all of it
BLOCK = 2048  # keys that `_tighten` reads at a time
SECTOR = 8  # distance of two queries' counters in int32: atomics on one do not wait for those on its neighbours
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # as Triton reads it


@triton.jit
def _popcount(words, INTERPRETED: tl.constexpr):
    if INTERPRETED:  # the interpreter cannot call the device's library
        bits = words.to(tl.uint32, bitcast=True)
        bits = bits - ((bits >> 1) & 0x55555555)
        bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
        counts = (((bits + (bits >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24).to(tl.int32)
    else:
        counts = libdevice.popc(words)
    return counts


@triton.jit(do_not_specialize=["total", "tiles", "step", "first", "query_tiles", "shift"])
def _scan(
    base, stride, kept, queries, limits, counts, count_stride, found, places, slots,
    total, tiles, step, first, query_tiles, shift,
    WORDS: tl.constexpr, KEPT: tl.constexpr, ALL: tl.constexpr, INTERPRETED: tl.constexpr,
    QUERIES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Append the keys below a query's limit to those found; where ALL, put every key at its row's place instead."""
    number = tl.program_id(0).to(tl.int64) + first
    start = number * step % tiles * ROWS
    lane = tl.arange(0, ROWS)
    outside = tl.where(lane < tl.minimum(total - start, ROWS).to(tl.int32), 0, 1 << 15)  # farther than any distance
    at = base + start + lane
    if KEPT:
        at = base + tl.load(kept + start + lane)
    for tile in range(tl.program_id(1), query_tiles, tl.num_programs(1)):
        query = tile * QUERIES + tl.arange(0, QUERIES)
        limit = tl.load(limits + query)
        allowed = ((limit - 1) >> shift).to(tl.int32)
        excess = outside[None, :] - allowed[:, None]  # of the distance over the largest that can be below the limit
        for word in range(WORDS):
            theirs = tl.load(at + word * stride.to(tl.int64))
            ours = tl.load(queries + (tile * WORDS + word) * QUERIES + tl.arange(0, QUERIES))
            excess += _popcount(theirs[None, :] ^ ours[:, None], INTERPRETED)
        if ALL or tl.min(excess) <= 0:
            row = start + lane
            if KEPT:
                row = tl.load(kept + row)
            keys = ((excess + allowed[:, None]).to(tl.int64) << shift) + row[None, :]
            to = found + tl.load(places + query)[:, None]
            if ALL:
                tl.store(to + (number * ROWS + lane)[None, :], keys)
            else:
                near = keys < limit[:, None]
                counter = counts + query[:, None] * count_stride + tl.zeros([QUERIES, ROWS], tl.int32)
                slot = tl.atomic_add(counter, 1, mask=near, sem="relaxed")
                tl.store(to + slot, keys, mask=near & (slot < slots))


@triton.jit(do_not_specialize=["k", "bits"])
def _tighten(found, counts, count_stride, limits, overflown, slots, k, bits, BLOCK: tl.constexpr):
    """Keep the k smallest keys of a query, in any order, and make the largest of them its limit."""
    query = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + query * count_stride)
    if count > k:
        if count > slots:
            tl.store(overflown + query, 1)
        count = tl.minimum(count, slots)
        found += query * slots
        lane = tl.arange(0, BLOCK)
        kth = tl.full((), 0, tl.int64)  # the largest number with fewer than k keys below it, bit by bit from the top
        for bit in range(bits):
            higher = kth + (tl.full((), 1, tl.int64) << (bits - 1 - bit))
            below = tl.zeros([BLOCK], tl.int32)
            for start in range(0, count, BLOCK):
                keys = tl.load(found + start + lane, mask=start + lane < count, other=1 << 62)
                below += (keys < higher).to(tl.int32)
            kth = tl.where(tl.sum(below) < k, higher, kth)
        kept = 0
        for start in range(0, count, BLOCK):
            keys = tl.load(found + start + lane, mask=start + lane < count, other=1 << 62)
            keep = (keys <= kth).to(tl.int32)
            to = kept + tl.cumsum(keep) - keep
            tl.debug_barrier()  # places of this block are written only when all of it has been read
            tl.store(found + to, keys, mask=keep > 0)
            kept += tl.sum(keep)
        tl.store(counts + query * count_stride, k)
        tl.store(limits + query, kth)


class _Search:
    """Queries int32 (Q, W) and a base, with room for `slots` survivors of each query and limits of their keys."""

    def __init__(
        self, queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, shift: int, slots: int, limit: int
    ) -> None:
        size = len(queries)
        self.width = min(QUERIES, triton.next_power_of_2(size))
        self.rows = TILE // self.width
        padded = triton.cdiv(size, self.width) * self.width
        self.base, self.shift, self.slots = base, shift, slots
        tiles = torch.nn.functional.pad(queries, (0, 0, 0, padded - size)).view(-1, self.width, queries.shape[1])
        self.queries = tiles.transpose(1, 2).contiguous()  # tile by tile, each word by word
        self.total = base.shape[1] if kept is None else len(kept)
        self.kept = None if kept is None else torch.nn.functional.pad(kept, (0, -len(kept) % self.rows))
        self.limits = torch.zeros(padded, dtype=torch.int64, device=base.device)  # no key is below the limit of padding
        self.limits[:size] = limit
        self.counts = torch.zeros((padded, SECTOR), dtype=torch.int32, device=base.device)[:, 0]
        self.places = slots * torch.arange(padded, device=base.device)  # where the keys of a query begin in `found`
        self.found = torch.empty(padded * slots, dtype=torch.int64, device=base.device)
        self.tiles = triton.cdiv(self.total, self.rows)
        steps = count(round(self.tiles * GOLDEN))
        self.step = next(step for step in steps if math.gcd(step, self.tiles) == 1)  # so that every tile is visited

    def over(self, first: int, last: int, everything: bool = False) -> None:
        """Scan the tiles from `first` to `last` of the order in which tiles are visited."""
        query_tiles = len(self.queries)
        programs = min(query_tiles, triton.cdiv(PROGRAMS, last - first))
        with torch.cuda.device_of(self.base):
            _scan[last - first, programs](
                self.base, self.base.stride(0), self.kept, self.queries,
                self.limits, self.counts, SECTOR, self.found, self.places, self.slots,
                self.total, self.tiles, self.step, first, query_tiles, self.shift,
                WORDS=len(self.base), KEPT=self.kept is not None, ALL=everything, INTERPRETED=INTERPRETED,
                QUERIES=self.width, ROWS=self.rows, num_warps=1,  # one warp: whether a key is near needs no barrier
            )  # fmt: skip


def nearest(queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, k: int, shift: int) -> torch.Tensor:
    """Return the k smallest keys of each query, int64 (Q, k), ascending; k is at most the number of rows.

    Args:
        queries: int32 (Q, W).
        base: int32 (W, N), the words of `CudaCodes`.
        kept: rows to look at, int64, ascending; None for all of them.
        k: at least 1.
        shift: bits of a key that are the row's.
    """
    total = base.shape[1] if kept is None else len(kept)
    slots = min(triton.cdiv(max(SLOTS, SLOTS_PER_K * k), TILE), triton.cdiv(total, TILE)) * TILE
    group = max(1, KEYS // slots)
    best = []
    for part in queries.split(group):
        keys, overflown = _nearest(part, base, kept, k, shift, slots, careful=False)
        again = overflown.nonzero()[:, 0]
        if len(again):
            keys[again] = _nearest(part[again], base, kept, k, shift, slots, careful=True)[0]
        best.append(keys)
    return torch.cat(best)


def _nearest(
    queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, k: int, shift: int, slots: int, careful: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys int64 (Q, k) and which of the queries had more survivors than slots, int32 (Q,).

    The stretches are chosen so that survivors fit unless the base is laid out against it; whether they did is looked
    at after the last one, since to ask earlier is to wait for the device. A careful search asks after every stretch
    and takes a shorter one where they did not; as many rows as there are free slots always fit.
    """
    search = _Search(queries, base, kept, shift, slots, limit=1)
    overflown = torch.zeros(len(queries), dtype=torch.int32, device=base.device)
    seen, stretch = 0, slots // search.rows
    while seen < search.tiles:
        last = min(seen + stretch, search.tiles)
        if not seen:
            search.counts.fill_(last * search.rows)
        search.over(seen, last, everything=not seen)
        if careful and (search.counts > slots).any():
            search.counts.fill_(k)
            stretch = max((last - seen) // 4, (slots - k) // search.rows)
            continue
        with torch.cuda.device_of(base):
            _tighten[(len(queries),)](
                search.found, search.counts, SECTOR, search.limits, overflown, slots,
                k, shift + (32 * len(base)).bit_length(), BLOCK=BLOCK, num_warps=8,
            )  # fmt: skip
        # Of r times as many rows, r*k survive on average, and fewer than r * (k + 8 * sqrt(k) + 16) all but surely.
        growth = (slots - k) / (k + 8 * math.sqrt(k) + 16)
        stretch = min(int(growth * last), 2 * (last - seen) if careful else search.tiles)
        stretch = max(stretch, (slots - k) // search.rows)
        seen = last
    return search.found.view(-1, slots)[: len(queries), :k].sort(dim=1).values, overflown


def within(
    queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, radius: int, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many keys each query has within the radius, int32 (Q,), and these keys, query by query, ascending.

    The arguments are those of `nearest`, with a radius in place of k.
    """
    found = [_within(part, base, kept, radius, shift) for part in queries.split(max(1, KEYS // SLOTS))]
    return torch.cat([counts for counts, _ in found]), torch.cat([keys for _, keys in found])


def _within(
    queries: torch.Tensor, base: torch.Tensor, kept: torch.Tensor | None, radius: int, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    search = _Search(queries, base, kept, shift, SLOTS, limit=(radius + 1) << shift)
    search.over(0, search.tiles)
    counts = search.counts[: len(queries)]
    most = int(counts.max())
    if most <= SLOTS:
        filled = torch.arange(SLOTS, device=base.device) < counts[:, None]
        keys = search.found.view(-1, SLOTS)[: len(queries)][filled]
    else:  # now that the counts are known, scan again with as much room as each query needs
        search.places = search.counts.cumsum(0) - search.counts
        search.found = keys = torch.empty(int(counts.sum()), dtype=torch.int64, device=base.device)
        search.slots, counts = most, counts.clone()
        search.counts.zero_()
        search.over(0, search.tiles)
    above = shift + (32 * len(base)).bit_length()  # a query's number on top of its keys: one sort orders them all
    numbers = torch.arange(len(queries), device=base.device).repeat_interleave(counts) << above
    return counts, (keys | numbers).sort().values ^ numbers
