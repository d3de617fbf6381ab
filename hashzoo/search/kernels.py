"""The kernels of exact Hamming search: numba functions, and the LLVM IR that adds up distances bit by bit.

Codes are stored as bit planes (`planes.py`): a vector holds one bit of `BLOCK` rows. The distances of all rows of a block
are added up at once, in the same form: a vector of ones, a vector of twos, a vector of fours, and so on. This is known as
bit slicing. An example with four rows of 6 bits, compared with the query 101100:

    rows          planes, one column a row     planes xor the query's bit
    0  101101     bit 0   1 0 1 0              bit 0 (1)   0 1 0 1
    1  001010     bit 1   0 0 0 1              bit 1 (0)   0 0 0 1
    2  101100     bit 2   1 1 1 0              bit 2 (1)   0 0 0 1
    3  010011     bit 3   1 0 1 0              bit 3 (1)   0 1 0 1
                  bit 4   0 1 0 1              bit 4 (0)   0 1 0 1
                  bit 5   1 0 0 1              bit 5 (0)   1 0 0 1

A full adder turns three bit-vectors of equal weight into one sum and one carry, which weighs twice as much. Each adder
removes one vector, so counting 64 bits takes about 64 adders. Here:

    bits 0, 1, 2                        ones   0 1 0 1   twos   0 0 0 1
    bits 3, 4, 5                        ones   1 0 0 1   twos   0 1 0 1
    both ones                           ones   1 1 0 0   twos   0 0 0 1
    the three twos                      twos   0 1 0 1   fours  0 0 0 1
    distance = ones + 2 twos + 4 fours         1 3 0 6

An adder is two instructions with AVX-512 and five with AVX2, so 64 bits of 512 codes take 128 or 640 instructions. To count
the bits of each byte instead takes 192 (xor, count, add) or 1,024, since AVX2 has no instruction that counts bits.

Two things make it faster:

- The sums start from a number that makes them overflow where a row is farther than the greatest distance still of interest.
  With a limit of 2 and three columns of sums they start from 2^3 - 1 - 2 = 5: the rows above reach 6, 8, 5 and 11, so rows 1
  and 3 overflow, and the distances of rows 0 and 2 are 6 - 5 and 5 - 5. Rows that do not overflow are hits, and only hits are
  looked at one by one.
- Many queries share the first third of the adders. A query has one of eight patterns in three bits, so the sums and carries
  of three planes are computed for all eight patterns once for a block (`_make_table`), and each query looks up its own. Of
  the 64 adders, 42 are left.

The adders are written as LLVM IR, which becomes AVX-512, AVX2 or NEON instructions as the machine has them. All kernels are
in this one file, since numba keeps compiled code for as long as the file of a kernel stays the same.
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
BLOCK = 512 if AVX512 else 256  # rows of a block, as many as a vector has bits
TILE = 256  # queries that are compared with a block while its table is in the cache
TABLE_QUERIES = 4  # with fewer queries, a table costs more than it saves
TILE_KEYS = 1 << 23  # candidates of the queries of a tile at most: 64 MiB
SAMPLE = 16  # one block in 16 is searched first, to estimate the distance of the k-th nearest row
ROW_BITS = 48  # a candidate is one int64, distance << 48 | row: their order is the ranking
FAR = np.iinfo(np.uint16).max  # the distance of a result that was not found


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep the code on disk where numba finds a folder for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no such folder
        return njit(nogil=True)(function)


_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_WORDS = BLOCK // 64
_VECTOR = ir.VectorType(_I64, _WORDS)
_VECTOR_BYTES = BLOCK // 8
# A code is processed as chunks of 64 bits, then chunks of 16 bits. Both are groups of three bits and one single bit.
_CHUNKS = (64, 16)
# Bytes of one table entry (three code bits): 2 sum vectors, one per parity, and 8 carry vectors, one per pattern of
# differing bits.
_GROUP_BYTES = 10 * _VECTOR_BYTES
_SHORT_BITS = 64  # codes of up to so many bits have distances below 2^7, longer ones (up to 1,024) below 2^11
_SHORT_COLUMNS, _LONG_COLUMNS = 7, 11


@kernel
def columns_of(bits):
    """Return how many vectors the sums take: ones, twos, fours and so on."""
    return _SHORT_COLUMNS if bits <= _SHORT_BITS else _LONG_COLUMNS


@functools.cache
def bounds_of(bits: int) -> NDArray[np.uint64]:
    """Return what the sums start from, for each limit of the distance.

    Returns:
        uint64 (2^columns, columns): for a limit d, the binary digits of 2^columns - 1 - d, lowest first, each repeated in
        all 64 bits of a word. Sums that start from it overflow where the distance is greater than d.
    """
    columns = columns_of(bits)
    starts = (1 << columns) - 1 - np.arange(1 << columns)
    return np.where(starts[:, None] >> np.arange(columns) & 1, ~np.uint64(0), np.uint64(0))


@kernel
def _table_bytes(bits):
    """Return the size of a block's table: an entry for each group of three bits, and two vectors for each single bit."""
    return bits // 64 * (21 * _GROUP_BYTES + 2 * _VECTOR_BYTES) + bits % 64 // 16 * (
        5 * _GROUP_BYTES + 2 * _VECTOR_BYTES
    )


@kernel
def _offset_bytes(bits):
    """Return the size of a query that is looked up in a table: two offsets for each group, and one for each single bit."""
    return bits // 64 * 43 + bits % 64 // 16 * 11


def _splat(builder: ir.IRBuilder, word: Any) -> Any:
    """Return a vector that repeats a word."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, word, _I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, _WORDS), None))


def _at(builder: ir.IRBuilder, base: Any, offset: Any) -> Any:
    """Return a pointer to the vector `offset` bytes behind `base`."""
    return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())


def _full_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Add three bits: return the sum x ^ y ^ z, and the carry, which is set where at least two of them are set."""
    if AVX512:  # one instruction each, which LLVM does not always find by itself
        logic = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3 + [_I32]), "llvm.x86.avx512.pternlog.q.512"
        )
        return builder.call(logic, [x, y, z, _I32(0x96)]), builder.call(logic, [x, y, z, _I32(0xE8)])
    differ = builder.xor(x, y)
    return builder.xor(differ, z), builder.or_(builder.and_(differ, z), builder.and_(x, y))


def _add_up(builder: ir.IRBuilder, sums: list[Any], addends: Iterator[tuple[int, Any]]) -> Any:
    """Add vectors to `sums`, which has one vector for each column, and return where the sums overflow.

    A pair (column, bits) of `addends` counts 2^column for each set bit. A vector waits for a second one of its column, and
    one full adder adds the two to the sum. So few vectors are in use at a time, and they stay in registers.

    The same for numbers: `for column, bits in addends: sum += bits << column; return sum >= 1 << len(sums)`.
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


def _differences_by_table(builder: ir.IRBuilder, table: Any, query: Any, chunk: int) -> Iterator[tuple[int, Any]]:
    """Yield the differences of a chunk, ones and twos of each group, read from a table at a query's offsets."""
    for number in range(_offset_bytes.py_func(chunk)):
        group, column = divmod(number, 2)
        offset = builder.zext(builder.load(builder.gep(query, [_I64(number)])), _I64)
        offset = builder.add(builder.mul(offset, _I64(8)), _I64(group * _GROUP_BYTES))
        yield column, builder.load(_at(builder, table, offset), align=8)


def _differences(builder: ir.IRBuilder, planes: Any, query: Any, chunk: int) -> Iterator[tuple[int, Any]]:
    """Yield the differences of a chunk, ones and twos of each group, computed from a block's planes and a query's masks."""
    masks = builder.bitcast(query, _I64.as_pointer())

    def differ(bit: int) -> Any:
        mask = _splat(builder, builder.load(builder.gep(masks, [_I64(bit)])))
        return builder.xor(builder.load(_at(builder, planes, _I64(bit * _VECTOR_BYTES)), align=8), mask)

    for bit in range(0, chunk - 1, 3):
        yield from enumerate(_full_add(builder, *map(differ, range(bit, bit + 3))))
    yield 0, differ(chunk - 1)


def _each_chunk(
    builder: ir.IRBuilder, bits: Any, pointers: list[Any], sizes: tuple[Callable[[int], int], ...]
) -> Iterator[tuple[int, list[Any]]]:
    """Emit a loop for each size of chunk, and yield what its body needs: the bits of a chunk, and pointers to the chunk.

    Args:
        builder: where to emit.
        bits: those of a code.
        pointers: to the first chunk of the code, in each of its forms.
        sizes: for each pointer, the bytes that a chunk of so many bits takes.
    """
    for chunk in _CHUNKS:
        steps = [_I64(size(chunk)) for size in sizes]
        count, bits = builder.udiv(bits, _I64(chunk)), builder.urem(bits, _I64(chunk))
        starts = list(zip(pointers, steps, strict=True))
        with cgutils.for_range(builder, count) as loop:
            yield chunk, [builder.gep(start, [builder.mul(loop.index, step)]) for start, step in starts]
        pointers = [builder.gep(start, [builder.mul(count, step)]) for start, step in starts]


def _emit_comparison(builder: ir.IRBuilder, by_table: bool, columns: int, arguments: list[Any]) -> Any:
    """Emit the body of `_compare` or `_compare_by_table` for sums of so many columns."""
    codes, query, bits, bounds, limit, sums, hits = arguments
    bounds = builder.gep(bounds, [builder.mul(limit, _I64(columns))])
    totals = [cgutils.alloca_once(builder, _VECTOR) for _ in range(columns)]
    for column, total in enumerate(totals):
        builder.store(_splat(builder, builder.load(builder.gep(bounds, [_I64(column)]))), total)
    overflow = cgutils.alloca_once(builder, _VECTOR)
    builder.store(ir.Constant(_VECTOR, None), overflow)
    sizes = (_table_bytes.py_func, _offset_bytes.py_func) if by_table else (_plane_bytes, _mask_bytes)
    differences = _differences_by_table if by_table else _differences
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
        targets = [hits, *(builder.gep(sums, [_I64(column * _WORDS)]) for column in range(columns))]
        for vector, target in zip(vectors, targets, strict=True):
            builder.store(vector, builder.bitcast(target, _VECTOR.as_pointer()), align=8)
    return some


def _plane_bytes(chunk: int) -> int:
    return chunk * _VECTOR_BYTES


def _mask_bytes(chunk: int) -> int:
    return chunk * 8


def _data(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, offset: Any = None) -> Any:
    """Return a pointer to an array's first item, or to the byte at `offset`."""
    data = context.make_array(kind)(context, builder, array).data
    return data if offset is None else builder.gep(builder.bitcast(data, _I8.as_pointer()), [offset])


def _comparison_of(by_table: bool, codes: Any, queries: Any, bounds: Any, sums: Any, hits: Any) -> Any:
    """Return the signature and the code generator of `_compare` or `_compare_by_table`, for these types of arrays."""
    signature = types.boolean(codes, types.intp, queries, types.intp, types.intp, bounds, types.intp, sums, hits)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        bits, limit = args[4], args[6]
        arguments = [
            _data(context, builder, codes, args[0], args[1]), _data(context, builder, queries, args[2], args[3]), bits,
            _data(context, builder, bounds, args[5]), limit,
            _data(context, builder, sums, args[7]), _data(context, builder, hits, args[8]),
        ]  # fmt: skip
        some = cgutils.alloca_once(builder, ir.IntType(1))
        with builder.if_else(builder.icmp_unsigned("<=", bits, _I64(_SHORT_BITS))) as (then, otherwise):
            with then:
                builder.store(_emit_comparison(builder, by_table, _SHORT_COLUMNS, arguments), some)
            with otherwise:
                builder.store(_emit_comparison(builder, by_table, _LONG_COLUMNS, arguments), some)
        return builder.load(some)

    return signature, codegen


@intrinsic
def _compare(
    typingctx: Any, planes: Any, block: Any, queries: Any, query: Any, bits: Any, bounds: Any, limit: Any, sums: Any,
    hits: Any,
) -> Any:  # fmt: skip
    """Compare a block's codes with a query and return whether any is within distance `limit`.

    In plain numpy, with `rows` and `query` as arrays of bits:

        distances = (rows != query).sum(axis=1)
        hits = distances <= limit
        sums = distances + 2**columns - 1 - limit
        return hits.any()

    Args:
        typingctx: numba's.
        planes: `Planes.words`.
        block: the byte of `planes` where the block begins.
        queries: masks that `_prepare` wrote.
        query: the byte of `queries` where the query begins.
        bits: of a code, a multiple of 16.
        bounds: what `bounds_of` returned.
        limit: greatest distance of interest, at least 0.
        sums: uint64 (columns, BLOCK/64), filled with the binary digits of the sums if there is a hit.
        hits: uint64 (BLOCK/64,), filled with a bit for each row if there is a hit.
    """
    return _comparison_of(False, planes, queries, bounds, sums, hits)


@intrinsic
def _compare_by_table(
    typingctx: Any, table: Any, block: Any, queries: Any, query: Any, bits: Any, bounds: Any, limit: Any, sums: Any,
    hits: Any,
) -> Any:  # fmt: skip
    """Do the same as `_compare`, with a table that `_make_table` made of the block, and with queries as offsets into it."""
    return _comparison_of(True, table, queries, bounds, sums, hits)


@intrinsic
def _make_table(typingctx: Any, planes: Any, block: Any, bits: Any, table: Any) -> Any:
    """Fill the table of a block.

    For each group of three planes x, y, z and each pattern of three query bits a, b, c the table has what a full adder
    makes of x ^ a, y ^ b, z ^ c: 2 sums, for an even and an odd number of set query bits, then 8 carries. A single plane has
    two vectors: itself and its complement.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointers = [_data(context, builder, planes, *args[:2]), _data(context, builder, table, args[3], _I64(0))]
        ones = ir.Constant(_VECTOR, [-1] * _WORDS)

        def put(vector: Any, target: Any, number: int) -> None:
            builder.store(vector, _at(builder, target, _I64(number * _VECTOR_BYTES)), align=8)

        def get(source: Any, bit: int) -> tuple[Any, Any]:
            vector = builder.load(_at(builder, source, _I64(bit * _VECTOR_BYTES)), align=8)
            return vector, builder.xor(vector, ones)

        sizes = (_plane_bytes, _table_bytes.py_func)
        for chunk, (source, target) in _each_chunk(builder, args[2], pointers, sizes):
            threes = chunk // 3
            with cgutils.for_range(builder, _I64(threes)) as loop:
                code = builder.gep(source, [builder.mul(loop.index, _I64(3 * _VECTOR_BYTES))])
                group = builder.gep(target, [builder.mul(loop.index, _I64(_GROUP_BYTES))])
                bits = [get(code, bit) for bit in range(3)]
                for pattern, differ in enumerate(itertools.product(*reversed(bits))):
                    total, carry = _full_add(builder, *differ)
                    if pattern < 2:
                        put(total, group, pattern)
                    put(carry, group, 2 + pattern)
            last = builder.gep(target, [_I64(threes * _GROUP_BYTES)])
            for number, vector in enumerate(get(source, 3 * threes)):
                put(vector, last, number)
        return context.get_dummy_value()

    return types.none(planes, types.intp, types.intp, table), codegen


@intrinsic
def _lowest_bit(typingctx: Any, word: Any) -> Any:
    """Return the number of the lowest set bit of a word that is not 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.intp(types.uint64), codegen


@intrinsic
def _prefetch(typingctx: Any, planes: Any, offset: Any) -> Any:
    """Start to load the cache line at byte `offset`, which may lie behind the end."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [_data(context, builder, planes, *args), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.none(planes, types.intp), codegen


@intrinsic
def _count(typingctx: Any, sums: Any, rows: Any, block: Any, bits: Any, bounds: Any, counts: Any) -> Any:
    """Add to `counts`, for each distance, how many of a block's rows are that far.

    In plain numpy: `counts += np.bincount(distances[rows[block]], minlength=len(counts))`.

    Args:
        typingctx: numba's.
        sums: binary digits of the distances, as `_compare` leaves them where the sums start from 0.
        rows: uint64 (blocks, BLOCK/64), a bit for each row to count.
        block: which of the blocks.
        bits: of a code.
        bounds: what `bounds_of` returned.
        counts: uint64 (8 or more than bits, BLOCK/64), to be summed over the last axis.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        at_sums, at_rows, at_bounds, at_counts = (
            _data(context, builder, kind, array, _I64(0))
            for kind, array in ((sums, args[0]), (rows, args[1]), (bounds, args[4]), (counts, args[5]))
        )

        def load(base: Any, number: Any) -> Any:
            return builder.load(_at(builder, base, builder.mul(number, _I64(_VECTOR_BYTES))), align=8)

        def emit(columns: int) -> None:
            digits = [load(at_sums, _I64(column)) for column in range(columns)]
            last = [load(at_rows, args[2])]  # rows by the last three digits of their distance
            for digit in reversed(digits[:3]):
                last = [builder.and_(some, bits) for some in last for bits in (builder.not_(digit), digit)]
            with cgutils.for_range(builder, builder.add(builder.udiv(args[3], _I64(8)), _I64(1))) as loop:
                eight = builder.mul(loop.index, _I64(8))
                masks = builder.bitcast(at_bounds, _I64.as_pointer())
                first: Any = ir.Constant(
                    _VECTOR, [-1] * _WORDS
                )  # rows whose other digits are those of these eight distances
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
                        offset = builder.mul(builder.add(eight, _I64(number)), _I64(_VECTOR_BYTES))
                        target = _at(builder, at_counts, offset)
                        more = builder.call(count_bits, [builder.and_(first, these)])
                        builder.store(builder.add(builder.load(target, align=8), more), target, align=8)

        with builder.if_else(builder.icmp_unsigned("<=", args[3], _I64(_SHORT_BITS))) as (then, otherwise):
            with then:
                emit(_SHORT_COLUMNS)
            with otherwise:
                emit(_LONG_COLUMNS)
        return context.get_dummy_value()

    return types.none(sums, rows, types.intp, types.intp, bounds, counts), codegen


@kernel
def top_k(planes, live, start, stop, queries, bounds, out_distances, out_rows):
    """Find each query's k nearest rows in blocks `start` to `stop`.

    In plain numpy, for one query: `order = np.argsort(distances, kind="stable")[:k]`.

    Args:
        planes: `Planes.words`.
        live: uint64 (blocks, BLOCK/64), a bit for each row that may be found.
        start: the first block.
        stop: the block behind the last one.
        queries: packed codes uint8 (Q, P).
        bounds: what `bounds_of` returned.
        out_distances: uint16 (Q, k), ascending; `FAR` where there are fewer than k rows.
        out_rows: int64 (Q, k); 0 where there are fewer.
    """
    count, k = out_rows.shape
    greatest = planes.shape[1]
    out_distances[:] = FAR
    out_rows[:] = 0
    size = (stop - start) * BLOCK
    capacity = capacity_of(size, k)
    tile = tile_of(count, capacity)
    buffers = _buffers(greatest, tile)
    keys = np.empty((tile, capacity), dtype=np.int64)
    histogram = np.empty((tile, greatest + 1), dtype=np.int64)  # candidates at each distance
    limits = np.empty(tile, dtype=np.int64)  # greatest distance of interest of each query
    counts = np.empty((tile, 2), dtype=np.int64)  # candidates within the limit (always fewer than k), candidates in all
    # About k (1 + ln(N/k)) rows are among the k nearest at the moment they are visited. Where that is many, a sample of one
    # block in SAMPLE is searched first. It holds about k / SAMPLE of the k nearest rows and almost always fewer than `rank`, so
    # its row number `rank` is almost surely as far as the k-th nearest of all rows: the search starts from that limit.
    rank = np.int64(k / SAMPLE + 3 * np.sqrt(k / SAMPLE) + 2)
    sampled = k * np.log(max(size / k, 1.0)) > 2 * rank * SAMPLE
    for top in range(0, count, tile):
        count_here = min(tile, count - top)
        limits[:] = greatest
        if sampled:
            counts[:] = 0
            histogram[:] = 0
            _collect(
                planes, live, start, stop, np.int64(SAMPLE), queries[top : top + count_here], bounds, buffers, rank,
                limits, counts, histogram, keys,
            )  # fmt: skip
            for query in range(count_here):
                limits[query] = min(limits[query] + 1, greatest)
        sampled_limits = limits.copy()
        counts[:] = 0
        histogram[:] = 0
        _collect(
            planes, live, start, stop, np.int64(1), queries[top : top + count_here], bounds, buffers, k,
            limits, counts, histogram, keys,
        )  # fmt: skip
        for query in range(count_here):
            if limits[query] == sampled_limits[query] < greatest:  # the sample misled: fewer than k rows are so near
                limits[query] = greatest
                counts[query] = 0
                histogram[query] = 0
                only = slice(query, query + 1)
                _collect(
                    planes, live, start, stop, np.int64(1), queries[top + query : top + query + 1], bounds, buffers, k,
                    limits[only], counts[only], histogram[only], keys[only],
                )  # fmt: skip
            _sort_nearest(
                k, limits[query], keys[query, : counts[query, 1]], histogram[query],
                out_distances[top + query], out_rows[top + query],
            )  # fmt: skip


@kernel
def capacity_of(size, k):
    """Return how many candidates are kept for a query; when they are full, at most 2k of them are still near enough."""
    return min(size, 3 * k + 1024)


@kernel
def tile_of(queries, capacity):
    """Return how many queries are searched for at a time."""
    return max(1, min(TILE, queries, TILE_KEYS // max(capacity, 1)))


@kernel
def _buffers(bits, tile):
    """Return memory for a block's table, for the prepared queries of a tile, and for the sums and hits of `_compare`."""
    columns = columns_of(bits)
    raw = np.empty(_table_bytes(bits) + 64, dtype=np.uint8)
    table = raw[-np.intp(raw.ctypes.data) % 64 :]
    prepared = np.empty(max(tile * _offset_bytes(bits), min(tile, TABLE_QUERIES) * bits * 8) // 8 + 1, dtype=np.uint64)
    sums, hits = np.empty((columns, _WORDS), dtype=np.uint64), np.empty(_WORDS, dtype=np.uint64)
    return table, prepared, sums, hits


@kernel
def _collect(planes, live, start, stop, step, queries, bounds, buffers, k, limits, counts, histogram, keys):
    """Add the hits in every `step`-th block to the queries' candidates.

    A query's limit falls as candidates come in: it is always the greatest distance d so that fewer than k candidates are
    within d. In plain Python, for one query:

        for row, distance in enumerate(distances):
            if distance <= limit:
                candidates.append((distance, row))
                while sum(d <= limit for d, _ in candidates) >= k:
                    limit -= 1

    The candidates within limit + 1 then hold the k nearest. Rows come in ascending order, so a later row at limit + 1 is
    not needed. All of it is one function, because numba counts references to each array that one function hands to another,
    which takes atomic instructions for each hit.
    """
    table, prepared, sums, hits = buffers
    bits = planes.shape[1]
    columns = columns_of(bits)
    by_table = len(queries) >= TABLE_QUERIES
    stride = _prepare(queries, bits, by_table, prepared)
    for block in range(start, stop, step):
        codes = block * bits * _VECTOR_BYTES
        if by_table:
            _make_table(planes, codes, bits, table)
        ahead, lines = codes + step * bits * _VECTOR_BYTES, bits * _VECTOR_BYTES // 64
        for query in range(len(queries)):
            if query < lines:  # with each query, start to load one line of the next block: memory takes long to answer
                _prefetch(planes, ahead + query * 64)
            limit = limits[query]
            if limit < 0:  # k rows are at distance 0: no later row is nearer
                continue
            if by_table:
                some = _compare_by_table(table, 0, prepared, query * stride, bits, bounds, limit, sums, hits)
            else:
                some = _compare(planes, codes, prepared, query * stride, bits, bounds, limit, sums, hits)
            if not some:
                continue
            least = (1 << columns) - 1 - limit  # what the sums started from
            below, filled = counts[query, 0], counts[query, 1]
            for word in range(_WORDS):
                found = hits[word] & live[block, word]
                while found:
                    lane = _lowest_bit(found)
                    found &= found - np.uint64(1)
                    distance = -least
                    for column in range(columns):
                        distance += np.intp(sums[column, word] >> np.uint64(lane) & np.uint64(1)) << column
                    if distance > limit:
                        continue
                    if filled == keys.shape[1]:
                        filled = _drop_farther(keys, query, limit + 1)
                    keys[query, filled] = distance << ROW_BITS | block * BLOCK + 64 * word + lane
                    filled += 1
                    histogram[query, distance] += 1
                    below += 1
                    while below >= k:
                        below -= histogram[query, limit]
                        limit -= 1
            limits[query], counts[query, 0], counts[query, 1] = limit, below, filled


@kernel
def _prepare(queries, bits, by_table, out):
    """Write queries to `out` in the form that a comparison reads, and return how many bytes each takes.

    For `_compare`, a query has a mask for each bit: a word that repeats the bit. For `_compare_by_table` it has the offsets
    of its sum and its carry in the table entry of each group of three bits, and of its vector for each single bit, in units
    of 8 bytes.
    """
    unit = np.uint64(_VECTOR_BYTES // 8)
    if not by_table:
        for query in range(len(queries)):
            for bit in range(bits):
                out[query * bits + bit] = np.uint64(0) - _bit(queries, query, bit)
        return bits * 8
    offsets = out.view(np.uint8)
    number = 0
    for query in range(len(queries)):
        bit = 0
        while bit < bits:
            chunk = 64 if bits - bit >= 64 else 16
            for first in range(bit, bit + chunk - 1, 3):
                pattern = np.uint64(0)
                for other in range(first, first + 3):
                    pattern |= _bit(queries, query, other) << np.uint64(other - first)
                parity = (pattern ^ pattern >> np.uint64(1) ^ pattern >> np.uint64(2)) & np.uint64(1)
                offsets[number] = parity * unit
                offsets[number + 1] = (pattern + np.uint64(2)) * unit
                number += 2
            bit += chunk
            offsets[number] = _bit(queries, query, bit - 1) * unit
            number += 1
    return _offset_bytes(bits)


@kernel
def _bit(codes, row, bit):
    """Return a bit of a packed code; 0 behind its end."""
    byte = bit // 8
    if byte >= codes.shape[1]:
        return np.uint64(0)
    return np.uint64(codes[row, byte]) >> np.uint64(7 - bit % 8) & np.uint64(1)


@kernel
def _drop_farther(keys, query, distance):
    """Drop a query's candidates that are farther than `distance`, keep the order, and return how many are left."""
    kept = 0
    for key in keys[query]:
        if key >> ROW_BITS <= distance:
            keys[query, kept] = key
            kept += 1
    return kept


@kernel
def _sort_nearest(k, limit, keys, histogram, out_distances, out_rows):
    """Write the k nearest candidates by a counting sort, which keeps rows at the same distance in order.

    `histogram` is overwritten: it becomes, for each distance, where its next row goes.
    """
    last = min(limit + 1, len(histogram) - 1)  # the distance of the k-th nearest
    start = 0
    for distance in range(last + 1):
        count = histogram[distance]
        histogram[distance] = start
        start += count
    for key in keys:
        distance = key >> ROW_BITS
        if distance <= last:
            rank = histogram[distance]
            if rank < k:
                out_distances[rank] = distance
                out_rows[rank] = key & ((1 << ROW_BITS) - 1)
                histogram[distance] = rank + 1


@kernel
def merge(distances, rows, start, stop, out_distances, out_rows):
    """Merge what `top_k` found in each part of the rows, for queries `start` to `stop`.

    Args:
        distances: uint16 (parts, Q, kept), parts in ascending order of rows.
        rows: int64 (parts, Q, kept).
        start: the first query.
        stop: the query behind the last one.
        out_distances: uint16 (Q, k).
        out_rows: int64 (Q, k).
    """
    parts, _, kept = rows.shape
    k = out_rows.shape[1]
    taken = np.empty(parts, dtype=np.int64)
    for query in range(start, stop):
        taken[:] = 0
        rank, distance = 0, 0
        while rank < k:
            for part in range(parts):
                number = taken[part]
                while rank < k and number < kept and distances[part, query, number] == distance:
                    out_distances[query, rank] = distance
                    out_rows[query, rank] = rows[part, query, number]
                    number += 1
                    rank += 1
                taken[part] = number
            distance += 1


@kernel
def within(planes, live, start, stop, queries, bounds, targets, out_distances, out_rows):
    """Count the rows within a radius of each query, or write them.

    Args:
        planes: `Planes.words`.
        live: uint64 (blocks, BLOCK/64), a bit for each row that may be found.
        start: the first block.
        stop: the block behind the last one.
        queries: packed codes uint8 (Q, P).
        bounds: what `bounds_of` returned.
        targets: int64 (Q, radius + 1), for each distance where its next row goes; raised by 1 for each row.
        out_distances: uint16 (H,).
        out_rows: int64 (H,); where it is empty, `targets` is raised and nothing is written.
    """
    bits, radius = planes.shape[1], targets.shape[1] - 1
    columns = columns_of(bits)
    table, prepared, sums, hits = _buffers(bits, min(TILE, len(queries)))
    for top in range(0, len(queries), TILE):
        count_here = min(TILE, len(queries) - top)
        by_table = count_here >= TABLE_QUERIES
        stride = _prepare(queries[top : top + count_here], bits, by_table, prepared)
        for block in range(start, stop):
            codes = block * bits * _VECTOR_BYTES
            if by_table:
                _make_table(planes, codes, bits, table)
            for number in range(top, top + count_here):
                query = (number - top) * stride
                if by_table:
                    some = _compare_by_table(table, 0, prepared, query, bits, bounds, radius, sums, hits)
                else:
                    some = _compare(planes, codes, prepared, query, bits, bounds, radius, sums, hits)
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
                        target = targets[number, distance]
                        if len(out_rows):
                            out_distances[target] = distance
                            out_rows[target] = block * BLOCK + 64 * word + lane
                        targets[number, distance] = target + 1


@kernel
def histograms(planes, live, start, stop, queries, relevant, which, bounds, out):
    """Add to `out`, int64 (Q, 2, bins), the number of rows at each distance, and the number of relevant ones."""
    bits = planes.shape[1]
    _, prepared, sums, hits = _buffers(bits, 1)
    counts = np.empty((2, bits + 8, _WORDS), dtype=np.uint64)
    for number in range(len(queries)):
        _prepare(queries[number : number + 1], bits, False, prepared)
        counts[:] = 0
        ours = relevant[which[number]]
        for block in range(start, stop):
            # With the greatest limit the sums start from 0 and none overflows: they are the distances.
            _compare(planes, block * bits * _VECTOR_BYTES, prepared, 0, bits, bounds, len(bounds) - 1, sums, hits)
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
    """Write packed codes to planes, viewed as uint8 (blocks, bits, BLOCK/8): a byte of eight rows at a time where it can."""
    row, source = start, 0
    while source < len(packed):
        block, octet, lane = row // BLOCK, row % BLOCK // 8, row % 8
        if lane == 0 and source + 8 <= len(packed):
            for byte in range(packed.shape[1]):
                eight = np.uint64(0)
                for number in range(8):
                    eight |= np.uint64(packed[source + number, byte]) << np.uint64(8 * number)
                for bit in range(8):
                    planes[block, 8 * byte + bit, octet] = _column(eight, np.uint64(7 - bit))
            row, source = row + 8, source + 8
        else:
            for bit in range(8 * packed.shape[1]):
                planes[block, bit, octet] |= np.uint8(_bit(packed, source, bit) << np.uint64(lane))
            row, source = row + 1, source + 1


@kernel
def get_rows(planes, packed):
    """Read packed codes back, eight rows at a time."""
    for octet in range((len(packed) + 7) // 8):
        block, column = octet // _VECTOR_BYTES, octet % _VECTOR_BYTES
        for byte in range(packed.shape[1]):
            eight = np.uint64(0)
            for bit in range(8):
                eight |= np.uint64(planes[block, 8 * byte + 7 - bit, column]) << np.uint64(8 * bit)
            for number in range(min(8, len(packed) - 8 * octet)):
                packed[8 * octet + number, byte] = _column(eight, np.uint64(number))


@kernel
def _column(eight, bit):
    """Gather one bit of each of the eight bytes of a word into a byte; the lowest byte gives the lowest bit."""
    return np.uint8((eight >> bit & np.uint64(0x0101010101010101)) * np.uint64(0x0102040810204080) >> np.uint64(56))
