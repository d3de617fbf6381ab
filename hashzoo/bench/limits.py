"""What this machine can do at most, which the timings of `hashzoo.bench.search` are held against.

The two kernels here are compiled anew in each process: numba's cache would not see that the kernels they call have
changed.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numba import njit

from hashzoo import machine
from hashzoo.search import kernels
from hashzoo.search.cpu import CpuCodes

TURNS = 16  # a limit is the best of so many runs
QUERIES = 64  # so many fit into the first cache beside a block of codes


def compare_limit(bits: int) -> float:
    """Measure the limit of a batch: G pairs a second that one core compares from its first cache, with no hits."""
    rng = np.random.default_rng(0)
    block, queries = (rng.integers(256, size=(rows, bits // 8), dtype=np.uint8) for rows in (kernels.BLOCK, QUERIES))
    held = CpuCodes(len(block), bits)
    held.put(0, block)
    bounds, turns = kernels.bounds_of(held.planes.words.shape[1]), 5_000
    compare_only(held.planes.words, queries, 1, bounds)  # compiles
    seconds = _best(lambda: compare_only(held.planes.words, queries, turns, bounds))
    return turns * len(queries) * len(block) / seconds / 1e9


def read_all(held: CpuCodes) -> None:
    """Read the codes on all cores and add them up: the limit of a search that memory feeds."""
    parts = np.array_split(held.planes.words.reshape(-1), machine.cores())
    machine.run_all([lambda part=part: add_up(part) for part in parts])  # type: ignore[misc]


def gpu_read_limit(device: str) -> float:
    """Measure GB a second that a GPU reads from its memory."""
    import torch

    block = torch.zeros(1 << 28, dtype=torch.int64, device=device)

    def read() -> None:
        block.sum()
        torch.cuda.synchronize(device)

    read()
    return block.nbytes / _best(read) / 1e9


def _best(work: Callable[[], object]) -> float:
    """Time `work` several times and return the least seconds: whatever else the machine does only slows a run down."""
    best = float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@njit(nogil=True)
def compare_only(planes, queries, turns, bounds):
    """Compare up to `TILE` queries with the first block `turns` times, looking for distance 0."""
    bits = planes.shape[1]
    table, prepared, sums, hits = kernels._buffers(bits, len(queries))
    stride = kernels._prepare(queries, bits, True, prepared)
    kernels._make_table(planes, 0, bits, table)
    found = 0
    for _ in range(turns):
        for number in range(len(queries)):
            found += kernels._compare_by_table(table, 0, prepared, number * stride, bits, bounds, 0, sums, hits)
    return found


@njit(nogil=True)
def add_up(words):
    """Add up uint64 words."""
    total = np.uint64(0)
    for word in words:
        total += word
    return total
