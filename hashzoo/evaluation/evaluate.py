"""From a model and a protocol to a row of results, and the files that go with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from hashzoo import metrics, provenance
from hashzoo.codes import Codes
from hashzoo.config import ModelConfig, read_json, read_toml
from hashzoo.data import (
    ImagePool,
    Lists,
    Protocol,
    dataset_names,
    get_protocol,
    make_lists,
    open_pool,
)
from hashzoo.data.datasets import is_at_hand, public_name
from hashzoo.errors import ConfigError, DataError
from hashzoo.features import backbone_features
from hashzoo.files import write_text
from hashzoo.model import HashModel
from hashzoo.precision import Precision
from hashzoo.release.card import write_card
from hashzoo.release.plots import plot_curves
from hashzoo.zoo.folder import open_folder
from hashzoo.zoo.published_codes import FILE as CODES_FILE
from hashzoo.zoo.published_codes import PublishedCodes, read_codes, write_codes
from hashzoo.zoo.results import Health, Repeat, ResultRow, Results, repeats_of

PRECISION_AT = (1, 10, 100, 1000)
PRECISION: Precision = "float32"  # of the network


def evaluate(
    folder: str | Path,
    protocol: str | None = None,
    *,
    device: str = "cpu",
    pool: ImagePool | None = None,
    float_cosine: bool = False,
) -> tuple[ResultRow, PublishedCodes]:
    """Encode a protocol's queries and database with a folder's model, and measure.

    A model whose recipe froze its backbone takes that backbone's features from the cache (see `hashzoo.features`).

    Args:
        folder: a model's folder with results.json (its training facts give the seed).
        protocol: default the one it was trained under.
        device: "cpu" or "cuda", in float32 on both.
        pool: the data set, if it is loaded already.
        float_cosine: also measure the backbone's features themselves, ranked by cosine.

    Raises:
        DataError: the data set is missing, its lists are not the protocol's, or the model was trained under another one, on
            queries of this, or where this keeps classes out of training.
    """
    folder = Path(folder)
    results = read_json(Results, folder / "results.json")
    rule = get_protocol(protocol or results.training.protocol)
    config = read_json(ModelConfig, folder / "config.json")
    if rule.unseen and rule.name != results.training.protocol:
        raise DataError(
            f"{config.name} was trained under {results.training.protocol} and may have seen the classes that {rule.name} "
            f"keeps out of training; train it under {rule.name}."
        )
    pool = pool or open_pool(_dataset(folder, config) if rule.dataset == "*" else rule.dataset)
    lists = make_lists(rule, pool)
    _refuse_seen_queries(folder, config, results, pool, rule, lists)
    model = open_folder(folder).to(device).to(memory_format=torch.channels_last)
    began = time.monotonic()
    cached = results.training.frozen
    published, images_per_s = encode_protocol(model, rule.name, pool, lists, cached=cached)
    measured = measure(published, rule.top_k)
    row = ResultRow(
        **measured,
        dataset=pool.name,
        map_float_cosine=feature_map(model, pool, lists, rule.top_k) if float_cosine else None,
        list_sha256=lists.sha256(),
        unseen=rule.unseen,
        ties="expected",
        seed=results.training.seed,
        data_copy=pool.copy,
        weights_sha256=config.weights_sha256,
        device=provenance.device_name(device),
        precision=PRECISION,
        seconds=round(time.monotonic() - began, 1),
        images_per_s=None if images_per_s is None else round(images_per_s, 1),
        commit=provenance.commit(),
    )
    return row, published


def _refuse_seen_queries(
    folder: Path, config: ModelConfig, results: Results, pool: ImagePool, rule: Protocol, lists: Lists
) -> None:
    """Refuse a model that was trained on queries, told by their pixels where the data set has another name.

    A data set that this machine does not hold, and that the model only names, cannot be looked at.
    """
    own = _dataset(folder, config)
    history = ((own, results.training.protocol), *results.training.seen)
    for dataset, name in history:
        if public_name(dataset) == pool.name:
            if name == rule.name:
                continue
            seen = len(np.intersect1d(make_lists(get_protocol(name), pool).train, lists.query))
        elif (
            is_at_hand(dataset) or dataset == own != config.dataset
        ):  # a model's files lead to no folder of this machine
            other = open_pool(dataset)
            seen = pool.count_in(lists.query, other, make_lists(get_protocol(name), other).train)
        else:
            continue
        if seen:
            raise DataError(
                f"{config.name} was trained, on {public_name(dataset)} under {name}, on {seen:,} of the {len(lists.query):,} "
                f"queries of {rule.name}; train it under {rule.name}."
            )


def _dataset(folder: Path, config: ModelConfig) -> str:
    """The model's data set, as the recipe of the run says it, beside the model's folder, where that is the run's."""
    try:
        run = read_toml(folder.parent / "recipe.toml")
    except ConfigError:
        return config.dataset
    ours = run.get("name") == config.name and public_name(str(run.get("dataset"))) == config.dataset
    if not ours or run["dataset"] == config.dataset in dataset_names():
        return config.dataset
    return str(Path(run["dataset"]).absolute())


def encode_protocol(
    model: HashModel, protocol: str, pool: ImagePool, lists: Lists, *, cached: bool = False
) -> tuple[PublishedCodes, float | None]:
    """Encode a protocol's query and database lists; also return the network's speed in images/s.

    Args:
        model: on its device.
        protocol: its name.
        pool: the data set.
        lists: the protocol's.
        cached: take the backbone's features of the whole pool from the cache; no speed is measured then.
    """
    positions = {"query": lists.query, "database": lists.database}
    needed = np.union1d(lists.query, lists.database)
    rows: list[NDArray[np.uint8]] = []
    network_seconds = 0.0
    console = Console(stderr=True)
    chunks = [needed[start : start + 256] for start in range(0, len(needed), 256)]
    known = backbone_features(model, pool, np.arange(len(pool))) if cached else None
    for chunk in track(chunks, "encoding", console=console, transient=True, disable=not console.is_terminal):
        if known is not None:
            with model.encoding(PRECISION):
                u = model.from_features(known[torch.from_numpy(chunk)].to(model.device)).u.cpu()
        else:
            batch = pool.fitted(chunk, model.preprocess)
            began = time.monotonic()
            u = model.relaxed(batch, PRECISION)
            network_seconds += time.monotonic() - began
        rows.append(np.packbits(u.numpy() >= 0, axis=1))
    packed = np.concatenate(rows)
    codes = {
        split: Codes(packed[np.searchsorted(needed, wanted)], model.bits, model.name, model.weights, PRECISION)
        for split, wanted in positions.items()
    }
    labels = {split: pool.labels[wanted] for split, wanted in positions.items()}
    speed = len(needed) / network_seconds if network_seconds else None
    return PublishedCodes(protocol, codes, labels, positions, pool.classes), speed


def feature_map(model: HashModel, pool: ImagePool, lists: Lists, top_k: int | None) -> float:
    """Measure the backbone's features, averaged over positions, by `hashzoo.metrics.cosine_map`."""
    known = backbone_features(model, pool, np.arange(len(pool)))
    vectors = (known.mean((2, 3)) if known.ndim == 4 else known).numpy()
    query, database = lists.query, lists.database
    return _round(
        metrics.cosine_map(vectors[query], vectors[database], pool.labels[query], pool.labels[database], top_k)
    )


def measure(published: PublishedCodes, top_k: int | None) -> dict[str, Any]:
    """Compute every figure of a result row that follows from codes and labels alone."""
    query, database = published.codes["query"], published.codes["database"]
    labels = published.labels["query"], published.labels["database"]
    histograms = metrics.distance_histograms(query, database, *labels)
    curve = metrics.pr_curve(histograms)
    health = {key: _round(value) for key, value in dataclasses.asdict(metrics.code_health(database)).items()}
    depths = [n for n in PRECISION_AT if n <= len(database)]
    return {
        "model": query.model,
        "bits": query.bits,
        "protocol": published.protocol,
        "queries": len(query),
        "database": len(database),
        "top_k": top_k,
        "map": _round(metrics.mean_average_precision(histograms, top_k)),
        "map_deephash": _round(metrics.deephash_map(query, database, *labels, top_k=top_k)),
        "precision_at": {
            n: _round(value) for n, value in zip(depths, metrics.precision_at(histograms, depths), strict=True)
        },
        "precision_within_2": _round(metrics.precision_within(histograms)),
        "pr_precision": _rounded(curve.precision),
        "pr_recall": _rounded(curve.recall),
        "health": Health.model_validate(health),
    }


def row_from_codes(folder: str | Path) -> dict[str, Any]:
    """Recompute a card's figures from its codes.parquet: no data set, no network, no weights."""
    published = read_codes(Path(folder) / CODES_FILE)
    return measure(published, get_protocol(published.protocol).top_k)


def stated_otherwise(folder: str | Path, figures: dict[str, Any]) -> list[str]:
    """Name the figures, of `row_from_codes`, that results.json states otherwise by more than rounding."""
    rows = read_json(Results, Path(folder) / "results.json").rows
    row = next((row for row in rows if row.protocol == figures["protocol"]), None)
    stated = row.model_dump() if row else {}
    return [key for key, value in figures.items() if not _close(value, stated.get(key))]


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 5e-6
    return bool(one == other)


def write_results(folder: str | Path, row: ResultRow, published: PublishedCodes) -> None:
    """Write a row into results.json (in place of one under the same protocol), codes.parquet, the curve and the card."""
    folder = Path(folder)
    results = read_json(Results, folder / "results.json")
    rows = tuple(old for old in results.rows if old.protocol != row.protocol)
    first = row.protocol == results.training.protocol
    rows = (row, *rows) if first else (*rows, row)
    repeats = repeats_of(results.training, rows[0], results.repeats)  # those of an older recipe or copy go
    write_text(
        folder / "results.json",
        results.model_copy(update={"rows": rows, "repeats": repeats}).model_dump_json(indent=1) + "\n",
    )
    if first:  # the card's number is the one whose codes are kept
        write_codes(folder / CODES_FILE, published)
        plot_curves(folder / "pr-curve.png", row)
    write_card(folder)


def check_repeat(folder: str | Path, run: str | Path) -> None:
    """Refuse a run that is no repeat of the model in `folder`: the same recipe with another seed.

    Raises:
        ConfigError: the recipes differ in more than the seed, or not in the seed, or the model has no result of its own.
    """
    folder, run = Path(folder), Path(run)
    results, other = (read_json(Results, path / "results.json") for path in (folder, run))
    ours, theirs = (read_toml(path / "recipe.toml") for path in (folder, run))
    if other.training.seed == results.training.seed:
        raise ConfigError(f"{run} has the seed of {folder}, {other.training.seed}; train it with another --seed.")
    differing = [key for key in sorted(ours | theirs) if key != "seed" and ours.get(key) != theirs.get(key)]
    if differing:
        raise ConfigError(
            f"The recipes of {run} and {folder} differ in {differing[0]!r}; "
            f"`hashzoo train {folder}/recipe.toml --seed {other.training.seed}` repeats a model's."
        )
    if other.training.data_copy != results.training.data_copy:
        raise ConfigError(
            f"{run} was trained on another copy of the data than {folder}: {other.training.data_copy}, not "
            f"{results.training.data_copy}; train it on that one."
        )
    if not results.rows or results.rows[0].protocol != other.training.protocol:
        raise ConfigError(
            f"{folder} has no result under {other.training.protocol}; `hashzoo eval --update` makes it first."
        )


def write_repeat(folder: str | Path, run: str | Path, row: ResultRow) -> None:
    """Write another seed's row into results.json and the card of the model in `folder`.

    Args:
        folder: the model's, with a result of its own.
        run: the other seed's folder, see `check_repeat`.
        row: of `run`, under the protocol of training; takes the place of one of the same seed.

    Raises:
        ConfigError: it is no repeat.
    """
    check_repeat(folder, run)
    folder = Path(folder)
    results, other = (read_json(Results, Path(path) / "results.json") for path in (folder, run))
    if row.data_copy != results.rows[0].data_copy:
        raise ConfigError(
            f"{run} was measured on another copy of the data than {folder}: {row.data_copy}, not {results.rows[0].data_copy}; "
            "measure both on one."
        )
    runs = [old for old in results.repeats if old.row.seed != row.seed] + [Repeat(training=other.training, row=row)]
    repeats = tuple(sorted(runs, key=lambda repeat: repeat.row.seed))
    write_text(
        folder / "results.json", results.model_copy(update={"repeats": repeats}).model_dump_json(indent=1) + "\n"
    )
    write_card(folder)


def _round(value: float) -> float:
    return round(float(value), 6)


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else _round(value) for value in values)
