"""One fair table: every method on one backbone, one budget, one protocol; rows go to results/baselines.csv.

`python benchmarks/baselines.py` trains and measures each cell that the file does not hold yet, as `hashzoo train` and
`hashzoo eval` do; started again after a kill, it goes on. Arguments choose methods. `--reverse` takes the cells from the end,
for a second process beside the first. `--ablations` does the same for our losses without a part each, at 48 bits, and
results/ablations.csv; `--whole` of networks trained whole, ten minutes a cell and more, and results/ablations-whole.csv.
`benchmarks/tables.py` writes the page.
"""

import argparse
import csv
import importlib.resources
import itertools
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from hashzoo.config import validate
from hashzoo.data import ImagePool, get_protocol, open_pool
from hashzoo.evaluation import run_protocol
from hashzoo.files import replacing
from hashzoo.registry import registry
from hashzoo.release.record import read_record
from hashzoo.release.table import read_entries
from hashzoo.training import Recipe, make_recipe, read_recipe, run_recipe
from hashzoo.training.recipe import merge
from hashzoo.zoo.names import shipped_folder
from hashzoo.zoo.results import ResultRow, TrainingFacts

RESULTS = Path(__file__).parent / "results"
BITS = {"cifar10-54k": (16, 32, 64), "tiny-imagenet": (16, 32, 64), "tiny-imagenet-unseen": (64,)}
SEEDS = (0, 1, 2)
# run only where named: they need the features of a changed copy of each training image, 100,000 and 75,000 of them, or
# feature maps in place of their means, 9 GB
SLOW = {
    *itertools.product(("cibhash",), ("tiny-imagenet", "tiny-imagenet-unseen")),
    *itertools.product(("dahp, on maps", "dahp with attention, on maps"), ("tiny-imagenet",)),
}
OURS = {"dsbh": {}, "dphb": {}, "dahp": {"loss": {"args": {"anchor": "cosine"}}}}
# attention over 1,280 channels takes eighty times as long as a linear head: fewer epochs, for both
ON_MAPS = {
    "backbone": {"name": "timm/tf_efficientnet_lite0", "args": {"pool": False}},
    "optimization": {"epochs": 20},
}
# name of a variant -> its method, and what is changed
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dsbh": ("dsbh", {}),
    "dsbh, clamp in place of sign": ("dsbh", {"quantizer": {"name": "clamp"}}),
    "dsbh without balance": ("dsbh", {"loss": {"args": {"balance_weight": 0.0}}}),
    "dsbh without pairs": ("dsbh", {"loss": {"args": {"pair_weight": 0.0}}}),
    "dsbh without classes": ("dsbh", {"loss": {"args": {"class_weight": 0.0}}}),
    "dphb": ("dphb", {}),
    "dphb without labels": ("dphb", {"loss": {"args": {"label_weight": 0.0}}}),
    "dphb without pairs": ("dphb", {"loss": {"args": {"pair_weight": 0.0}}}),
    "dahp": ("dahp", {}),
    "dahp without pairs": ("dahp", {"loss": {"args": {"anchor": "cosine", "pair_weight": 0.0}}}),
    "dahp without anchors": ("dahp", {"loss": {"name": "hashnet"}}),  # what is left is HashNet's term
    "dahp, on maps": ("dahp", ON_MAPS),
    "dahp with attention, on maps": ("dahp", ON_MAPS | {"head": {"name": "dual-attention"}}),
}
# the ablations that `--whole` makes -> the shipped model whose recipe and seeds they have
WHOLE = {
    **dict.fromkeys(("dsbh", "dsbh, clamp in place of sign", "dsbh without balance"), "dsbh-cnn3-cifar10-48bit.5k"),
    **dict.fromkeys(("dphb", "dphb without labels"), "dphb-alexnet-cifar10-48bit.5k"),
}
FIELDS = [
    "method", "backbone", "protocol", "bits", "seed", "map", "ties", "top_k", "map_float_cosine", "map_deephash",
    "precision_at_100", "dead_bits", "distinct_codes", "train_seconds", "evaluate_seconds", "device", "commit", "data_copy",
    "query_sha256", "train_sha256", "database_sha256",
]  # fmt: skip


def methods() -> list[str]:
    """All methods of hashzoo and hashzoo-baselines, then ours."""
    found = [c.name for c in registry().components("method") if c.owner in ("hashzoo", "hashzoo-baselines")]
    return [*found, *OURS]


def recipe_of(method: str, protocol: str, bits: int, seed: int) -> Recipe:
    """The recipe of a cell; our own methods get the baselines' budget, and a linear head on vectors in place of attention."""
    changes: dict[str, Any] = {}
    method, ablation = ABLATIONS.get(method, (method, {}))
    dataset = get_protocol(protocol).dataset
    if method in OURS:
        text = importlib.resources.files("hashzoo_baselines").joinpath("frozen.toml").read_text(encoding="utf-8")
        budget = tomllib.loads(text)
        special = budget.pop("on")[dataset]["optimization"]
        del budget["quantizer"], budget["origin"]
        budget["optimization"] |= special
        budget["augment"] |= {"crops": [], "plain_epochs": 0}
        changes = {**budget, **OURS[method], **ablation}
        changes["optimization"] = budget["optimization"] | ablation.get("optimization", {})
    return make_recipe(method, bits=bits, dataset=dataset, protocol=protocol, seed=seed, changes=changes)


def whole_recipe(variant: str, seed: int) -> Recipe:
    """The recipe of a cell of `--whole`."""
    recipe = read_recipe(shipped_folder() / WHOLE[variant] / "recipe.toml").model_dump(exclude_none=True)
    return validate(Recipe, merge(recipe, ABLATIONS[variant][1]) | {"seed": seed}, variant)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows there are."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def add(path: Path, row: dict[str, Any], order: list[str]) -> None:
    """Add a row, in order of method, protocol, bits and seed; of a cell that two processes ran, the first one's stays."""

    def place(r: dict[str, Any]) -> tuple[int, str, int, int]:
        return order.index(r["method"]), r["protocol"], int(r["bits"]), int(r["seed"])

    with FileLock(path.with_suffix(".lock")):
        rows = sorted({place(r): r for r in [row, *read(path)]}.values(), key=place)
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def measure(recipe: Recipe, pool: ImagePool, float_cosine: bool) -> dict[str, Any]:
    """Train and measure one cell."""
    with tempfile.TemporaryDirectory() as out:
        folder = run_recipe(recipe, out, device="cpu", pool=pool)
        began = time.monotonic()
        results = read_record(folder).results
        row, _ = run_protocol(folder, results, device="cpu", pool=pool, float_cosine=float_cosine)
        seconds = time.monotonic() - began
    return line(recipe, row, results.trained) | {"evaluate_seconds": round(seconds, 1)}


def shipped(recipe: Recipe, model: str) -> dict[str, Any]:
    """The cell that a model of the zoo, or a repeat of it, is."""
    (entry,) = (entry for entry in read_entries(shipped_folder()) if entry.config.name == model)
    (run,) = (run for run in entry.runs if run.row.seed == recipe.seed)
    return line(recipe, run.row, run.training) | {"evaluate_seconds": ""}


def line(recipe: Recipe, row: ResultRow, training: TrainingFacts) -> dict[str, Any]:
    """Write a result as a line of the file."""
    return {
        "method": recipe.method, "backbone": recipe.backbone.name, "protocol": row.protocol, "bits": row.bits,
        "seed": row.seed, "map": row.map, "ties": row.ties, "top_k": row.top_k or "all",
        "map_float_cosine": "" if row.map_float_cosine is None else row.map_float_cosine,
        "map_deephash": row.map_deephash, "precision_at_100": row.precision_at[100], "dead_bits": row.health.dead_bits,
        "distinct_codes": row.health.distinct_codes, "train_seconds": training.seconds,
        "device": row.device, "commit": row.commit, "data_copy": row.data_copy,
        **{f"{name}_sha256": value[:16] for name, value in row.list_sha256.items()},
    }  # fmt: skip


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default all")
    parser.add_argument("--protocol", choices=list(BITS), action="append", help="default all")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many of 0, 1, 2")
    parser.add_argument("--reverse", action="store_true")
    table_of = parser.add_mutually_exclusive_group()
    table_of.add_argument("--ablations", action="store_true")
    table_of.add_argument("--whole", action="store_true", help="of cifar10-54k alone")
    chosen = parser.parse_args()
    if chosen.whole and chosen.protocol:
        parser.error("--whole takes the protocol of the models' recipes; leave --protocol out.")
    torch.set_num_threads(1)
    table, order, protocols = "baselines", methods(), list(BITS)
    if chosen.ablations:
        table, order, protocols = "ablations", list(ABLATIONS), list(BITS)[:2]
    elif chosen.whole:
        table, order, protocols = "ablations-whole", list(WHOLE), list(BITS)[:1]
    path = RESULTS / f"{table}.csv"
    for protocol in chosen.protocol or protocols:
        pool = open_pool(get_protocol(protocol).dataset)
        lengths = BITS[protocol] if table == "baselines" else (48,)
        cells = list(itertools.product(SEEDS[: chosen.seeds], chosen.methods or order, lengths))
        for seed, method, bits in reversed(cells) if chosen.reverse else cells:
            key = (method, protocol, str(bits), str(seed))
            if (method, protocol) in SLOW and method not in chosen.methods:
                continue
            if key in {(row["method"], row["protocol"], row["bits"], row["seed"]) for row in read(path)}:
                continue
            recipe = whole_recipe(method, seed) if chosen.whole else recipe_of(method, protocol, bits, seed)
            if chosen.whole and not ABLATIONS[method][1]:
                row = shipped(recipe, WHOLE[method])
            else:
                row = measure(recipe, pool, float_cosine=method == "lsh" and bits == BITS[protocol][0])
            add(path, row | {"method": method}, order)
            print(*key, row["map"], row["train_seconds"], row["evaluate_seconds"], flush=True)


if __name__ == "__main__":
    main()
