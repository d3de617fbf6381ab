"""The kernels of exact Hamming search: numba functions, and the LLVM IR that adds up distances bit by bit.

A full adder turns three bit-vectors of equal weight into one sum and one carry. Each adder removes one vector, so counting
64 bits takes about 64 adders. A vector holds one bit of `BLOCK` codes.

All kernels are in this one file: numba keeps compiled code for as long as the file of a kernel stays the same.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

# What numba compiles for: this processor, unless NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX say otherwise.
AVX512 = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")
BLOCK = 512 if AVX512 else 256  # rows of a block: the bits of a vector
TILE = 256  # queries that share a block's table
FEW = 4  # queries from which on it is worth while
TILE_KEYS = 1 << 23  # candidates of a tile at most, 64 MiB
SAMPLE = 16  # one block in so many tells how near the k nearest will be
ROW_BITS = 48  # a candidate is one int64, distance << 48 | row: their order is the ranking
FAR = np.iinfo(np.uint16).max


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep the code on disk where numba finds a folder for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no such folder
        return njit(nogil=True)(function)


_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_WORDS = BLOCK // 64
_VECTOR = ir.VectorType(_I64, _WORDS)
_BYTES = BLOCK // 8  # of a vector
_CHUNKS = (64, 16)  # a code is chunks of 64 bits, then chunks of 16; both are threes of bits and one more
_GROUP = 10 * _BYTES  # of a table: three bits' ones for either parity, and their twos for each of eight ways to differ
_SHORT, _FEW_COLUMNS, _MANY_COLUMNS = 64, 7, 11  # numbers below 2^7 serve codes of up to 64 bits; below 2^11, of 1024


@kernel
def _columns(bits):
    """Count the vectors that hold the sums of distances and bounds."""
    return _FEW_COLUMNS if bits <= _SHORT else _MANY_COLUMNS


@functools.cache
def bounds_of(bits: int) -> NDArray[np.uint64]:
    """Tabulate for each distance, and each column, a word of its bit in 2^columns - 1 - distance."""
    columns = _columns(bits)
    starts = (1 << columns) - 1 - np.arange(1 << columns)
    return np.where(starts[:, None] >> np.arange(columns) & 1, ~np.uint64(0), np.uint64(0))


@kernel
def _table_bytes(bits):
    """Size the table of a block: in each chunk a group for every three bits, and for the last bit two ones."""
    return bits // 64 * (21 * _GROUP + 2 * _BYTES) + bits % 64 // 16 * (5 * _GROUP + 2 * _BYTES)


@kernel
def _way_bytes(bits):
    """Size a query that is looked up in a table: in each chunk two places for every three bits, and one for the last."""
    return bits // 64 * 43 + bits % 64 // 16 * 11


def _splat(builder: ir.IRBuilder, word: Any) -> Any:
    """Repeat a word in the whole vector."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, word, _I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, _WORDS), None))


def _at(builder: ir.IRBuilder, base: Any, offset: Any) -> Any:
    """Point to the vector `offset` bytes behind `base`."""
    return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())


def _full_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Add three bits: their sum x ^ y ^ z and their carry, which is set where two of them are."""
    if AVX512:  # LLVM finds these single instructions only in part
        logic = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3 + [_I32]), "llvm.x86.avx512.pternlog.q.512"
        )
        return builder.call(logic, [x, y, z, _I32(0x96)]), builder.call(logic, [x, y, z, _I32(0xE8)])
    differ = builder.xor(x, y)
    return builder.xor(differ, z), builder.or_(builder.and_(differ, z), builder.and_(x, y))


def _add_up(builder: ir.IRBuilder, sums: list[Any], addends: Iterator[tuple[int, Any]]) -> Any:
    """Add vectors of (column, bits worth 2^column) to `sums`, one for each column; return where they overflow.

    A bit waits for another of its column, and the two are added to the sum at once: few of them are alive at a time.
    """
    waiting: dict[int, Any] = {}
    overflow = ir.Constant(_VECTOR, None)

    def add(column: int, bits: Any) -> None:
        nonlocal overflow
        if column == len(sums):
            overflow = builder.or_(overflow, bits)
        elif column in waiting:
            sums[column], carry = _full_add(builder, waiting.pop(column), bits, sums[column])
            add(column + 1, carry)
        else:
            waiting[column] = bits

    for column, bits in addends:
        add(column, bits)
    for column in range(len(sums)):
        if column in waiting:
            bits = waiting.pop(column)
            carry = builder.and_(bits, sums[column])
            sums[column] = builder.xor(bits, sums[column])
            add(column + 1, carry)
    return overflow


def _look_up(builder: ir.IRBuilder, table: Any, query: Any, chunk: int) -> Iterator[tuple[int, Any]]:
    """Emit the distances of a chunk's groups, ones and twos, from a table and a query's ways."""
    for number in range(_way_bytes.py_func(chunk)):
        group, column = divmod(number, 2)
        way = builder.zext(builder.load(builder.gep(query, [_I64(number)])), _I64)
        place = builder.add(builder.mul(way, _I64(8)), _I64(group * _GROUP))
        yield column, builder.load(_at(builder, table, place), align=8)


def _subtract(builder: ir.IRBuilder, planes: Any, query: Any, chunk: int) -> Iterator[tuple[int, Any]]:
    """Emit the same from a block's planes and a query's masks."""
    masks = builder.bitcast(query, _I64.as_pointer())

    def differ(bit: int) -> Any:
        mask = _splat(builder, builder.load(builder.gep(masks, [_I64(bit)])))
        return builder.xor(builder.load(_at(builder, planes, _I64(bit * _BYTES)), align=8), mask)

    for bit in range(0, chunk - 1, 3):
        yield from enumerate(_full_add(builder, *map(differ, range(bit, bit + 3))))
    yield 0, differ(chunk - 1)


def _each_chunk(
    builder: ir.IRBuilder, bits: Any, places: list[Any], sizes: tuple[Callable[[int], int], ...]
) -> Iterator[tuple[int, list[Any]]]:
    """Emit loops over a code's chunks; yield how many bits it has, and `places` moved on to it by `sizes`."""
    for chunk in _CHUNKS:
        steps = [_I64(size(chunk)) for size in sizes]
        count, bits = builder.udiv(bits, _I64(chunk)), builder.urem(bits, _I64(chunk))
        with cgutils.for_range(builder, count) as loop:
            yield (
                chunk,
                [
                    builder.gep(place, [builder.mul(loop.index, step)])
                    for place, step in zip(places, steps, strict=True)
                ],
            )
        places = [builder.gep(place, [builder.mul(count, step)]) for place, step in zip(places, steps, strict=True)]


def _compare(builder: ir.IRBuilder, tabled: bool, columns: int, arguments: list[Any]) -> Any:
    """Emit the body of `_near` and `_near_tabled` for sums of so many columns."""
    codes, query, bits, bounds, accept, sums, hits = arguments
    bounds = builder.gep(bounds, [builder.mul(accept, _I64(columns))])
    totals = [cgutils.alloca_once(builder, _VECTOR) for _ in range(columns)]
    for column, total in enumerate(totals):
        builder.store(_splat(builder, builder.load(builder.gep(bounds, [_I64(column)]))), total)
    overflow = cgutils.alloca_once(builder, _VECTOR)
    builder.store(ir.Constant(_VECTOR, None), overflow)
    sizes = (_table_bytes.py_func, _way_bytes.py_func) if tabled else (_plane_bytes, _mask_bytes)
    differences = _look_up if tabled else _subtract
    for chunk, (code, against) in _each_chunk(builder, bits, [codes, query], sizes):
        now = [builder.load(total) for total in totals]
        over = _add_up(builder, now, differences(builder, code, against, chunk))
        builder.store(builder.or_(builder.load(overflow), over), overflow)
        for total, value in zip(totals, now, strict=True):
            builder.store(value, total)
    near = builder.not_(builder.load(overflow))
    whole = ir.IntType(BLOCK)
    some = builder.icmp_unsigned("!=", builder.bitcast(near, whole), whole(0))
    with builder.if_then(some, likely=False):
        vectors = [near, *(builder.load(total) for total in totals)]
        places = [hits, *(builder.gep(sums, [_I64(column * _WORDS)]) for column in range(columns))]
        for vector, place in zip(vectors, places, strict=True):
            builder.store(vector, builder.bitcast(place, _VECTOR.as_pointer()), align=8)
    return some


def _plane_bytes(chunk: int) -> int:
    return chunk * _BYTES


def _mask_bytes(chunk: int) -> int:
    return chunk * 8


def _data(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, offset: Any = None) -> Any:
    """Point to an array's first item, or to the bytes from `offset` on."""
    data = context.make_array(kind)(context, builder, array).data
    return data if offset is None else builder.gep(builder.bitcast(data, _I8.as_pointer()), [offset])


def _comparison(tabled: bool, codes: Any, queries: Any, bounds: Any, sums: Any, hits: Any) -> Any:
    """Make what `_near` and `_near_tabled` return, from the types of their arrays."""
    signature = types.boolean(codes, types.intp, queries, types.intp, types.intp, bounds, types.intp, sums, hits)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        bits, accept = args[4], args[6]
        arguments = [
            _data(context, builder, codes, args[0], args[1]), _data(context, builder, queries, args[2], args[3]), bits,
            _data(context, builder, bounds, args[5]), accept,
            _data(context, builder, sums, args[7]), _data(context, builder, hits, args[8]),
        ]  # fmt: skip
        some = cgutils.alloca_once(builder, ir.IntType(1))
        with builder.if_else(builder.icmp_unsigned("<=", bits, _I64(_SHORT))) as (then, otherwise):
            with then:
                builder.store(_compare(builder, tabled, _FEW_COLUMNS, arguments), some)
            with otherwise:
                builder.store(_compare(builder, tabled, _MANY_COLUMNS, arguments), some)
        return builder.load(some)

    return signature, codegen


@intrinsic
def _near(
    typingctx: Any, planes: Any, block: Any, queries: Any, query: Any, bits: Any, bounds: Any, accept: Any, sums: Any,
    hits: Any,
) -> Any:  # fmt: skip
    """Compare a block's codes with a query and say whether any is within distance `accept`.

    Args:
        typingctx: numba's.
        planes: those of `Held`.
        block: where the block's begin, in bytes.
        queries: masks, as `_lay_out` has them.
        query: where the query's begin, in bytes.
        bits: of a code, a multiple of 16.
        bounds: those of `_bounds`.
        accept: greatest distance of interest, at least 0.
        sums: uint64 (columns, BLOCK/64), for the sums of bounds and distances; written only if there is a hit.
        hits: uint64 (BLOCK/64,), for the rows within `accept`; written only if there is one.
    """
    return _comparison(False, planes, queries, bounds, sums, hits)


@intrinsic
def _near_tabled(
    typingctx: Any, table: Any, block: Any, queries: Any, query: Any, bits: Any, bounds: Any, accept: Any, sums: Any,
    hits: Any,
) -> Any:  # fmt: skip
    """Do as `_near`, with the table that `_tabulate` made of a block and with ways for queries."""
    return _comparison(True, table, queries, bounds, sums, hits)


@intrinsic
def _tabulate(typingctx: Any, planes: Any, block: Any, bits: Any, table: Any) -> Any:
    """Write into `table`, for each group of a block's bits and each way it can differ, ones and twos."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        places = [_data(context, builder, planes, *args[:2]), _data(context, builder, table, args[3], _I64(0))]
        ones = ir.Constant(_VECTOR, [-1] * _WORDS)

        def put(vector: Any, target: Any, place: int) -> None:
            builder.store(vector, _at(builder, target, _I64(place * _BYTES)), align=8)

        def get(source: Any, bit: int) -> tuple[Any, Any]:
            vector = builder.load(_at(builder, source, _I64(bit * _BYTES)), align=8)
            return vector, builder.xor(vector, ones)

        sizes = (_plane_bytes, _table_bytes.py_func)
        for chunk, (source, target) in _each_chunk(builder, args[2], places, sizes):
            threes = chunk // 3
            with cgutils.for_range(builder, _I64(threes)) as loop:
                code = builder.gep(source, [builder.mul(loop.index, _I64(3 * _BYTES))])
                group = builder.gep(target, [builder.mul(loop.index, _I64(_GROUP))])
                bits = [get(code, bit) for bit in range(3)]
                for way, differ in enumerate(itertools.product(*reversed(bits))):
                    ones_of, twos_of = _full_add(builder, *differ)
                    if way < 2:
                        put(ones_of, group, way)
                    put(twos_of, group, 2 + way)
            last = builder.gep(target, [_I64(threes * _GROUP)])
            for place, vector in enumerate(get(source, 3 * threes)):
                put(vector, last, place)
        return context.get_dummy_value()

    return types.none(planes, types.intp, types.intp, table), codegen


@intrinsic
def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """Return the place of the lowest set bit of a word that is not 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.intp(types.uint64), codegen


@intrinsic
def _prefetch(typingctx: Any, planes: Any, place: Any) -> Any:
    """Ask memory for the cache line at byte `place`, which may lie behind the end."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [_data(context, builder, planes, *args), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.none(planes, types.intp), codegen


@intrinsic
def _count(typingctx: Any, sums: Any, rows: Any, block: Any, bits: Any, bounds: Any, counts: Any) -> Any:
    """Add to `counts`, for each distance, how many of a block's rows are that far.

    Args:
        typingctx: numba's.
        sums: distances as `_near` leaves them when it started from 0.
        rows: uint64 (blocks, BLOCK/64), a bit for each row to count.
        block: which of them.
        bits: of a code.
        bounds: those of `_bounds`.
        counts: uint64 (8 or more than bits, BLOCK/64), to be summed over the last axis.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        at_sums, at_rows, at_bounds, at_counts = (
            _data(context, builder, kind, array, _I64(0))
            for kind, array in ((sums, args[0]), (rows, args[1]), (bounds, args[4]), (counts, args[5]))
        )

        def load(base: Any, number: Any) -> Any:
            return builder.load(_at(builder, base, builder.mul(number, _I64(_BYTES))), align=8)

        def emit(columns: int) -> None:
            digits = [load(at_sums, _I64(column)) for column in range(columns)]
            last = [load(at_rows, args[2])]  # rows by the last three digits of their distance
            for digit in reversed(digits[:3]):
                last = [builder.and_(some, bits) for some in last for bits in (builder.not_(digit), digit)]
            with cgutils.for_range(builder, builder.add(builder.udiv(args[3], _I64(8)), _I64(1))) as loop:
                eight = builder.mul(loop.index, _I64(8))
                masks = builder.bitcast(at_bounds, _I64.as_pointer())
                first: Any = ir.Constant(_VECTOR, [-1] * _WORDS)  # rows with the other digits of these eight distances
                for column, digit in enumerate(digits[3:], 3):
                    mask = builder.load(
                        builder.gep(masks, [builder.add(builder.mul(eight, _I64(columns)), _I64(column))])
                    )
                    first = builder.and_(first, builder.xor(digit, _splat(builder, mask)))
                whole = ir.IntType(BLOCK)
                some = builder.icmp_unsigned("!=", builder.bitcast(first, whole), whole(0))
                with builder.if_then(some):
                    count_bits = cgutils.get_or_insert_function(
                        builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.ctpop.v{_WORDS}i64"
                    )
                    for number, these in enumerate(last):
                        place = _at(builder, at_counts, builder.mul(builder.add(eight, _I64(number)), _I64(_BYTES)))
                        more = builder.call(count_bits, [builder.and_(first, these)])
                        builder.store(builder.add(builder.load(place, align=8), more), place, align=8)

        with builder.if_else(builder.icmp_unsigned("<=", args[3], _I64(_SHORT))) as (then, otherwise):
            with then:
                emit(_FEW_COLUMNS)
            with otherwise:
                emit(_MANY_COLUMNS)
        return context.get_dummy_value()

    return types.none(sums, rows, types.intp, types.intp, bounds, counts), codegen


@kernel
def top_k(planes, live, start, stop, queries, bounds, out_distances, out_rows):
    """Fill uint16 and int64 (Q, k) with each query's nearest rows in blocks `start` to `stop`; too few leave the rest."""
    count, k = out_rows.shape
    greatest = planes.shape[1]
    out_distances[:] = FAR
    out_rows[:] = 0
    size = (stop - start) * BLOCK
    room = room_of(size, k)
    tile = tile_of(count, room)
    scratch = _scratch(greatest, tile)
    keys = np.empty((tile, room), dtype=np.int64)
    histogram = np.empty((tile, greatest + 1), dtype=np.int64)  # candidates at each distance
    accepts = np.empty(tile, dtype=np.int64)  # greatest distance of interest
    counts = np.empty((tile, 2), dtype=np.int64)  # candidates within it (always below k), candidates in all
    # About k (1 + ln(N/k)) rows are among the k nearest when they are met. Where that is much, one block in SAMPLE says
    # first how far the k-th will be at most, by a rank that its share of the k nearest is hardly ever below.
    rank = np.int64(k / SAMPLE + 3 * np.sqrt(k / SAMPLE) + 2)
    sampled = k * np.log(max(size / k, 1.0)) > 2 * rank * SAMPLE
    for top in range(0, count, tile):
        here = min(tile, count - top)
        accepts[:] = greatest
        if sampled:
            counts[:] = 0
            histogram[:] = 0
            _visit(
                planes, live, start, stop, np.int64(SAMPLE), queries[top : top + here], bounds, scratch, rank,
                accepts, counts, histogram, keys,
            )  # fmt: skip
            for place in range(here):
                accepts[place] = min(accepts[place] + 1, greatest)
        reach = accepts.copy()
        counts[:] = 0
        histogram[:] = 0
        _visit(
            planes, live, start, stop, np.int64(1), queries[top : top + here], bounds, scratch, k,
            accepts, counts, histogram, keys,
        )  # fmt: skip
        for place in range(here):
            if accepts[place] == reach[place] < greatest:  # the sample misled: fewer than k rows are so near
                accepts[place] = greatest
                counts[place] = 0
                histogram[place] = 0
                only = slice(place, place + 1)
                _visit(
                    planes, live, start, stop, np.int64(1), queries[top + place : top + place + 1], bounds, scratch, k,
                    accepts[only], counts[only], histogram[only], keys[only],
                )  # fmt: skip
            _rank(
                k, accepts[place], keys[place, : counts[place, 1]], histogram[place],
                out_distances[top + place], out_rows[top + place],
            )  # fmt: skip


@kernel
def room_of(size, k):
    """Count the candidates that a query has room for; at most 2k survive when the room is full."""
    return min(size, 3 * k + 1024)


@kernel
def tile_of(queries, room):
    """Count the queries that are searched for together."""
    return max(1, min(TILE, queries, TILE_KEYS // max(room, 1)))


@kernel
def _scratch(bits, tile):
    """Make room for a block's table, the queries of a tile as `_lay_out` writes them, and the sums and hits of `_near`."""
    columns = _columns(bits)
    raw = np.empty(_table_bytes(bits) + 64, dtype=np.uint8)
    table = raw[-np.intp(raw.ctypes.data) % 64 :]
    laid = np.empty(max(tile * _way_bytes(bits), min(tile, FEW) * bits * 8) // 8 + 1, dtype=np.uint64)
    sums, hits = np.empty((columns, _WORDS), dtype=np.uint64), np.empty(_WORDS, dtype=np.uint64)
    return table, laid, sums, hits


@kernel
def _visit(planes, live, start, stop, step, queries, bounds, scratch, k, accepts, counts, histogram, keys):
    """Take every `step`-th block's hits into the queries' candidates.

    One function, since numba counts references to every array that it hands to another: atomic steps, a hit at a time.
    """
    table, laid, sums, hits = scratch
    bits = planes.shape[1]
    columns = _columns(bits)
    tabled = len(queries) >= FEW
    stride = _lay_out(queries, bits, tabled, laid)
    for block in range(start, stop, step):
        codes = block * bits * _BYTES
        if tabled:
            _tabulate(planes, codes, bits, table)
        ahead, lines = codes + step * bits * _BYTES, bits * _BYTES // 64
        for place in range(len(queries)):
            if place < lines:  # of the next block, one with each query: memory is slow to start
                _prefetch(planes, ahead + place * 64)
            accept = accepts[place]
            if accept < 0:  # k rows at distance 0: no later row is nearer
                continue
            if tabled:
                some = _near_tabled(table, 0, laid, place * stride, bits, bounds, accept, sums, hits)
            else:
                some = _near(planes, codes, laid, place * stride, bits, bounds, accept, sums, hits)
            if not some:
                continue
            least = (1 << columns) - 1 - accept  # what the sums began with
            below, filled = counts[place, 0], counts[place, 1]
            for word in range(_WORDS):
                found = hits[word] & live[block, word]
                while found:
                    lane = _lowest_bit(found)
                    found &= found - np.uint64(1)
                    distance = -least
                    for column in range(columns):
                        distance += np.intp(sums[column, word] >> np.uint64(lane) & np.uint64(1)) << column
                    if distance > accept:
                        continue
                    if filled == keys.shape[1]:
                        filled = _drop_beyond(keys, place, accept + 1)
                    keys[place, filled] = distance << ROW_BITS | block * BLOCK + 64 * word + lane
                    filled += 1
                    histogram[place, distance] += 1
                    below += 1
                    while below >= k:
                        below -= histogram[place, accept]
                        accept -= 1
            accepts[place], counts[place, 0], counts[place, 1] = accept, below, filled


@kernel
def _lay_out(queries, bits, tabled, out):
    """Write queries one behind the other, as ways or masks, and return how many bytes each takes."""
    if not tabled:  # for each bit a word of that bit
        for place in range(len(queries)):
            for bit in range(bits):
                out[place * bits + bit] = np.uint64(0) - _bit(queries, place, bit)
        return bits * 8
    ways = out.view(np.uint8)
    number = 0
    for place in range(len(queries)):  # for each group where its ones and its twos are in a table, in 8 bytes
        bit = 0
        while bit < bits:
            chunk = 64 if bits - bit >= 64 else 16
            for first in range(bit, bit + chunk - 1, 3):
                way = np.uint64(0)
                for other in range(first, first + 3):
                    way |= _bit(queries, place, other) << np.uint64(other - first)
                odd = (way ^ way >> np.uint64(1) ^ way >> np.uint64(2)) & np.uint64(1)
                ways[number], ways[number + 1] = (
                    odd * np.uint64(_BYTES // 8),
                    (way + np.uint64(2)) * np.uint64(_BYTES // 8),
                )
                number += 2
            bit += chunk
            ways[number] = _bit(queries, place, bit - 1) * np.uint64(_BYTES // 8)
            number += 1
    return _way_bytes(bits)


@kernel
def _bit(queries, place, bit):
    """Return a bit of a packed code; 0 behind it."""
    byte = bit // 8
    if byte >= queries.shape[1]:
        return np.uint64(0)
    return np.uint64(queries[place, byte]) >> np.uint64(7 - bit % 8) & np.uint64(1)


@kernel
def _drop_beyond(keys, place, distance):
    """Keep a query's candidates up to a distance, in order, and return how many there are."""
    kept = 0
    for key in keys[place]:
        if key >> ROW_BITS <= distance:
            keys[place, kept] = key
            kept += 1
    return kept


@kernel
def _rank(k, accept, keys, histogram, out_distances, out_rows):
    """Write the k nearest candidates by counting sort; they are in the order of rows."""
    last = min(accept + 1, len(histogram) - 1)  # the distance of the k-th
    place = 0
    for distance in range(last + 1):
        count = histogram[distance]
        histogram[distance] = place
        place += count
    for key in keys:
        distance = key >> ROW_BITS
        if distance <= last:
            place = histogram[distance]
            if place < k:
                out_distances[place] = distance
                out_rows[place] = key & ((1 << ROW_BITS) - 1)
                histogram[distance] = place + 1


@kernel
def merge(distances, rows, start, stop, out_distances, out_rows):
    """Write the k nearest rows of queries `start` to `stop`, from uint16 and int64 (parts, Q, kept) that `top_k` filled.

    The parts follow one another in the order of rows, so their rows at the same distance do too.
    """
    parts, _, kept = rows.shape
    k = out_rows.shape[1]
    taken = np.empty(parts, dtype=np.int64)
    for query in range(start, stop):
        taken[:] = 0
        place, distance = 0, 0
        while place < k:
            for part in range(parts):
                number = taken[part]
                while place < k and number < kept and distances[part, query, number] == distance:
                    out_distances[query, place] = distance
                    out_rows[query, place] = rows[part, query, number]
                    number += 1
                    place += 1
                taken[part] = number
            distance += 1


@kernel
def within(planes, live, start, stop, queries, bounds, places, out_distances, out_rows):
    """Write the rows within a radius from their distance's place on, int64 (Q, radius + 1); without room, only count."""
    bits, radius = planes.shape[1], places.shape[1] - 1
    columns = _columns(bits)
    table, laid, sums, hits = _scratch(bits, min(TILE, len(queries)))
    for top in range(0, len(queries), TILE):
        here = min(TILE, len(queries) - top)
        tabled = here >= FEW
        stride = _lay_out(queries[top : top + here], bits, tabled, laid)
        for block in range(start, stop):
            codes = block * bits * _BYTES
            if tabled:
                _tabulate(planes, codes, bits, table)
            for number in range(top, top + here):
                query = (number - top) * stride
                if tabled:
                    some = _near_tabled(table, 0, laid, query, bits, bounds, radius, sums, hits)
                else:
                    some = _near(planes, codes, laid, query, bits, bounds, radius, sums, hits)
                if not some:
                    continue
                for word in range(_WORDS):
                    found = hits[word] & live[block, word]
                    while found:
                        lane = _lowest_bit(found)
                        found &= found - np.uint64(1)
                        distance = radius + 1 - (1 << columns)
                        for column in range(columns):
                            distance += np.intp(sums[column, word] >> np.uint64(lane) & np.uint64(1)) << column
                        place = places[number, distance]
                        if len(out_rows):
                            out_distances[place] = distance
                            out_rows[place] = block * BLOCK + 64 * word + lane
                        places[number, distance] = place + 1


@kernel
def histograms(planes, live, start, stop, queries, relevant, which, bounds, out):
    """Add to int64 (Q, 2, 8 P + 1) the rows at each distance, and the relevant ones."""
    bits = planes.shape[1]
    _, laid, sums, hits = _scratch(bits, 1)
    counts = np.empty((2, bits + 8, _WORDS), dtype=np.uint64)
    for number in range(len(queries)):
        _lay_out(queries[number : number + 1], bits, False, laid)
        counts[:] = 0
        ours = relevant[which[number]]
        for block in range(start, stop):
            # Adding starts from 0, and nothing is beyond the greatest distance.
            _near(planes, block * bits * _BYTES, laid, 0, bits, bounds, len(bounds) - 1, sums, hits)
            _count(sums, live, block, bits, bounds, counts[0])
            some = np.uint64(0)
            for word in range(_WORDS):
                some |= ours[block, word]
            if some:
                _count(sums, ours, block, bits, bounds, counts[1])
        for kind in range(2):
            for distance in range(out.shape[2]):
                out[number, kind, distance] += np.int64(counts[kind, distance].sum())


@kernel
def put_rows(planes, start, packed):
    """Write codes to planes of zeros, uint8 (blocks, bits, BLOCK/8): eight rows' bytes at a time, else bit by bit."""
    row, place = start, 0
    while place < len(packed):
        block, octet, lane = row // BLOCK, row % BLOCK // 8, row % 8
        if lane == 0 and place + 8 <= len(packed):
            for byte in range(packed.shape[1]):
                eight = np.uint64(0)
                for number in range(8):
                    eight |= np.uint64(packed[place + number, byte]) << np.uint64(8 * number)
                for bit in range(8):
                    planes[block, 8 * byte + bit, octet] = _column(eight, np.uint64(7 - bit))
            row, place = row + 8, place + 8
        else:
            for bit in range(8 * packed.shape[1]):
                planes[block, bit, octet] |= np.uint8(_bit(packed, place, bit) << np.uint64(lane))
            row, place = row + 1, place + 1


@kernel
def get_rows(planes, packed):
    """Read codes back."""
    for octet in range((len(packed) + 7) // 8):
        block, place = octet // _BYTES, octet % _BYTES
        for byte in range(packed.shape[1]):
            eight = np.uint64(0)
            for bit in range(8):
                eight |= np.uint64(planes[block, 8 * byte + 7 - bit, place]) << np.uint64(8 * bit)
            for number in range(min(8, len(packed) - 8 * octet)):
                packed[8 * octet + number, byte] = _column(eight, np.uint64(number))


@kernel
def _column(eight, bit):
    """Gather one bit of each of the eight bytes of a word into a byte, the lowest byte's bit lowest."""
    return np.uint8((eight >> bit & np.uint64(0x0101010101010101)) * np.uint64(0x0102040810204080) >> np.uint64(56))
