"""Time exact search over N, bits and k beside FAISS, write the figures to results/ and draw them for the docs.

    python benchmarks/search.py            # cpu: results/search-cpu.json and docs/search.svg
    python benchmarks/search.py cuda       # a GPU: results/search-cuda.json

The table of the docs page is in the same file: what `hashzoo bench search` prints.
"""

import json
import sys
from pathlib import Path
from typing import Any

from hashzoo.bench import search as bench

HERE = Path(__file__).parent
GRID = {
    "N": [bench.Case(64, size, 1000, 10) for size in (1_000, 10_000, 100_000, 1_000_000, 10_000_000)],
    "bits": [bench.Case(bits, 1_000_000, 200, 10) for bits in (16, 32, 48, 64, 96, 128, 256, 512, 1024)],
    "k": [bench.Case(64, 1_000_000, 200, k) for k in (1, 10, 100, 1000, 10_000)],
}


def draw(grid: dict[str, list[dict[str, Any]]], machine: dict[str, Any], path: Path) -> None:
    """Draw throughput against N, bits and k, hashzoo and FAISS."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "hashzoo"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    fixed = {"N": "64 bits, k=10", "bits": "N=1M, k=10", "k": "64 bits, N=1M"}
    for axis, (name, rows) in zip(axes, grid.items(), strict=True):
        where = [row["size" if name == "N" else name] for row in rows]
        axis.loglog(where, [row["giga_pairs"] for row in rows], "o-", label="hashzoo")
        axis.loglog(
            where, [row["rival_giga_pairs"] for row in rows], "s--", label="FAISS IndexBinaryFlat, best variant"
        )
        axis.set(xlabel=name, title=fixed[name])
        axis.set_xticks(where, [f"{value:,}" if value < 10_000 else f"{value:.0e}" for value in where], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.tick_params(axis="x", labelsize=7)
    axes[0].set_ylabel("10⁹ pairs/s, one thread")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{machine['processor']} ({machine['llvm_cpu']}), one core", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main(device: str = "cpu") -> None:
    """Run the table and, on the CPU, the grid."""

    def report(row: dict[str, Any]) -> None:
        rival = f"{row['times_rival']:.1f} times {row['rival']}" if row["times_rival"] else row["rival"]
        print(f"{bench.describe(row):>16} bits  N={row['size']:>10,}  Q={row['queries']:>6}  k={row['k']:>5}  "
              f"{row['giga_pairs']:8.3g} G  {rival}", flush=True)  # fmt: skip

    result = bench.bench(device, report)
    if device == "cpu":
        result["grid"] = {}
        for name, cases in GRID.items():
            result["grid"][name] = [bench.compare(case, rounds=3) for case in cases]
            for row in result["grid"][name]:
                report(row)
        draw(result["grid"], result["machine"], HERE.parent / "docs" / "search.svg")
    path = HERE / "results" / f"search-{device.partition(':')[0]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
