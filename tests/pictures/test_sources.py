import os

import pytest

from hashzoo.errors import ImageError
from hashzoo.pictures import sources
from hashzoo.pictures.decode import decode


def test_a_folder_is_scanned_with_its_subfolders(tmp_path, photo, encoded):
    data = encoded(photo())
    for name in ("b.PNG", "sub/deep/a.jpg", "notes.txt", "no-suffix"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    os.utime(tmp_path / "b.PNG", ns=(5, 7))
    found = sources.scan(tmp_path)
    assert list(found.files) == [str(tmp_path / "b.PNG"), str(tmp_path / "sub" / "deep" / "a.jpg")]
    assert found.files[str(tmp_path / "b.PNG")] == (len(data), 7)
    assert found.closed == {}
    for path in found.files:
        assert (decode(found.picture(path)) == photo()).all()


def test_what_a_folder_holds(tmp_path, photo, encoded):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encoded(photo()))
    found = sources.scan(tmp_path / "a")
    assert found.holds(str(tmp_path / "a" / "gone.png"))
    assert not found.holds(str(tmp_path / "ab" / "gone.png"))


def test_names_that_are_not_utf8_are_found(tmp_path, photo, encoded):
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(encoded(photo()))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    found = sources.scan(tmp_path)
    assert [os.fsencode(path).rpartition(b"/")[2] for path in found.files] == [b"\xff.png"]


def test_no_folder_and_no_picture(tmp_path):
    with pytest.raises(ImageError, match=r"gone is no folder; give one that holds images\.$"):
        sources.scan(tmp_path / "gone")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ImageError, match=r"holds no image file \(\.bmp, "):
        sources.scan(tmp_path)
