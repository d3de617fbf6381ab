"""Every metric against a slow and obvious one: double loops, and brute force over all orders of tied items."""

import itertools
import math
import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from hashzoo import metrics
from hashzoo.codes import Codes
from hashzoo.errors import CodesError, ConfigError, DataError, HashzooError
from hashzoo.metrics import (
    Histograms,
    average_precision,
    code_health,
    cosine_map,
    deephash_map,
    distance_histograms,
    mean_average_precision,
    pr_curve,
    precision_at,
    precision_within,
    relevance,
)

BITS = [4, 8, 12, 48, 64, 65, 100, 1024]


def random_codes(rng, count, bits):
    return Codes.from_bits(rng.random((count, bits)) < 0.5)


def tied_codes(rng, count, bits, spread=3):
    """Codes that differ from 0 in fewer than `spread` bits, at both ends, so that distances from 0 tie."""
    array = np.zeros((count, bits), dtype=bool)
    for row, ones in zip(array, rng.integers(0, spread, count), strict=True):
        row[rng.choice(bits, ones, replace=False)] = True
    return Codes.from_bits(array)


def random_labels(rng, count, kind):
    if kind == "classes":
        return rng.integers(-1, 3, count)
    return (rng.random((count, 11)) < 0.15).astype(kind)


def slow_distances(query, database):
    rows, columns = query.to_bits().tolist(), database.to_bits().tolist()
    return [[sum(a != b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]


def slow_relevance(query_labels, database_labels):
    def related(a, b):
        if np.ndim(a) == 0:
            return bool(a == b)
        return any(x == 1 and y == 1 for x, y in zip(a, b, strict=True))

    return [[related(a, b) for b in database_labels] for a in query_labels]


def slow_ap(ranked, top_k):
    """AP over relevant items found in the top K, of one ranking of booleans."""
    hits, total = 0, 0.0
    for rank, hit in enumerate(ranked[:top_k], start=1):
        if hit:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def slow_precision(ranked, top_k):
    return sum(ranked[:top_k]) / top_k


def expected(metric, distances, related, cuts):
    """Mean of `metric` at each cut over all orders of the database, each sorted stably by distance."""
    orders = list(itertools.permutations(range(len(distances))))
    totals = [0.0] * len(cuts)
    for order in orders:
        ranked = [related[item] for item in sorted(order, key=distances.__getitem__)]
        for place, cut in enumerate(cuts):
            totals[place] += metric(ranked, cut)
    return [total / len(orders) for total in totals]


# Histograms


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["classes", "bool", "int64", "float32"])
def test_histograms_equal_a_double_loop(bits, kind):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 7, bits), random_codes(rng, 23, bits)
    query_labels, database_labels = random_labels(rng, 7, kind), random_labels(rng, 23, kind)
    items, relevant = np.zeros((2, 7, bits + 1), dtype=int)
    distances, related = slow_distances(query, database), slow_relevance(query_labels, database_labels)
    for row, column in itertools.product(range(7), range(23)):
        items[row, distances[row][column]] += 1
        relevant[row, distances[row][column]] += related[row][column]
    assert 0 < relevant.sum() < items.sum()

    found = distance_histograms(query, database, query_labels, database_labels)
    assert found.items.dtype == found.relevant.dtype == np.int64
    np.testing.assert_array_equal(found.items, items)
    np.testing.assert_array_equal(found.relevant, relevant)
    np.testing.assert_array_equal(relevance(query_labels, database_labels), related)


def test_distance_may_be_the_full_length():
    for bits in BITS:
        zeros, ones = Codes.from_bits(np.zeros((1, bits))), Codes.from_bits(np.ones((1, bits)))
        assert distance_histograms(zeros, ones, np.array([0]), np.array([0])).relevant[0, bits] == 1


def test_labels_past_the_first_word_count():
    query, database = np.zeros((1, 130)), np.zeros((4, 130))
    query[0, [5, 129]] = database[0, 129] = database[1, 6] = database[2, 5] = 1
    assert relevance(query, database).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("pairs", [1, 2, 7, 64, 200, 1000])
@pytest.mark.parametrize("kind", ["classes", "bool"])
def test_histograms_do_not_depend_on_the_tile(monkeypatch, pairs, kind):
    rng = np.random.default_rng(5)
    data = (random_codes(rng, 31, 12), random_codes(rng, 53, 12))
    labels = (random_labels(rng, 31, kind), random_labels(rng, 53, kind))
    whole = distance_histograms(*data, *labels)
    monkeypatch.setattr(metrics, "_CELLS", pairs)
    tiled = distance_histograms(*data, *labels)
    np.testing.assert_array_equal(tiled.items, whole.items)
    np.testing.assert_array_equal(tiled.relevant, whole.relevant)


@pytest.mark.parametrize(
    ("queries", "items", "bits", "limit"),
    [(300, 200_000, 48, 12e6), (30_000, 300, 4, 16e6), (4, 2_000_000, 48, 40e6)],
)
def test_memory_stays_bounded(queries, items, bits, limit):
    # Codes, labels and counts take most of it; a byte for each pair would take 60, 9 and 8 MB more.
    rng = np.random.default_rng(0)
    query, database = random_codes(rng, queries, bits), random_codes(rng, items, bits)
    labels = rng.integers(0, 10, queries), rng.integers(0, 10, items)
    distance_histograms(query, database, *labels)  # compiling takes memory too
    tracemalloc.start()
    distance_histograms(query, database, *labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit


# mAP


def test_the_worked_example():
    # Distances 0, 1, 1, 2 with the relevant items at 0, one of the 1s, and 2.
    database = Codes.from_bits([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
    histograms = distance_histograms(Codes.from_bits(np.zeros((1, 4))), database, np.array([1]), np.array([1, 0, 1, 1]))
    assert mean_average_precision(histograms) == pytest.approx((1 + (1 + 2 / 3) / 2 + 3 / 4) / 3)
    assert mean_average_precision(histograms, top_k=1) == 1
    assert mean_average_precision(histograms, top_k=2) == 1  # (1 + 1) / 2 or 1 / 1
    assert mean_average_precision(histograms, top_k=3) == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)


@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize("kind", ["classes", "bool"])
@pytest.mark.parametrize("seed", range(3))
def test_expectations_equal_brute_force_over_all_orders(bits, kind, seed):
    rng = np.random.default_rng([bits, seed])
    size = 7
    query, database = Codes.from_bits(np.zeros((4, bits))), tied_codes(rng, size, bits)
    query_labels, database_labels = random_labels(rng, 4, kind), random_labels(rng, size, kind)
    histograms = distance_histograms(query, database, query_labels, database_labels)
    distances, related = slow_distances(query, database), slow_relevance(query_labels, database_labels)

    cuts = range(1, size + 1)
    truth = np.array([expected(slow_ap, d, r, cuts) for d, r in zip(distances, related, strict=True)])
    for place, cut in enumerate(cuts):
        np.testing.assert_allclose(average_precision(histograms, cut), truth[:, place], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(average_precision(histograms), truth[:, -1], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(average_precision(histograms, 10**6), truth[:, -1], rtol=1e-12, atol=1e-15)
    assert mean_average_precision(histograms) == pytest.approx(truth[:, -1].mean(), rel=1e-12)

    truth = np.mean([expected(slow_precision, d, r, cuts) for d, r in zip(distances, related, strict=True)], axis=0)
    np.testing.assert_allclose(precision_at(histograms, cuts), truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("top_k", [1, 3, 4, 5, 9, 12, 13, 16])
def test_larger_buckets_equal_brute_force_over_placements(top_k):
    buckets = [(4, 1), (0, 0), (9, 4), (3, 2)]  # items, relevant; ends at ranks 4, 13, 16
    values = []
    for chosen in itertools.product(*(itertools.combinations(range(n), r) for n, r in buckets)):
        ranked = [place in places for (n, _), places in zip(buckets, chosen, strict=True) for place in range(n)]
        values.append(slow_ap(ranked, top_k))
    histograms = Histograms(*np.array(buckets).T[:, None])
    assert average_precision(histograms, top_k)[0] == pytest.approx(math.fsum(values) / len(values), rel=1e-12)


def exact_bucket(n, r, before, relevant_before):
    total = Fraction(0)
    for i in range(1, n + 1):
        share = Fraction((i - 1) * (r - 1), n - 1) if n > 1 else 0
        total += Fraction(r, n) * (relevant_before + share + 1) / (before + i)
    return total


@pytest.mark.parametrize("top_k", [260, 400, 549])
def test_a_cut_in_a_large_bucket_equals_exact_fractions(top_k):
    (n0, r0), (n, r) = (250, 40), (300, 120)
    taken, first, truth = top_k - n0, exact_bucket(n0, r0, 0, 0), Fraction(0)
    for t in range(max(0, taken - (n - r)), min(taken, r) + 1):
        chance = Fraction(math.comb(r, t) * math.comb(n - r, taken - t), math.comb(n, taken))
        truth += chance * (first + exact_bucket(taken, t, n0, r0)) / (r0 + t)
    histograms = Histograms(np.array([[n0, n]]), np.array([[r0, r]]))
    assert average_precision(histograms, top_k)[0] == pytest.approx(float(truth), rel=1e-12)


def test_huge_buckets_keep_their_precision():
    n0, r0, n, r = 3_000_000, 123_456, 400_000, 7
    i = np.arange(1, n + 1, dtype=np.longdouble)
    second = np.sum(r / np.longdouble(n) * (r0 + (i - 1) * (r - 1) / (n - 1) + 1) / (n0 + i))
    i = np.arange(1, n0 + 1, dtype=np.longdouble)
    first = np.sum(r0 / np.longdouble(n0) * ((i - 1) * (r0 - 1) / (n0 - 1) + 1) / i)
    histograms = Histograms(np.array([[n0, n]]), np.array([[r0, r]]))
    assert average_precision(histograms)[0] == pytest.approx(float((first + second) / (r0 + r)), rel=1e-11)
    assert 0.04 < average_precision(histograms, 1000)[0] < 0.06


def test_all_codes_equal_is_chance_and_one_class_is_perfect():
    same = Codes.from_bits(np.ones((40, 12)))
    labels = np.arange(40) % 4
    histograms = distance_histograms(same[:1], same, labels[:1], labels)
    assert np.flatnonzero(histograms.items[0]).tolist() == [0]
    assert mean_average_precision(histograms) == pytest.approx(float(exact_bucket(40, 10, 0, 0) / 10), rel=1e-12)
    np.testing.assert_allclose(precision_at(histograms, [1, 7, 40]), 0.25)

    rng = np.random.default_rng(1)
    query, database, ones = random_codes(rng, 3, 12), random_codes(rng, 40, 12), np.ones(40, dtype=int)
    histograms = distance_histograms(query, database, ones[:3], ones)
    for top_k in (None, 1, 5, 40):
        np.testing.assert_allclose(average_precision(histograms, top_k), 1, rtol=1e-12)
        assert deephash_map(query, database, ones[:3], ones, top_k) == 1


def test_a_query_that_finds_nothing_counts_zero():
    query, database = Codes.from_bits(np.zeros((2, 4))), Codes.from_bits([[0, 0, 0, 0], [1, 1, 1, 1]])
    labels = np.array([5, 9]), np.array([5, 6])
    histograms = distance_histograms(query, database, *labels)
    assert average_precision(histograms).tolist() == [1, 0]
    assert mean_average_precision(histograms) == deephash_map(query, database, *labels) == 0.5
    labels = np.array([6, 9]), np.array([5, 6])  # the relevant item exists, at rank 2
    histograms = distance_histograms(query, database, *labels)
    assert mean_average_precision(histograms, top_k=1) == deephash_map(query, database, *labels, top_k=1) == 0
    assert mean_average_precision(histograms) == deephash_map(query, database, *labels) == 0.25


# The usual script's rule


@pytest.mark.parametrize("kind", ["classes", "bool"])
@pytest.mark.parametrize("top_k", [None, 1, 10, 59, 60, 61])
def test_deephash_mode_equals_a_slow_loop(kind, top_k):
    rng = np.random.default_rng(3)
    query, database = tied_codes(rng, 6, 48), tied_codes(rng, 60, 48)
    labels = random_labels(rng, 6, kind), random_labels(rng, 60, kind)
    distances, related = slow_distances(query, database), slow_relevance(*labels)
    values = {}
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(60).tolist()
        rankings = [
            [r[item] for item in sorted(order, key=d.__getitem__)] for d, r in zip(distances, related, strict=True)
        ]
        values[seed] = np.mean([slow_ap(ranked, top_k) for ranked in rankings])
        assert deephash_map(query, database, *labels, top_k, seed=seed) == pytest.approx(values[seed], rel=1e-12)
    assert top_k == 1 or values[0] != values[1]
    assert deephash_map(query, database, *labels, top_k) == deephash_map(query, database, *labels, top_k, seed=0)


@pytest.mark.parametrize("top_k", [None, 1, 7, 100])
@pytest.mark.parametrize("kind", ["classes", float])
def test_cosines_equal_a_slow_loop(kind, top_k):
    rng = np.random.default_rng(5)
    query, database = (rng.normal(size=(count, 6)).astype(np.float32) for count in (300, 60))
    query[3] = 0.0  # no direction: any order is right, none must fail
    labels = random_labels(rng, 300, kind), random_labels(rng, 60, kind)
    related = slow_relevance(*labels)
    values = []
    for row, near in zip(query.tolist(), related, strict=True):
        cosines = [
            sum(a * b for a, b in zip(row, column, strict=True)) / (math.hypot(*row) or 1.0) / math.hypot(*column)
            for column in database.tolist()
        ]
        order = sorted(range(60), key=lambda item, cosines=cosines: -cosines[item])
        values.append(slow_ap([near[item] for item in order], top_k or 60))
    del values[3]
    rest = [row for row in range(300) if row != 3]
    made = cosine_map(query[rest], database, labels[0][rest], labels[1], top_k)
    assert made == pytest.approx(sum(values) / len(values), abs=1e-9)
    with np.errstate(all="raise"):
        assert 0 <= cosine_map(query, database, *labels, top_k) <= 1
    with pytest.raises(ConfigError, match="a whole number from 1, not 0"):
        cosine_map(query, database, *labels, 0)


def test_a_feature_without_direction_is_at_right_angles_to_all():
    query, database = np.array([[1, 0]], np.float32), np.array([[0, 0], [-1, 0], [1, 1]], np.float32)
    assert cosine_map(query, database, np.array([1]), np.array([1, 0, 0])) == 1 / 2  # between the near and the far one


def test_deephash_mode_varies_around_the_expectation():
    rng = np.random.default_rng(4)
    query, database = tied_codes(rng, 5, 12), tied_codes(rng, 40, 12)
    labels = random_labels(rng, 5, "classes"), random_labels(rng, 40, "classes")
    histograms = distance_histograms(query, database, *labels)
    for top_k in (None, 10):
        values = [deephash_map(query, database, *labels, top_k, seed=seed) for seed in range(400)]
        error = np.std(values) / np.sqrt(len(values))
        assert error > 0
        assert abs(np.mean(values) - mean_average_precision(histograms, top_k)) < 4 * error


# Lookup


@pytest.mark.parametrize("bits", [4, 12, 48])
def test_curve_and_lookup_equal_slow_loops(bits):
    rng = np.random.default_rng(bits)
    query, database = tied_codes(rng, 9, bits, spread=5), tied_codes(rng, 30, bits, spread=5)
    query_labels, database_labels = np.arange(9) % 4, rng.integers(0, 3, 30)  # class 3 has no relevant item
    histograms = distance_histograms(query, database, query_labels, database_labels)
    distances, related = slow_distances(query, database), slow_relevance(query_labels, database_labels)
    curve = pr_curve(histograms)
    assert curve.precision.shape == curve.recall.shape == (bits + 1,)
    for radius in range(bits + 1):
        precisions, recalls = [], []
        for ds, rs in zip(distances, related, strict=True):
            inside = [r for d, r in zip(ds, rs, strict=True) if d <= radius]
            if inside:
                precisions.append(sum(inside) / len(inside))
            if any(rs):
                recalls.append(sum(inside) / sum(rs))
        assert 0 < len(recalls) < 9
        assert curve.precision[radius] == pytest.approx(np.mean(precisions) if precisions else np.nan, nan_ok=True)
        assert curve.recall[radius] == pytest.approx(np.mean(recalls))
        assert precision_within(histograms, radius) == pytest.approx(sum(precisions) / 9)
    assert precision_within(histograms) == precision_within(histograms, 2)
    assert curve.recall[-1] == 1


def test_curve_is_nan_where_nothing_is_returned():
    histograms = Histograms(np.array([[0, 4]]), np.array([[0, 0]]))
    assert np.isnan(pr_curve(histograms).precision).tolist() == [True, False]
    assert np.isnan(pr_curve(histograms).recall).all()
    assert precision_within(histograms, 0) == 0


# Code health


@pytest.mark.parametrize("bits", [4, 12, 48])
def test_code_health_equals_numpy_on_the_signs(bits):
    rng = np.random.default_rng(bits)
    array = rng.random((500, bits)) < np.linspace(0.1, 0.7, bits)
    array[:, 1] = array[:, 0] ^ (rng.random(500) < 0.1)
    array[:, 2] = True
    array[100:200] = array[:100]
    health = code_health(Codes.from_bits(array))

    living = np.delete(np.where(array, 1.0, -1.0), 2, axis=1)
    correlation = np.corrcoef(living, rowvar=False)
    eigenvalues = np.linalg.eigvalsh(correlation)
    rows = [tuple(row) for row in array.tolist()]
    shares = np.array([rows.count(row) for row in set(rows)]) / 500
    pairs = [a == b for a, b in itertools.combinations(rows, 2)]
    means = np.abs(np.where(array, 1.0, -1.0).mean(axis=0))
    assert health.dead_bits == 1
    assert health.worst_bias == 1
    assert health.mean_bias == pytest.approx(means.mean())
    off_diagonal = np.abs(correlation[~np.eye(bits - 1, dtype=bool)])
    assert health.mean_correlation == pytest.approx(off_diagonal.mean())
    assert health.distinct_codes == len(set(rows))
    assert health.collision_rate == pytest.approx(np.mean(pairs))
    assert health.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum())
    assert health.effective_bits == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    assert 1 < health.effective_bits < bits - 1


def test_code_health_at_the_extremes():
    every = Codes.from_bits(np.array(list(itertools.product([0, 1], repeat=8))))
    health = code_health(every)
    assert (health.mean_bias, health.worst_bias, health.dead_bits, health.mean_correlation) == (0, 0, 0, 0)
    assert (health.distinct_codes, health.collision_rate) == (256, 0)
    assert (health.entropy_bits, health.effective_bits) == (8, 8)

    copies = code_health(Codes.from_bits(np.repeat([[0], [1]], 8, axis=1)))
    assert (copies.effective_bits, copies.mean_correlation, copies.entropy_bits) == (1, 1, 1)

    alone = code_health(Codes.from_bits(np.eye(49, 4)[:, ::-1] * [0, 0, 0, 1]))
    assert (alone.dead_bits, alone.effective_bits, alone.mean_correlation) == (3, 1, 0)

    for count in (1, 3):
        dead = code_health(Codes.from_bits(np.ones((count, 12))))
        assert (dead.dead_bits, dead.mean_bias, dead.distinct_codes, dead.effective_bits) == (12, 1, 1, 0)
        assert (dead.entropy_bits, dead.mean_correlation) == (0, 0)
        assert dead.collision_rate == (count > 1)


def test_code_health_does_not_depend_on_blocks():
    rng = np.random.default_rng(0)
    codes = random_codes(rng, 5000, 1024)  # two blocks of 4096 rows
    signs = codes.to_bits() * 2.0 - 1
    correlation = np.abs(np.corrcoef(signs, rowvar=False))
    health = code_health(codes)
    assert health.mean_correlation == pytest.approx((correlation.sum() - 1024) / (1024 * 1023), rel=1e-9)
    assert health.mean_bias == pytest.approx(np.abs(signs.mean(axis=0)).mean(), rel=1e-12)


# Errors


CODES = Codes.from_bits(np.zeros((3, 12)))
CLASSES = np.arange(3)


@pytest.mark.parametrize("measure", [distance_histograms, deephash_map])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((CODES, Codes.from_bits(np.zeros((3, 16))), CLASSES, CLASSES), CodesError, "Codes of 12 and 16 bits"),
        ((CODES[:0], CODES, CLASSES[:0], CLASSES), CodesError, "no query codes"),
        ((CODES, CODES[:0], CLASSES, CLASSES[:0]), CodesError, "no database codes"),
        ((CODES, CODES, CLASSES[:2], CLASSES), DataError, "3 query codes but 2 query labels"),
        ((CODES, CODES, CLASSES, np.arange(4)), DataError, "3 database codes but 4 database labels"),
        ((CODES, CODES, CLASSES, np.eye(3)), DataError, "(3,) and database labels (3, 3) are of different kinds"),
        ((CODES, CODES, np.eye(3), np.eye(3, 4)), DataError, "(3, 3) and database labels (3, 4)"),
        ((CODES, CODES, CLASSES / 2, CLASSES), DataError, "query labels are float64 (3,)"),
        ((CODES, CODES, CLASSES > 1, CLASSES), DataError, "query labels are bool (3,)"),
        ((CODES, CODES, np.int64(1), CLASSES), DataError, "query labels are int64 ()"),
        ((CODES, CODES, np.eye(3), 2 * np.eye(3)), DataError, "database labels are float64 (3, 3)"),
        ((CODES, CODES, np.eye(3), 2 * np.eye(3, dtype=int)), DataError, "database labels are int64 (3, 3)"),
        ((CODES, CODES, np.eye(3), np.full((3, 3), np.nan)), DataError, "database labels are float64 (3, 3)"),
        ((CODES, CODES, np.zeros((3, 3, 3)), CLASSES), DataError, "query labels are float64 (3, 3, 3)"),
    ],
)
def test_input_that_does_not_fit_is_refused(measure, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        measure(*arguments)
    assert isinstance(caught.value, HashzooError)


def test_cuts_that_make_no_sense_are_refused():
    histograms = distance_histograms(CODES, CODES, CLASSES, CLASSES)
    with pytest.raises(ConfigError, match="whole number from 1, not 0"):
        mean_average_precision(histograms, 0)
    with pytest.raises(ConfigError, match="whole number from 1, not -1"):
        deephash_map(CODES, CODES, CLASSES, CLASSES, top_k=-1)
    with pytest.raises(ConfigError, match="whole number from 1, not 0"):
        precision_at(histograms, [1, 0])
    with pytest.raises(DataError, match="P@4 needs a database of 4 items, but it has 3"):
        precision_at(histograms, [1, 4])
    for radius in (-1, 13):
        with pytest.raises(ConfigError, match=f"from 0 to the 12 bits of the codes, not {radius}"):
            precision_within(histograms, radius)
    with pytest.raises(CodesError, match="no codes to measure"):
        code_health(CODES[:0])
    with pytest.raises(DataError, match="different kinds"):
        relevance(CLASSES, np.eye(3))
