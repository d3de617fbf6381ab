"""mAP and its kin, from codes and labels alone.

Hamming distances tie by the thousand, so a ranking is only fixed up to the order inside each distance, and that order
can move mAP by points. Nothing here depends on it: one pass counts, for each query and each distance, the items and the
relevant items (`distance_histograms`), and each ranking metric is its exact expectation when ties are in random order.
`deephash_map` is the one exception, for comparison with published numbers.

Relevance is the field's rule: the same class, or for multi-label data at least one label in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError, ConfigError, DataError

_ROWS = 1 << 16  # codes put in order at a time
_CELLS = 1 << 22  # query-database pairs whose relevance, or ranking, is held at once


@dataclass(frozen=True, eq=False)
class Histograms:
    """What lies at each Hamming distance from each query: all that the ranking metrics need.

    Attributes:
        items: int64 (Q, K + 1), database items at distance 0..K; each row sums to the size of the database.
        relevant: int64 (Q, K + 1), the relevant ones among them.
    """

    items: NDArray[np.int64]
    relevant: NDArray[np.int64]


def distance_histograms(
    query: Codes, database: Codes, query_labels: NDArray[Any], database_labels: NDArray[Any]
) -> Histograms:
    """Count items and relevant items at each Hamming distance, in memory that does not grow with Q x N.

    Args:
        query: Q codes.
        database: N codes of the same length.
        query_labels: integer (Q,) classes, or bool or 0/1 (Q, C) labels.
        database_labels: the same for the N items.

    Raises:
        CodesError: there are no codes, or their lengths differ.
        DataError: labels do not fit the codes or each other.

    >>> query, database = Codes.from_bits(np.zeros((1, 4))), Codes.from_bits(np.eye(3, 4, k=-1))
    >>> found = distance_histograms(query, database, np.array([7]), np.array([7, 7, 1]))
    >>> found.items, found.relevant
    (array([[1, 2, 0, 0, 0]]), array([[1, 1, 0, 0, 0]]))
    """
    _check_codes(query, database)
    query_keys, database_keys = _label_keys(query_labels, len(query), database_labels, len(database))
    from hashzoo.search.cpu import CpuCodes

    held = CpuCodes(len(database), database.bits)
    if database_keys.ndim == 1:  # class by class, most blocks of codes hold nothing relevant, and need no second count
        order = np.argsort(database_keys)
        for start in range(0, len(database), _ROWS):
            held.put(start, database.packed[order[start : start + _ROWS]])
        del order  # as large as all that is held
        database_keys = np.sort(database_keys)
    else:
        held.put(0, database.packed)
    kinds, kind = np.unique(query_keys, axis=0, return_inverse=True)  # queries with the same labels share relevance
    counts = np.empty((2, len(query), query.bits + 1), dtype=np.int64)
    step = max(1, _CELLS // len(database))
    for first in range(0, len(kinds), step):
        rows = np.flatnonzero((kind >= first) & (kind < first + step))
        relevant = _relevance(kinds[first : first + step], database_keys)
        counts[:, rows] = held.histograms(query.packed[rows], relevant, kind[rows] - first)
    return Histograms(*counts)


def relevance(query_labels: NDArray[Any], database_labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which database items are relevant to which query, as bool (Q, N): same class, or a label in common.

    Labels are integer (Q,) and (N,), or bool or 0/1 (Q, C) and (N, C). An item without any is relevant to nothing.

    Raises:
        DataError: labels are of another kind, or of two kinds.

    >>> relevance(np.array([3]), np.array([3, 5]))
    array([[ True, False]])
    >>> relevance(np.array([[1, 0, 1]]), np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]]))
    array([[ True, False, False]])
    """
    return _relevance(*_label_keys(query_labels, len(query_labels), database_labels, len(database_labels)))


def average_precision(histograms: Histograms, top_k: int | None = None) -> NDArray[np.float64]:
    """Compute each query's expected AP@K over random orders of tied items, as float64 (Q,).

    AP@K is the mean of the precision at the ranks of the relevant items found in the top K (the field's denominator:
    neither all relevant items nor K). A query that finds none has AP 0. The value is exact: over a whole bucket it is
    the closed form of McSherry & Najork, "Computing information retrieval performance measures efficiently in the
    presence of tied scores" (ECIR 2008); where rank K cuts a bucket, the number of relevant items that make the cut is
    hypergeometric, and given that number the closed form holds for the part taken.

    Raises:
        ConfigError: `top_k` (K; None for the whole database) is less than 1.

    >>> once = Histograms(items=np.array([[1, 2, 0, 0, 0]]), relevant=np.array([[1, 1, 0, 0, 0]]))
    >>> average_precision(once)  # rank 1 is relevant, and so is rank 2 or 3: (1 + (2/2 + 2/3) / 2) / 2
    array([0.91666667])
    """
    size = int(histograms.items[0].sum())
    limit = size if top_k is None else min(_check_rank(top_k), size)
    rows = range(0, len(histograms.items), 1024)  # so many at a time stay in the cache
    parts = [(histograms.items[row : row + 1024], histograms.relevant[row : row + 1024]) for row in rows]
    return np.concatenate([_average_precision(items, relevant, limit) for items, relevant in parts])


def mean_average_precision(histograms: Histograms, top_k: int | None = None) -> float:
    """Compute mAP@K, from 0 to 1: the mean of `average_precision` over all queries, those that find nothing included.

    >>> twice = Histograms(items=np.array([[1, 1], [1, 1]]), relevant=np.array([[0, 1], [0, 0]]))
    >>> mean_average_precision(twice), mean_average_precision(twice, top_k=1)
    (0.25, 0.0)
    """
    return float(average_precision(histograms, top_k).mean())


def cosine_map(
    query: NDArray[np.float32],
    database: NDArray[np.float32],
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    top_k: int | None = None,
) -> float:
    """Compute mAP@K of features ranked by cosine: what codes are measured against, to see what hashing costs.

    AP@K has the denominator of `average_precision`. Cosines hardly ever tie; those that do are taken in any order.

    Args:
        query: float32 (Q, D).
        database: float32 (N, D).
        query_labels: as `relevance` takes them.
        database_labels: likewise.
        top_k: K; None for the whole database.

    Raises:
        ConfigError: `top_k` is less than 1.
        DataError: labels are of another kind, or of two kinds.

    >>> database = np.array([[1, 0.1], [1, 0.5], [0.1, 1]], dtype=np.float32)
    >>> cosine_map(database[:1] * 7, database, np.array([3]), np.array([3, 5, 3]))  # ranks 1 and 3: (1 + 2/3) / 2
    0.8333333333333333
    """
    limit = len(database) if top_k is None else min(_check_rank(top_k), len(database))
    keys = _label_keys(query_labels, len(query), database_labels, len(database))
    query = query / np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-12)
    database = database / np.maximum(np.linalg.norm(database, axis=1, keepdims=True), 1e-12)
    ranks = np.arange(1, limit + 1)
    values = []
    for start in range(0, len(query), 256):
        rows = slice(start, start + 256)
        away = -(query[rows] @ database.T)
        nearest = np.argpartition(away, limit - 1, axis=1)[:, :limit] if limit < len(database) else None
        if nearest is not None:
            away = np.take_along_axis(away, nearest, axis=1)
        order = np.argsort(away, axis=1)
        order = order if nearest is None else np.take_along_axis(nearest, order, axis=1)
        relevant = np.take_along_axis(_relevance(keys[0][rows], keys[1]), order, axis=1)
        precision = np.cumsum(relevant, axis=1) / ranks
        values.append((precision * relevant).sum(1) / np.maximum(relevant.sum(1), 1))
    return float(np.concatenate(values).mean())


def deephash_map(
    query: Codes,
    database: Codes,
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    top_k: int | None = None,
    seed: int = 0,
) -> float:
    """Compute mAP@K, from 0 to 1, as the usual script of deep hashing papers does: on one ranking, ties as they fall.

    The database is shuffled with `seed`, then sorted by distance, stably. AP@K is as in `average_precision`; a query
    that finds nothing adds 0. It differs from `CalcTopMap` of swuxyj/DeepHash-pytorch in two points: that one sorts the
    database in the order given and unstably, so that ties fall by that order and by numpy's version, and with topK = -1
    it slices `[0:-1]`, which leaves out the last item.

    Raises:
        CodesError, DataError: as `distance_histograms`.
        ConfigError: `top_k` is less than 1.

    >>> query, database = Codes.from_bits(np.zeros((1, 4))), Codes.from_bits(np.tri(3, 4, k=-1))
    >>> deephash_map(query, database, np.array([7]), np.array([7, 1, 7]))  # no ties: (1/1 + 2/3) / 2
    0.8333333333333333
    """
    limit = len(database) if top_k is None else min(_check_rank(top_k), len(database))
    _check_codes(query, database)
    query_keys, database_keys = _label_keys(query_labels, len(query), database_labels, len(database))
    from hashzoo.search import hold

    shuffle = np.random.default_rng(seed).permutation(len(database))
    held, database_keys = hold([database.packed[shuffle]], len(database), database.bits), database_keys[shuffle]
    total = 0.0
    step = max(1, _CELLS // len(database))
    for first in range(0, len(query), step):
        rankings = held.top_k(query.packed[first : first + step], limit)[1]
        for row, ranking in enumerate(rankings, start=first):
            ranks = 1 + np.flatnonzero(_relevance(query_keys[row : row + 1], database_keys)[0][ranking])
            if len(ranks):
                total += float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return total / len(query)


def precision_at(histograms: Histograms, n: Sequence[int]) -> NDArray[np.float64]:
    """Compute P@N for each N in `n`, as float64 (len(n),): the expected fraction of relevant items in the top N.

    The mean is over all queries; a bucket that rank N cuts counts in proportion.

    Raises:
        ConfigError: an N is less than 1.
        DataError: an N is larger than the database.

    >>> once = Histograms(items=np.array([[1, 2, 0]]), relevant=np.array([[1, 1, 0]]))
    >>> precision_at(once, [1, 2, 3])
    array([1.        , 0.75      , 0.66666667])
    """
    size = int(histograms.items[0].sum())
    density = histograms.relevant / np.maximum(histograms.items, 1)
    before = np.cumsum(histograms.items, axis=1) - histograms.items
    result = np.empty(len(n))
    for place, top in enumerate(n):
        if _check_rank(top) > size:
            raise DataError(f"P@{top} needs a database of {top} items, but it has {size}; ask for a smaller N.")
        taken = np.clip(top - before, 0, histograms.items)
        result[place] = (density * taken).sum(axis=1).mean() / top
    return result


class PRCurve(NamedTuple):
    """Mean precision and mean recall at each Hamming radius, both float64 (K + 1,); the index is the radius."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def pr_curve(histograms: Histograms) -> PRCurve:
    """Compute the curve of hash lookup: what a query gets that returns all items within radius 0, 1, ..., K.

    Precision is averaged over the queries that return something at that radius, recall over the queries that have a
    relevant item in the database; where there are no such queries the value is NaN. (The other curve of the field, over
    ranks, needs an order of ties; this one does not.)

    >>> twice = Histograms(items=np.array([[1, 2], [0, 3]]), relevant=np.array([[1, 1], [0, 0]]))
    >>> pr_curve(twice)
    PRCurve(precision=array([1.        , 0.33333333]), recall=array([0.5, 1. ]))
    """
    everything = histograms.relevant.sum(axis=1)
    returned, hits = np.zeros_like(everything), np.zeros_like(everything)
    curve = np.empty((2, histograms.items.shape[1]))
    for radius in range(curve.shape[1]):
        returned += histograms.items[:, radius]
        hits += histograms.relevant[:, radius]
        curve[:, radius] = _mean_ratio(hits, returned), _mean_ratio(hits, everything)
    return PRCurve(*curve)


def precision_within(histograms: Histograms, radius: int = 2) -> float:
    """Compute P@H<=radius, from 0 to 1: the mean fraction of relevant items among those within the Hamming radius.

    The mean is over all queries; one that returns nothing counts 0.

    Raises:
        ConfigError: `radius` is not from 0 to K.

    >>> twice = Histograms(items=np.array([[1, 2, 0], [0, 0, 3]]), relevant=np.array([[1, 1, 0], [0, 0, 3]]))
    >>> precision_within(twice, radius=0), precision_within(twice, radius=2)
    (0.5, 0.8333333333333333)
    """
    bits = histograms.items.shape[1] - 1
    if not 0 <= radius <= bits:
        raise ConfigError(f"A Hamming radius is a whole number from 0 to the {bits} bits of the codes, not {radius}.")
    returned, hits = (counts[:, : radius + 1].sum(axis=1) for counts in (histograms.items, histograms.relevant))
    return float((hits / np.maximum(returned, 1)).mean())


@dataclass(frozen=True)
class CodeHealth:
    """How well a set of codes uses its bits, whatever the labels.

    Attributes:
        mean_bias: mean over the bits of |mean of the bit as -1 or +1|; 0 when each bit is set for half of the items.
        worst_bias: the largest of them; 1 for a dead bit.
        dead_bits: how many bits are the same for all items.
        mean_correlation: mean |Pearson correlation| over pairs of living bits; 0 when there is no pair.
        distinct_codes: how many different codes there are.
        collision_rate: the probability that two different items, drawn at random, have the same code.
        entropy_bits: Shannon entropy of the codes' frequencies, in bits; at most K and at most log2 of the item count.
        effective_bits: participation ratio (sum of e)^2 / (sum of e^2) of the eigenvalues e of the living bits'
            correlation matrix: K for K uncorrelated bits, 1 for copies of one bit, 0 when all bits are dead.
    """

    mean_bias: float
    worst_bias: float
    dead_bits: int
    mean_correlation: float
    distinct_codes: int
    collision_rate: float
    entropy_bits: float
    effective_bits: float


def code_health(codes: Codes) -> CodeHealth:
    """Measure balance, correlation and collisions of a set of codes (usually a whole database).

    Raises:
        CodesError: there are no codes.

    >>> code_health(Codes.from_bits([[0, 0, 0, 1], [0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]))
    CodeHealth(mean_bias=0.25, worst_bias=1.0, dead_bits=1, mean_correlation=0.33..., distinct_codes=4,
               collision_rate=0.0, entropy_bits=2.0, effective_bits=1.8)
    """
    size = len(codes)
    if not size:
        raise CodesError("There are no codes to measure; give at least one.")
    sums, products = np.zeros(codes.bits), np.zeros((codes.bits, codes.bits))
    rows = (1 << 22) // codes.bits  # signs take 16 MiB at once, and float32 sums of so few are exact
    for top in range(0, size, rows):
        signs = codes[top : top + rows].to_bits().astype(np.float32) * 2 - 1
        sums += signs.sum(axis=0)
        products += signs.T @ signs
    bias = np.abs(sums) / size
    living = bias < 1
    mean = sums[living] / size
    deviation = np.sqrt(1 - mean**2)
    correlation = (products[np.ix_(living, living)] / size - np.outer(mean, mean)) / np.outer(deviation, deviation)
    np.fill_diagonal(correlation, 1)
    alive = len(mean)
    # The eigenvalues of a correlation matrix sum to its size, and their squares to its squared Frobenius norm.
    effective = alive**2 / (correlation**2).sum() if alive else 0.0
    counts = np.unique(codes.packed, axis=0, return_counts=True)[1]
    return CodeHealth(
        mean_bias=float(bias.mean()),
        worst_bias=float(bias.max()),
        dead_bits=codes.bits - alive,
        mean_correlation=float((np.abs(correlation).sum() - alive) / max(alive * (alive - 1), 1)),
        distinct_codes=len(counts),
        collision_rate=float((counts * (counts - 1)).sum() / max(size * (size - 1), 1)),
        entropy_bits=float((counts / size * np.log2(size / counts)).sum()),
        effective_bits=float(effective),
    )


def _average_precision(items: NDArray[np.int64], relevant: NDArray[np.int64], limit: int) -> NDArray[np.float64]:
    """Compute the expected AP in the top `limit`, float64 (Q,), from int64 (Q, K + 1) counts."""
    ends = np.cumsum(items, axis=1)
    before, relevant_before = ends - items, np.cumsum(relevant, axis=1) - relevant
    precisions = _bucket_precisions(np.maximum(items, 1), relevant, before, relevant_before)
    inside = ends <= limit
    whole, hits = (precisions * inside).sum(axis=1), (relevant * inside).sum(axis=1)
    result = whole / np.maximum(hits, 1)
    cut = (before < limit) & (limit < ends)  # of each query one bucket at most
    for query, last in zip(*np.nonzero(cut), strict=True):
        taken = int(limit - before[query, last])
        found, chance = _hypergeometric(int(items[query, last]), int(relevant[query, last]), taken)
        part = _bucket_precisions(taken, found, before[query, last], hits[query])
        result[query] = (chance * (whole[query] + part) / np.maximum(hits[query] + found, 1)).sum()
    return result


def _bucket_precisions(items: Any, relevant: Any, before: Any, relevant_before: Any) -> NDArray[np.float64]:
    """Sum the expected precisions at the relevant ranks of a bucket of `items` in random order; elementwise.

    Item i = 1..n is relevant with chance r/n and then has (i - 1)(r - 1)/(n - 1) relevant ones before it in the bucket,
    so the sum is of (r/n) (R0 + 1 + (i - 1) s) / (N0 + i) with s = (r - 1)/(n - 1). Writing i - 1 as
    (N0 + i) - (N0 + 1) leaves only a difference of harmonic numbers.
    """
    slope = (relevant - 1) / np.maximum(items - 1, 1)
    span = _harmonic(before + items) - _harmonic(before)
    return relevant / items * ((relevant_before + 1 - slope * (before + 1)) * span + slope * items)


_HARMONIC = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 256))])


def _harmonic(n: Any) -> NDArray[np.float64]:
    """Compute 1 + 1/2 + ... + 1/n elementwise: a table, and from 256 the Euler-Maclaurin series (error < 1e-16)."""
    large = np.maximum(n, 256).astype(np.float64)
    series = np.log(large) + np.euler_gamma + 1 / (2 * large) - 1 / (12 * large**2) + 1 / (120 * large**4)
    return np.where(n < 256, _HARMONIC[np.minimum(n, 255)], series)


def _hypergeometric(items: int, relevant: int, taken: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """List the possible numbers of relevant items among `taken` random ones, and the chance of each."""
    hits = np.arange(max(0, taken - (items - relevant)), min(taken, relevant) + 1)
    low = hits[:-1]
    # Chances by the ratio of neighbours, in logarithms: the factorials themselves overflow.
    ratio = (relevant - low) * (taken - low) / ((low + 1) * (items - relevant - taken + low + 1))
    log_chance = np.concatenate([[0.0], np.cumsum(np.log(ratio))])
    chance = np.exp(log_chance - log_chance.max())
    return hits, chance / chance.sum()


def _mean_ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    """Average part / whole over the places where `whole` is not 0; NaN if there are none."""
    some = whole > 0
    return float((part[some] / whole[some]).mean()) if some.any() else float("nan")


def _check_rank(rank: int) -> int:
    if rank < 1:
        raise ConfigError(f"A ranking is cut at a whole number from 1, not {rank}.")
    return rank


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """View uint8 (N, B) rows, padded with zeros, as uint64 (N, ceil(B/8)); word by word contiguous."""
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.asfortranarray(np.ascontiguousarray(padded).view(np.uint64))


def _check_codes(query: Codes, database: Codes) -> None:
    if query.bits != database.bits:
        raise CodesError(f"Codes of {query.bits} and {database.bits} bits cannot be compared; use those of one model.")
    for name, codes in (("query", query), ("database", database)):
        if not len(codes):
            raise CodesError(f"There are no {name} codes; give at least one.")


def _label_keys(query: Any, queries: int, database: Any, items: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check labels and make them quick to compare: int64 (N,) classes, or uint64 (N, W) words of label bits."""
    query, database = np.asarray(query), np.asarray(database)
    for name, labels, size in (("query", query, queries), ("database", database, items)):
        classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if not classes and not (labels.ndim == 2 and np.isin(labels, (0, 1)).all()):
            found = f"{labels.dtype} {labels.shape}"
            raise DataError(f"The {name} labels are {found}; give integer classes (N,) or 0/1 labels (N, C).")
        if len(labels) != size:
            raise DataError(f"There are {size} {name} codes but {len(labels)} {name} labels; each code needs its own.")
    if query.shape[1:] != database.shape[1:]:
        raise DataError(f"Query labels {query.shape} and database labels {database.shape} are of different kinds.")
    if query.ndim == 1:
        return query.astype(np.int64, copy=False), database.astype(np.int64, copy=False)
    return _words(np.packbits(query != 0, axis=1)), _words(np.packbits(database != 0, axis=1))


def _relevance(query: NDArray[Any], database: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare label keys of `_label_keys`: bool (Q, N)."""
    if query.ndim == 1:
        return query[:, None] == database
    shared = np.zeros((len(query), len(database)), dtype=bool)
    for word in range(query.shape[1]):
        shared |= (query[:, word, None] & database[:, word]) != 0
    return shared
