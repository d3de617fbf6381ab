"""From a model and a protocol to a row of results and the codes behind it; nothing is written."""

from __future__ import annotations

import time
from pathlib import Path

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
from hashzoo.errors import ConfigError, DataError, WeightsError
from hashzoo.evaluation.measure import measure
from hashzoo.features import backbone_features
from hashzoo.machine import choose_device
from hashzoo.network import HashNetwork
from hashzoo.precision import Precision
from hashzoo.pretrained import HashModel, open_model
from hashzoo.zoo.folder import open_folder
from hashzoo.zoo.names import locate
from hashzoo.zoo.published_codes import FILE as CODES_FILE
from hashzoo.zoo.published_codes import PublishedCodes, read_codes
from hashzoo.zoo.results import Figures, ResultRow, Results

PRECISION: Precision = "float32"  # of the network


def evaluate(
    model: HashModel | str | Path,
    protocol: str | None = None,
    *,
    device: str | None = None,
    pool: ImagePool | None = None,
    float_cosine: bool = False,
) -> ResultRow:
    """Measure a model under a protocol; `hashzoo eval` does the same, and can write the row into the model's folder.

    Args:
        model: as `hashzoo.load` or `hashzoo.train` gives it, its folder as a `Path`, or its name.
        protocol: default the one it was trained under.
        device: "cpu" or "cuda", in float32 on both; default CUDA where there is one.
        pool: the data set, if it is loaded already.
        float_cosine: also measure the backbone's features themselves, ranked by cosine.

    Returns:
        All figures of the model's codes: mAP, P@N, the PR curve, code health, with what they rest on.

    Raises:
        DataError: the data set is missing, its lists are not the protocol's, or the model was trained under another one, on
            queries of this, or where this keeps classes out of training.
        WeightsError: the model's weights are no longer those of its folder.
        HashzooError: there is no such model, protocol or device.
    """
    if isinstance(model, HashModel):
        folder = model.folder
        _refuse_changed_weights(model)
    else:
        folder = locate(model).folder if isinstance(model, str) else model
    results = read_json(Results, folder / "results.json")
    row, _ = run_protocol(folder, results, protocol, device=device, pool=pool, float_cosine=float_cosine)
    return row


def run_protocol(
    folder: Path,
    results: Results,
    protocol: str | None = None,
    *,
    device: str | None = None,
    pool: ImagePool | None = None,
    float_cosine: bool = False,
) -> tuple[ResultRow, PublishedCodes]:
    """Encode a protocol's queries and database with a folder's model, and measure.

    A model whose recipe froze its backbone takes that backbone's features from the cache (see `hashzoo.features`).

    Args:
        folder: a model's.
        results: its results.json, whose training facts say what it was trained on.
        protocol: as in `evaluate`, and so are `device`, `pool`, `float_cosine` and what is raised.
        device: as there.
        pool: as there.
        float_cosine: as there.
    """
    rule, training = get_protocol(protocol or results.trained.protocol), results.trained
    device = choose_device(device)
    model = open_model(folder)
    config = model.config
    if rule.unseen and rule.name != training.protocol:
        raise DataError(
            f"{config.name} was trained under {training.protocol} and may have seen the classes that {rule.name} "
            f"keeps out of training; train it under {rule.name}."
        )
    pool = pool or open_pool(_own_dataset(folder, config) if rule.dataset == "*" else rule.dataset)
    lists = make_lists(rule, pool)
    _refuse_seen_queries(folder, config, results, pool, rule, lists)
    model = model.to(device).to(memory_format=torch.channels_last)
    began = time.monotonic()
    published, images_per_s = encode_protocol(model, rule.name, pool, lists, cached=training.frozen)
    figures = measure(published, rule.top_k)
    row = ResultRow(
        **dict(figures),
        dataset=pool.name,
        map_float_cosine=feature_map(model, pool, lists, rule.top_k) if float_cosine else None,
        list_sha256=lists.sha256(),
        unseen=rule.unseen,
        ties="expected",
        seed=training.seed,
        data_copy=pool.copy,
        weights_sha256=config.weights_sha256,
        device=provenance.device_name(device),
        precision=PRECISION,
        seconds=round(time.monotonic() - began, 1),
        images_per_s=None if images_per_s is None else round(images_per_s, 1),
        commit=provenance.commit(),
    )
    return row, published


def figures_from_codes(folder: str | Path) -> Figures:
    """Recompute a card's figures from its codes.parquet: no data set, no network, no weights."""
    published = read_codes(Path(folder) / CODES_FILE)
    return measure(published, get_protocol(published.protocol).top_k)


def _refuse_changed_weights(model: HashModel) -> None:
    """Refuse a model that was trained on since it was loaded: a row names the weights of the folder."""
    stored = open_folder(model.folder).state_dict()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor.cpu(), stored[name])]
    if changed:
        raise WeightsError(
            f"{changed[0]} of {model.name} is no longer that of {model.folder}; save the model to a folder of its own first."
        )


def _refuse_seen_queries(
    folder: Path, config: ModelConfig, results: Results, pool: ImagePool, rule: Protocol, lists: Lists
) -> None:
    """Refuse a model that was trained on queries, told by their pixels where the data set has another name.

    A data set that this machine does not hold, and that the model only names, cannot be looked at.
    """
    own = _own_dataset(folder, config)
    history = ((own, results.trained.protocol), *results.trained.seen)
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


def _own_dataset(folder: Path, config: ModelConfig) -> str:
    """The model's data set, as the recipe of the run says it, beside the model's folder, where that is the run's."""
    try:
        run = read_toml(folder.parent / "recipe.toml")
    except ConfigError:
        return config.dataset or ""
    ours = run.get("name") == config.name and public_name(str(run.get("dataset"))) == config.dataset
    if not ours or run["dataset"] == config.dataset in dataset_names():
        return config.dataset or ""
    return str(Path(run["dataset"]).absolute())


def encode_protocol(
    model: HashNetwork, protocol: str, pool: ImagePool, lists: Lists, *, cached: bool = False
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
            with model.encoding(PRECISION) as network:
                u = network.from_features(known[torch.from_numpy(chunk)].to(model.device)).u.cpu()
        else:
            batch = pool.fitted(chunk, model.preprocess)
            began = time.monotonic()
            u = model.relaxed(batch, PRECISION)
            network_seconds += time.monotonic() - began
        rows.append(np.packbits(u.numpy() >= 0, axis=1))
    packed = np.concatenate(rows)
    codes = {
        split: Codes(packed[np.searchsorted(needed, wanted)], model.bits, model.name, model.weights_id, PRECISION)
        for split, wanted in positions.items()
    }
    labels = {split: pool.labels[wanted] for split, wanted in positions.items()}
    speed = len(needed) / network_seconds if network_seconds else None
    return PublishedCodes(protocol, codes, labels, positions, pool.classes), speed


def feature_map(model: HashNetwork, pool: ImagePool, lists: Lists, top_k: int | None) -> float:
    """Measure the backbone's features, averaged over positions, by `hashzoo.metrics.cosine_map`."""
    known = backbone_features(model, pool, np.arange(len(pool)))
    vectors = (known.mean((2, 3)) if known.ndim == 4 else known).numpy()
    query, database = lists.query, lists.database
    return metrics.cosine_map(vectors[query], vectors[database], pool.labels[query], pool.labels[database], top_k)
