"""Write the tables of docs/search.md from results/: `python benchmarks/tables.py` after a benchmark."""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "search.md"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table; numbers to the right."""
    lines = [columns, ["---:"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(found: dict[str, Any]) -> str:
    """Name the machine and the versions."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def search(result: dict[str, Any]) -> str:
    """Write the cases of `hashzoo bench search`."""
    rows = [
        [
            f"{row['bits']}{' clustered' * (row['data'] == 'clustered')}", f"{row['size']:,}", f"{row['queries']:,}",
            str(row["k"]), f"{row['giga_pairs']:.3g}",
            f"{row['seconds']:.2f} s" if row["seconds"] > 0.1 else f"{row['seconds'] * 1e3:.2g} ms",
            row["rival"], f"{row['times_rival']:.1f}",
            f"{row['share_of_limit']:.0%} of {row['limit'].replace('_', ' ')}" if row["limit"] else "",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["bits", "N", "queries", "k", "10⁹ pairs/s", "time", "rival", "times rival", "share of the machine's limit"]
    (read,) = (row["size"] * row["bits"] / 8e9 / row["read_seconds"] for row in result["rows"] if "read_seconds" in row)
    limits = ", ".join(
        f"{name.replace('_', ' ')} {value:.1f}" for name, value in [*result["limits"].items(), ("read", read)]
    )
    return (
        f"{table(head, rows)}\n\nOne core, except the single query over ten million codes, which takes all. Limits: {limits} "
        f"(10⁹ pairs/s a core; GB/s). Machine: {machine(result['machine'])}."
    )


def metrics(result: dict[str, Any]) -> str:
    """Write the cases of benchmarks/metrics.py."""
    rows = [
        [
            f"{row['queries']:,}", f"{row['database']:,}", f"{row['histograms_seconds']:.3f} s",
            f"{row['hashzoo_seconds']:.3f} s", f"{row['numpy_seconds']:,.1f} s", f"{row['times_numpy']:.0f}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["queries", "database", "histograms", "with mAP@all", "numpy script", "times numpy"]
    return f"{table(head, rows)}\n\n64 bits, 10 classes, all cores. Machine: {machine(result['machine'])}."


def opening(result: dict[str, Any]) -> str:
    """Write the figures of benchmarks/open_index.py."""
    return (
        f"`Index.open` of {result['codes']:,} codes of {result['bits']} bits in {result['parts']} parts takes "
        f"{min(result['seconds'])} to {max(result['seconds'])} s with the files cached, and at its peak "
        f"{max(result['peak_above_start_MiB'])} MiB, of which codes and ids are {result['codes'] * 16 / 2**20:.0f} "
        f"(`python benchmarks/open_index.py`; five processes). Machine: {machine(result['machine'])}."
    )


TABLES = {"search-cpu.json": search, "metrics-cpu.json": metrics, "open-index.json": opening}


def page() -> str:
    """Return docs/search.md with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, write in TABLES.items():
        result = json.loads((HERE / "results" / name).read_text(encoding="utf-8"))
        start, end = f"<!-- table: benchmarks/results/{name} -->", "<!-- end -->"
        made = f"{start}\n{write(result)}\n{end}".replace("\\", r"\\")
        text, count = re.subn(f"{re.escape(start)}.*?{end}", made, text, flags=re.S)
        assert count == 1, f"{PAGE} has no place for {name}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
