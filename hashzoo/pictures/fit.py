"""Preprocessing version 2, second half: from an upright sRGB picture to the size that a network takes, by Pillow alone."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hashzoo.config import PreprocessConfig
from hashzoo.pictures.decode import PictureLike, open_picture

PREPROCESS_VERSION = 2  # 1 resized with torchvision and knew no colour profiles


def preprocess_id(config: PreprocessConfig) -> str:
    """Name how pictures become a network's input: 16 hexadecimal digits; an index keeps them.

    They are of the sha256 of `PREPROCESS_VERSION` and of what `config` says other than its defaults, as JSON with sorted keys.
    So a key that is added with a default leaves all ids as they are, and a default never changes.

    >>> preprocess_id(PreprocessConfig(size=(32, 32)))
    '6e2bb31953b2e194'
    """
    said = {"version": PREPROCESS_VERSION, **config.model_dump(mode="json", exclude_defaults=True)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def prepare(picture: PictureLike, config: PreprocessConfig) -> NDArray[np.uint8]:
    """Decode one picture and fit it to the input size: uint8 (height, width, 3), sRGB.

    Raises:
        ImageError: as `open_picture`.

    >>> prepare(np.zeros((48, 64, 3), dtype=np.uint8), PreprocessConfig(size=(32, 40))).shape
    (32, 40, 3)
    """
    return fit(open_picture(picture), config)


def fit(image: Image.Image, config: PreprocessConfig) -> NDArray[np.uint8]:
    """Resize (and cut) an RGB image to the input size, antialiased: uint8 (height, width, 3)."""
    height, width = config.size
    if image.size != (width, height):
        left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
        if config.fit == "crop":
            image = _without_far_ends(image, width, height)
            left, top, right, bottom = _centre(image.width, image.height, width, height)
        by = Image.Resampling[config.interpolation.upper()]
        # columns, then rows: between the two, pixels are rounded, and Pillow 13 chooses the order by the shape, 12 does not
        image = image.resize((width, image.height), by, (left, 0, right, image.height))
        image = image.resize((width, height), by, (0, top, width, bottom))
    return np.array(image)


def _without_far_ends(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut an image more than 16 times as long as the input to its middle, since Pillow places a box in 32-bit floats."""
    columns = min(image.width, -(-16 * image.height * width // height))
    rows = min(image.height, -(-16 * image.width * height // width))
    if (columns, rows) == image.size:
        return image
    left, top = (image.width - columns) // 2, (image.height - rows) // 2
    return image.crop((left, top, left + columns, top + rows))


def _centre(columns: int, rows: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Find the part (left, top, right, bottom) of an image that is the centre once its shorter side is resized.

    Sides and margins of the resized image are whole pixels, as with "resize, then cut the centre" everywhere.

    >>> _centre(64, 32, 16, 16)
    (16.0, 0.0, 48.0, 32.0)
    """
    scale = max(width / columns, height / rows)
    wide, high = max(width, round(columns * scale)), max(height, round(rows * scale))
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return left * columns / wide, top * rows / high, (left + width) * columns / wide, (top + height) * rows / high
