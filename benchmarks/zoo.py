"""Train the zoo's CIFAR models again and measure them: each model of each seed in a folder of its own, one command for all.

    python benchmarks/zoo.py train runs dahp-resnet18-cifar10-48bit --seeds 0 1 2
    python benchmarks/zoo.py train runs dahp-resnet18-cifar10-12bit            # a head on the frozen 48-bit model's backbone
    python benchmarks/zoo.py collect runs model_cards                          # seed 0's folders, with the other seeds' rows

A run that was killed goes on; a finished one is not made again. `collect` takes what is there.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from hashzoo.data import open_pool
from hashzoo.evaluation import run_protocol
from hashzoo.release.record import read_record, write_repeat, write_results
from hashzoo.training import Recipe, make_recipe, run_recipe


class Entry(NamedTuple):
    """One model: its method, and what its recipe changes in the method's."""

    method: str
    bits: int
    dataset: str
    protocol: str
    changes: dict[str, Any]


def _optimization(epochs: int, batch_size: int, optimizer: str, lr: float, **more: Any) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "warmup": 0.1} | more


HEAD = {  # on a frozen backbone
    "optimization": _optimization(5, 128, "adamw", 1e-3, backbone_lr=0.0, precision="float32"),
    "augment": {"flip": False, "shift": 0, "plain_epochs": 0, "cutout": 0},
}
WIDE = {
    "backbone": {"name": "cnn3-wide"},
    "optimization": _optimization(60, 250, "sgd", 0.1, weight_decay=5e-4, warmup=0.2),
    "augment": {"cutout": 8, "plain_epochs": 5},
}
LITE0 = {
    "backbone": {"name": "timm/tf_efficientnet_lite0", "args": {"pool": True}},
    "head": {"name": "linear"},
    "preprocess": {"size": [128, 128], "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "optimization": _optimization(30, 100, "adamw", 1e-3, backbone_lr=0.3, weight_decay=0.01, pretrained=True),
}
FEW = {  # 5,000 labels
    "dahp": {"optimization": _optimization(200, 100, "sgd", 0.1)},
    "dphb": {"optimization": _optimization(200, 100, "sgd", 0.05)},
    "dsbh": {"optimization": _optimization(200, 100, "adamw", 1e-3), "augment": {"plain_epochs": 10}},
}


def _entries() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for method, backbone in (("dahp", "resnet18"), ("dphb", "alexnet"), ("dsbh", "cnn3")):
        whole = f"{method}-{backbone}-cifar10-48bit"
        found[whole] = Entry(method, 48, "cifar10", "cifar10-full", {})
        plain = {"backbone": {"args": {"batch_norm": False}}} if backbone == "alexnet" else {}
        for bits in (12, 24, 32):
            name = f"{method}-{backbone}-cifar10-{bits}bit"
            found[name] = Entry(method, bits, "cifar10", "cifar10-full", {"init": whole, **HEAD, **plain})
        found[f"{whole}.5k"] = Entry(method, 48, "cifar10", "cifar10-54k", FEW[method])
    found["dsbh-cnn3-wide-cifar10-48bit"] = Entry("dsbh", 48, "cifar10", "cifar10-full", WIDE)
    found["dahp-efficientnet_lite0-cifar10-48bit.5k"] = Entry("dahp", 48, "cifar10", "cifar10-54k", LITE0)
    found["dahp-resnet18-cifar100-64bit"] = Entry("dahp", 64, "cifar100", "cifar100-full", {})
    return found


ENTRIES = _entries()


def recipe_of(name: str, seed: int) -> Recipe:
    """The recipe of a model of the zoo."""
    entry = ENTRIES[name]
    return make_recipe(
        entry.method,
        bits=entry.bits,
        dataset=entry.dataset,
        protocol=entry.protocol,
        seed=seed,
        changes={"name": name, **entry.changes},
    )


def train_zoo(out: Path, names: list[str], seeds: list[int], device: str | None) -> None:
    """Train and measure the named models; seed 0 of each is then found by name, as a start for heads."""
    models = out / "models"
    models.mkdir(parents=True, exist_ok=True)
    os.environ["HASHZOO_PATH"] = str(models.absolute())
    pool = functools.cache(open_pool)
    for name in names:
        for seed in seeds:
            recipe = recipe_of(name, seed)
            data = pool(recipe.dataset)
            folder = run_recipe(recipe, out / f"{name}-seed{seed}", device=device, pool=data)
            record = read_record(folder)
            if not record.results.rows:
                row, published = run_protocol(folder, record.results, device=device, pool=data)
                write_results(record, row, published)
                print(f"{name}, seed {seed}: mAP {row.map:.4f}", flush=True)
            if seed == 0 and not (models / name).exists():
                shutil.copytree(folder, out / f".{name}.partial", dirs_exist_ok=True)
                (out / f".{name}.partial").rename(models / name)


def collect(out: Path, cards: Path) -> None:
    """Copy each model of seed 0 into `cards`, with the rows of its other seeds."""
    for folder in sorted((out / "models").iterdir()):
        shutil.rmtree(cards / folder.name, ignore_errors=True)
        record = read_record(shutil.copytree(folder, cards / folder.name))
        for run in map(read_record, sorted(out.glob(f"{folder.name}-seed*/{folder.name}"))):
            (row,) = run.results.rows
            if row.seed != 0:
                record = write_repeat(record, run, row)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train")
    run.add_argument("out", type=Path)
    run.add_argument("names", nargs="+", choices=sorted(ENTRIES), metavar="NAME")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--device")
    gather = commands.add_parser("collect")
    gather.add_argument("out", type=Path)
    gather.add_argument("cards", type=Path)
    options = parser.parse_args()
    if options.command == "train":
        train_zoo(options.out, options.names, options.seeds, options.device)
    else:
        collect(options.out, options.cards)


if __name__ == "__main__":
    main()
