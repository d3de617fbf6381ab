import dataclasses
import subprocess
import sys
import warnings
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.index import Index, RangeHits, folder, state

cuda = torch.cuda.is_available()
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not cuda, reason="no CUDA device here")]),
]


def make(rows, bits, seed=0, model="demo"):
    """Make clustered codes, so that there are many ties."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).random((4, bits)) < 0.5
    return Codes.from_bits(centres[rng.integers(4, size=rows)] ^ (rng.random((rows, bits)) < 0.04), model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [4, 12, 48, 64, 100, 128, 1024])
def test_hits_are_in_order_of_distance_and_id(device, bits):
    rng = np.random.default_rng(1)
    for rows, k in [(1, 1), (500, 10), (500, 600)]:
        codes, query = make(rows, bits, seed=2), make(6, bits, seed=3)
        ids = rng.permutation(np.arange(-rows, rows))[:rows] * 2**40
        index = Index(codes, ids=ids, paths=[f"{i}.jpg" for i in ids], device=device)
        hits = index.search(query, k)
        distances = (query.to_bits()[:, None] != codes.to_bits()[None]).sum(axis=2)
        order = np.array([np.lexsort((ids, row))[:k] for row in distances])
        np.testing.assert_array_equal(hits.distances, np.take_along_axis(distances, order, axis=1))
        np.testing.assert_array_equal(hits.ids, ids[order])
        assert (hits.distances.dtype, hits.ids.dtype) == (np.uint16, np.int64)
        assert hits.paths.tolist() == [[f"{i}.jpg" for i in row] for row in hits.ids]


@pytest.mark.parametrize("device", DEVICES)
def test_what_an_index_knows(device):
    codes = make(5, 12)
    index = Index(codes, ids=[4, 3, 2, 1, 0], paths=["e", None, "c", "b", "a"], device=device, preprocess="abc")
    assert (len(index), index.bits, index.model, index.preprocess) == (5, 12, "demo", "abc")
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    assert index.paths.tolist() == ["a", "b", "c", None, "e"]
    assert index.codes == codes[::-1]
    assert repr(index) == f"Index(5 x 12 bits, model='demo', device='{device}')"


def test_defaults():
    index = Index(make(20, 48))
    assert index.ids.tolist() == list(range(20))
    assert index.ids.dtype == np.int64
    hits = index.search(make(3, 48))
    assert hits.ids.shape == (3, 10)
    assert hits.paths is None


def test_nothing_is_searched_or_found():
    assert Index(make(20, 48)).search(make(0, 48), k=4).ids.shape == (0, 4)
    assert Index(make(0, 48), ids=[]).search(make(2, 48), k=4).ids.shape == (2, 0)


def test_the_index_does_not_change_with_what_it_was_made_from():
    codes, ids = make(5, 64), np.arange(5)
    index = Index(codes, ids)
    before = index.search(codes[:1], k=5)
    query = codes[:1].packed.copy()
    codes.packed[:], ids[:] = 0, 7
    after = index.search(Codes(query, 64), k=5)
    np.testing.assert_array_equal(before.distances, after.distances)
    np.testing.assert_array_equal(before.ids, after.ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 1], "Id 1 is there more than once"),
        ([1, 2], r"ids of shape \(3,\), not \(2,\)"),
        ([[1, 2, 3]], r"not \(1, 3\)"),
        ([1.0, 2.0, 3.0], "whole numbers that fit in int64, not float64"),
        (["a", "b", "c"], "keep names in `paths`"),
        ([0, 1, 2**63], "whole numbers that fit in int64"),
        ([True, False, True], "not bool"),
    ],
)
def test_ids_are_refused(ids, message):
    with pytest.raises(CodesError, match=message):
        Index(make(3, 12), ids=ids)


@pytest.mark.parametrize("paths", [["a", "b"], "abc"])
def test_paths_are_refused(paths):
    with pytest.raises(CodesError, match="3 codes need a list of 3 paths"):
        Index(make(3, 12), paths=paths)


def test_a_query_of_another_kind_is_refused():
    index = Index(make(3, 12))
    with pytest.raises(
        CodesError, match=r"16 bits of model 'demo'.* 12 bits of model 'demo'; .*hashzoo.load\('demo'\)"
    ):
        index.search(make(1, 16))
    with pytest.raises(CodesError, match=r"model 'other'.* model 'demo'; encode the query with hashzoo.load\('demo'\)"):
        index.search(make(1, 12, model="other"))
    with pytest.raises(CodesError, match="the model that made the index"):
        Index(make(3, 12, model=None)).search(make(1, 16))
    with pytest.raises(CodesError, match="k is a whole number from 1, not 0"):
        index.search(make(1, 12), k=0)
    index.search(make(1, 12, model=None))
    Index(make(3, 12, model=None)).search(make(1, 12))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(CodesError, match="'cpu' or 'cuda', not 'gpu'"):
        Index(make(3, 12), device="gpu")
    with pytest.raises(CodesError, match=r"Device 'cuda:99' cannot hold the codes .*use device='cpu'"):
        Index(make(3, 12), device="cuda:99")


@pytest.mark.parametrize("device", DEVICES)
def test_save_and_open(device, tmp_path):
    index = Index(
        make(30, 100), ids=np.arange(30)[::-1] * 3, paths=[None] * 29 + ["z"], device=device, preprocess="abc"
    )
    index.save(tmp_path / "a" / "index")
    opened = Index.open(tmp_path / "a" / "index", device=device)
    assert opened.codes == index.codes
    assert opened.ids.tolist() == index.ids.tolist()
    assert opened.paths.tolist() == index.paths.tolist()
    assert (opened.preprocess, opened.device) == ("abc", device)
    assert [path.name for path in (tmp_path / "a" / "index").glob("*.parquet")] == ["part-00000.parquet"]


def test_save_overwrites_nothing(tmp_path):
    Index(make(3, 12)).save(tmp_path)
    with pytest.raises(CodesError, match=r"already holds an index; save to a new folder, or .*folder\.append"):
        Index(make(5, 12)).save(tmp_path)
    assert len(Index.open(tmp_path)) == 3


def test_the_import_and_a_search_need_neither_torch_nor_pyarrow():
    code = """
import sys, numpy as np
from hashzoo.codes import Codes
from hashzoo.index import Hits, Index
codes = Codes.from_bits(np.eye(8, dtype=bool))
Index(codes).search(codes)
sys.exit(bool({"torch", "pyarrow"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [12, 64, 300])
def test_all_items_within_a_distance(device, bits):
    codes, query = make(400, bits, seed=2), make(6, bits, seed=3)
    ids = np.random.default_rng(1).permutation(400) * 5 - 700
    index = Index(codes, ids=ids, paths=[f"{i}.jpg" for i in ids], device=device)
    distances = (query.to_bits()[:, None] != codes.to_bits()[None]).sum(axis=2)
    for radius in (0, 2, bits // 2, bits, 2000):
        hits = index.search(query, max_distance=radius)
        assert isinstance(hits, RangeHits)
        assert len(hits) == 6
        for row in range(6):
            order = np.lexsort((ids, distances[row]))
            order = order[distances[row][order] <= radius]
            np.testing.assert_array_equal(hits[row].distances, distances[row][None, order])
            np.testing.assert_array_equal(hits[row].ids, ids[None, order])
            assert hits[row].paths.tolist() == [[f"{i}.jpg" for i in ids[order]]]
            nearest = index.search(query, k=7, max_distance=radius)[row]
            np.testing.assert_array_equal(nearest.ids, ids[None, order[:7]])
        np.testing.assert_array_equal(hits[-1].ids, hits[5].ids)
        with pytest.raises(IndexError):
            hits[6]


@pytest.mark.parametrize("device", DEVICES)
def test_ids_are_allowed_and_denied(device):
    codes, query = make(300, 48, seed=2), make(3, 48, seed=3)
    ids = np.arange(300) * 3
    index = Index(codes, ids=ids, device=device)
    allow, deny = ids[::2], ids[::5]

    def expect(some, **search):
        only = Index(codes[some], ids=ids[some])
        found, expected = index.search(query, **search), only.search(query, k=search["k"])
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)

    everything = np.arange(300)
    expect(everything[::2], k=20, allow=[*allow, 1, -7, 10**12])  # ids that are not there are passed over
    expect(everything[everything % 5 != 0], k=20, deny=deny)
    expect(everything[(everything % 5 != 0) & (everything % 2 == 0)], k=500, allow=allow, deny=deny)
    assert index.search(query, k=5, allow=[]).ids.shape == (3, 0)
    assert index.search(query, k=5, deny=ids).ids.shape == (3, 0)
    assert index.search(query, max_distance=48, allow=[3, 6])[0].ids.size == 2
    with pytest.raises(CodesError, match="Ids are whole numbers, not float64"):
        index.search(query, allow=[1.0])


@pytest.mark.parametrize("device", DEVICES)
def test_items_are_removed(device):
    codes = make(50, 48)
    index = Index(codes, ids=np.arange(50) * 2, paths=[str(i) for i in range(50)], device=device)
    with pytest.raises(CodesError, match="no item with id 3; nothing was removed"):
        index.remove([2, 3])
    assert len(index) == 50
    index.remove([0, 98, 40])
    left = np.setdiff1d(np.arange(50), [0, 49, 20])
    assert index.ids.tolist() == (left * 2).tolist()
    assert index.paths.tolist() == [str(i) for i in left]
    assert index.codes == codes[left]
    assert 40 not in index.search(codes[20], k=47).ids
    index.remove(index.ids)
    assert len(index) == 0
    assert index.search(codes[:2]).ids.shape == (2, 0)


@pytest.mark.parametrize("bits", [12, 48, 256])
@pytest.mark.parametrize("own_ids", [False, True])
def test_to_faiss_and_back(bits, own_ids):
    codes, query = make(500, bits, seed=2), make(5, bits, seed=3)
    index = Index(codes, ids=np.random.default_rng(1).permutation(500) * 7 if own_ids else None)
    rival = index.to_faiss()
    distances, ids = rival.search(query.packed, 20)
    hits = index.search(query, k=20)
    np.testing.assert_array_equal(distances, hits.distances)
    np.testing.assert_array_equal(ids, hits.ids)
    back = Index.from_faiss(
        faiss.deserialize_index_binary(faiss.serialize_index_binary(rival)), bits=bits, model="demo"
    )
    assert back.codes == index.codes
    assert back.ids.tolist() == index.ids.tolist()


def test_a_faiss_index_of_another_kind_is_refused():
    with pytest.raises(
        CodesError, match="IndexBinaryHNSW does not hand out its codes in order; give an IndexBinaryFlat"
    ):
        Index.from_faiss(faiss.IndexBinaryHNSW(64, 8))
    flat = faiss.IndexBinaryFlat(16)
    flat.add(np.full((1, 2), 255, dtype=np.uint8))
    with pytest.raises(CodesError, match="pad bits"):
        Index.from_faiss(flat, bits=12)


def test_what_is_no_search_is_refused():
    index = Index(make(3, 12))
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(CodesError, match="k is a whole number from 1"):
            index.search(make(1, 12), k=k)
    for distance in (-1, 1.5, float("nan")):
        with pytest.raises(CodesError, match="max_distance is a whole number from 0"):
            index.search(make(1, 12), max_distance=distance)
    with pytest.raises(CodesError, match=r"A query is hashzoo.Codes, not ndarray; make it with model.encode"):
        index.search(np.zeros((1, 2), dtype=np.uint8))


def test_what_memory_cannot_hold_is_refused_first(monkeypatch):
    index, query = Index(make(50_000, 12)), make(200, 12)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**26))
    with pytest.raises(
        CodesError, match=r"The answer of 10,000,000 hits takes 0\.3 GiB of memory, but 0\.1 GiB are left"
    ):
        index.search(query, k=50_000)
    with pytest.raises(CodesError, match=r"The answer of 10,000,000 hits takes 0\.3 GiB"):
        index.search(query, max_distance=12)
    with pytest.raises(CodesError, match=r"An index of 1,000,000 codes of 1024 bits takes 0\.1 GiB"):
        Index(Codes(np.zeros((1_000_000, 128), dtype=np.uint8), 1024))
    assert index.search(query, k=5).ids.shape == (200, 5)


def test_hits_of_some_queries():
    index = Index(make(20, 48), paths=[f"{i}.jpg" for i in range(20)])
    hits = index.search(make(5, 48, seed=1), k=3)
    for some in (slice(0, 2), slice(None), slice(4, 1, -2), slice(2, 2)):
        part = hits[some]
        assert part.ids.shape == part.distances.shape == part.paths.shape == (len(part), 3)
        assert part.ids.tolist() == hits.ids[some].tolist()
        assert part.distances.tolist() == hits.distances[some].tolist()
        assert part.paths.tolist() == hits.paths[some].tolist()
    assert hits[-1].ids.tolist() == [hits.ids[4].tolist()]
    assert index.search(make(2, 48), k=1)[0].paths.shape == (1, 1)
    assert index.search(make(2, 48), k=3, allow=[])[1].ids.shape == (1, 0)
    assert Index(make(20, 48)).search(make(2, 48), k=3)[0:1].paths is None


def test_a_query_of_another_precision_is_warned_of(tmp_path):
    single, brain, unknown = (
        dataclasses.replace(make(3, 12), precision=name) for name in ("float32", "bfloat16", None)
    )
    Index(single).save(tmp_path)
    for index in (Index(single), Index.open(tmp_path)):
        assert index.precision == index.codes.precision == "float32"
        with pytest.warns(
            UserWarning, match=r"in bfloat16 and the index in float32: .* not found at distance 0"
        ) as caught:
            hits = index.search(brain, k=1)
        assert hits.distances.tolist() == [[0]] * 3
        assert str(caught[0].message).endswith("encode with precision='float32'.")
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            index.search(single)
            index.search(unknown)
            Index(unknown).search(brain)


def test_save_keeps_what_is_known_of_the_files(tmp_path):
    codes = make(6, 12)
    ids = [5, 0, 3, 1, 4, 2]
    folder.append(tmp_path / "a", codes[:4], ids[:4], list("fadb"), "", [15, 10, 13, 11], [-5, 0, 2**62, 1])
    folder.append(tmp_path / "a", codes[4:], ids[4:])
    index = Index.open(tmp_path / "a")
    index.save(tmp_path / "b")
    known = [(0, b"a", 10, 0), (1, b"b", 11, 1), (2, None, None, None), (3, b"d", 13, 2**62), (4, None, None, None)]
    rows = state.sources(tmp_path / "b").drop("root").to_pylist()
    assert [(*row.values(),) for row in rows] == [*known, (5, b"f", 15, -5)]
    assert Index.open(tmp_path / "b").codes == index.codes
    index.remove([1, 5])
    index.save(tmp_path / "c")
    rows = state.sources(tmp_path / "c").drop("root").to_pylist()
    assert [tuple(row.values()) for row in rows] == [known[0], *known[2:]]


@pytest.mark.parametrize("device", DEVICES)
def test_codes_are_added_without_a_rebuild(device):
    """Added behind, in between, with and without paths: the answers are those of an index made of all codes at once."""
    first, second, third, query = make(40, 20, seed=1), make(30, 20, seed=2), make(5, 20, seed=3), make(6, 20, seed=4)
    index = Index(first, paths=[f"{row}.jpg" for row in range(40)], device=device)
    index.add(second)
    index.add(third, ids=[1000, 900, 41_000, 42_000, 43_000], paths=["a", None, "b", "c", "d"])
    index.remove([3])
    index.add(third[:1], ids=[-5])
    ids = np.concatenate([[-5], np.arange(70), [1000, 900, 41_000, 42_000, 43_000]])
    paths = [None, *(f"{row}.jpg" for row in range(40)), *[None] * 30, "a", None, "b", "c", "d"]
    whole = Index(Codes.concatenate([third[:1], first, second, third]), ids, paths, device=device)
    whole.remove([3])
    assert len(index) == len(whole) == 75
    got, expected = index.search(query, 75), whole.search(query, 75)
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.distances, expected.distances)
    assert got.paths.tolist() == expected.paths.tolist()
    assert index.codes == whole.codes and index.ids.tolist() == whole.ids.tolist()
    before = index.ids.tolist()
    for wrong, message in [({"ids": [900]}, "900"), ({"ids": [1, 2]}, "shape"), ({"paths": ["a", "b"]}, "1 path")]:
        with pytest.raises(CodesError, match=message):
            index.add(make(1, 20), **wrong)
    with pytest.raises(CodesError, match="12-bit codes"):
        index.add(make(1, 12))
    assert index.ids.tolist() == before


def test_slices_of_hits_within_a_radius():
    index, query = Index(make(50, 16), paths=[f"{row}.jpg" for row in range(50)]), make(7, 16, seed=5)
    hits = index.search(query, max_distance=4)
    for part in (slice(2, 5), slice(None, None, -2), slice(6, 2), slice(None)):
        some = hits[part]
        assert isinstance(some, RangeHits)
        queries = range(7)[part]
        assert len(some) == len(queries)
        for place, number in enumerate(queries):
            for name in ("ids", "distances", "paths"):
                assert getattr(some[place], name).tolist() == getattr(hits[number], name).tolist()
