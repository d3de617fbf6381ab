"""Time `Index.open` of 10 million codes and its peak of memory; writes results/open-index.json.

python benchmarks/open_index.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hashzoo.bench.search import machine
from hashzoo.codes import Codes
from hashzoo.index import folder as folders

OPEN = """
import pathlib, re, sys, time
from hashzoo.index import Index
from hashzoo.search import hold
import pyarrow.parquet, psutil, numpy as np
hold([np.zeros((1, 8), dtype=np.uint8)], 1, 64)  # loads compiled code
pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory begins anew, from what is in use
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
before, start = peak(), time.perf_counter()
index = Index.open(sys.argv[1])
print(len(index), time.perf_counter() - start, peak() - before)
"""


def main() -> None:
    """Write an index of 8 parts, open it five times in processes of their own."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(8):
            folders.append(folder, Codes(rng.integers(256, size=(1_250_000, 8), dtype=np.uint8), 64, "demo"))
        runs = []
        for _ in range(5):
            done = subprocess.run([sys.executable, "-c", OPEN, folder], capture_output=True, text=True, check=True)
            runs.append([float(figure) for figure in done.stdout.split()])
    result = {
        "machine": machine("cpu"), "codes": int(runs[0][0]), "bits": 64, "parts": 8,
        "seconds": sorted(round(run[1], 2) for run in runs),
        "peak_above_start_MiB": sorted(round(run[2]) for run in runs),
    }  # fmt: skip
    print(result)
    (Path(__file__).parent / "results" / "open-index.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
