"""Exact Hamming search on the CPU, compiled by numba for the processor it runs on and cached on disk.

Codes are held in blocks of 256 rows, byte by byte: all first bytes, then all second bytes (`Codes256.planes`). One
vector instruction then handles a byte of 64 codes: xor with the query's byte, count the bits, add. No code is padded
beyond whole bytes, the distances of 64 rows come out as 64 bytes in row order, and one comparison with the greatest
distance still of interest says which rows are hits. These vectors are written as LLVM IR (`_near`), which becomes
AVX-512 (vpopcntb), AVX2 or NEON (cnt) as the machine has it; all the rest is plain numba.

Rows are visited in ascending order, so a row at the distance of the k-th best so far cannot enter: an earlier row has
the place. That makes (distance, row) order exact at no cost.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 256  # rows of a block: 4 vectors of 64 bytes, so that a query's byte is loaded once for 4 operations
CACHE_BYTES = 12 << 10  # codes that all queries of a tile visit before the next ones: they stay in the L1 cache
TILE = 64  # queries that go through the codes together
TILE_KEYS = 1 << 23  # candidates of a tile at most, 64 MiB
SMALL = 4 << 20  # bytes of codes compared (queries x codes) below which a thread costs more than it brings
SAMPLE = 16  # one block in so many tells how near the k nearest will be
ROW_BITS = 48  # a candidate is one int64, distance << 48 | row: their order is the ranking
FAR = np.iinfo(np.uint16).max

TopK = tuple[NDArray[np.uint16], NDArray[np.int64]]
Ragged = tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]


class Codes256(NamedTuple):
    """N codes of P bytes in blocks of 256.

    Attributes:
        planes: uint8 (ceil(N/256), P, 256), starting at a multiple of 64 bytes; byte p of row 256 b + r is [b, p, r].
        live: uint64 (ceil(N/256), 4), bit r of word w set for row 64 w + r of the block: rows that a search may return.
        size: N.
    """

    planes: NDArray[np.uint8]
    live: NDArray[np.uint64]
    size: int


def empty(size: int, width: int) -> Codes256:
    """Make room for `size` codes of `width` bytes, to be filled by `put`."""
    blocks = -(-size // BLOCK)
    raw = np.empty(blocks * width * BLOCK + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64  # a vector that straddles two cache lines costs a third of the speed
    planes = raw[start : start + blocks * width * BLOCK].reshape(blocks, width, BLOCK)
    planes[-1:] = 0
    return Codes256(planes, _words_of_bits(np.ones(size, dtype=bool)), size)


def put(codes: Codes256, rows: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Write packed codes uint8 (n, P) to rows int64 (n,)."""
    _put(codes.planes, rows, np.require(packed, requirements=["C", "W"]))


def get(codes: Codes256, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read rows int64 (n,) back as packed codes uint8 (n, P).

    >>> held = hold(np.array([[1, 2], [3, 4]], dtype=np.uint8))
    >>> get(held, np.array([1]))
    array([[3, 4]], dtype=uint8)
    """
    packed = np.empty((len(rows), codes.planes.shape[1]), dtype=np.uint8)
    _get(codes.planes, rows, packed)
    return packed


def hold(packed: NDArray[np.uint8]) -> Codes256:
    """Copy packed codes uint8 (N, P) into blocks."""
    codes = empty(*packed.shape)
    for start in range(0, len(packed), 1 << 16):  # row numbers of all codes would take more than the codes
        some = packed[start : start + (1 << 16)]
        put(codes, np.arange(start, start + len(some)), some)
    return codes


def top_k(
    queries: NDArray[np.uint8],
    codes: Codes256,
    k: int,
    keep: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> TopK:
    """Find the k nearest rows of each query.

    Args:
        queries: packed codes uint8 (Q, P).
        codes: N codes of P bytes.
        k: at least 1.
        keep: bool (N,), rows that may be returned; all of them if left out.
        threads: at most so many; as many as the process may use if left out.

    Returns:
        Distances uint16 (Q, k) and rows int64 (Q, k), ascending by (distance, row); fewer than k columns where fewer
        rows may be returned.

    >>> held = hold(np.array([[7], [0], [1], [0]], dtype=np.uint8))
    >>> distances, rows = top_k(np.array([[1]], dtype=np.uint8), held, k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    """
    live = _live(codes, keep)
    k = min(k, codes.size if keep is None else int(keep.sum()))
    queries = np.array(queries, dtype=np.uint8, order="C")
    if not k or not len(queries):
        return np.empty((len(queries), k), dtype=np.uint16), np.empty((len(queries), k), dtype=np.int64)
    splits = _split(len(queries), codes, threads)
    distances = np.full((len(splits.blocks), len(queries), k), FAR, dtype=np.uint16)
    rows = np.zeros(distances.shape, dtype=np.int64)
    width = codes.planes.shape[1]

    def search(part: int, blocks: slice, here: slice) -> None:
        _top_k(
            codes.planes, live, blocks.start, blocks.stop, queries[here], _scratch(width),
            distances[part, here], rows[part, here],
        )  # fmt: skip

    _run(search, splits)
    if len(splits.blocks) == 1:
        return distances[0], rows[0]
    # The parts follow one another in the order of rows, so a stable sort by distance is the ranking.
    flat_distances, flat_rows = (np.concatenate(list(parts), axis=1) for parts in (distances, rows))
    order = np.argsort(flat_distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(flat_distances, order, axis=1), np.take_along_axis(flat_rows, order, axis=1)


def within(
    queries: NDArray[np.uint8],
    codes: Codes256,
    radius: int,
    keep: NDArray[np.bool_] | None = None,
    check: Callable[[int], None] = lambda hits: None,
) -> Ragged:
    """Find all rows within a Hamming radius of each query.

    Args:
        queries: packed codes uint8 (Q, P).
        codes: N codes of P bytes.
        radius: at least 0.
        keep: bool (N,), rows that may be returned; all of them if left out.
        check: is told how many hits there are before memory for them is taken, and may raise.

    Returns:
        Offsets int64 (Q + 1,), distances uint16 (H,) and rows int64 (H,): query q has the hits from offsets[q] to
        offsets[q + 1], ascending by (distance, row).

    >>> held = hold(np.array([[7], [0], [1], [0]], dtype=np.uint8))
    >>> offsets, distances, rows = within(np.array([[1], [255]], dtype=np.uint8), held, radius=1)
    >>> offsets.tolist(), distances.tolist(), rows.tolist()
    ([0, 3, 3], [0, 1, 1], [2, 1, 3])
    """
    live, width = _live(codes, keep), codes.planes.shape[1]
    radius = min(radius, 8 * width)
    queries = np.array(queries, dtype=np.uint8, order="C")
    splits = _split(len(queries), codes, None)
    counts = np.zeros((len(queries), radius + 1, len(splits.blocks)), dtype=np.int64)

    def visit(part: int, blocks: slice, here: slice) -> None:  # counts first, then writes at the places
        _within(
            codes.planes, live, blocks.start, blocks.stop, queries[here], _scratch(width),
            places[here, :, part], distances, rows,
        )  # fmt: skip

    places, distances, rows = counts, np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64)
    _run(visit, splits)
    ends = np.cumsum(counts.ravel())
    total = int(ends[-1]) if ends.size else 0
    check(total)
    offsets = np.concatenate([[0], np.cumsum(counts.sum(axis=(1, 2)))]).astype(np.int64)
    if total:
        places = (ends - counts.ravel()).reshape(counts.shape)
        distances, rows = np.empty(total, dtype=np.uint16), np.empty(total, dtype=np.int64)
        _run(visit, splits)
    return offsets, distances, rows


def histograms(
    queries: NDArray[np.uint8], codes: Codes256, relevant: NDArray[np.bool_], which: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count, for each query, the rows at each distance and the relevant ones among them.

    Args:
        queries: packed codes uint8 (Q, P).
        codes: N codes of P bytes.
        relevant: bool (R, N), sets of relevant rows.
        which: int64 (Q,), each query's set.

    Returns:
        int64 (2, Q, 8 P + 1): all rows, and the relevant ones.

    >>> held = hold(np.array([[7], [0], [1]], dtype=np.uint8))
    >>> histograms(np.array([[1]], dtype=np.uint8), held, np.array([[True, False, True]]), np.array([0])).tolist()
    [[[1, 1, 1, 0, 0, 0, 0, 0, 0]], [[1, 0, 1, 0, 0, 0, 0, 0, 0]]]
    """
    width = codes.planes.shape[1]
    queries = np.array(queries, dtype=np.uint8, order="C")
    words = np.stack([_words_of_bits(rows) for rows in relevant])
    splits = _split(len(queries), codes, None)
    counts = np.zeros((len(splits.blocks), 2, len(queries), 8 * width + 1), dtype=np.int64)

    def count(part: int, blocks: slice, here: slice) -> None:
        _histograms(
            codes.planes, codes.live, blocks.start, blocks.stop, queries[here], words, which[here], _scratch(width),
            counts[part, :, here],
        )  # fmt: skip

    _run(count, splits)
    return counts.sum(axis=0)


def compare_only(codes: Codes256, query: NDArray[np.uint8], turns: int) -> int:
    """Compare a query uint8 (1, P) with all codes `turns` times on one core: the limit of a search in the cache."""
    return _compare_only(codes.planes, np.array(query), turns, _scratch(codes.planes.shape[1]))


def read_only(codes: Codes256) -> int:
    """Add up the codes on all cores: the limit of a search that memory feeds."""
    words = codes.planes.reshape(-1).view(np.uint64)
    splits = _split(1, codes, None)
    sums = [0] * len(splits.blocks)

    def read(part: int, blocks: slice, here: slice) -> None:
        block = words.size // len(codes.planes)
        sums[part] = int(_sum(words[blocks.start * block : blocks.stop * block]))

    _run(read, splits)
    return sum(sums)


class _Splits(NamedTuple):
    """What runs at once: every stretch of blocks with every stretch of queries."""

    blocks: list[slice]
    queries: list[slice]
    threads: int


def _split(queries: int, codes: Codes256, threads: int | None) -> _Splits:
    """Share the work: by queries where there are enough of them, else by rows."""
    blocks = len(codes.planes)
    threads = threads or _cores()
    if queries * codes.planes.nbytes < SMALL:
        threads = 1
    # Several shares a thread, since no two take the same time.
    if queries >= 8 * threads:
        return _Splits([slice(0, blocks)], _stretches(queries, min(queries // 8, 4 * threads) or 1), threads)
    return _Splits(_stretches(blocks, 2 * threads if threads > 1 else 1), [slice(0, queries)], threads)


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stretches(size: int, count: int) -> list[slice]:
    edges = [size * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def _run(work: Callable[[int, slice, slice], None], splits: _Splits) -> None:
    """Run `work(number, blocks, queries)` for each pair of stretches; the kernels let go of the GIL."""
    tasks = [(number, blocks, here) for number, blocks in enumerate(splits.blocks) for here in splits.queries]
    if splits.threads == 1 or len(tasks) == 1:
        for task in tasks:
            work(*task)
        return
    with ThreadPoolExecutor(splits.threads) as pool:  # made anew each time: threads do not survive a fork
        for done in [pool.submit(work, *task) for task in tasks]:
            done.result()


def _live(codes: Codes256, keep: NDArray[np.bool_] | None) -> NDArray[np.uint64]:
    return codes.live if keep is None else _words_of_bits(keep)


def _words_of_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool (N,) into uint64 (ceil(N/256), 4), zeros behind."""
    words = np.zeros((-(-len(bits) // BLOCK), 4), dtype="<u8")
    octets = np.packbits(bits, bitorder="little")
    words.view(np.uint8).ravel()[: len(octets)] = octets
    return words.astype(np.uint64, copy=False)


def _scratch(width: int) -> NDArray[Any]:
    """Make room for a block's distances; its dtype says whether they fit in a byte."""
    return np.empty(BLOCK, dtype=np.uint8 if 8 * width <= 255 else np.uint16)


# ---- the kernels -----------------------------------------------------------------------------------------------------

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_LANES = 64
_VECTORS = BLOCK // _LANES
_BYTES = ir.VectorType(_I8, _LANES)
_CHUNK = 16  # bytes whose distances are summed in 8 bits (at most 128) before they are widened to 16


def _splat(builder: ir.IRBuilder, value: Any) -> Any:
    """Repeat a number in all lanes."""
    vector = ir.VectorType(value.type, _LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, _LANES), None)
    )


def _sum_bytes(builder: ir.IRBuilder, planes: Any, query: Any, start: Any, stop: Any) -> list[Any]:
    """Emit the distances in bytes `start` to `stop` of a block's codes: 4 vectors of 64 x i8."""
    count_bits = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_BYTES, [_BYTES]), f"llvm.ctpop.v{_LANES}i8"
    )
    zero = ir.Constant(_BYTES, None)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_VECTORS)]
    for total in sums:
        builder.store(zero, total)
    with cgutils.for_range_slice(builder, start, stop, _I64(1)) as (plane, _):
        byte = _splat(builder, builder.load(builder.gep(query, [plane])))
        for number, total in enumerate(sums):
            place = builder.add(builder.mul(plane, _I64(BLOCK)), _I64(number * _LANES))
            codes = builder.load(builder.bitcast(builder.gep(planes, [place]), _BYTES.as_pointer()), align=1)
            different = builder.call(count_bits, [builder.xor(codes, byte)])
            builder.store(builder.add(builder.load(total), different), total)
    return [builder.load(total) for total in sums]


def _distances(builder: ir.IRBuilder, planes: Any, query: Any, width: Any, lane: ir.IntType) -> list[Any]:
    """Emit the distances of a block's codes of `width` bytes: 4 vectors of 64 x `lane` (i8, or i16 for long codes)."""
    if lane == _I8:
        return _sum_bytes(builder, planes, query, _I64(0), width)
    wide = ir.VectorType(lane, _LANES)
    zero = ir.Constant(wide, None)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_VECTORS)]
    for total in sums:
        builder.store(zero, total)
    with cgutils.for_range_slice(builder, _I64(0), width, _I64(_CHUNK)) as (start, _):
        stop = builder.add(start, _I64(_CHUNK))
        stop = builder.select(builder.icmp_signed("<", stop, width), stop, width)
        for total, part in zip(sums, _sum_bytes(builder, planes, query, start, stop), strict=True):
            builder.store(builder.add(builder.load(total), builder.zext(part, wide)), total)
    return [builder.load(total) for total in sums]


@intrinsic
def _near(typingctx: Any, planes: Any, query: Any, width: Any, accept: Any, distances: Any, hits: Any) -> Any:
    """Compare a block's 256 codes with a query and say whether any is within distance `accept`.

    Args:
        typingctx: numba's.
        planes: address of the block, `width` x 256 bytes.
        query: address of the query, `width` bytes.
        width: P, bytes of a code.
        accept: greatest distance of interest, at least 0.
        distances: uint8 (256,), or uint16 where 8 P is over 255; written only if there is a hit.
        hits: uint64 (4,), bit r of word w set if row 64 w + r is within `accept`; written only if there is a hit.
    """
    lane = _I8 if distances.dtype == types.uint8 else _I16
    signature = types.boolean(*[types.intp] * 4, distances, hits)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        block, code = (builder.inttoptr(address, _I8.as_pointer()) for address in args[:2])
        limit = _splat(builder, builder.trunc(args[3], lane))
        vectors = _distances(builder, block, code, args[2], lane)
        words = [builder.bitcast(builder.icmp_unsigned("<=", vector, limit), _I64) for vector in vectors]
        some = builder.icmp_unsigned("!=", functools.reduce(builder.or_, words), _I64(0))
        with builder.if_then(some, likely=False):
            to_distances = context.make_array(distances)(context, builder, args[4]).data
            to_hits = context.make_array(hits)(context, builder, args[5]).data
            to_vectors = builder.bitcast(to_distances, vectors[0].type.as_pointer())
            for number in range(_VECTORS):
                builder.store(vectors[number], builder.gep(to_vectors, [_I64(number)]), align=1)
                builder.store(words[number], builder.gep(to_hits, [_I64(number)]))
        return some

    return signature, codegen


@intrinsic
def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """Return the place of the lowest set bit of a word that is not 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.intp(types.uint64), codegen


_kernel = njit(nogil=True, cache=True)


@_kernel
def _top_k(planes, live, start, stop, queries, distances, out_distances, out_rows):
    """Fill uint16 and int64 (Q, k) with each query's nearest rows in blocks `start` to `stop`; too few leave the rest."""
    count, k = out_rows.shape
    greatest = 8 * planes.shape[1]
    size = (stop - start) * BLOCK
    room = min(size, 3 * k + 1024)  # at most 2k candidates survive when the room is full
    tile = max(1, min(TILE, count, TILE_KEYS // max(room, 1)))
    keys = np.empty((tile, room), dtype=np.int64)
    histogram = np.empty((tile, greatest + 1), dtype=np.int64)  # candidates at each distance
    state = np.empty((tile, 3), dtype=np.int64)  # accept, candidates within it (always below k), candidates in all
    # About k (1 + ln(N/k)) rows are among the k nearest when they are met. Where that is much, one block in SAMPLE says
    # first how far the k-th will be at most, by a rank that its share of the k nearest is hardly ever below.
    rank = np.int64(k / SAMPLE + 3 * np.sqrt(k / SAMPLE) + 2)
    sampled = k * np.log(max(size / k, 1.0)) > 2 * rank * SAMPLE
    for top in range(0, count, tile):
        here = min(tile, count - top)
        state[:, 0] = greatest
        if sampled:
            state[:, 1:] = 0
            histogram[:] = 0
            _visit(
                planes, live, start, stop, SAMPLE, queries[top : top + here], rank,
                state, histogram, keys, distances,
            )  # fmt: skip
            for place in range(here):
                state[place, 0] = min(state[place, 0] + 1, greatest)
        bounds = state[:, 0].copy()
        state[:, 1:] = 0
        histogram[:] = 0
        _visit(planes, live, start, stop, 1, queries[top : top + here], k, state, histogram, keys, distances)
        for place in range(here):
            if state[place, 0] == bounds[place] < greatest:  # the sample misled: fewer than k rows are so near
                state[place, 0] = greatest
                state[place, 1:] = 0
                histogram[place] = 0
                here_only = slice(place, place + 1)
                _visit(
                    planes, live, start, stop, 1, queries[top + place : top + place + 1], k,
                    state[here_only], histogram[here_only], keys[here_only], distances,
                )  # fmt: skip
            _rank(k, state[place], histogram[place], keys[place], out_distances[top + place], out_rows[top + place])


@_kernel
def _visit(planes, live, start, stop, step, queries, k, state, histogram, keys, distances):
    """Take every `step`-th block's hits into the queries' candidates.

    One function, since numba counts references to every array that it hands to another: atomic steps, a hit at a time.
    """
    width = planes.shape[1]
    hits = np.empty(4, dtype=np.uint64)
    stride = step * max(1, CACHE_BYTES // (width * BLOCK))
    for left in range(start, stop, stride):
        right = min(left + stride, stop)
        for place in range(len(queries)):
            query = queries.ctypes.data + place * width
            accept, below, filled = state[place, 0], state[place, 1], state[place, 2]
            for block in range(left, right, step):
                if accept < 0:  # k rows at distance 0: no later row is nearer
                    break
                address = planes.ctypes.data + block * width * BLOCK
                if not _near(address, query, width, accept, distances, hits):
                    continue
                for word in range(4):
                    found = hits[word] & live[block, word]
                    while found:
                        lane = 64 * word + _lowest_bit(found)
                        found &= found - np.uint64(1)
                        distance = np.intp(distances[lane])
                        if distance > accept:
                            continue
                        if filled == keys.shape[1]:
                            filled = _drop_beyond(keys, place, accept + 1)
                        keys[place, filled] = distance << ROW_BITS | block * BLOCK + lane
                        filled += 1
                        histogram[place, distance] += 1
                        below += 1
                        while below >= k:
                            below -= histogram[place, accept]
                            accept -= 1
            state[place, 0], state[place, 1], state[place, 2] = accept, below, filled


@_kernel
def _drop_beyond(keys, place, distance):
    """Keep a query's candidates up to a distance, in order, and return how many there are."""
    kept = 0
    for key in keys[place]:
        if key >> ROW_BITS <= distance:
            keys[place, kept] = key
            kept += 1
    return kept


@_kernel
def _rank(k, state, histogram, keys, out_distances, out_rows):
    """Write the k nearest candidates by counting sort; they are in the order of rows."""
    last = min(state[0] + 1, len(histogram) - 1)  # the distance of the k-th
    place = 0
    for distance in range(last + 1):
        count = histogram[distance]
        histogram[distance] = place
        place += count
    for key in keys[: state[2]]:
        distance = key >> ROW_BITS
        if distance <= last:
            place = histogram[distance]
            if place < k:
                out_distances[place] = distance
                out_rows[place] = key & ((1 << ROW_BITS) - 1)
                histogram[distance] = place + 1


@_kernel
def _within(planes, live, start, stop, queries, distances, places, out_distances, out_rows):
    """Write the rows within a radius from their distance's place on, int64 (Q, radius + 1); without room, only count."""
    width = planes.shape[1]
    hits = np.empty(4, dtype=np.uint64)
    stride = max(1, CACHE_BYTES // (width * BLOCK))
    for left in range(start, stop, stride):
        for number in range(len(queries)):
            query = queries.ctypes.data + number * width
            for block in range(left, min(left + stride, stop)):
                address = planes.ctypes.data + block * width * BLOCK
                if not _near(address, query, width, places.shape[1] - 1, distances, hits):
                    continue
                for word in range(4):
                    found = hits[word] & live[block, word]
                    while found:
                        row = 64 * word + _lowest_bit(found)
                        found &= found - np.uint64(1)
                        distance = np.intp(distances[row])
                        place = places[number, distance]
                        if len(out_rows):
                            out_distances[place] = distance
                            out_rows[place] = block * BLOCK + row
                        places[number, distance] = place + 1


@_kernel
def _histograms(planes, live, start, stop, queries, relevant, which, distances, out):
    """Add to int64 (2, Q, 8 P + 1) the rows at each distance, and the relevant ones."""
    width = planes.shape[1]
    hits = np.empty(4, dtype=np.uint64)
    # Neighbouring rows are often equally far: four counters in turn do not wait for one another's store.
    counters = np.empty((4, 8 * width + 1), dtype=np.int64)
    full = ~np.uint64(0)
    for number in range(len(queries)):
        query = queries.ctypes.data + number * width
        counters[:] = 0
        for block in range(start, stop):
            _near(planes.ctypes.data + block * width * BLOCK, query, width, 8 * width, distances, hits)
            for word in range(4):
                base = 64 * word
                alive = live[block, word]
                if alive == full:
                    for row in range(base, base + 64, 4):
                        counters[0, distances[row]] += 1
                        counters[1, distances[row + 1]] += 1
                        counters[2, distances[row + 2]] += 1
                        counters[3, distances[row + 3]] += 1
                while alive != full and alive:
                    counters[0, distances[base + _lowest_bit(alive)]] += 1
                    alive &= alive - np.uint64(1)
                found = relevant[which[number], block, word] & live[block, word]
                while found:
                    out[1, number, distances[base + _lowest_bit(found)]] += 1
                    found &= found - np.uint64(1)
        for distance in range(8 * width + 1):
            out[0, number, distance] += counters[:, distance].sum()


@_kernel
def _compare_only(planes, query, turns, distances):
    hits = np.empty(4, dtype=np.uint64)
    found = 0
    for _ in range(turns):
        for block in range(len(planes)):
            address = planes.ctypes.data + block * planes.shape[1] * BLOCK
            found += _near(address, query.ctypes.data, planes.shape[1], 0, distances, hits)
    return found


@_kernel
def _sum(words):
    total = np.uint64(0)
    for word in words:
        total += word
    return total


@_kernel
def _put(planes, rows, packed):
    for place in range(len(rows)):
        block, lane = rows[place] // BLOCK, rows[place] % BLOCK
        for byte in range(packed.shape[1]):
            planes[block, byte, lane] = packed[place, byte]


@_kernel
def _get(planes, rows, packed):
    for place in range(len(rows)):
        block, lane = rows[place] // BLOCK, rows[place] % BLOCK
        for byte in range(packed.shape[1]):
            packed[place, byte] = planes[block, byte, lane]
