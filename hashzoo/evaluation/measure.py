"""From codes and labels to figures: no data set, no network, no file."""

from __future__ import annotations

from typing import Any

from hashzoo import metrics
from hashzoo.zoo.published_codes import PublishedCodes
from hashzoo.zoo.results import Figures, Results

PRECISION_AT = (1, 10, 100, 1000)


def measure(published: PublishedCodes, top_k: int | None) -> Figures:
    """Compute every figure that follows from codes and labels alone.

    Args:
        published: the codes and labels of a protocol's query and database lists.
        top_k: K of the protocol's mAP@K; None for the whole database.

    >>> from hashzoo.zoo.names import shipped_folder
    >>> from hashzoo.zoo.published_codes import read_codes
    >>> figures = measure(read_codes(shipped_folder() / "dsbh-cnn3-cifar10-48bit.5k" / "codes.parquet"), top_k=None)
    >>> figures.queries, round(figures.map, 2)
    (1000, 0.4...)
    """
    query, database = published.codes["query"], published.codes["database"]
    assert query.model is not None  # a published file names its model
    labels = published.labels["query"], published.labels["database"]
    histograms = metrics.distance_histograms(query, database, *labels)
    curve = metrics.pr_curve(histograms)
    depths = [n for n in PRECISION_AT if n <= len(database)]
    return Figures(
        model=query.model,
        bits=query.bits,
        protocol=published.protocol,
        queries=len(query),
        database=len(database),
        top_k=top_k,
        map=metrics.mean_average_precision(histograms, top_k),
        map_deephash=metrics.deephash_map(query, database, *labels, top_k=top_k),
        precision_at=dict(zip(depths, metrics.precision_at(histograms, depths), strict=True)),
        precision_within_2=metrics.precision_within(histograms),
        pr_precision=tuple(curve.precision),
        pr_recall=tuple(curve.recall),
        health=metrics.code_health(database),
    )


def find_mismatches(figures: Figures, results: Results) -> list[str]:
    """Return the names of recomputed figures that disagree with results.json, beyond rounding.

    Args:
        figures: recomputed from a model's codes.parquet.
        results: what the model's results.json says.
    """
    row = next((row for row in results.rows if row.protocol == figures.protocol), None)
    stated = row.model_dump() if row else {}
    return [name for name, value in figures.model_dump().items() if not _is_close(value, stated.get(name))]


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 5e-6
    return bool(one == other)
