import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.index import Index, parts


def make(rows, bits=12, model="demo", seed=0, weights=None, precision=None):
    return Codes.from_bits(np.random.default_rng(seed).random((rows, bits)) < 0.5, model, weights, precision)


def rewrite(path, **facts):
    """Change the metadata of a part."""
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"hashzoo"]) | facts
    pq.write_table(table.replace_schema_metadata({"hashzoo": json.dumps(facts)}), path)


def rewrite_as_format_1(path):
    rewrite(path, format=1)
    pq.write_table(pq.read_table(path).drop(["size", "mtime_ns"]), path, write_page_checksum=True)


def names(folder):
    """List what is in a folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def start(code, folder):
    """Start a process that writes to `folder`; it may kill itself."""
    setup = "import os, signal, sys, numpy as np\nfrom hashzoo.codes import Codes\nfrom hashzoo.index import parts\n"
    setup += "codes = Codes(np.random.default_rng(0).integers(0, 256, (100_000, 8), dtype=np.uint8), 64, 'demo')\n"
    command = [sys.executable, "-c", setup + code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_a_process(code, folder):
    with start(code, folder) as process:
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize("bits", [4, 12, 48, 64, 100, 1024])
def test_parts_add_up(tmp_path, bits):
    first, second, third = (make(rows, bits, seed=rows) for rows in (7, 1, 20))
    assert parts.append(tmp_path, first, paths=[f"{i}.jpg" for i in range(7)]).name == "part-00000.parquet"
    assert parts.append(tmp_path, second, ids=[100]).name == "part-00001.parquet"
    assert parts.append(tmp_path, third).name == "part-00002.parquet"
    index = Index.open(tmp_path)
    assert index.codes == Codes.concatenate([first, second, third])
    assert index.ids.tolist() == [*range(7), 100, *range(101, 121)]
    assert index.paths.tolist() == [f"{i}.jpg" for i in range(7)] + [None] * 21


def test_what_a_part_says(tmp_path):
    path = parts.append(tmp_path, make(3, 12, weights="12ab"), paths=["a", None, "ü"], preprocess="abc")
    schema = pq.read_schema(path)
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "int64"),
        ("path", "string"),
        ("code", "fixed_size_binary[2]"),
        ("size", "int64"),
        ("mtime_ns", "int64"),
    ]
    expected = {"format": 3, "model": "demo", "bits": 12, "preprocess": "abc", "weights": "12ab", "precision": None}
    assert json.loads(schema.metadata[b"hashzoo"]) == expected
    assert set(schema.metadata) == {b"hashzoo"}


def test_an_empty_part(tmp_path):
    Index(make(0)).save(tmp_path)
    assert len(Index.open(tmp_path)) == 0
    parts.append(tmp_path, make(2))
    assert Index.open(tmp_path).ids.tolist() == [0, 1]


def test_part_numbers_are_not_used_again(tmp_path):
    for _ in range(3):
        last = parts.append(tmp_path, make(2))
    last.rename(tmp_path / "part-123456.parquet")
    (tmp_path / "part-00000.parquet").rename(tmp_path / "from-elsewhere.parquet")
    assert parts.append(tmp_path, make(2)).name == "part-123457.parquet"
    assert Index.open(tmp_path).ids.tolist() == list(range(8))


def test_duckdb_and_pandas_read_the_folder_as_it_is(tmp_path):
    codes, ids = make(50, 64), np.arange(50)[::-1] * 7
    paths = [None if i % 5 == 0 else f"{i}.jpg" for i in range(50)]
    parts.append(tmp_path, codes[:30], ids[:30], paths[:30])
    parts.append(tmp_path, codes[30:], ids[30:], paths[30:])
    rows = sorted(zip(ids.tolist(), paths, [row.tobytes() for row in codes.packed], strict=True))
    found = duckdb.sql(f"SELECT id, path, code FROM '{tmp_path}/*.parquet' ORDER BY id").fetchall()
    assert found == rows
    frame = pd.read_parquet(tmp_path).sort_values("id")
    assert frame["id"].tolist() == [row[0] for row in rows]
    assert frame["path"].astype(object).where(frame["path"].notna(), None).tolist() == [row[1] for row in rows]
    assert frame["code"].tolist() == [row[2] for row in rows]


@pytest.mark.parametrize("bits", [12, 48, 100])
def test_duckdb_finds_the_true_neighbours(tmp_path, bits):
    codes, query = make(200, bits), make(1, bits, seed=5)
    for start_row in (0, 80, 160):
        parts.append(tmp_path, codes[start_row : start_row + 80])
    parts.remove(tmp_path, [7, 100])
    sql = f"""
        SELECT id, bit_count(xor(code::BIT, ?::BLOB::BIT)) AS distance
        FROM '{tmp_path}/*.parquet' ORDER BY distance, id LIMIT 10
    """
    found = duckdb.execute(sql, [query.packed.tobytes()]).fetchall()
    distances = (codes.to_bits() ^ query.to_bits()).sum(axis=1)
    ranking = [row for row in np.argsort(distances, kind="stable").tolist() if row not in (7, 100)][:10]
    assert found == [(row, distances[row]) for row in ranking]
    hits = Index.open(tmp_path).search(query)
    assert found == list(zip(hits.ids[0].tolist(), hits.distances[0].tolist(), strict=True))


def test_no_index_is_refused(tmp_path):
    (tmp_path / ".part-00000.parquet.1.partial").write_bytes(b"half")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CodesError, match=rf"{folder} holds no index .*make one with Index.save"):
            Index.open(folder)


def test_stray_partial_files_are_ignored_and_swept_up(tmp_path):
    parts.append(tmp_path, make(2))
    (tmp_path / ".part-00001.parquet.1.partial").write_bytes(b"half")
    assert len(Index.open(tmp_path)) == 2
    parts.append(tmp_path, make(2))
    assert len(Index.open(tmp_path)) == 4
    assert names(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"codes": make(2, 16)}, "holds 12-bit codes of model 'demo', but these are 16-bit codes of model 'demo'"),
        ({"codes": make(2, model="other")}, "'demo', but these are 12-bit codes of model 'other'"),
        ({"codes": make(2, model=None)}, "of model None"),
        ({"codes": make(2), "preprocess": "abc"}, "and preprocessing abc; write them to a folder of their own"),
        ({"codes": make(2), "ids": [7, 1]}, "already has id 1; give new items ids of their own"),
        ({"codes": make(2), "ids": [7, 7]}, "Id 7 is there more than once"),
        ({"codes": make(2), "ids": [7]}, r"2 codes need ids of shape \(2,\), not \(1,\)"),
        ({"codes": make(2), "ids": [7, 8, 9]}, r"2 codes need ids of shape \(2,\), not \(3,\)"),
        ({"codes": make(2), "paths": ["a"]}, "list of 2 paths"),
        ({"codes": make(2), "paths": list("abc")}, "list of 2 paths"),
        ({"codes": make(2), "sizes": [1]}, "2 codes need 2 whole numbers"),
        ({"codes": make(2), "mtimes_ns": [1.5, 2.5]}, "2 codes need 2 whole numbers, not float64"),
    ],
)
def test_append_refuses_what_does_not_fit(tmp_path, other, message):
    parts.append(tmp_path, make(3))
    with pytest.raises(CodesError, match=message):
        parts.append(tmp_path, **other)
    assert names(tmp_path) == ["part-00000.parquet"]


@pytest.mark.parametrize("ids", [[3, 5], [5], [7], [9], [9, 12], [3, 7, 12]])
def test_append_refuses_an_id_that_any_part_has(tmp_path, ids):
    parts.append(tmp_path, make(3), ids=[9, 5, 7])
    with pytest.raises(CodesError, match=r"already has id [579]; give new items ids of their own"):
        parts.append(tmp_path, make(len(ids)), ids=ids)
    parts.append(tmp_path, make(4), ids=[6, 12, 3, 8])
    assert parts.contents(tmp_path).ids.tolist() == [9, 5, 7, 6, 12, 3, 8]


def test_append_refuses_to_count_beyond_int64(tmp_path):
    parts.append(tmp_path, make(1), ids=[2**63 - 1])
    with pytest.raises(CodesError, match="fit in int64"):
        parts.append(tmp_path, make(2))


@pytest.mark.parametrize("other", [make(2, 16), make(2, model="other")])
def test_open_refuses_parts_of_two_makers(tmp_path, other):
    parts.append(tmp_path, make(3))
    parts.append(tmp_path / "b", other, ids=[8, 9]).rename(tmp_path / "part-00001.parquet")
    with pytest.raises(CodesError, match=r"part-00001.parquet holds .*, but part-00000.parquet holds 12-bit codes of"):
        Index.open(tmp_path)


def test_open_refuses_the_same_id_twice(tmp_path):
    parts.append(tmp_path, make(3))
    parts.append(tmp_path / "b", make(3)).rename(tmp_path / "part-00001.parquet")
    with pytest.raises(
        CodesError, match=r"has id 0 more than once \(see part-00000.parquet, part-00001.parquet\); move"
    ):
        Index.open(tmp_path)


def test_open_refuses_a_newer_format(tmp_path):
    rewrite(parts.append(tmp_path, make(3)), format=4)
    with pytest.raises(CodesError, match=r"part-00000.parquet is of index format 4, but .* up to 3; upgrade"):
        Index.open(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [
        {"bits": "12"},
        {"bits": 48},
        {"bits": None},
        {"bits": 10**6},
        {"format": 1},
        {"format": None},
        {"format": "1"},
        {"weights": 1},
        {"precision": "float16"},
        {"precision": 32},
    ],
)
def test_open_refuses_metadata_that_does_not_fit(tmp_path, facts):
    rewrite(parts.append(tmp_path, make(3)), **facts)
    with pytest.raises(CodesError, match=r"part-00000.parquet was not written as a part of an index"):
        Index.open(tmp_path)


def test_a_foreign_parquet_file_is_refused(tmp_path):
    parts.append(tmp_path, make(3))
    pd.DataFrame({"id": [1], "label": [2]}).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(CodesError, match=r"labels.parquet was not written as a part of an index; move it out"):
        Index.open(tmp_path)


def test_a_truncated_part_is_refused_by_name(tmp_path):
    parts.append(tmp_path, make(300))
    path = parts.append(tmp_path, make(300))
    whole = path.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CodesError, match=r"part-00001.parquet cannot be read \(.+\); restore it from a copy"):
            Index.open(tmp_path)


def test_a_flipped_bit_is_never_served(tmp_path):
    codes, paths = make(40, 48), [f"{i}.jpg" for i in range(40)]
    path = parts.append(tmp_path, codes, paths=paths, sizes=range(40), mtimes_ns=range(40))
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = []
    for position in range(footer):
        broken = bytearray(whole)
        broken[position] ^= 16
        path.write_bytes(broken)
        try:
            came_from = parts.sources(tmp_path, parts.Maker("demo", 48, "", None))
            index = Index.open(tmp_path)
        except CodesError as error:
            refused.append(str(error))
        else:  # a byte that does not matter, in the header of a page
            assert index.codes == codes
            assert index.paths.tolist() == paths
            assert index.ids.tolist() == list(range(40))
            assert came_from["size"].to_pylist() == came_from["mtime_ns"].to_pylist() == list(range(40))
    assert all(str(path) in message for message in refused)
    assert len(refused) > footer / 2


def test_a_full_disk_loses_only_the_part_in_hand(tmp_path, monkeypatch):
    parts.append(tmp_path, make(3))

    def full(table, path, **options):
        path.write_bytes(b"PAR1 half a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            parts.append(tmp_path, make(5))
    assert names(tmp_path) == ["part-00000.parquet"]
    parts.append(tmp_path, make(5))
    assert Index.open(tmp_path).ids.tolist() == list(range(8))


def test_a_limit_in_mid_write_loses_only_the_part_in_hand(tmp_path):
    parts.append(tmp_path, make(3, 64))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
parts.append(sys.argv[1], codes)
"""
    ended = in_a_process(code, tmp_path)
    assert ended.returncode == 1
    assert "OSError" in ended.stderr
    assert names(tmp_path) == ["part-00000.parquet"]
    assert len(Index.open(tmp_path)) == 3


@pytest.mark.parametrize(
    "moment",
    [
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)",  # written, not renamed
        # in mid-write: a writer that stops halfway through the part
        """
import pyarrow.parquet as pq
def half(table, path, **options):
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table.slice(0, 50_000))
        os.kill(os.getpid(), signal.SIGKILL)
pq.write_table = half
""",
    ],
)
def test_a_kill_loses_only_the_part_in_hand(tmp_path, moment):
    parts.append(tmp_path, make(3, 64))
    ended = in_a_process(f"{moment}\nparts.append(sys.argv[1], codes)", tmp_path)
    assert ended.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 2
    assert left[0].startswith(".part-00001.parquet.")
    assert left[0].endswith(".partial")
    assert len(Index.open(tmp_path)) == 3
    assert parts.append(tmp_path, make(2, 64)).name == "part-00001.parquet"
    assert Index.open(tmp_path).ids.tolist() == list(range(5))


def test_contents_gives_the_codes_in_the_order_of_the_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 7)
    first, second = make(20, 12, seed=1), make(5, 12, seed=2)
    parts.append(tmp_path, first, ids=range(100, 120), preprocess="abc")
    parts.append(tmp_path, make(0, 12), preprocess="abc")
    parts.append(tmp_path, second, paths=list("abcde"), preprocess="abc")
    found = parts.contents(tmp_path)
    assert found.maker == ("demo", 12, "abc", None, None)
    assert found.ids.tolist() == list(range(100, 125))
    assert list(found.files) == ["paths"]
    assert isinstance(found.files["paths"], pa.ChunkedArray)
    assert found.files["paths"].to_pylist() == [None] * 20 + list("abcde")
    for _ in range(2):  # as often as one likes
        batches = list(found.batches())
        assert [batch.shape for batch in batches] == [(7, 2), (7, 2), (6, 2), (5, 2)]
        assert np.array_equal(np.concatenate(batches), Codes.concatenate([first, second]).packed)


def test_pad_bits_are_refused(tmp_path):
    path = parts.append(tmp_path, make(3))
    table = pq.read_table(path)
    code = pa.array([b"\0\0", b"\0\1", b"\0\0"], pa.binary(2))
    pq.write_table(
        pa.Table.from_arrays([table["id"], table["path"], code, *table.columns[3:]], schema=table.schema), path
    )
    with pytest.raises(CodesError, match=r"part-00000.parquet holds no 12-bit codes .*4 pad bits .* must be 0\); move"):
        Index.open(tmp_path)


@pytest.mark.parametrize("change", [lambda path: parts.remove(path.parent, [0]), lambda path: path.unlink()])
def test_a_part_that_changes_between_ids_and_codes_is_noticed(tmp_path, change):
    path = parts.append(tmp_path, make(3))
    found = parts.contents(tmp_path)
    change(path)
    with pytest.raises(CodesError, match=r"part-00000.parquet (was changed while .*open|cannot be read)"):
        list(found.batches())


def test_size_and_mtime_are_kept(tmp_path):
    maker = parts.Maker("demo", 12, "", None)
    assert parts.sources(tmp_path, maker).num_rows == 0
    parts.append(tmp_path, make(2), paths=["a", "b"], sizes=[1, 2], mtimes_ns=[2**62, -5])
    parts.append(tmp_path, make(1))
    rows = parts.sources(tmp_path, maker).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(0, "a", 1, 2**62), (1, "b", 2, -5), (2, None, None, None)]
    with pytest.raises(CodesError, match="holds 12-bit codes of model 'demo', but these are 12-bit codes of model 'b'"):
        parts.sources(tmp_path, maker._replace(model="b"))


def test_parts_of_format_1_are_read_and_extended(tmp_path):
    rewrite_as_format_1(parts.append(tmp_path, make(3), paths=list("abc")))
    assert Index.open(tmp_path).paths.tolist() == list("abc")
    parts.append(tmp_path, make(1, seed=1), paths=["d"], sizes=[4], mtimes_ns=[4])
    assert Index.open(tmp_path).codes == Codes.concatenate([make(3), make(1, seed=1)])
    assert parts.sources(tmp_path, parts.Maker("demo", 12, "", None))["size"].to_pylist() == [None, None, None, 4]
    assert parts.remove(tmp_path, [1]) == 1
    assert json.loads(pq.read_schema(parts.parts(tmp_path)[0]).metadata[b"hashzoo"])["format"] == 3
    assert Index.open(tmp_path).paths.tolist() == ["a", "c", "d"]


def test_weights_of_the_same_name(tmp_path):
    facts = {"format": 2, "model": "demo", "bits": 12, "preprocess": ""}
    old = pq.read_table(path := parts.append(tmp_path, make(3)))
    pq.write_table(old.replace_schema_metadata({"hashzoo": json.dumps(facts)}), path)  # whose weights are not known
    parts.append(tmp_path, make(2, weights="a"))
    index = Index.open(tmp_path)
    assert (len(index), index.weights, index.codes.weights, index.codes[0].weights) == (5, "a", "a", "a")
    with pytest.raises(CodesError, match=r"'demo' \(weights a\), but these are .* 'demo' \(weights b\); write them to"):
        parts.append(tmp_path, make(2, weights="b"))
    with pytest.raises(CodesError, match=r"query is of other weights of model 'demo' \(b\) than the index \(a\)"):
        index.search(make(1, weights="b"), k=1)
    assert index.search(make(1, weights="a"), k=1).ids.shape == index.search(make(1), k=1).ids.shape == (1, 1)
    index.remove([0])
    index.save(tmp_path / "saved")
    assert Index.open(tmp_path / "saved").weights == "a"

    parts.append(tmp_path / "b", make(1, weights="b"), ids=[9]).rename(tmp_path / "part-00002.parquet")
    with pytest.raises(
        CodesError, match=r"part-00002.parquet holds .* \(weights b\), but part-00001.parquet holds .* a\)"
    ):
        Index.open(tmp_path)
    with pytest.raises(CodesError, match="length, model, weights and precision must be the same"):
        Codes.concatenate([make(1, weights="a"), make(1, weights="b")])


def test_precision_is_known_of_what_says_it(tmp_path):
    path = parts.append(tmp_path, make(3))
    facts = {"format": 3, "model": "demo", "bits": 12, "preprocess": "", "weights": "a"}  # before precision was written
    pq.write_table(pq.read_table(path).replace_schema_metadata({"hashzoo": json.dumps(facts)}), path)
    assert Index.open(tmp_path).precision is None
    parts.append(tmp_path, make(2, precision="bfloat16"))
    index = Index.open(tmp_path)
    assert (index.weights, index.precision, index.codes.precision) == ("a", "bfloat16", "bfloat16")
    with pytest.raises(
        CodesError,
        match=r"holds 12-bit codes of model 'demo' \(weights a\) in bfloat16, but these are .* in float32; write",
    ):
        parts.append(tmp_path, make(2, precision="float32"))
    assert Index.open(tmp_path).ids.tolist() == list(range(5))
    parts.append(tmp_path / "b", make(1, precision="float32"), ids=[9]).rename(tmp_path / "part-00002.parquet")
    with pytest.raises(
        CodesError, match=r"part-00002.parquet holds .* in float32, but part-00001.parquet holds .* in bfl"
    ):
        Index.open(tmp_path)


def test_append_opens_only_what_it_has_not_seen(tmp_path, monkeypatch):
    opened, of = [], parts._opened
    monkeypatch.setattr(parts, "_opened", lambda path: opened.append(path.name) or of(path))
    for number in range(30):
        parts.append(tmp_path, make(2))
        assert opened == [f"part-{number - 1:05}.parquet"] * (number > 0)
        opened.clear()
    parts.append(tmp_path, make(1), ids=[100])
    opened.clear()
    with pytest.raises(CodesError, match="already has id 7"):
        parts.append(tmp_path, make(2), ids=[99, 7])
    parts.append(tmp_path, make(2), ids=[99, -7])
    assert set(opened) < {path.name for path in parts.parts(tmp_path)}  # those between -7 and 99


def test_append_notices_what_others_did(tmp_path):
    for _ in range(3):
        parts.append(tmp_path, make(2))
    parts.append(tmp_path, make(1))
    code = """
parts.remove(sys.argv[1], [1, 6])
parts.append(sys.argv[1], Codes(codes.packed[:2, :2] & 240, 12, "demo"), ids=[6, 40])
"""
    assert in_a_process(code, tmp_path).returncode == 0
    with pytest.raises(CodesError, match="already has id 40"):
        parts.append(tmp_path, make(1), ids=[40])
    parts.append(tmp_path, make(1), ids=[1])
    parts.append(tmp_path, make(1))
    assert Index.open(tmp_path).ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 40, 41]
    parts.append(tmp_path / "b", make(1, 16)).rename(tmp_path / "part-00009.parquet")
    with pytest.raises(CodesError, match=r"part-00009.parquet holds 16-bit .*, but part-00000.parquet holds 12-bit"):
        parts.append(tmp_path, make(1))


def test_remove_rewrites_only_the_parts_that_hold_the_items(tmp_path):
    codes, paths = make(9), [f"{i}.jpg" for i in range(9)]
    for start_row in (0, 3, 6):
        rows = slice(start_row, start_row + 3)
        parts.append(tmp_path, codes[rows], paths=paths[rows], sizes=range(9)[rows], mtimes_ns=range(9)[rows])
    before = [path.stat().st_ino for path in parts.parts(tmp_path)]
    assert parts.remove(tmp_path, np.array([4, 4, 6, 7, 8, 99])) == 4
    after = [path.stat().st_ino for path in parts.parts(tmp_path)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]
    index = Index.open(tmp_path)
    assert index.ids.tolist() == [0, 1, 2, 3, 5]
    assert index.codes == codes[[0, 1, 2, 3, 5]]
    assert parts.sources(tmp_path, parts.Maker("demo", 12, "", None))["size"].to_pylist() == [0, 1, 2, 3, 5]
    assert parts.append(tmp_path, make(1)).name == "part-00003.parquet"
    assert parts.remove(tmp_path, []) == 0
    assert len(pd.read_parquet(tmp_path)) == 6


def test_an_emptied_part_goes(tmp_path):
    for _ in range(4):
        parts.append(tmp_path, make(3, weights="a"), preprocess="abc")
    assert parts.remove(tmp_path, [0, 1, 2, 6, 7, 8]) == 6
    assert names(tmp_path) == ["part-00001.parquet", "part-00003.parquet"]
    assert Index.open(tmp_path).ids.tolist() == [3, 4, 5, 9, 10, 11]
    assert parts.remove(tmp_path, range(9, 12)) == 3  # the last stays, so that its number is not given again
    assert names(tmp_path) == ["part-00001.parquet", "part-00003.parquet"]
    assert parts.append(tmp_path, make(1, weights="a"), preprocess="abc").name == "part-00004.parquet"
    assert parts.remove(tmp_path, []) == 0
    assert names(tmp_path) == ["part-00001.parquet", "part-00004.parquet"]
    assert parts.remove(tmp_path, range(100)) == 4
    assert names(tmp_path) == ["part-00004.parquet"]
    index = Index.open(tmp_path)
    assert (len(index), index.model, index.weights, index.preprocess) == (0, "demo", "a", "abc")
    with pytest.raises(CodesError, match="these are 16-bit"):
        parts.append(tmp_path, make(1, 16))


def test_remove_refuses_what_is_no_id_or_no_index(tmp_path):
    parts.append(tmp_path, make(3))
    with pytest.raises(CodesError, match="whole numbers"):
        parts.remove(tmp_path, [1.5])
    with pytest.raises(CodesError, match="holds no index"):
        parts.remove(tmp_path / "none", [1])
    assert not (tmp_path / "none").exists()


def test_a_kill_in_a_removal_loses_nothing_else(tmp_path):
    for _ in range(3):
        parts.append(tmp_path, make(3, 64))
    code = """
replace, calls = os.fsync, []
def second(file):
    calls.append(file)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(file)
os.fsync = second
parts.remove(sys.argv[1], [0, 3, 6])
"""
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    assert Index.open(tmp_path).ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert parts.remove(tmp_path, [0, 3, 6]) == 2
    assert Index.open(tmp_path).ids.tolist() == [1, 2, 4, 5, 7, 8]
    assert len(names(tmp_path)) == 3


def test_a_kill_between_emptied_parts_loses_nothing_else(tmp_path):
    for _ in range(4):
        parts.append(tmp_path, make(3, 64))
    code = """
import pathlib
unlink, calls = pathlib.Path.unlink, []
def second(path, **options):
    calls.extend([path] * (path.suffix == ".parquet"))
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    unlink(path, **options)
pathlib.Path.unlink = second
parts.remove(sys.argv[1], range(11))
"""
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    assert Index.open(tmp_path).ids.tolist() == list(range(3, 12))
    assert parts.remove(tmp_path, range(11)) == 8
    assert Index.open(tmp_path).ids.tolist() == [11]
    assert names(tmp_path) == ["part-00003.parquet"]


def test_a_reader_never_fails_while_parts_go(tmp_path):
    for _ in range(60):
        parts.append(tmp_path, make(4, 64))
    kept = list(range(3, 120, 4))  # of the first half of the parts one item each is kept, the others empty
    code = """
import time
for first in range(0, 240, 4):
    parts.remove(sys.argv[1], range(first, first + 3 + (first >= 120)))
    time.sleep(0.02)  # the reader has its turns on a busy machine too
"""
    counts = []
    with start(code, tmp_path) as writer:
        while writer.poll() is None:
            ids = Index.open(tmp_path).ids
            counts.append(len(ids))
            assert np.isin(kept, ids).all()
            assert parts.ascending(ids)
    assert writer.returncode == 0
    assert len(set(counts)) > 2  # it did read in between
    assert counts == sorted(counts, reverse=True)
    assert Index.open(tmp_path).ids.tolist() == kept
    assert len(names(tmp_path)) == 31


@pytest.mark.parametrize("change", ["remove", "empty"])
def test_a_reader_begins_anew_where_a_part_changed(tmp_path, monkeypatch, change):
    for _ in range(2):
        parts.append(tmp_path, make(3))
    batches, changes = parts.Contents.batches, [[4], [0, 1, 2]] if change == "remove" else [[0, 1, 2]]

    def disturbed(contents):
        if changes:
            parts.remove(tmp_path, changes.pop(0))
        return batches(contents)

    monkeypatch.setattr(parts.Contents, "batches", disturbed)
    assert Index.open(tmp_path).ids.tolist() == ([3, 5] if change == "remove" else [3, 4, 5])


def test_a_reader_does_not_try_a_broken_part_again(tmp_path):
    (tmp_path / "part-00000.parquet").symlink_to("nowhere")
    with pytest.raises(CodesError, match=r"part-00000.parquet cannot be read"):
        Index.open(tmp_path)


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    code = "for _ in range(12): parts.append(sys.argv[1], codes[:50], paths=[str(os.getpid())] * 50)"
    processes = [start(code, tmp_path) for _ in range(4)]
    for process in processes:
        assert process.wait(timeout=120) == 0, process.communicate()
    index = Index.open(tmp_path)
    assert index.ids.tolist() == list(range(4 * 12 * 50))
    written = dict(zip(*np.unique(index.paths.astype(str), return_counts=True), strict=True))
    assert written == {str(process.pid): 600 for process in processes}
    assert len(names(tmp_path)) == 48


def test_threads_that_append_at_once_lose_nothing(tmp_path):
    threads = [threading.Thread(target=lambda: [parts.append(tmp_path, make(5)) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Index.open(tmp_path).ids.tolist() == list(range(100))


def test_a_killed_holder_leaves_no_lock(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(parts, "PATIENCE", 0.1)
    parts.append(tmp_path, make(2, 64))
    code = "with parts.writing(sys.argv[1]): print('held', flush=True); signal.pause()"
    holder = start(code, tmp_path)
    assert holder.stdout.readline() == "held\n"
    waiting = threading.Thread(target=parts.append, args=(tmp_path, make(3, 64)))
    with caplog.at_level(logging.WARNING):
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        assert len(Index.open(tmp_path)) == 2  # readers do not wait
        os.kill(holder.pid, signal.SIGKILL)
        waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert caplog.messages == [f"Waiting for another process that writes to {tmp_path}."]
    assert Index.open(tmp_path).ids.tolist() == list(range(5))
    holder.communicate()


def test_what_the_store_imports(tmp_path):
    parts.append(tmp_path, make(3))
    code = """
import sys
from hashzoo.index import parts
assert not {"torch", "pyarrow", "filelock"} & set(sys.modules)
found = parts.contents(sys.argv[1])
assert sum(map(len, found.batches())) == len(found.ids) == 3
assert not {"torch", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
