"""Write the tables of docs/search.md and docs/baselines.md from results/: `python benchmarks/tables.py` after a benchmark."""

import csv
import io
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hashzoo.bench.search import describe
from hashzoo.zoo.results import Spread

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


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
            describe(row), f"{row['size']:,}", f"{row['queries']:,}",
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
        f"{table(head, rows)}\n\nOne core unless a row names threads; the single query over ten million codes takes all. "
        f"Limits: {limits} (10⁹ pairs/s a core; GB/s). Machine: {machine(result['machine'])}."
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
        f"{max(result['peak_above_start_MiB'])} MiB, of which codes are {result['codes'] * result['bits'] / 8 / 2**20:.0f} "
        f"(`python benchmarks/open_index.py`; five processes). Machine: {machine(result['machine'])}."
    )


def methods(rows: list[dict[str, str]], ranked: bool) -> str:
    """Write one protocol's rows of benchmarks/baselines.py; ranked: best first at the most bits, the control last."""
    bits = sorted({int(row["bits"]) for row in rows})
    found: dict[str, dict[int, list[dict[str, str]]]] = {}
    for row in rows:
        found.setdefault(row["method"], {}).setdefault(int(row["bits"]), []).append(row)

    def spread(method: str, length: int) -> Spread | None:
        maps = {int(row["seed"]): float(row["map"]) for row in found[method].get(length, [])}
        return Spread.of(maps) if maps else None

    def cell(method: str, length: int) -> str:
        measured = spread(method, length)
        return f"{measured:.3f}" if measured else ""

    order = list(found)
    if ranked:
        means = {method: measured.mean if (measured := spread(method, bits[-1])) else 0.0 for method in order}
        order.sort(key=lambda method: (method == "class-label", -means[method]))
    lines = []
    for method in order:
        longest = found[method].get(bits[-1], [])
        note = {"adsh": " (labels of its whole list)", "class-label": " (control)"}.get(method, "")
        lines.append([
            f"{method}{note}" if " " in method else f"`{method}`{note}", *(cell(method, length) for length in bits),
            str(min((len(found[method].get(length, [])) for length in bits), default=0)),
            f"{statistics.mean(float(row['train_seconds']) for row in longest):.0f}" if longest else "",
        ])  # fmt: skip
    cosine = [row["map_float_cosine"] for row in rows if row["map_float_cosine"]]
    if cosine:
        lines.append(
            [
                "the features themselves, by cosine, 1,280 floats",
                *[""] * (len(bits) - 1),
                f"{float(cosine[0]):.3f}",
                "",
                "",
            ]
        )
    head = ["method", *(f"{length} bits" for length in bits), "seeds", "training, s"]
    features = ", features not counted" if rows[0]["backbone"].startswith("timm/") else ""
    facts = [sorted({row[key] for row in rows}) for key in ("top_k", "data_copy", "device", "commit")]
    (top_k,), (data,), devices, commits = facts
    return (
        f"{table(head, lines)}\n\nmAP@{top_k}, exact expectation over ties; mean ± standard deviation over seeds. Training time "
        f"at {bits[-1]} bits{features}, beside another run on the same machine. Data: {data}. Machine: "
        f"{'; '.join(devices)}. Commit {', '.join(commit[:12] for commit in commits)}."
    )


def precision(result: dict[str, Any]) -> str:
    """Write how far codes are from those in float32 on the CPU."""
    rows = [
        [row["model"], row["device"], row["precision"], f"{row['codes_that_differ']:.1%}",
         f"{row['bits_that_differ']:.2f} of {row['bits']}"]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["model", "device", "precision", "codes that differ in some bit", "bits that differ, mean a code"]
    return (
        f"{table(head, rows)}\n\nOf {result['images']:,} images of CIFAR-10 ({result['data_copy']}), held against float32 on "
        f"the CPU (`python benchmarks/precision.py`). {machine(result['versions'])}, commit {result['commit']}."
    )


def of_protocol(name: str, ranked: bool) -> Callable[[str], str]:
    """Take one protocol's rows out of the CSV."""
    return lambda text: methods([row for row in csv.DictReader(io.StringIO(text)) if row["protocol"] == name], ranked)


def of_json(write: Callable[[dict[str, Any]], str]) -> Callable[[str], str]:
    """Read JSON first."""
    return lambda text: write(json.loads(text))


# page -> (file of results, mark of the place if a file has several) -> what writes it
TABLES: dict[str, dict[tuple[str, str], Callable[[str], str]]] = {
    "search.md": {
        ("search-cpu.json", ""): of_json(search),
        ("metrics-cpu.json", ""): of_json(metrics),
        ("open-index.json", ""): of_json(opening),
        ("precision.json", ""): of_json(precision),
    },
    "baselines.md": {
        (f"{file}.csv", f" {name}"): of_protocol(name, ranked=file == "baselines")
        for file, names in (
            ("baselines", ("tiny-imagenet", "tiny-imagenet-unseen", "cifar10-54k")),
            ("ablations", ("tiny-imagenet", "cifar10-54k")),
            ("ablations-whole", ("cifar10-54k",)),
        )
        for name in names
    },
}


def pages() -> dict[Path, str]:
    """Return the pages with their tables made anew."""
    made: dict[Path, str] = {}
    for name, tables in TABLES.items():
        text = (DOCS / name).read_text(encoding="utf-8")
        for (file, mark), write in tables.items():
            result = (HERE / "results" / file).read_text(encoding="utf-8")
            start, end = f"<!-- table: benchmarks/results/{file}{mark} -->", "<!-- end -->"
            block = f"{start}\n{write(result)}\n{end}".replace("\\", r"\\")
            text, count = re.subn(f"{re.escape(start)}.*?{end}", block, text, flags=re.S)
            assert count == 1, f"docs/{name} has no place for {file}{mark}"
        made[DOCS / name] = text
    return made


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
