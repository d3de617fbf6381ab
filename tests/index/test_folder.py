import errno
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.index import Index, folder, manifest, parts, state
from hashzoo.index.manifest import Maker

spec = importlib.util.spec_from_file_location("old_formats", Path(__file__).with_name("old_formats.py"))
old_formats = importlib.util.module_from_spec(spec)
spec.loader.exec_module(old_formats)

KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def make(rows, bits=12, model="demo", seed=0, weights=None, precision=None):
    return Codes.from_bits(np.random.default_rng(seed).random((rows, bits)) < 0.5, model, weights, precision)


def names(where):
    """List the files of an index, but for the lock."""
    return sorted(path.name for path in where.iterdir() if path.name != ".lock")


def start(code, where):
    """Start a process that writes to an index; it may kill itself."""
    setup = "import os, pathlib, signal, sys, numpy as np\nfrom hashzoo.codes import Codes\n"
    setup += "from hashzoo.index import folder, manifest, parts\n"
    setup += "codes = Codes(np.random.default_rng(0).integers(0, 256, (100_000, 8), dtype=np.uint8), 64, 'demo')\n"
    command = [sys.executable, "-c", setup + code, str(where)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_a_process(code, where):
    with start(code, where) as process:
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def old_index(where, number=3):
    """An index as 0.1.0 left it: ids in any order, in two parts."""
    codes = make(6, weights="a", precision="float32") if number == 3 else make(6)
    files = ([10, 11, 12, 13], [1, 2, 3, 4]) if number >= 2 else (None, None)
    old_formats.write(where / "part-00000.parquet", codes[:4], [7, 5, 9, 1], list("abcü"), *files, number=number)
    old_formats.write(where / "part-00001.parquet", codes[4:], [20, 3], number=number)
    return codes[[3, 5, 1, 0, 2, 4]], [1, 3, 5, 7, 9, 20], ["ü", None, "b", "a", "c", None]


def holds(where, codes, ids, paths):
    index = Index.open(where)
    return index.codes == codes and index.ids.tolist() == ids and index.paths.tolist() == paths


@pytest.mark.parametrize("bits", [4, 12, 48, 64, 100, 1024])
def test_parts_add_up(tmp_path, bits):
    first, second, third = (make(rows, bits, seed=rows) for rows in (7, 1, 20))
    folder.append(tmp_path, first, paths=[f"{i}.jpg" for i in range(7)])
    folder.append(tmp_path, second, ids=[100])
    folder.append(tmp_path, third)
    index = Index.open(tmp_path)
    assert index.codes == Codes.concatenate([first, second, third])
    assert index.ids.tolist() == [*range(7), 100, *range(101, 121)]
    assert index.paths.tolist() == [f"{i}.jpg" for i in range(7)] + [None] * 21
    assert names(tmp_path) == ["manifest.json", *(f"part-0000{number}.parquet" for number in range(3))]


def test_what_the_manifest_and_a_part_say(tmp_path):
    folder.append(tmp_path, make(3, 12, weights="12ab"), ids=[9, 4, 6], paths=["a", None, "ü"], preprocess="abc")
    found = manifest.read(tmp_path)
    assert found.maker == Maker(model="demo", bits=12, preprocess="abc", weights="12ab")
    (part,) = found.parts
    assert (part.rows, part.low, part.high, part.size) == (3, 4, 9, (tmp_path / part.file).stat().st_size)
    assert (found.next_id, found.next_part) == (10, 1)
    schema = pq.read_schema(tmp_path / part.file)
    assert {field.name: str(field.type) for field in schema} == {
        "id": "int64",
        "root": "string",
        "path": "binary",
        "code": "fixed_size_binary[2]",
        "size": "int64",
        "mtime_ns": "int64",
    }
    assert json.loads(schema.metadata[b"hashzoo"])["format"] == 4
    assert pq.read_table(tmp_path / part.file)["id"].to_pylist() == [4, 6, 9]  # in order


def test_an_id_is_not_given_twice(tmp_path):
    folder.append(tmp_path, make(3))
    assert folder.remove(tmp_path, [2]) == 1
    folder.append(tmp_path, make(1))
    assert Index.open(tmp_path).ids.tolist() == [0, 1, 3]
    assert folder.remove(tmp_path, range(4)) == 3
    assert len(Index.open(tmp_path)) == 0
    folder.append(tmp_path, make(1))
    assert Index.open(tmp_path).ids.tolist() == [4]
    folder.append(tmp_path, make(1), ids=[2**63 - 1])
    with pytest.raises(CodesError, match="no 2 ids left that fit in int64"):
        folder.append(tmp_path, make(2))


def test_duckdb_and_pandas_read_the_folder_as_it_is(tmp_path):
    codes, ids = make(50, 64), np.arange(50)[::-1] * 7
    paths = [None if i % 5 == 0 else f"{i}.jpg" for i in range(50)]
    folder.append(tmp_path, codes[:30], ids[:30], paths[:30])
    folder.append(tmp_path, codes[30:], ids[30:], paths[30:])
    folder.replace_list(tmp_path, "skipped", pa.table({"reason": ["x"]}))  # no part: neither of them reads it
    rows = sorted(zip(ids.tolist(), paths, [row.tobytes() for row in codes.packed], strict=True))
    found = duckdb.sql(f"SELECT id, decode(path), code FROM '{tmp_path}/*.parquet' ORDER BY id").fetchall()
    assert found == rows
    frame = pd.read_parquet(sorted(tmp_path.glob("*.parquet"))).sort_values("id")
    assert frame["id"].tolist() == [row[0] for row in rows]
    assert [None if path is None else path.decode() for path in frame["path"]] == [row[1] for row in rows]
    assert frame["code"].tolist() == [row[2] for row in rows]


@pytest.mark.parametrize("bits", [12, 48, 100])
def test_duckdb_finds_the_true_neighbours(tmp_path, bits):
    codes, query = make(200, bits), make(1, bits, seed=5)
    for first in (0, 80, 160):
        folder.append(tmp_path, codes[first : first + 80])
    folder.remove(tmp_path, [7, 100])
    sql = f"""
        SELECT id, bit_count(xor(code::BIT, ?::BLOB::BIT)) AS distance
        FROM '{tmp_path}/*.parquet' ORDER BY distance, id LIMIT 10
    """
    found = duckdb.execute(sql, [query.packed.tobytes()]).fetchall()
    hits = Index.open(tmp_path).search(query)
    assert found == list(zip(hits.ids[0].tolist(), hits.distances[0].tolist(), strict=True))
    assert not {7, 100} & {item for item, _ in found}


def test_no_index_is_refused(tmp_path):
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CodesError, match=rf"{where} holds no index .*make one with Index.save"):
            Index.open(where)
        with pytest.raises(CodesError, match="holds no index"):
            folder.remove(where, [1])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"codes": make(2, 16)}, r"12-bit codes of model 'demo' .*, but these are 16-bit codes of model 'demo'; write"),
        ({"codes": make(2, model="other")}, "but these are 12-bit codes of model 'other'; write"),
        (
            {"codes": make(2, weights="b")},
            r"\(weights a\), but these .* \(weights b\); `hashzoo index --reencode --out",
        ),
        (
            {"codes": make(2), "preprocess": "abc"},
            "preprocessing abc; `hashzoo index --reencode --out .* or write them",
        ),
        ({"codes": make(2), "ids": [7, 1]}, "already has id 1; give new items ids of their own"),
        ({"codes": make(2), "ids": [7, 7]}, "Id 7 is there more than once"),
        ({"codes": make(2), "ids": [7]}, r"2 codes need ids of shape \(2,\), not \(1,\)"),
        ({"codes": make(2), "paths": ["a"]}, "list of 2 paths"),
        ({"codes": make(2), "sizes": [1]}, "2 codes need 2 whole numbers"),
        ({"codes": make(2), "mtimes_ns": [1.5, 2.5]}, "2 codes need 2 whole numbers, not float64"),
    ],
)
def test_append_refuses_what_does_not_fit(tmp_path, other, message):
    folder.append(tmp_path, make(3, weights="a"))
    before = manifest.read(tmp_path)
    with pytest.raises(CodesError, match=message):
        folder.append(tmp_path, **other)
    assert manifest.read(tmp_path) == before
    assert names(tmp_path) == ["manifest.json", "part-00000.parquet"]


def test_a_newer_format_and_a_lost_manifest_are_refused(tmp_path):
    folder.append(tmp_path, make(3))
    path = tmp_path / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"format": 5}))
    with pytest.raises(CodesError, match=r"manifest.json is of index format 5, but .* up to 4; upgrade"):
        Index.open(tmp_path)
    path.unlink()
    for use in (Index.open, lambda where: folder.append(where, make(1)), folder.compact):
        with pytest.raises(CodesError, match=r"has lost its manifest.json; restore it"):
            use(tmp_path)
    assert names(tmp_path) == ["part-00000.parquet"]  # nobody took it for a stray


def test_a_flipped_byte_of_the_manifest_is_never_served(tmp_path):
    folder.append(tmp_path, make(40, 48), paths=[f"{i}.jpg" for i in range(40)])
    path = tmp_path / "manifest.json"
    whole, found = path.read_bytes(), manifest.read(tmp_path)
    for place in range(len(whole)):
        for flip in (1, 16):
            broken = bytearray(whole)
            broken[place] ^= flip
            path.write_bytes(broken)
            try:
                assert manifest.read(tmp_path) == found  # a space
            except CodesError as error:
                assert "manifest.json" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 4}', '{"format": "4"}', "[" * 100_000, "\ud800"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(CodesError, match=r"manifest.json cannot be read \(.*restore it from a copy"):
        Index.open(tmp_path)


@pytest.mark.parametrize("file", ["../part-00000.parquet", "/etc/x.parquet", "a/part-00000.parquet", ".part.parquet"])
def test_a_manifest_names_no_file_elsewhere(tmp_path, file):
    folder.append(tmp_path, make(3))
    facts = manifest.read(tmp_path).model_dump(mode="json")
    facts["parts"][0]["file"] = file
    text = json.dumps({**facts, "checksum": manifest._checksum(facts)})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CodesError, match=r"manifest.json cannot be read \(parts.0.file"):
        Index.open(tmp_path)


def test_a_flipped_bit_of_a_part_is_never_served(tmp_path):
    codes, paths = make(40, 48), [f"{i}.jpg" for i in range(40)]
    ids = np.arange(40) * 3
    folder.append(tmp_path, codes, ids, paths=paths, sizes=range(40), mtimes_ns=range(40))
    path = tmp_path / "part-00000.parquet"
    whole, refused = path.read_bytes(), []
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 16
        path.write_bytes(broken)
        try:
            index = Index.open(tmp_path)
            found = index.paths.tolist()
            came_from = state.sources(tmp_path)
        except CodesError as error:
            refused.append(str(error))
        else:  # a byte that does not matter
            assert index.codes == codes
            assert found == paths
            assert index.ids.tolist() == ids.tolist()
            assert came_from["size"].to_pylist() == came_from["mtime_ns"].to_pylist() == list(range(40))
        with pytest.raises(CodesError, match="sha256 is not the manifest's"):  # what is written anew is never broken
            parts.verified(tmp_path, manifest.read(tmp_path).parts[0])
    assert all(str(path) in message for message in refused)


def test_a_truncated_or_missing_part_is_refused_by_name(tmp_path):
    for _ in range(2):
        folder.append(tmp_path, make(300))
    path = tmp_path / "part-00001.parquet"
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            CodesError, match=r"part-00001.parquet cannot be read \(it has .*\); restore it from a copy"
        ):
            Index.open(tmp_path)
    path.unlink()
    with pytest.raises(CodesError, match=r"part-00001.parquet cannot be read \(.*No such file"):
        Index.open(tmp_path)


def test_unknown_columns_files_and_keys_are_passed_over_and_kept(tmp_path):
    folder.append(tmp_path, make(4), paths=list("abcd"))
    (tmp_path / "model").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "strange.parquet").write_bytes(b"no part")
    found = manifest.read(tmp_path)
    table = parts.read(tmp_path, found.parts[0]).append_column("taken", pa.array([1, 2, 3, 4]))
    part = parts.write(tmp_path, "part-00001.parquet", table, found.maker)
    later = found.with_parts(part, without=found.parts)
    facts = later.model_dump() | {"next_part": 2, "rescore": 4}
    facts["parts"][0]["kind"] = "later"
    manifest.write(tmp_path, manifest.Manifest.model_validate(facts))
    assert Index.open(tmp_path).paths.tolist() == list("abcd")
    folder.append(tmp_path, make(2, seed=1))
    folder.remove(tmp_path, [1])
    folder.compact(tmp_path)
    after = manifest.read(tmp_path)
    assert after.model_extra == {"rescore": 4}
    assert parts.read(tmp_path, after.parts[0])["taken"].to_pylist() == [1, 3, 4, None, None]
    assert {"model", "note.txt", "strange.parquet"} <= set(names(tmp_path))


def test_an_index_of_two_models_is_read_but_not_added_to(tmp_path):
    folder.append(tmp_path, make(4))
    found = manifest.read(tmp_path)
    second = Maker(model="other", bits=64, column="code_2")
    manifest.write(tmp_path, found.model_copy(update={"makers": (found.maker, second)}))
    assert Index.open(tmp_path).codes == make(4)
    for write in (lambda: folder.append(tmp_path, make(1)), lambda: folder.remove(tmp_path, [0])):
        with pytest.raises(CodesError, match="holds codes of 2 models"):
            write()


def test_a_full_disk_loses_only_the_part_in_hand(tmp_path, monkeypatch):
    folder.append(tmp_path, make(3))

    def full(table, path, **options):
        path.write_bytes(b"PAR1 half a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            folder.append(tmp_path, make(5))
    assert names(tmp_path) == ["manifest.json", "part-00000.parquet"]
    folder.append(tmp_path, make(5))
    assert Index.open(tmp_path).ids.tolist() == list(range(8))


MOMENTS = {
    "the part is written, not renamed": f"os.fsync = lambda file: {KILL}",
    "the part is there, the manifest is not": f"manifest.write = lambda *given: {KILL}",
    "the manifest is written, not renamed": f"""
from hashzoo import files
fsync, calls = os.fsync, []
def second(file):
    calls.append(file)
    {KILL} if len(calls) == 2 else fsync(file)
os.fsync = second
""",
    "what was replaced is not deleted": f"folder._sweep = lambda where, state: {KILL} if manifest.read(where) == state else None",
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("work", ["append", "remove", "compact"])
def test_a_kill_leaves_the_state_before_or_after(tmp_path, moment, work):
    for _ in range(3):
        folder.append(tmp_path, make(3, 64))
    does = {
        "append": "folder.append(sys.argv[1], codes)",
        "remove": "folder.remove(sys.argv[1], [0, 3])",
        "compact": "folder.compact(sys.argv[1])",
    }
    before = list(range(9))
    after = {"append": list(range(100_009)), "remove": [1, 2, 4, 5, 6, 7, 8], "compact": before}[work]
    setup = MOMENTS[moment]
    if "_sweep" in setup:  # begin sweeps as well
        setup = f"""
sweep, calls = folder._sweep, []
def second(*given):
    calls.append(given)
    {KILL} if len(calls) == 2 else sweep(*given)
folder._sweep = second
"""
    assert in_a_process(f"{setup}\n{does[work]}", tmp_path).returncode == -signal.SIGKILL
    assert Index.open(tmp_path).ids.tolist() == (after if "_sweep" in MOMENTS[moment] else before)
    assert len(names(tmp_path)) > 4 or work == "append"  # something is left over
    folder.append(tmp_path, make(1, 64), ids=[-1])
    left = manifest.read(tmp_path)
    assert names(tmp_path) == sorted(["manifest.json", *(part.file for part in left.parts)])
    assert Index.open(tmp_path).ids[0] == -1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_older_formats_are_read_and_upgraded(tmp_path, number):
    expected = old_index(tmp_path, number)
    assert holds(tmp_path, *expected)
    for write in (lambda: folder.append(tmp_path, make(1)), lambda: folder.remove(tmp_path, [1])):
        with pytest.raises(CodesError, match=r"is an index of an older format; `hashzoo index --upgrade --out"):
            write()
    assert folder.upgrade(tmp_path)
    assert not folder.upgrade(tmp_path)
    assert holds(tmp_path, *expected)
    assert names(tmp_path) == ["manifest.json", "part-00002.parquet", "part-00003.parquet"]
    sizes = dict(zip([1, 3, 5, 7, 9, 20], [13, None, 11, 10, 12, None], strict=True)) if number >= 2 else {}
    rows = state.sources(tmp_path).to_pylist()
    assert {row["id"]: row["size"] for row in rows if number >= 2} == sizes
    folder.append(tmp_path, make(1))
    assert Index.open(tmp_path).ids.tolist() == [*expected[1], 21]


@pytest.mark.parametrize(
    "moment",
    [
        f"manifest.write = lambda *given: {KILL}",
        f"pathlib.Path.unlink = lambda path, **options: {KILL} if path.suffix == '.parquet' else None",
        f"""
write, calls = parts.write, []
def second(*given):
    calls.append(given)
    return {KILL} if len(calls) == 2 else write(*given)
parts.write = second
""",
    ],
)
def test_a_kill_in_an_upgrade_loses_nothing(tmp_path, moment):
    expected = old_index(tmp_path)
    assert in_a_process(f"{moment}\nfolder.upgrade(sys.argv[1])", tmp_path).returncode == -signal.SIGKILL
    assert holds(tmp_path, *expected)
    folder.upgrade(tmp_path)
    assert holds(tmp_path, *expected)
    folder.append(tmp_path, make(1))
    assert names(tmp_path) == ["manifest.json", *(f"part-0000{number}.parquet" for number in (2, 3, 4))]


def test_older_parts_that_do_not_belong_together_are_refused(tmp_path):
    old_formats.write(tmp_path / "part-00000.parquet", make(3), [0, 1, 2])
    old_formats.write(tmp_path / "part-00001.parquet", make(3, model="other"), [3, 4, 5])
    with pytest.raises(CodesError, match=r"part-00001.parquet holds .*, but part-00000.parquet holds 12-bit codes of"):
        Index.open(tmp_path)
    old_formats.write(tmp_path / "part-00001.parquet", make(3), [2, 4, 5])
    with pytest.raises(CodesError, match=r"has id 2 more than once \(see part-00000.parquet, part-00001.parquet\)"):
        Index.open(tmp_path)
    pd.DataFrame({"id": [1], "label": [2]}).to_parquet(tmp_path / "part-00001.parquet")
    with pytest.raises(CodesError, match=r"part-00001.parquet was not written as a part of an index; move it out"):
        Index.open(tmp_path)


def test_pad_bits_are_refused(tmp_path):
    folder.append(tmp_path, make(3))
    found = manifest.read(tmp_path)
    table = parts.read(tmp_path, found.parts[0])
    code = pa.array([b"\0\0", b"\0\1", b"\0\0"], pa.binary(2))
    part = parts.write(tmp_path, "part-00000.parquet", table.set_column(3, "code", code), found.maker)
    manifest.write(tmp_path, found.with_parts(part, without=found.parts))
    with pytest.raises(CodesError, match=r"part-00000.parquet cannot be read \(it holds no 12-bit codes .*4 pad bits"):
        Index.open(tmp_path)


def test_small_parts_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MANY", 5)
    for number in range(12):
        folder.append(tmp_path, make(2, seed=number), paths=[f"{number}a", f"{number}b"])
        assert len(manifest.read(tmp_path).parts) < 5
    index = Index.open(tmp_path)
    assert index.codes == Codes.concatenate([make(2, seed=number) for number in range(12)])
    assert index.paths.tolist() == [f"{number}{letter}" for number in range(12) for letter in "ab"]
    monkeypatch.setattr(folder, "SMALL", 3)  # what follows is joined, what is large stays
    before = manifest.read(tmp_path).parts[0]
    for _ in range(2):
        folder.append(tmp_path, make(1))
    folder.compact(tmp_path)
    assert sum(part.rows < 3 for part in manifest.read(tmp_path).parts) <= 1
    assert len(Index.open(tmp_path)) == 26
    assert manifest.read(tmp_path).parts[0] == before
    assert isinstance(state.contents(tmp_path).ids, range)


def test_paths_are_any_bytes_below_named_roots(tmp_path):
    facts = parts.facts_table(3, [b"a/\xff.png", "b.png", "/abs/c.png"], roots=["nas", "nas", None])
    folder.append_rows(tmp_path / "i", make(3), Maker.of(make(3)), facts)
    found = manifest.read(tmp_path / "i")
    manifest.write(tmp_path / "i", found.model_copy(update={"roots": {"nas": "/mnt/nas"}}))
    index = Index.open(tmp_path / "i")
    assert [os.fsencode(path) for path in index.paths] == [b"/mnt/nas/a/\xff.png", b"/mnt/nas/b.png", b"/abs/c.png"]
    moved = Index.open(tmp_path / "i", roots={"nas": "/new"})
    assert moved.search(make(3), k=1).paths.ravel().tolist()[1:] == ["/new/b.png", "/abs/c.png"]
    with pytest.raises(CodesError, match="has no root 'x'; it has 'nas'"):
        Index.open(tmp_path / "i", roots={"x": "/new"})
    moved.save(tmp_path / "j")
    assert Index.open(tmp_path / "j").paths.tolist() == moved.paths.tolist()


def test_paths_are_read_when_asked_for_even_if_the_part_is_gone(tmp_path, monkeypatch):
    folder.append(tmp_path, make(20), paths=[f"{i}.jpg" for i in range(20)])
    index, reads = Index.open(tmp_path), []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *given: reads.append(given) or read(*given))
    hits = index.search(make(20), k=1)
    assert not reads
    folder.remove(tmp_path, [3])  # writes the part anew
    assert hits.paths[3, 0] == "3.jpg"
    assert len(reads) == 1
    assert hits.paths is hits.paths


def test_a_reader_sees_one_state_while_others_write(tmp_path):
    for _ in range(60):
        folder.append(tmp_path, make(4, 64))
    kept = list(range(3, 120, 4))
    code = """
import time
for first in range(0, 240, 4):
    folder.remove(sys.argv[1], range(first, first + 3 + (first >= 120)))
    if first % 40 == 0:
        folder.compact(sys.argv[1])
    time.sleep(0.01)  # the reader has its turns on a busy machine too
"""
    counts = []
    with start(code, tmp_path) as writer:
        while writer.poll() is None:
            index = Index.open(tmp_path)
            counts.append(len(index))
            assert np.isin(kept, index.ids).all()
    assert writer.returncode == 0, writer.stderr
    assert len(set(counts)) > 2  # it did read in between
    assert counts == sorted(counts, reverse=True)
    assert all((count - 30) % 1 == 0 for count in counts)
    assert Index.open(tmp_path).ids.tolist() == kept


def test_a_reader_begins_anew_where_the_state_changed(tmp_path, monkeypatch):
    for _ in range(2):
        folder.append(tmp_path, make(3))
    batches, changes = state.Contents.batches, [[4], [0, 1, 2]]

    def disturbed(contents):
        if changes:
            folder.remove(tmp_path, changes.pop(0))
        return batches(contents)

    monkeypatch.setattr(state.Contents, "batches", disturbed)
    assert Index.open(tmp_path).ids.tolist() == [3, 5]


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    code = "for _ in range(12): folder.append(sys.argv[1], codes[:50], paths=[str(os.getpid())] * 50)"
    processes = [start(code, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.wait(timeout=120) == 0, process.communicate()
    index = Index.open(tmp_path)
    assert index.ids.tolist() == list(range(3 * 12 * 50))
    written = dict(zip(*np.unique(index.paths.astype(str), return_counts=True), strict=True))
    assert written == {str(process.pid): 600 for process in processes}


def test_threads_that_append_at_once_lose_nothing(tmp_path):
    threads = [threading.Thread(target=lambda: [folder.append(tmp_path, make(5)) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Index.open(tmp_path).ids.tolist() == list(range(100))


def test_a_killed_holder_leaves_no_lock(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    folder.append(tmp_path, make(2, 64))
    holder = start("with folder.writing(sys.argv[1]): print('held', flush=True); signal.pause()", tmp_path)
    assert holder.stdout.readline() == "held\n"
    waiting = threading.Thread(target=folder.append, args=(tmp_path, make(3, 64)))
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


def test_what_the_folder_imports(tmp_path):
    folder.append(tmp_path, make(3))
    code = """
import sys
from hashzoo.index import folder, state
assert not {"torch", "pyarrow", "filelock"} & set(sys.modules)
found = state.contents(sys.argv[1])
assert sum(map(len, found.batches())) == len(found.ids) == 3
assert not {"torch", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
