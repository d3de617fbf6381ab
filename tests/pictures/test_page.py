import base64
import io

from PIL import Image

from hashzoo.pictures.page import SIDE, Group, Neighbour, render, thumbnail


def shown(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_thumbnails_are_small_and_keep_their_shape(tmp_path, photo, encoded):
    (tmp_path / "a.jpg").write_bytes(encoded(photo(800, 400), "JPEG"))
    found = shown(thumbnail(tmp_path / "a.jpg"))
    assert (found.format, found.size) == ("JPEG", (SIDE // 2, SIDE))
    found = shown(thumbnail(encoded(photo(32, 20))))
    assert (found.format, found.size) == ("PNG", (20, 32))


def test_what_cannot_be_read_has_no_thumbnail(tmp_path):
    assert thumbnail(tmp_path / "gone.jpg") is None
    assert thumbnail(b"no picture") is None


def test_text_is_escaped_and_needs_no_other_file():
    evil = '"><script>alert(1)</script>\u202egpj.\x1b[31m'
    page = render(evil, [Group(evil, "data:image/png;base64,AA", [Neighbour(3, evil, evil, None)])])
    assert "<script" not in page and "\u202e" not in page and "\x1b" not in page
    assert "&lt;script&gt;" in page and "distance 3" in page
    assert "http:" not in page and "https:" not in page
