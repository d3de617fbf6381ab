"""Every kernel returns exactly what a stable sort of all distances returns."""

import tracemalloc

import faiss
import numpy as np
import pytest
import torch

from hashzoo.codes import pack
from hashzoo.search import exact

DEVICES = [
    "numpy",
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")],
    ),
]
BITS = [4, 12, 48, 64, 100, 128, 1024]


def make(kind, rows, bits, seed):
    """Make packed codes uint8 (rows, ceil(bits/8))."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        return pack(rng.random((rows, bits)) < 0.5)
    centres = np.random.default_rng(0).random((1 if kind == "equal" else 5, bits)) < 0.5
    flips = rng.random((rows, bits)) < (0 if kind == "equal" else 0.05)
    return pack(centres[rng.integers(len(centres), size=rows)] ^ flips)


def sorted_all(queries, base, k):
    """Sort all distances, stably: the definition."""
    bits = np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(base, axis=1)[None]
    distances = bits.sum(axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows


def search(device, queries, base, k):
    words = exact.to_words(base)
    held = words if device == "numpy" else torch.from_numpy(words.view(np.int64)).to(device)
    distances, rows = exact.top_k(exact.to_words(queries), held, k)
    assert (distances.dtype, rows.dtype) == (np.uint16, np.int64)
    assert distances.shape == rows.shape == (len(queries), min(k, len(base)))
    return distances, rows


def agree(device, queries, base, k):
    for found, expected in zip(search(device, queries, base, k), sorted_all(queries, base, k), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_ROWS", 64)
    monkeypatch.setattr(exact, "BLOCK_CELLS", 64 * 128)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
@pytest.mark.parametrize("bits", BITS)
def test_equals_a_stable_sort(device, kind, bits, small_blocks):
    for rows, count, k in [(1, 1, 1), (1, 3, 10), (63, 5, 64), (64, 1, 10), (65, 2, 65), (700, 7, 10), (700, 3, 650)]:
        agree(device, make(kind, count, bits, seed=1), make(kind, rows, bits, seed=2), k)


@pytest.mark.parametrize("device", DEVICES)
def test_equals_a_stable_sort_at_random_sizes(device, small_blocks):
    rng = np.random.default_rng(3)
    for seed in range(150):
        bits, rows, count, k = (int(rng.integers(*limits)) for limits in [(4, 200), (1, 300), (0, 9), (1, 320)])
        kind = ("uniform", "clustered", "equal")[seed % 3]
        agree(device, make(kind, count, bits, seed), make(kind, rows, bits, seed + 1), k)


@pytest.mark.parametrize("device", DEVICES)
def test_equals_a_stable_sort_at_full_blocks(device):
    agree(device, make("clustered", 3, 12, seed=1), make("clustered", 80_000, 12, seed=2), 1000)


@pytest.mark.parametrize("device", DEVICES)
def test_a_base_that_gets_nearer_row_by_row(device, small_blocks):
    query = np.zeros((1, 128), dtype=np.uint8)
    base = pack(np.arange(1024)[None] < np.arange(1024, -1, -1)[:, None])
    agree(device, query, base, 100)
    distances, rows = search(device, query, base, 1025)
    assert distances[0, -1] == 1024
    assert rows[0, -1] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_search(device):
    one, none = make("uniform", 1, 48, seed=0), make("uniform", 0, 48, seed=0)
    search(device, none, one, 5)
    search(device, one, none, 5)
    search(device, none, none, 5)


@pytest.mark.parametrize("bits", BITS)
def test_distances_and_ties_equal_faiss(bits):
    queries, base = make("clustered", 20, bits, seed=1), make("clustered", 3000, bits, seed=2)
    rival = faiss.IndexBinaryFlat(8 * base.shape[1])
    rival.add(base)
    for k in (1, 10, 500):
        expected, rows = rival.search(queries, k)
        found = search("numpy", queries, base, k)
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], rows)


def test_memory_is_bounded():
    base = np.random.default_rng(1).integers(2**64, size=(200_000, 16), dtype=np.uint64)
    tracemalloc.start()
    exact.top_k(base[:3], base, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25
