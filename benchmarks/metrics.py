"""Time mAP from codes beside the usual numpy script of the field; writes results/metrics-cpu.json.

    python benchmarks/metrics.py

The rival follows the steps of DeepHash-pytorch's CalcTopMap: for each query a matrix product of codes in {-1, +1}, an
argsort of all distances, the mean of count / rank at the relevant ranks. It is timed on fewer queries, in turns with
ours, on as many threads as numpy takes; ours runs on all cores.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashzoo.bench.search import machine
from hashzoo.codes import Codes
from hashzoo.metrics import distance_histograms, mean_average_precision

CASES = [(1_000, 59_000, 200), (10_000, 1_000_000, 10)]  # queries, database, queries of the rival
ROUNDS = 3


def numpy_map(query: NDArray[Any], database: NDArray[Any], query_labels: NDArray[Any], labels: NDArray[Any]) -> float:
    """Compute mAP as scripts of the field do: one ranking a query, ties as they fall."""
    total = 0.0
    for code, label in zip(query, query_labels, strict=True):
        distances = 0.5 * (database.shape[1] - code @ database.T)
        relevant = (label == labels)[np.argsort(distances)]
        ranks = np.flatnonzero(relevant) + 1
        total += np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return total / len(query)


def main() -> None:
    """Run the cases in turns and write the best of each."""
    rng = np.random.default_rng(0)
    rows = []
    for queries, size, few in CASES:
        centres = rng.random((10, 64)) < 0.5
        query_labels, labels = rng.integers(10, size=queries), rng.integers(10, size=size)
        query_bits, bits = (
            centres[classes] ^ (rng.random((len(classes), 64)) < 0.25) for classes in (query_labels, labels)
        )
        query, database = Codes.from_bits(query_bits), Codes.from_bits(bits)
        signs, base_signs = (2.0 * query_bits - 1).astype(np.float32), (2.0 * bits - 1).astype(np.float32)
        best = {"hashzoo": float("inf"), "histograms": float("inf"), "numpy": float("inf")}
        distance_histograms(query[:2], database, query_labels[:2], labels)  # compiles
        for _ in range(ROUNDS):
            start = time.perf_counter()
            histograms = distance_histograms(query, database, query_labels, labels)
            counted = time.perf_counter()
            ours = mean_average_precision(histograms)
            done = time.perf_counter()
            theirs = numpy_map(signs[:few], base_signs, query_labels[:few], labels)
            end = time.perf_counter()
            taken = {"hashzoo": done - start, "histograms": counted - start, "numpy": (end - done) * queries / few}
            best = {name: min(best[name], seconds) for name, seconds in taken.items()}
        row = {"queries": queries, "database": size, "bits": 64, "rival_queries": few}
        row |= {f"{name}_seconds": round(seconds, 4) for name, seconds in best.items()}
        row |= {
            "times_numpy": round(best["numpy"] / best["hashzoo"], 1),
            "map": ours,
            "numpy_map_of_its_queries": float(theirs),
        }
        print(row, flush=True)
        rows.append(row)
    path = Path(__file__).parent / "results" / "metrics-cpu.json"
    path.write_text(json.dumps({"machine": machine("cpu"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
