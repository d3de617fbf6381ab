import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hashzoo
from hashzoo import ingest
from hashzoo.codes import Codes
from hashzoo.errors import CodesError, ImageError
from hashzoo.index import Index, folder, manifest, state

spec = importlib.util.spec_from_file_location("old_formats", Path(__file__).parent / "index" / "old_formats.py")
old_formats = importlib.util.module_from_spec(spec)
spec.loader.exec_module(old_formats)

FAKE = '''
import numpy as np
from pathlib import Path
from types import SimpleNamespace
from hashzoo.codes import Codes
from hashzoo.errors import ImageError

class Fake:
    """A model whose code of a file is the file's first two bytes."""

    name, bits, weights_id = "fake", 16, "a"

    def __init__(self, preprocess="1"):
        self.preprocess, self.flip = SimpleNamespace(id=preprocess), 255 if preprocess == "2" else 0

    def encode_batches(self, paths, batch_size, precision, on_error):
        for place, path in enumerate(paths):
            try:
                data = Path(path).read_bytes()[:2]
            except OSError:
                data = b""
            if len(data) < 2:
                error = ImageError(f"{path} cannot be read.")
                if on_error == "raise":
                    raise error
                on_error(error)
                continue
            bits = np.unpackbits(np.frombuffer(data, np.uint8) ^ self.flip)[None].astype(bool)
            yield [place], SimpleNamespace(numpy=lambda bits=bits: bits * 2.0 - 1)

    def codes(self, bits, precision):
        return Codes.from_bits(bits, self.name, self.weights_id, precision)
'''
exec(FAKE)
Fake = globals()["Fake"]


def pictures(where, count, first=0):
    where.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (where / f"{number}.png").write_bytes(bytes([number, 7]) + b"picture")


def found(index):
    return {Path(path).name: code.packed[0, 0] for path, code in zip(index.paths, index.codes, strict=True)}


def test_build_index_is_public_and_follows_the_folder(tmp_path):
    pictures(tmp_path / "a", 3)
    told, errors = [], []
    (tmp_path / "a" / "broken.png").touch()
    index = hashzoo.build_index(tmp_path / "a", tmp_path / "i", Fake(), on_progress=told.append, on_error=errors.append)
    assert found(index) == {f"{number}.png": number for number in range(3)}
    assert (told[-1].total, told[-1].done, told[-1].added) == (4, 4, 3)
    assert [type(error) for error in errors] == [ImageError]
    (row,) = state.listed(tmp_path / "i", "skipped").to_pylist()
    assert (row["root"], row["path"], row["size"]) == ("a", b"broken.png", 0)
    assert "cannot be read" in row["reason"]
    (tmp_path / "a" / "broken.png").write_bytes(bytes([9, 9]))
    assert len(hashzoo.build_index(tmp_path / "a", tmp_path / "i", Fake())) == 4
    assert state.listed(tmp_path / "i", "skipped").num_rows == 0
    (tmp_path / "a" / "z.png").touch()
    with pytest.raises(ImageError, match="cannot be read"):
        hashzoo.build_index(tmp_path / "a", tmp_path / "i", Fake(), on_error="raise")


def test_names_of_any_bytes_are_indexed(tmp_path):
    pictures(tmp_path / "a", 1)
    name = os.fsdecode(b"\xff\xfe.png")
    (tmp_path / "a" / name).write_bytes(bytes([5, 5]))
    index = ingest.build_index(tmp_path / "a", tmp_path / "i", Fake())
    assert str(tmp_path / "a" / name) in index.paths.tolist()
    odd = tmp_path / os.fsdecode(b"odd\xff")
    pictures(odd, 1)
    progress = []
    for _ in range(2):
        ingest.build_index(odd, tmp_path / "j", Fake(), on_progress=progress.append)
    assert progress[-1].there == 1
    assert progress[-1].added == 0


def test_a_moved_library_encodes_nothing_again(tmp_path):
    pictures(tmp_path / "nas" / "sub", 3)
    ingest.build_index(tmp_path / "nas", tmp_path / "i", Fake())
    (tmp_path / "nas").rename(tmp_path / "moved")
    progress = []
    index = ingest.build_index(
        tmp_path / "moved", tmp_path / "i", Fake(), on_progress=progress.append, roots={"nas": str(tmp_path / "moved")}
    )
    assert (progress[-1].there, progress[-1].added, progress[-1].vanished) == (3, 0, 0)
    assert all(Path(path).is_file() for path in index.paths)
    ingest.build_index(tmp_path / "moved" / "sub", tmp_path / "i", Fake(), on_progress=progress.append)
    assert (progress[-1].there, len(manifest.read(tmp_path / "i").roots)) == (3, 1)


def test_what_cannot_be_listed_is_not_taken_for_gone(tmp_path, monkeypatch):
    pictures(tmp_path / "a", 2)
    pictures(tmp_path / "a" / "closed", 2, first=5)
    ingest.build_index(tmp_path / "a", tmp_path / "i", Fake())
    scandir = os.scandir

    def refuse(where):
        if str(where).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(where))
        return scandir(where)

    monkeypatch.setattr(os, "scandir", refuse)
    errors = []
    index = ingest.build_index(tmp_path / "a", tmp_path / "i", Fake(), on_error=errors.append)
    assert set(found(index)) == {"0.png", "1.png", "5.png", "6.png"}
    assert "closed cannot be listed (Permission denied)" in str(errors[0])


def test_another_preprocessing_is_refused_with_the_command_and_encoded_again(tmp_path):
    pictures(tmp_path / "a", 4)
    before = ingest.build_index(tmp_path / "a", tmp_path / "i", Fake())
    with pytest.raises(CodesError, match=r"`hashzoo index --reencode --out .*` encodes its images again"):
        ingest.build_index(tmp_path / "a", tmp_path / "i", Fake("2"))
    (tmp_path / "a" / "3.png").unlink()
    progress = []
    after = ingest.reencode(tmp_path / "i", Fake("2"), on_progress=progress.append)
    assert found(after) == {f"{number}.png": number ^ 255 for number in range(3)}
    assert after.ids.tolist() == before.ids.tolist()[:3]
    assert (progress[-1].changed, len(progress[-1].failed)) == (3, 1)
    assert state.listed(tmp_path / "i", "skipped")["path"].to_pylist() == [b"3.png"]
    assert not (tmp_path / "i" / ".reencode").exists()
    assert len(ingest.build_index(tmp_path / "a", tmp_path / "i", Fake("2"))) == 3
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(CodesError, match=r"The root 'a' .* is not at .*; say where it is with --root a=FOLDER"):
        ingest.reencode(tmp_path / "i", Fake())


def test_an_index_of_0_1_0_is_encoded_again(tmp_path):
    pictures(tmp_path / "a", 3)
    paths = [str(tmp_path / "a" / f"{number}.png") for number in range(3)]
    codes = Codes(np.array([[0, 7], [1, 7], [2, 7]], dtype=np.uint8), 16, "fake", "a", "float32")
    old_formats.write(tmp_path / "i" / "part-00000.parquet", codes, [4, 2, 9], paths, preprocess="0")
    assert Index.open(tmp_path / "i").search(codes[:1], k=1).ids.tolist() == [[4]]
    with pytest.raises(CodesError, match="hashzoo index --reencode"):
        ingest.build_index(tmp_path / "a", tmp_path / "i", Fake())
    index = ingest.reencode(tmp_path / "i", Fake())
    assert (index.ids.tolist(), index.preprocess) == ([2, 4, 9], "1")
    folder.append(tmp_path / "i", codes[:1], preprocess="1")
    assert Index.open(tmp_path / "i").ids.tolist() == [2, 4, 9, 10]


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
COUNTED = """
of, calls = {place}.{name}, []
def counted(*given, **named):
    calls.append(given)
    return {kill} if len(calls) == {time} else of(*given, **named)
{place}.{name} = counted
"""


@pytest.mark.parametrize(
    ("place", "name", "time"),
    [
        ("ingest", "commit", 2),
        ("folder", "swap", 1),
        ("os", "link", 2),
        ("folder", "commit", 4),
        ("shutil", "rmtree", 1),
    ],
)
def test_a_kill_in_a_reencoding_loses_nothing(tmp_path, place, name, time):
    pictures(tmp_path / "a", 4)
    ingest.build_index(tmp_path / "a", tmp_path / "i", Fake())
    code = FAKE + "import os, shutil, signal, sys\nfrom hashzoo import ingest\nfrom hashzoo.index import folder\n"
    code += "ingest.PART, ingest.SECONDS = 2, 0\n" + COUNTED.format(place=place, name=name, time=time, kill=KILL)
    code += "ingest.reencode(sys.argv[1], Fake('2'))"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "i"], capture_output=True, text=True, check=False)
    assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr
    assert found(Index.open(tmp_path / "i")) in (
        {f"{number}.png": number for number in range(4)},
        {f"{number}.png": number ^ 255 for number in range(4)},
    )
    progress = [SimpleNamespace(there=0)]
    index = ingest.reencode(tmp_path / "i", Fake("2"), on_progress=progress.append)
    assert found(index) == {f"{number}.png": number ^ 255 for number in range(4)}
    assert name != "commit" or place != "ingest" or progress[-1].there == 2  # it went on
    assert not (tmp_path / "i" / ".reencode").exists()
