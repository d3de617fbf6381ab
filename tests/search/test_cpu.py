"""The kernels return exactly what a stable sort of all distances returns, and what FAISS returns."""

import itertools
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import faiss
import llvmlite.binding as llvm
import numba
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from hashzoo import machine
from hashzoo.codes import pack
from hashzoo.errors import CodesError
from hashzoo.search import cpu, hold, kernels

from .reference import distances_of, make, sorted_all

BITS = [4, 12, 48, 64, 100, 128, 247, 248, 249, 256, 1024]  # a byte holds distances of up to 31 bytes


def held(packed):
    return hold([packed], len(packed), 8 * packed.shape[1])


def agree(queries, base, k, keep=None, threads=None):
    distances, rows = held(base).top_k(queries, k, keep, threads)
    assert (distances.dtype, rows.dtype) == (np.uint16, np.int64)
    for found, expected in zip((distances, rows), sorted_all(queries, base, keep), strict=True):
        np.testing.assert_array_equal(found, expected[:, :k])


def peak_of(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.fixture
def many_parts(monkeypatch):
    """Split even small work by queries, or else by rows."""
    monkeypatch.setattr(cpu, "SMALL", 0)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_a_stable_sort(kind, bits, threads, many_parts):
    for rows, count, k in [
        (1, 1, 1),
        (1, 3, 10),
        (63, 5, 64),
        (256, 1, 10),
        (257, 2, 300),
        (1500, 70, 10),
        (1500, 3, 1400),
    ]:
        agree(make(kind, count, bits, seed=1), make(kind, rows, bits, seed=2), k, threads=threads)


@settings(deadline=None, max_examples=200)
@given(
    bits=st.integers(4, 300), rows=st.integers(0, 900), count=st.integers(0, 40), k=st.integers(1, 1000),
    kind=st.sampled_from(["uniform", "clustered", "equal"]), kept=st.sampled_from([None, 0.0, 0.02, 0.9]),
    seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 4), small=st.sampled_from([0, cpu.SMALL]),
)  # fmt: skip
def test_equals_a_stable_sort_at_any_size(bits, rows, count, k, kind, kept, seed, threads, small):
    keep = None if kept is None else np.random.default_rng(seed).random(rows) < kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "SMALL", small)
        agree(make(kind, count, bits, seed), make(kind, rows, bits, seed + 1), k, keep, threads)


@settings(deadline=None, max_examples=100)
@given(
    bits=st.integers(4, 300), rows=st.integers(0, 900), count=st.integers(0, 20), radius=st.integers(0, 310),
    kind=st.sampled_from(["uniform", "clustered", "equal"]), kept=st.sampled_from([None, 0.0, 0.5]),
    seed=st.integers(0, 2**32 - 1), small=st.sampled_from([0, cpu.SMALL]),
)  # fmt: skip
def test_all_rows_within_a_radius(bits, rows, count, radius, kind, kept, seed, small):
    keep = None if kept is None else np.random.default_rng(seed).random(rows) < kept
    queries, base = make(kind, count, bits, seed), make(kind, rows, bits, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "SMALL", small)
        offsets, distances, found = held(base).within(queries, radius, keep)
    assert (offsets.dtype, distances.dtype, found.dtype) == (np.int64, np.uint16, np.int64)
    assert offsets[0] == 0
    assert offsets[-1] == len(distances) == len(found)
    expected_distances, expected = sorted_all(queries, base, keep)
    for query in range(count):
        here = slice(offsets[query], offsets[query + 1])
        near = expected_distances[query] <= radius
        np.testing.assert_array_equal(distances[here], expected_distances[query][near])
        np.testing.assert_array_equal(found[here], expected[query][near])


def test_an_error_in_a_thread_comes_through(monkeypatch, many_parts):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(kernels, "top_k", broken)
    with pytest.raises(MemoryError, match="no room"):
        held(make("uniform", 2000, 64, seed=2)).top_k(make("uniform", 40, 64, seed=1), 3, threads=3)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
@pytest.mark.parametrize("bits", [12, 64, 256])
def test_large_k_over_many_rows(kind, bits):
    """So many that the candidates are thinned out on the way, and that a sample is taken first."""
    base, queries = make(kind, 60_000, bits, seed=2), make(kind, 2, bits, seed=1)
    for k in (100, 1000, 59_999):
        agree(queries, base, k)


@pytest.mark.parametrize("k", [100, 1000])
def test_a_sample_that_misleads(k):
    """The blocks that are looked at first hold the only near rows, but fewer than k of them."""
    base = make("uniform", 200_000, 64, seed=1)
    query = make("uniform", 1, 64, seed=2)
    for block in range(0, 200_000 // kernels.BLOCK, kernels.SAMPLE):
        base[block * kernels.BLOCK : block * kernels.BLOCK + 1] = query
    agree(query, base, k)


def test_hits_are_told_before_memory_is_taken_for_them():
    base, told = make("uniform", 300, 64, seed=1), []
    held(base).within(base[:2], 64, check=told.append)
    assert told == [600]


def test_candidates_that_fill_their_room_lose_none():
    """Each row is as near as the one before or nearer, so that all are candidates; room is for 3 k + 1,024 of them."""
    for rows in range(1050, 1065):
        base = pack(np.arange(1024)[None] < 600 - np.arange(rows)[:, None] // 2)
        agree(np.zeros((1, 128), np.uint8), base, 10)


@pytest.mark.parametrize("nearer", [True, False])
def test_a_base_that_gets_nearer_or_farther_row_by_row(nearer):
    base = pack(np.arange(1024)[None] < np.arange(1024, -1, -1)[:, None])
    query = base[-1:] if nearer else base[:1]
    agree(query, base, 100)
    distances, _ = held(base).top_k(query, 1025)
    assert distances[0, -1] == 1024


@pytest.mark.parametrize("bits", [48, 64, 256])
@pytest.mark.parametrize("heap", [True, False])
def test_distances_and_ties_equal_faiss(bits, heap):
    queries, base = make("clustered", 20, bits, seed=1), make("clustered", 3000, bits, seed=2)
    rival = faiss.IndexBinaryFlat(bits)
    rival.use_heap = heap
    rival.add(base)
    for k in (1, 10, 500):
        for found, expected in zip(held(base).top_k(queries, k), rival.search(queries, k), strict=True):
            np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from(BITS), rows=st.integers(1, 900), count=st.integers(1, 20), kinds=st.integers(1, 4),
    kind=st.sampled_from(["uniform", "clustered", "equal"]), seed=st.integers(0, 2**32 - 1),
    small=st.sampled_from([0, cpu.SMALL]),
)  # fmt: skip
def test_histograms_count_every_distance(bits, rows, count, kinds, kind, seed, small):
    rng = np.random.default_rng(seed)
    queries, base = make(kind, count, bits, seed), make(kind, rows, bits, seed + 1)
    relevant, which = rng.random((kinds, rows)) < 0.3, rng.integers(kinds, size=count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "SMALL", small)
        found = held(base).histograms(queries, relevant, which)
    for query, distances in enumerate(distances_of(queries, base)):
        bins = found.shape[2]
        np.testing.assert_array_equal(found[0, query], np.bincount(distances, minlength=bins))
        np.testing.assert_array_equal(found[1, query], np.bincount(distances[relevant[which[query]]], minlength=bins))


@settings(deadline=None)
@given(bits=st.sampled_from(BITS), sizes=st.lists(st.integers(0, 600), max_size=5))
def test_codes_are_held_as_given_and_aligned(bits, sizes):
    packed = make("uniform", sum(sizes), bits, seed=1)
    edges = np.cumsum([0, *sizes])
    codes = hold([packed[start:stop] for start, stop in itertools.pairwise(edges)], len(packed), bits)
    assert not len(packed) or codes.planes.words.ctypes.data % 64 == 0
    np.testing.assert_array_equal(codes.packed(), packed)


@pytest.mark.parametrize(
    ("sizes", "bits", "message"),
    [([3, 3], 64, r"\(3, 8\) do not fit behind row 3 of 5 codes"), ([3, 1], 64, "are 4 codes where 5"), ([5], 48, "of 48 bits")],
)  # fmt: skip
def test_codes_that_are_not_as_announced_are_refused(sizes, bits, message):
    batches = [make("uniform", size, 64, seed=1) for size in sizes]
    with pytest.raises(CodesError, match=message):
        hold(batches, 5, bits)


def test_another_kind_of_device_is_refused():
    with pytest.raises(CodesError, match=r"not 'tpu'; use device='cpu'"):
        hold([], 0, 64, "tpu")


@pytest.mark.parametrize("avx512", [False, True])
def test_a_full_adder_adds(avx512, monkeypatch):
    """LLVM folds it to its value for the eight cases of three bits, also where this machine lacks the instructions."""
    vector = ir.VectorType(ir.IntType(64), 8)
    monkeypatch.setattr(kernels, "AVX512", avx512)
    monkeypatch.setattr(kernels, "_VECTOR", vector)
    module = ir.Module()
    for number, name in enumerate(["sum", "carry"]):
        function = ir.Function(module, ir.FunctionType(vector, []), name)
        builder = ir.IRBuilder(function.append_basic_block())
        bits = [ir.Constant(vector, [bits] * 8) for bits in (0b11110000, 0b11001100, 0b10101010)]
        builder.ret(kernels._full_add(builder, *bits)[number])
    llvm.initialize_all_targets()
    machine = llvm.Target.from_triple("x86_64").create_target_machine(cpu="znver4")
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    passes.getModulePassManager().run(parsed, passes)
    folded = [line.strip() for line in str(parsed).splitlines() if line.strip().startswith("ret")]
    assert folded == [f"ret <8 x i64> splat (i64 {0b10010110})", f"ret <8 x i64> splat (i64 {0b11101000})"]


def test_compiles_to_one_instruction_a_sum_and_one_a_carry_with_avx512(tmp_path):
    code = """
from numba import types
from hashzoo.bench.limits import compare_only
from hashzoo.search import kernels
words = types.Array(types.uint64, 2, "C")
kernel = compare_only
kernel.compile((types.Array(types.uint64, 3, "C"), types.Array(types.uint8, 2, "C"), types.int64, words))
print(kernels.BLOCK, *(line.split()[0] for asm in kernel.inspect_asm().values() for line in asm.splitlines() if "%zmm" in line))
"""
    target = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": "+avx512f,+avx512bw,+avx512dq,+avx512vl"}
    environment = {**os.environ, **target, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    block, *instructions = done.stdout.split()
    chunks = 2 * (32 + 10) + 2 * (7 + 3)  # adders of a chunk of 64 and of 16 bits, for short and for long codes
    assert block == "512"
    assert instructions.count("vpternlogq") >= 2 * chunks
    assert instructions.count("vpandq") < chunks


@pytest.mark.parametrize("target", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_CPU_FEATURES": ""}], ids=str)
def test_compiles_for_the_processor_that_numba_is_told(target, tmp_path):
    """Code for AVX-512 would end a process that numba was told to compile without it."""
    queries, base = make("uniform", 9, 64, seed=1), make("uniform", 3000, 64, seed=2)
    np.save(tmp_path / "queries.npy", queries)
    np.save(tmp_path / "base.npy", base)
    code = """
import sys
import numpy as np
from hashzoo.search import hold, kernels
queries, base = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("queries", "base"))
held = hold([base], len(base), 64)
np.save(f"{sys.argv[1]}/rows.npy", held.top_k(queries, 2000)[1])
np.save(f"{sys.argv[1]}/within.npy", held.within(queries, 64)[2].reshape(9, 3000))
np.save(f"{sys.argv[1]}/counts.npy", held.histograms(queries, np.ones((1, 3000), bool), np.zeros(9, int)))
print(kernels.BLOCK)
"""
    environment = {**os.environ, **target, "NUMBA_CACHE_DIR": str(tmp_path)}
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "256\n"), done.stderr
    expected_distances, expected = sorted_all(queries, base)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected[:, :2000])
    np.testing.assert_array_equal(np.load(tmp_path / "within.npy"), expected)
    counts = [np.bincount(distances, minlength=65) for distances in expected_distances]
    np.testing.assert_array_equal(np.load(tmp_path / "counts.npy"), [counts, counts])


def test_compiles_without_a_folder_for_its_cache():
    found = {}
    exec("def double(x):\n    return 2 * x", found)
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(found["double"])
    assert kernels.kernel(found["double"])(3) == 6


@settings(deadline=None, max_examples=150)
@given(
    cores=st.sampled_from([2, 3, 16, 64]), threes=st.floats(0, 3), rows=st.integers(1, 3000), k=st.integers(1, 3500),
    bits=st.sampled_from([12, 48, 64, 128]), kind=st.sampled_from(["uniform", "clustered", "equal"]),
    kept=st.sampled_from([None, 0.002, 0.5]), part_rows=st.sampled_from([1, cpu.PART_ROWS]),
    part_hits=st.sampled_from([500, cpu.PART_HITS]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_equals_a_stable_sort_on_any_number_of_cores(
    cores, threes, rows, k, bits, kind, kept, part_rows, part_hits, seed
):
    """From one query to three times as many as cores, shared out by rows, by queries or by both."""
    queries, base = make(kind, 1 + int(threes * cores), bits, seed), make(kind, rows, bits, seed + 1)
    keep = None if kept is None else np.random.default_rng(seed).random(rows) < kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "cores", lambda: cores)
        for name, value in (("SMALL", 0), ("PART_ROWS", part_rows), ("PART_HITS", part_hits)):
            patch.setattr(cpu, name, value)
        agree(queries, base, k, keep)


def test_memory_is_bounded():
    codes = held(np.random.default_rng(1).integers(256, size=(200_000, 128), dtype=np.uint8))
    queries = np.zeros((100, 128), dtype=np.uint8)
    codes.top_k(queries, 10)
    assert peak_of(lambda: codes.top_k(queries, 10)) < 2**22


@pytest.mark.parametrize("cores", [2, 16, 64, 256])
@pytest.mark.parametrize(("count", "k"), [(1, 20_000), (1, 500), (40, 20_000), (40, 500), (100, 3000), (400, 100)])
def test_memory_grows_with_the_answer_and_not_with_the_cores(cores, count, k, many_parts, monkeypatch):
    base, queries = make("uniform", 20_000, 48, seed=2), make("uniform", count, 48, seed=1)
    codes, told = held(base), []
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(cpu, "need_memory", lambda size, what, way_out: told.append(size))
    codes.top_k(queries, k)  # compiles
    answer = 10 * count * k
    peak = peak_of(lambda: codes.top_k(queries, k))
    assert peak < 4.5 * answer + 2**13 * count + 2**21  # a query has room for about three times as many candidates
    if count * k > cpu.FEW_HITS:
        assert peak < told[-1] + 2**18
        assert told[-1] < 6 * answer + 2**13 * count


@pytest.mark.parametrize("cores", [16, 64])
def test_counts_of_few_queries_take_little_memory_on_many_cores(cores, many_parts, monkeypatch):
    base, queries = make("uniform", 20_000, 1024, seed=2), make("uniform", 100, 1024, seed=1)
    codes, relevant, which = held(base), np.ones((1, 20_000), dtype=bool), np.zeros(100, dtype=np.int64)
    monkeypatch.setattr(machine, "cores", lambda: cores)
    for work in (lambda: codes.histograms(queries, relevant, which), lambda: codes.within(queries, 400)):
        work()
        assert peak_of(work) < 2**23


@pytest.mark.parametrize("cores", [1, 64])
def test_a_search_without_memory_for_it_is_refused_before_it_starts(cores, many_parts, monkeypatch):
    codes, queries = held(make("uniform", 20_000, 48, seed=2)), make("uniform", 400, 48, seed=1)
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    assert 10 * 400 * 20_000 < 10**8  # the answer alone would fit
    monkeypatch.setattr(kernels, "top_k", None)
    with pytest.raises(CodesError, match=r"A search of 400 queries for 20,000 codes each takes .* ask for fewer"):
        codes.top_k(queries, 20_000)


def test_callers_in_many_threads_share_one_pool(monkeypatch):
    """However many threads search at once, the pool has as many threads as cores, and so many kernels run."""
    base, queries = make("uniform", 20_000, 64, seed=2), make("uniform", 40, 64, seed=1)
    codes, expected = held(base), sorted_all(queries, base)[1][:, :5]
    monkeypatch.setattr(cpu, "SMALL", 0)
    codes.top_k(queries, 5)  # compiles
    running, most, lock, kernel = 0, 0, threading.Lock(), kernels.top_k

    def counted(*arguments):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)  # so that more would run at once if they could
        kernel(*arguments)
        with lock:
            running -= 1

    monkeypatch.setattr(kernels, "top_k", counted)
    before, alive = threading.active_count(), []

    def caller(number):
        for _ in range(5):
            np.testing.assert_array_equal(codes.top_k(queries, 5)[1], expected)
            alive.append(threading.active_count())

    with ThreadPoolExecutor(32) as callers:
        for done in [callers.submit(caller, number) for number in range(32)]:
            done.result()
    assert most <= machine.cores()
    assert max(alive) <= before + 32 + machine.cores()


@pytest.mark.skipif(machine.cores() == 1 or not hasattr(os, "fork"), reason="the calling thread works alone here")
def test_a_forked_process_has_a_pool_of_its_own():
    code = """
import os, threading, time
from hashzoo import machine
def helpers():
    names = set()
    machine.run_all([lambda: time.sleep(0.01) or names.add(threading.current_thread().name)] * 20, threads=2)
    return len(names) - 1
assert helpers() == 1
child = os.fork()
if not child:
    os._exit(helpers())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", done.stderr


def test_a_second_process_starts_warm(tmp_path):
    """Compiled code is kept on disk: the second process loads it."""
    code = """
import numpy as np
from hashzoo.search import hold, kernels
hold([np.zeros((10, 8), dtype=np.uint8)], 10, 64).top_k(np.zeros((1, 8), dtype=np.uint8), 3)
print(sum(kernels.top_k.stats.cache_hits.values()), sum(kernels.top_k.stats.cache_misses.values()))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [run.split() for run in runs] == [["0", "1"], ["1", "0"]]
