"""On every device, what is found is what a stable sort of all distances finds.

With TRITON_INTERPRET=1 the tests on the CPU run the Triton kernels; `test_in_the_interpreter` starts them so.
"""

import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hashzoo.codes import pack
from hashzoo.search import cuda

from .reference import make, sorted_all

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")],
    ),
]
BITS = [4, 12, 48, 100, 256, 1024]
KINDS = ["uniform", "clustered", "equal"]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")


def held(packed, device):
    codes = cuda.CudaCodes(len(packed), 8 * packed.shape[1], device)
    codes.put(0, packed)
    return codes


def check_top_k(device, queries, base, k, keep=None):
    distances, rows = held(base, device).top_k(queries, k, keep)
    assert (distances.dtype, rows.dtype) == (np.uint16, np.int64)
    all_distances, all_rows = sorted_all(queries, base, keep)
    np.testing.assert_array_equal(distances, all_distances[:, :k])
    np.testing.assert_array_equal(rows, all_rows[:, :k])


def check_within(device, queries, base, radius, keep=None):
    offsets, distances, rows = held(base, device).within(queries, radius, keep)
    assert (offsets.dtype, distances.dtype, rows.dtype) == (np.int64, np.uint16, np.int64)
    all_distances, all_rows = sorted_all(queries, base, keep)
    near = all_distances <= radius
    np.testing.assert_array_equal(offsets, [0, *near.sum(axis=1).cumsum()])
    np.testing.assert_array_equal(distances, all_distances[near])
    np.testing.assert_array_equal(rows, all_rows[near])
    return offsets[-1]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cuda, "CELLS", 64 * 128)
    if importlib.util.find_spec("triton"):
        from hashzoo.search import triton_kernels

        for name, value in [("TILE", 256), ("QUERIES", 4), ("SLOTS", 512), ("SLOTS_PER_K", 8), ("KEYS", 6 * 512)]:
            monkeypatch.setattr(triton_kernels, name, value)
        monkeypatch.setattr(triton_kernels, "BLOCK", 256)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_equals_a_stable_sort(device, kind, bits):
    for rows, count, k in [(1, 1, 1), (1, 3, 10), (255, 2, 300), (256, 1, 255), (257, 3, 2), (1200, 1, 30)]:
        check_top_k(device, make(kind, count, bits, seed=1), make(kind, rows, bits, seed=2), k)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_queries(device, kind):
    queries, base = make(kind, 9, 64, seed=1), make(kind, 700, 64, seed=2)
    check_top_k(device, queries, base, 1)
    check_within(device, queries, base, 20)


@pytest.mark.parametrize("device", DEVICES)
def test_every_k(device):
    queries, base = make("clustered", 2, 12, seed=1), make("clustered", 700, 12, seed=2)
    for k in (1, 2, 64, 350, 699, 700, 1000):
        check_top_k(device, queries, base, k)


@pytest.mark.parametrize("device", DEVICES)
def test_equals_a_stable_sort_at_random_sizes(device):
    rng = np.random.default_rng(3)
    for seed in range(8 if INTERPRETED else 60):
        bits, rows, count, k = (int(rng.integers(*limits)) for limits in [(4, 200), (1, 600), (0, 9), (1, 320)])
        kind = KINDS[seed % 3]
        check_top_k(device, make(kind, count, bits, seed), make(kind, rows, bits, seed + 1), k)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("share", [0, 0.002, 0.5, 1])
def test_only_kept_rows_are_found(device, share):
    queries, base = make("clustered", 3, 48, seed=1), make("clustered", 1500, 48, seed=2)
    keep = np.random.default_rng(4).random(len(base)) < share
    check_top_k(device, queries, base, 10, keep)
    check_within(device, queries, base, 8, keep)


@pytest.mark.parametrize("device", DEVICES)
def test_within_a_radius(device):
    queries, base = make("clustered", 3, 48, seed=1), make("clustered", 1000, 48, seed=2)
    base[7] = queries[2]
    hits = [check_within(device, queries, base, radius) for radius in (0, 2, 5, 48, 10_000)]
    assert 0 < hits[0] < hits[1] < hits[2] < hits[3] == hits[4] == base.shape[0] * len(queries)
    assert check_within(device, ~base[:1], base, 0) == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("k", "too_many"), [(1, True), (60, True), (1600, False)])
def test_a_base_that_gets_nearer_row_by_row(device, k, too_many, monkeypatch):
    query = np.zeros((1, 16), dtype=np.uint8)
    nearer = pack(np.arange(128)[None] < np.arange(1600, 0, -1)[:, None] / 12.5)
    if not cuda._has_kernels(held(query, device).words):
        return check_top_k(device, query, nearer, k)
    from hashzoo.search import triton_kernels

    careful = []
    nearest = triton_kernels._nearest
    monkeypatch.setattr(triton_kernels, "_nearest", lambda *a, **b: careful.append(b["careful"]) or nearest(*a, **b))
    check_top_k(device, query, nearer, k)
    monkeypatch.setattr(triton_kernels, "GOLDEN", 0)  # tiles are visited in order, so that every row is a survivor
    check_top_k(device, query, nearer, k)
    assert careful == [False, False, *[True] * too_many]


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_search(device):
    one, none = make("uniform", 1, 48, seed=0), make("uniform", 0, 48, seed=0)
    for queries, base in [(none, one), (one, none), (none, none)]:
        distances, rows = held(base, device).top_k(queries, 5)
        assert distances.shape == rows.shape == (len(queries), min(5, len(base)))
        offsets, distances, rows = held(base, device).within(queries, 48)
        assert offsets.tolist() == [0] * (len(queries) + 1)
        assert len(distances) == len(rows) == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", BITS)
def test_held_codes_come_back(device, bits, monkeypatch):
    monkeypatch.setattr(cuda, "PUT", 400)
    base = make("uniform", 1030, bits, seed=0)
    codes = held(base, device)
    assert codes.words.shape == (-(-bits // 32), 1030)
    np.testing.assert_array_equal(codes.packed(), base)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is slow")
@pytest.mark.parametrize("device", DEVICES)
def test_one_search_runs_at_a_time(device, monkeypatch):
    """Many threads may search, but the memory of the device is taken once."""
    queries, base = make("uniform", 3, 64, seed=1), make("uniform", 600, 64, seed=2)
    codes, expected = held(base, device), sorted_all(queries, base)[1][:, :5]
    running, most, split = 0, 0, cuda._split_keys

    def counted(*arguments):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.001)
        running -= 1
        return split(*arguments)

    monkeypatch.setattr(cuda, "_split_keys", counted)
    with ThreadPoolExecutor(8) as callers:
        for found in callers.map(lambda _: codes.top_k(queries, 5)[1], range(32)):
            np.testing.assert_array_equal(found, expected)
    assert most == 1


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="runs there already")
def test_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parents[2], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_compiles_for_hopper(monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hashzoo.search import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fixed = dict(kept=None, WORDS=2, KEPT=False, ALL=False, INTERPRETED=False, QUERIES=8, ROWS=64)  # noqa: C408
    pointers = {"base": "*i32", "queries": "*i32", "counts": "*i32"} | dict.fromkeys(
        ["limits", "found", "places"], "*i64"
    )
    names = triton_kernels._scan.arg_names
    kinds = {name: "constexpr" if name in fixed else pointers.get(name, "i32") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in [*pointers, "stride"]}
    source = ASTSource(
        triton_kernels._scan, kinds, {(names.index(name),): value for name, value in fixed.items()}, aligned
    )
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["ptx"]
    assert ptx.count("popc.b32") == 8 * 64 * 2 / 32  # one for a word of a pair in each lane, and no pair twice
    assert "ld.global.v2" in ptx and "ld.global.b32" not in ptx  # a lane loads its two rows of 64 at once
    assert ".local" not in ptx
