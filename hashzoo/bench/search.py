"""How fast this machine searches: hashzoo beside its rivals, in one process and in turns, and beside the machine's limits.

A case is timed in rounds: each contestant once a round, and the best of each counts, since whatever else the machine does
can only slow a run down. Throughput is in G = 10^9 code pairs a second. Rivals may be timed on fewer queries, which the
row says; a pair costs them the same.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashzoo.bench import limits
from hashzoo.errors import CodesError
from hashzoo.provenance import commit, processor
from hashzoo.search import hold
from hashzoo.search.cpu import CpuCodes

ROUNDS = 5
Packed = NDArray[np.uint8]


class Case(NamedTuple):
    """A search to time."""

    bits: int
    size: int  # N
    queries: int
    k: int
    data: str = "uniform"  # or "clustered": 100 centres, 5 % of the bits flipped
    threads: int | None = 1  # None: one for each core


CPU_CASES = (
    Case(64, 1_000_000, 10_000, 10),
    Case(64, 1_000_000, 10_000, 100),
    Case(64, 1_000_000, 10_000, 1000),
    Case(64, 1_000_000, 10_000, 10, "clustered"),
    Case(48, 1_000_000, 10_000, 10),
    Case(128, 1_000_000, 100, 100),
    Case(256, 1_000_000, 100, 100),
    Case(64, 10_000_000, 1, 10, threads=None),
)
# How work is shared on machines with more cores than this one: no row may take much longer than that of two threads.
MANY_CORES_CASES = tuple(Case(48, 20_000, 60, 20_000, threads=threads) for threads in (2, 16, 64))
SMALL_CASES = tuple(Case(64, size, 1, 10) for size in (1, 10, 100, 1000))
CUDA_CASES = (
    Case(64, 10_000_000, 1, 10),
    Case(64, 10_000_000, 100, 10),
    Case(64, 10_000_000, 10_000, 100),
    Case(48, 10_000_000, 10_000, 100),
    Case(256, 10_000_000, 100, 100),
)


def bench(device: str = "cpu", report: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Time the cases of one device.

    Args:
        device: "cpu" or a CUDA device.
        report: is called with each row as it comes.

    Returns:
        A JSON object: `machine`, `limits` and `rows`. Each row has the fields of `Case`; `seconds` and `giga_pairs` of
        hashzoo, and `read_seconds` where all cores search; `rival` with `rival_giga_pairs`, `rival_queries` and
        `times_rival`, null where the rival is not installed; and `share_of_limit` with `limit` naming it.

    Raises:
        CodesError: the device is not there.
    """
    result: dict[str, Any] = {"machine": machine(device), "limits": limits_of(device), "rows": []}
    for case in CPU_CASES + MANY_CORES_CASES + SMALL_CASES if device == "cpu" else CUDA_CASES:
        row = compare(case, device)
        row.update(_share(row, result["limits"]))
        result["rows"].append(row)
        report(row)
    return result


def compare(case: Case, device: str = "cpu", rounds: int = ROUNDS) -> dict[str, Any]:
    """Time one case and return its row, without the share of a limit.

    >>> row = compare(Case(64, 1000, 10, 5), rounds=1)
    >>> row["size"], row["giga_pairs"] > 0
    (1000, True)
    """
    base, queries = _codes(case, case.size, 1), _codes(case, case.queries, 2)
    ours, read = _hashzoo(base, case, device)
    rival, theirs = _rival(base, case, device)
    # FAISS does about 10^9 pairs a second: more than a second of it a round says nothing more
    few = max(1, min(case.queries, int(3e8 // case.size))) if device == "cpu" else case.queries
    runs: dict[str, tuple[Callable[[Packed], Any], Packed]] = {"hashzoo": (ours, queries)}
    runs.update({name: (search, queries[:few]) for name, search in theirs.items()})
    if case.threads is None:  # memory's speed changes from minute to minute, so it is measured in the same rounds
        runs["read"] = (read, queries)
    best = dict.fromkeys(runs, float("inf"))
    for search, these in runs.values():  # compiles, and fills the caches
        search(these[:2])
    calls = 300 if case.queries * case.size < 1e6 else 1  # microseconds are timed many times over
    for _ in range(rounds):
        for name, (search, these) in runs.items():
            start = time.perf_counter()
            for _ in range(calls):
                search(these)
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    row: dict[str, Any] = {"device": device, **case._asdict(), "seconds": best["hashzoo"]}
    row["giga_pairs"] = case.queries * case.size / best["hashzoo"] / 1e9
    if "read" in best:
        row["read_seconds"] = best["read"]
    fastest = min(theirs, key=best.__getitem__) if theirs else None
    rate = few * case.size / best[fastest] / 1e9 if fastest else None
    row.update(rival=fastest or rival, rival_queries=few if fastest else None, rival_giga_pairs=rate)
    row["times_rival"] = row["giga_pairs"] / rate if rate else None
    return row


def describe(row: dict[str, Any]) -> str:
    """Name the codes of a row, and the threads where there are several: "48, 64 threads".

    >>> describe({"bits": 64, "data": "clustered", "threads": None})
    '64 clustered'
    """
    threads = row["threads"] or 1
    return f"{row['bits']}{' clustered' * (row['data'] == 'clustered')}{f', {threads} threads' * (threads > 1)}"


def _codes(case: Case, rows: int, seed: int) -> Packed:
    rng = np.random.default_rng(seed)
    if case.data == "uniform":
        return rng.integers(256, size=(rows, case.bits // 8), dtype=np.uint8)
    centres = np.random.default_rng(0).integers(256, size=(100, case.bits // 8), dtype=np.uint8)
    flips = np.zeros((rows, case.bits // 8), dtype=np.uint8)
    for bit in range(8):
        flips |= (rng.random(flips.shape, dtype=np.float32) < 0.05).astype(np.uint8) << np.uint8(bit)
    return centres[rng.integers(100, size=rows)] ^ flips


def _hashzoo(base: Packed, case: Case, device: str) -> tuple[Callable[[Packed], Any], Callable[[Packed], Any]]:
    """Make the search, and what only reads the codes that it searches."""
    held = hold([base], len(base), case.bits, device)
    if isinstance(held, CpuCodes):
        return lambda queries: held.top_k(queries, case.k, threads=case.threads), lambda _: limits.read_all(held)
    return lambda queries: held.top_k(queries, case.k), lambda _: None


def _rival(base: Packed, case: Case, device: str) -> tuple[str, dict[str, Callable[[Packed], Any]]]:
    """Name the rival and make its variants; there are none where it is not installed."""
    if case in SMALL_CASES and device == "cpu":
        return "numpy", {"numpy": lambda queries: _numpy(queries, base, case.k)}
    try:
        import faiss
    except ImportError:
        return "FAISS is not installed", {}
    index: Any = faiss.IndexBinaryFlat(8 * base.shape[1])
    index.add(base)
    if device != "cpu":
        if not hasattr(faiss, "GpuIndexBinaryFlat"):
            return "FAISS is not installed for the GPU", {}
        on_gpu = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), index)
        return "", {"FAISS GpuIndexBinaryFlat": lambda queries: on_gpu.search(queries, case.k)}

    def search(queries: Packed, heap: bool) -> Any:
        faiss.omp_set_num_threads(1)  # it shares out queries only, and on a busy machine two threads can stall
        index.use_heap = heap
        return index.search(queries, case.k)

    return "", {
        "FAISS IndexBinaryFlat (heap)": lambda queries: search(queries, True),
        "FAISS IndexBinaryFlat (counting)": lambda queries: search(queries, False),
    }


def _numpy(queries: Packed, base: Packed, k: int) -> tuple[Any, Any]:
    distances = np.bitwise_count(queries[:, None].view(np.uint64) ^ base.view(np.uint64)[None]).sum(axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows


def limits_of(device: str) -> dict[str, float]:
    """Measure what the machine can do at most.

    Returns:
        For the CPU: `compare_64`, G pairs a second that one core compares when all codes are in its L1 cache and none is
        a hit (`compare_48`, `compare_128`, `compare_256` for the other lengths); reading memory is timed beside the search
        that it limits. For a GPU: `read`, GB a second.
    """
    if device == "cpu":
        return {f"compare_{bits}": limits.compare_limit(bits) for bits in (48, 64, 128, 256)}
    return {"read": limits.gpu_read_limit(device)}


def _share(row: dict[str, Any], reached: dict[str, float]) -> dict[str, Any]:
    """Say which limit binds a row, and what share of it was reached."""
    if row["size"] <= 1000 or (row["threads"] or 1) > 1:  # no limit was measured for these
        return {"limit": None, "share_of_limit": None}
    if "read_seconds" in row:
        return {"limit": "read", "share_of_limit": row["read_seconds"] / row["seconds"]}
    if row["device"] != "cpu":
        read = row["size"] * row["bits"] / 8 / row["seconds"] / 1e9
        return {"limit": "read", "share_of_limit": read / reached["read"]}
    name = f"compare_{row['bits']}"
    return {"limit": name, "share_of_limit": row["giga_pairs"] / reached[name]}


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and what decides its speed."""
    import os

    import llvmlite.binding as llvm

    found: dict[str, Any] = {"processor": processor(), "llvm_cpu": llvm.get_host_cpu_name(), "cores": os.cpu_count()}
    packages = ["hashzoo", "numpy", "numba", "llvmlite", "faiss-cpu", "faiss-gpu"]
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise CodesError(f"There is no device {device!r} here; `hashzoo bench search --device cpu` needs none.")
        found["gpu"] = torch.cuda.get_device_name(device)
        packages += ["torch", "triton"]
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "commit": commit()}
