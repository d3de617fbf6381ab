import errno
import json
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.search import Index, store


def make(rows, bits=12, model="demo", seed=0):
    return Codes.from_bits(np.random.default_rng(seed).random((rows, bits)) < 0.5, model)


def rewrite(path, **facts):
    """Change the metadata of a part."""
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"hashzoo"]) | facts
    pq.write_table(table.replace_schema_metadata({"hashzoo": json.dumps(facts)}), path)


def in_a_process(code, folder):
    """Run code that appends to `folder`; it may kill itself."""
    setup = "import os, signal, sys, numpy as np\nfrom hashzoo.codes import Codes\nfrom hashzoo.search import store\n"
    setup += "codes = Codes(np.random.default_rng(0).integers(0, 256, (100_000, 8), dtype=np.uint8), 64, 'demo')\n"
    command = [sys.executable, "-c", setup + code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("bits", [4, 12, 48, 64, 100, 1024])
def test_parts_add_up(tmp_path, bits):
    first, second, third = (make(rows, bits, seed=rows) for rows in (7, 1, 20))
    assert store.append(tmp_path, first, paths=[f"{i}.jpg" for i in range(7)]).name == "part-00000.parquet"
    assert store.append(tmp_path, second, ids=[100]).name == "part-00001.parquet"
    assert store.append(tmp_path, third).name == "part-00002.parquet"
    index = Index.open(tmp_path)
    assert index.codes == Codes.concatenate([first, second, third])
    assert index.ids.tolist() == [*range(7), 100, *range(101, 121)]
    assert index.paths.tolist() == [f"{i}.jpg" for i in range(7)] + [None] * 21


def test_what_a_part_says(tmp_path):
    path = store.append(tmp_path, make(3, 12), paths=["a", None, "ü"], preprocess="abc")
    schema = pq.read_schema(path)
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "int64"),
        ("path", "string"),
        ("code", "fixed_size_binary[2]"),
    ]
    expected = {"format": 1, "model": "demo", "bits": 12, "preprocess": "abc"}
    assert json.loads(schema.metadata[b"hashzoo"]) == expected
    assert set(schema.metadata) == {b"hashzoo"}


def test_an_empty_part(tmp_path):
    Index(make(0)).save(tmp_path)
    assert len(Index.open(tmp_path)) == 0
    store.append(tmp_path, make(2))
    assert Index.open(tmp_path).ids.tolist() == [0, 1]


def test_part_numbers_are_not_used_again(tmp_path):
    for _ in range(3):
        last = store.append(tmp_path, make(2))
    last.rename(tmp_path / "part-123456.parquet")
    (tmp_path / "part-00000.parquet").rename(tmp_path / "from-elsewhere.parquet")
    assert store.append(tmp_path, make(2)).name == "part-123457.parquet"
    assert Index.open(tmp_path).ids.tolist() == list(range(8))


def test_duckdb_and_pandas_read_the_folder_as_it_is(tmp_path):
    codes, ids = make(50, 64), np.arange(50)[::-1] * 7
    paths = [None if i % 5 == 0 else f"{i}.jpg" for i in range(50)]
    store.append(tmp_path, codes[:30], ids[:30], paths[:30])
    store.append(tmp_path, codes[30:], ids[30:], paths[30:])
    rows = sorted(zip(ids.tolist(), paths, [row.tobytes() for row in codes.packed], strict=True))
    found = duckdb.sql(f"SELECT id, path, code FROM '{tmp_path}/*.parquet' ORDER BY id").fetchall()
    assert found == rows
    frame = pd.read_parquet(tmp_path).sort_values("id")
    assert frame["id"].tolist() == [row[0] for row in rows]
    assert frame["path"].astype(object).where(frame["path"].notna(), None).tolist() == [row[1] for row in rows]
    assert frame["code"].tolist() == [row[2] for row in rows]


def test_duckdb_ranks_as_the_index_does(tmp_path):
    codes, query = make(200, 48), make(1, 48, seed=5)
    Index(codes).save(tmp_path)
    sql = f"""
        SELECT id, bit_count(xor(code::BIT, ?::BLOB::BIT)) AS distance
        FROM '{tmp_path}/*.parquet' ORDER BY distance, id LIMIT 10
    """
    found = duckdb.execute(sql, [query.packed.tobytes()]).fetchall()
    hits = Index.open(tmp_path).search(query)
    assert found == list(zip(hits.ids[0].tolist(), hits.distances[0].tolist(), strict=True))


def test_no_index_is_refused(tmp_path):
    (tmp_path / ".part-00000.parquet.1.partial").write_bytes(b"half")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CodesError, match=rf"{folder} holds no index .*make one with Index.save"):
            Index.open(folder)


def test_stray_partial_files_are_ignored(tmp_path):
    store.append(tmp_path, make(2))
    (tmp_path / ".part-00001.parquet.1.partial").write_bytes(b"half")
    store.append(tmp_path, make(2))
    assert len(Index.open(tmp_path)) == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"codes": make(2, 16)}, "holds 12-bit codes of model 'demo', but these are 16-bit codes of model 'demo'"),
        ({"codes": make(2, model="other")}, "'demo', but these are 12-bit codes of model 'other'"),
        ({"codes": make(2, model=None)}, "of model None"),
        ({"codes": make(2), "preprocess": "abc"}, "and preprocessing abc; write them to a folder of their own"),
        ({"codes": make(2), "ids": [7, 1]}, "already has id 1; give new items ids of their own"),
        ({"codes": make(2), "ids": [7, 7]}, "Id 7 is there more than once"),
        ({"codes": make(2), "paths": ["a"]}, "list of 2 paths"),
    ],
)
def test_append_refuses_what_does_not_fit(tmp_path, other, message):
    store.append(tmp_path, make(3))
    with pytest.raises(CodesError, match=message):
        store.append(tmp_path, **other)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_append_refuses_to_count_beyond_int64(tmp_path):
    store.append(tmp_path, make(1), ids=[2**63 - 1])
    with pytest.raises(CodesError, match="fit in int64"):
        store.append(tmp_path, make(2))


@pytest.mark.parametrize("other", [make(2, 16), make(2, model="other")])
def test_open_refuses_parts_of_two_makers(tmp_path, other):
    store.append(tmp_path, make(3))
    store.append(tmp_path / "b", other, ids=[8, 9]).rename(tmp_path / "part-00001.parquet")
    with pytest.raises(CodesError, match=r"part-00001.parquet holds .*, but part-00000.parquet holds 12-bit codes of"):
        Index.open(tmp_path)


def test_open_refuses_the_same_id_twice(tmp_path):
    store.append(tmp_path, make(3))
    store.append(tmp_path / "b", make(3)).rename(tmp_path / "part-00001.parquet")
    with pytest.raises(CodesError, match=rf"The parts of {tmp_path} are not one index: Id 0 is there more than once"):
        Index.open(tmp_path)


def test_open_refuses_a_newer_format(tmp_path):
    rewrite(store.append(tmp_path, make(3)), format=2)
    with pytest.raises(CodesError, match=r"part-00000.parquet is of index format 2, but .* up to 1; upgrade"):
        Index.open(tmp_path)


@pytest.mark.parametrize("facts", [{"bits": "12"}, {"bits": 48}, {"bits": None}, {"format": None}, {"format": "1"}])
def test_open_refuses_metadata_that_does_not_fit(tmp_path, facts):
    rewrite(store.append(tmp_path, make(3)), **facts)
    with pytest.raises(CodesError, match=r"part-00000.parquet was not written as a part of an index"):
        Index.open(tmp_path)


def test_a_foreign_parquet_file_is_refused(tmp_path):
    store.append(tmp_path, make(3))
    pd.DataFrame({"id": [1], "label": [2]}).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(CodesError, match=r"labels.parquet was not written as a part of an index; move it out"):
        Index.open(tmp_path)


def test_a_truncated_part_is_refused_by_name(tmp_path):
    store.append(tmp_path, make(300))
    path = store.append(tmp_path, make(300))
    whole = path.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CodesError, match=r"part-00001.parquet cannot be read .*restore it from a copy"):
            Index.open(tmp_path)


def test_a_flipped_bit_is_never_served(tmp_path):
    codes, paths = make(40, 48), [f"{i}.jpg" for i in range(40)]
    path = store.append(tmp_path, codes, paths=paths)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = []
    for position in range(footer):
        broken = bytearray(whole)
        broken[position] ^= 16
        path.write_bytes(broken)
        try:
            index = Index.open(tmp_path)
        except CodesError as error:
            refused.append(str(error))
        else:  # a byte that does not matter, in the header of a page
            assert index.codes == codes
            assert index.paths.tolist() == paths
            assert index.ids.tolist() == list(range(40))
    assert all(str(path) in message for message in refused)
    assert len(refused) > footer / 2


def test_a_full_disk_loses_only_the_part_in_hand(tmp_path, monkeypatch):
    store.append(tmp_path, make(3))

    def full(table, path, **options):
        path.write_bytes(b"PAR1 half a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            store.append(tmp_path, make(5))
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]
    store.append(tmp_path, make(5))
    assert Index.open(tmp_path).ids.tolist() == list(range(8))


def test_a_limit_in_mid_write_loses_only_the_part_in_hand(tmp_path):
    store.append(tmp_path, make(3, 64))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
store.append(sys.argv[1], codes)
"""
    ended = in_a_process(code, tmp_path)
    assert ended.returncode == 1
    assert "OSError" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]
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
    store.append(tmp_path, make(3, 64))
    ended = in_a_process(f"{moment}\nstore.append(sys.argv[1], codes)", tmp_path)
    assert ended.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert left[0].startswith(".part-00001.parquet.")
    assert left[0].endswith(".partial")
    assert len(Index.open(tmp_path)) == 3
    assert store.append(tmp_path, make(2, 64)).name == "part-00001.parquet"
    assert Index.open(tmp_path).ids.tolist() == list(range(5))
