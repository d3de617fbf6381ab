"""Preprocessing version 2, first half: from a picture in any form to upright 8-bit sRGB.

Whatever changes pixels here or in `fit` makes a new `PREPROCESS_VERSION`; tests/pictures/goldens.json says when they change.
"""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from hashzoo.errors import ImageError

# str, Path, bytes, bytearray, memoryview, a binary file object, PIL.Image.Image, or a uint8 array (H, W), (H, W, 1), (H, W, 3)
PictureLike: TypeAlias = Any

# what is opened; Pillow knows more, of which some start other programs (EPS) or are no pictures
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
ADDED = ("HEIF",)  # opened where a package has registered it with Pillow

ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 258, 262, 0  # tags of EXIF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(picture: PictureLike) -> NDArray[np.uint8]:
    """Decode one picture to uint8 (H, W, 3), sRGB, at its full size.

    Args:
        picture: as `open_picture`.

    Raises:
        ImageError: as `open_picture`.

    >>> decode(np.zeros((4, 6), dtype=np.uint8)).shape
    (4, 6, 3)
    """
    return np.array(open_picture(picture))


def open_picture(picture: PictureLike, least: tuple[int, int] | None = None) -> Image.Image:
    """Decode one picture to an upright PIL image of mode RGB, in sRGB.

    - EXIF says which way is up.
    - A colour profile (ICC) is followed; without one, pixels count as sRGB, and CMYK is turned by Pillow's formula.
    - What is transparent shows white.
    - Grey of more than 8 bits: integers are read as 0..65535 (12-bit TIFF as 0..4095); floats as 0..1, or as 0..255 where
      one is above 2. Values beyond are cut.
    - Metadata that cannot be read (EXIF, profile) is ignored.
    - Of an animation, the first frame.

    Args:
        picture: a path, the bytes of a file, a file object open for reading bytes, a PIL image, or a uint8 array (H, W),
            (H, W, 1) or (H, W, 3).
        least: width and height in pixels. A JPEG file may be decoded at a half, a quarter or an eighth of its size, as long
            as neither side comes out below the greater of the two.

    Returns:
        The image; `picture` itself where that is what was asked for.

    Raises:
        ImageError: it cannot be decoded, is truncated, has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or has another
            dtype or shape; names the file.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the image"
    try:
        if isinstance(picture, Image.Image):
            return _to_srgb(picture)
        with Image.open(_file(picture), formats=[*FORMATS, *(kind for kind in ADDED if kind in Image.OPEN)]) as opened:
            pixels, limit = opened.width * opened.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:  # of which Pillow only warns, up to twice the limit
                raise Image.DecompressionBombError(
                    f"a decompression bomb: its header promises {pixels:,} pixels; Image.MAX_IMAGE_PIXELS is {limit:,}"
                )
            if least:
                opened.draft(None, (max(least), max(least)))  # of a square, since EXIF may turn it
            return _to_srgb(opened)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} cannot be read as an image (it is none of {', '.join(FORMATS)}).") from error
    except Exception as error:  # on broken files Pillow's decoders also raise struct.error, EOFError, IndexError ...
        raise ImageError(f"{name} cannot be read as an image ({error}).") from error


def _file(picture: PictureLike) -> Path | io.BytesIO:
    """Give what Pillow opens: the path, or the bytes as a file."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return io.BytesIO(picture)
    return io.BytesIO(picture.read()) if hasattr(picture, "read") else Path(picture)


def _from_array(array: NDArray[Any]) -> Image.Image:
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or 0 in array.shape:
        raise ImageError(f"An image array is uint8 of shape (H, W) or (H, W, 3), not {array.dtype} {array.shape}.")
    return Image.fromarray(pixels).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Turn any PIL image upright and into 8-bit sRGB, transparency onto white."""
    image.load()
    turn, profile = _turn(image), image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):  # PIL's own convert would clip at 255
        image = _to_8_bits(image)
    grey, alpha = image.mode in ("1", "L", "LA", "La"), None
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "CMYK", "LAB"):
        image = image.convert("L" if grey else "RGB")
    image = _apply_profile(image, profile)
    if alpha:
        onto = Image.new("RGB", image.size, "white")
        onto.paste(image, mask=alpha)
        image = onto
    return image.transpose(turn) if turn is not None else image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a loaded image upright; None of one that is, or whose EXIF cannot be read."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF is written by anybody: ValueError, SyntaxError, struct.error, UnicodeDecodeError ...
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Map grey of more than 8 bits (PIL's modes I, I;16, F) to L; whole numbers have one scale, however bright the image is."""
    tags, levels = getattr(image, "tag_v2", {}), np.asarray(image)
    negative = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.mode == "F":
        levels = np.nan_to_num(levels)
        scaled = levels * np.float32(255) if levels.max() <= 2 else levels  # highlights may be a little above 1
        grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if negative else grey)
    top = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    table = np.clip(np.rint(np.arange(65536) * (255 / top)), 0, 255).astype(np.uint8)
    if negative:
        table = 255 - table
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        table[transparent] = 255
    return Image.fromarray(table[np.clip(levels, 0, 65535) if image.mode == "I" else levels])


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Map an image of mode L, RGB, CMYK or LAB to RGB, by its colour profile where it has one that fits."""
    if image.mode == "LAB":
        return _from_lab().apply(image)
    made = _transform(profile, image.mode) if profile else None
    if made is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    transform, mode = made
    return transform.apply(image.convert(mode))


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


@functools.lru_cache(maxsize=16)  # most pictures of a collection have one of a few profiles
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform, str] | None:
    """Read a colour profile: what maps pixels to sRGB, and the mode they must be in.

    None of a profile that is sRGB, cannot be read, or is of other pixels than `mode` says.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[opened.profile.xcolor_space]
        if wanted != mode and (wanted, mode) != ("RGB", "L"):
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), wanted, "RGB")
        if wanted == "RGB":  # many files carry one of the many profiles that say sRGB
            steps = np.linspace(0, 255, 9).astype(np.uint8)
            cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(9, 81, 3)
            mapped = np.asarray(transform.apply(Image.fromarray(cube)))
            if np.abs(mapped.astype(int) - cube).max() <= 2:
                return None
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):
        return None
    return transform, wanted
