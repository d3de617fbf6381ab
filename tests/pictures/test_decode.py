import contextlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from hashzoo.errors import ImageError
from hashzoo.pictures.decode import decode


def pixels(image):
    """Read an image as an array (H, W, 3)."""
    array = decode(image)
    assert array.dtype == np.uint8
    assert array.shape[2] == 3
    return array


def grey(levels, dtype=np.uint8):
    return np.array(levels, dtype=dtype)


# What one image is, however it is given


def test_path_bytes_file_pil_and_array_are_the_same_pixels(tmp_path, photo, encoded):
    array = photo(13, 21)
    data = encoded(array)
    path = tmp_path / "ä picture.PNG"
    path.write_bytes(data)
    for image in (
        path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), Image.open(path), Image.fromarray(array),
        array, np.asfortranarray(array), np.flip(np.flip(array, 1).copy(), 1),
    ):  # fmt: skip
        np.testing.assert_array_equal(pixels(image), array)


def test_jpeg_is_decoded_as_pil_does(tmp_path, photo, encoded):
    data = encoded(photo(), "JPEG", quality=80)
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")))
    assert np.abs(pixels(data).astype(int) - photo()).mean() < 10


def test_grey_arrays(photo):
    levels = photo()[..., 0]
    for array in (levels, levels[..., None]):
        np.testing.assert_array_equal(pixels(array), np.stack([levels] * 3, axis=-1))


def test_an_array_is_copied(photo):
    array = photo()
    array.setflags(write=False)
    decode(array)[:] = 0
    np.testing.assert_array_equal(array, photo())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint16), np.zeros((4, 4), bool), np.zeros((4, 4), np.int8),
        np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8), np.array(3, np.uint8), np.array(["a.jpg"]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_wrong_arrays(array):
    with pytest.raises(ImageError, match=r"^An image array is uint8 of shape \(H, W\) or \(H, W, 3\), not ") as caught:
        decode(array)
    assert str(array.dtype) in str(caught.value)
    assert str(array.shape) in str(caught.value)


@pytest.mark.parametrize("image", [5, 1.5, None, ["a.jpg"], {"path": "a.jpg"}, object()])
def test_things_that_are_no_image(image):
    with pytest.raises(ImageError, match=r"^the image cannot be read as an image"):
        decode(image)


# Broken files


def test_broken_files_are_named(tmp_path, photo, encoded):
    jpeg, png = encoded(photo(64, 64), "JPEG"), encoded(photo(64, 64))
    broken = {
        "truncated.jpg": jpeg[: len(jpeg) // 2], "header.jpg": jpeg[:30], "truncated.png": png[: len(png) // 2],
        "text.jpg": b"this is no image\n", "empty.jpg": b"", "zeros.png": bytes(1000),
    }  # fmt: skip
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        for image in (path, str(path)):
            with pytest.raises(ImageError, match=f"{name} cannot be read as an image"):
                decode(image)
        with pytest.raises(ImageError, match="the image cannot be read as an image"):
            decode(data)


def test_paths_to_no_file(tmp_path):
    with pytest.raises(ImageError, match=r"no-such\.jpg does not exist\.$"):
        decode(tmp_path / "no-such.jpg")
    with pytest.raises(ImageError, match=f"{tmp_path.name} cannot be read as an image"):
        decode(tmp_path)
    with pytest.raises(ImageError, match="cannot be read as an image"):
        decode("a\0b.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "TGA"])
def test_damaged_bytes_are_read_or_refused(photo, encoded, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # a damaged header may promise a large image
    random = np.random.default_rng(0)
    data = encoded(photo(16, 16), kind)
    assert pixels(data).shape == (16, 16, 3)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 6)):
            damaged[int(len(damaged) * random.random() ** 2)] = random.integers(256)  # headers more often than pixels
        with warnings.catch_warnings(), contextlib.suppress(ImageError):  # any other error fails the test
            warnings.simplefilter("ignore")
            decode(bytes(damaged))


def bomb(width, height):
    """Make a PNG of a few bytes whose header promises width x height pixels."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(100)),
        b"IEND",
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 50_000])  # Pillow warns of the first and refuses the second
def test_decompression_bombs(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png cannot be read as an image .*decompression bomb"):
        decode(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_threads_refuse_bombs_and_leave_the_filters_of_warnings(photo, encoded):
    good, bad, filters = encoded(photo()), bomb(10_000, 10_000), list(warnings.filters)
    refused = []

    def work():
        for _ in range(30):
            assert decode(good).shape == (40, 48, 3)
            try:
                decode(bad)
            except ImageError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters
    assert len(refused) == 240
    assert set(refused) == {refused[0]}
    assert "100,000,000 pixels; Image.MAX_IMAGE_PIXELS is 89,478,485" in refused[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_the_one_of_pillow(photo, encoded, monkeypatch):
    data = encoded(photo(10, 10))
    for limit, allowed in ((100, True), (99, False), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if allowed:
            assert decode(data).shape == (10, 10, 3)
        else:
            with pytest.raises(ImageError, match=r"100 pixels; Image\.MAX_IMAGE_PIXELS is 99"):
                decode(data)


# Modes


def test_grey_and_1_bit(encoded):
    levels = grey([[0, 7, 255], [128, 1, 2]])
    np.testing.assert_array_equal(pixels(encoded(levels)), np.stack([levels] * 3, axis=-1))
    assert pixels(encoded(Image.fromarray(levels > 100)))[..., 0].tolist() == [[0, 0, 255], [255, 0, 0]]


def test_palette(encoded):
    image = Image.fromarray(grey([[0, 1], [2, 0]])).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    expected = [[[10, 20, 30], [200, 0, 0]], [[0, 0, 250], [10, 20, 30]]]
    for kind in ("PNG", "GIF"):
        assert pixels(encoded(image, kind)).tolist() == expected
    expected[0][1] = [255, 255, 255]
    assert pixels(encoded(image, "PNG", transparency=1)).tolist() == expected


def test_transparency_goes_onto_white(encoded):
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    onto_white = [[200, 100, 0], [255, 255, 255], [244, 224, 204]]  # the last is a fifth of the colour
    la = Image.merge("LA", [Image.fromarray(grey([[100, 100, 100]])), Image.fromarray(grey([[255, 0, 51]]))])
    for image, expected in ((Image.fromarray(rgba), onto_white), (la, [[100] * 3, [255] * 3, [224] * 3])):
        for given in (image, encoded(image)):
            assert np.abs(pixels(given)[0].astype(int) - expected).max() <= 1
    for image, key, expected in (
        (Image.fromarray(rgba[..., :3]), (200, 100, 0), 255), (Image.fromarray(grey([[9, 9, 9]])), 9, 255),
    ):  # fmt: skip
        assert (pixels(encoded(image, transparency=key)) == expected).all()


def test_cmyk(encoded):
    inks = np.array([[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    expected = [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255]]
    image = Image.frombytes("CMYK", (5, 1), inks.tobytes())
    assert pixels(encoded(image, "TIFF"))[0].tolist() == expected
    large = image.resize((80, 16), Image.Resampling.NEAREST)
    assert np.abs(pixels(encoded(large, "JPEG", quality=95))[8, 8::16].astype(int) - expected).max() < 30


def test_16_bits_are_scaled_by_the_mode_not_by_the_pixels(encoded):
    levels = [0, 127, 200, 255, 257, 32768, 65278, 65535]
    expected = [0, 0, 1, 1, 1, 128, 254, 255]
    bright, dark = grey([levels], np.uint16), grey([levels[:4]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert Image.open(io.BytesIO(encoded(bright, kind))).mode == "I;16"
        assert pixels(encoded(bright, kind))[0].tolist() == [[level] * 3 for level in expected]
        assert pixels(encoded(dark, kind))[0].tolist() == [[level] * 3 for level in expected[:4]]
    big_endian = Image.frombytes("I;16B", (8, 1), bright.astype(">u2").tobytes())
    assert pixels(big_endian)[0, :, 0].tolist() == expected
    for part in (bright, dark):
        pgm = f"P5 {part.shape[1]} 1 65535\n".encode() + part.astype(">u2").tobytes()  # Pillow opens it in mode I
        assert pixels(pgm)[0, :, 0].tolist() == expected[: part.shape[1]]
    wide = Image.fromarray(np.array([[-5, 0, 257, 70_000]], np.int32))
    assert pixels(wide)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_floats_are_0_to_1_or_0_to_255_by_their_range():
    floats = [-3, 0.4, 0.6, 200, 255, 300, float("nan"), float("inf")]
    image = Image.fromarray(np.array([floats], np.float32))
    assert pixels(image)[0, :, 1].tolist() == [0, 0, 1, 200, 255, 255, 0, 255]
    unit = Image.fromarray(np.array([[-3, 0, 0.5, 1, 1.5]], np.float32))
    assert pixels(unit)[0, :, 1].tolist() == [0, 0, 128, 255, 255]


def test_exif_rotation(photo, encoded, tmp_path):
    stored = photo(5, 8)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: np.rot90(stored, 2).transpose(1, 0, 2), 8: np.rot90(stored),
    }  # fmt: skip
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        path.write_bytes(encoded(stored, exif=exif))
        np.testing.assert_array_equal(pixels(path), expected, err_msg=str(orientation))


def exif_of(value_type, value):
    """Write EXIF that says "turn by 90 degrees", and a tag that Pillow cannot write again."""
    offset = 8 + 2 + 2 * 12 + 4
    tags = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x011A, value_type, 1, offset)
    return b"Exif\0\0II*\0\x08\0\0\0" + tags + bytes(4) + value


@pytest.mark.parametrize(
    ("value_type", "value"),
    [(5, struct.pack("<ii", -1, 0)), (10, struct.pack("<ii", -1, 0)), (5, b""), (99, b"abcd"), (2, b"\xff\xfe")],
)
def test_exif_that_is_half_broken_turns_and_never_costs_a_picture(photo, encoded, value_type, value):
    stored = photo(16, 24)
    for kind in ("JPEG", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
        found = pixels(encoded(stored, kind, exif=exif_of(value_type, value), **options))
        expected = pixels(encoded(stored, kind, **options))
        np.testing.assert_array_equal(found, np.rot90(expected, -1))


def test_exif_that_cannot_be_read_is_ignored(photo, encoded):
    for exif in (b"Exif\0\0no TIFF at all", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        for kind in ("JPEG", "PNG"):
            options = {"quality": 95} if kind == "JPEG" else {}
            np.testing.assert_array_equal(
                pixels(encoded(photo(), kind, exif=exif, **options)), pixels(encoded(photo(), kind, **options))
            )
    data = encoded(photo(), pnginfo=raw_profile("not hexadecimal"))
    np.testing.assert_array_equal(pixels(data), photo())


def raw_profile(text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n      14\n{text}\n")
    return info


def test_16_bit_grey_with_a_transparent_level_shows_white_there(encoded):
    data = encoded(grey([[0, 1000, 65535, 1000]], np.uint16), transparency=1000)
    assert pixels(data)[0, :, 0].tolist() == [0, 255, 255, 255]


def test_formats_that_start_programs_or_are_no_pictures_are_not_opened(photo, encoded):
    for data in (encoded(photo(), "EPS"), b"SIMPLE  =                    T" + bytes(3000)):
        with pytest.raises(ImageError, match=r"^the image cannot be read as an image \(it is none of JPEG, PNG, "):
            decode(data)


def test_every_format_that_is_named_is_one_of_pillow():
    from hashzoo.pictures.decode import FORMATS

    Image.init()
    assert set(FORMATS) - {"AVIF"} <= set(Image.OPEN)  # AVIF in wheels only


def test_it_needs_no_torch(run_python):
    code = (
        "import sys, numpy as np; from hashzoo.pictures import fit, page, sources; from hashzoo.pictures.sources import folder;"
        "from hashzoo.config import PreprocessConfig;"
        "fit.prepare(np.zeros((4, 4, 3), np.uint8), PreprocessConfig(size=(8, 8)));"
        "print([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules])"
    )
    result = run_python(code)
    assert result.stdout == "[]\n", result.stderr
