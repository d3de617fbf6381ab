"""From a file, PIL image, array or tensor to a batch the network takes."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from hashzoo.config import PreprocessConfig
from hashzoo.errors import ImageError

ImageLike = Any  # str, Path, bytes, PIL.Image.Image, uint8 array (H, W), (H, W, 3) or uint8 tensor (3, H, W)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any PIL image upright and into 8-bit RGB: EXIF rotation, grey, palette, CMYK, 16 bits; alpha goes on white.

    Integers of more than 8 bits (PIL's modes I and I;16) are read as 0..65535, floats (F) as 0..255.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # PIL's own convert would clip at 255
        # the scale depends on the mode alone: a dark 16-bit image must stay dark
        pixels = np.asarray(image, dtype=np.float64) / (257.0 if image.mode.startswith("I") else 1.0)
        image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(image: ImageLike) -> Tensor:
    """Decode one image to uint8 (3, H, W), RGB.

    Args:
        image: a path, the bytes of a file, a PIL image, a uint8 array (H, W), (H, W, 1) or (H, W, 3), or a uint8 tensor
            (3, H, W).

    Raises:
        ImageError: it cannot be decoded, is truncated, or has another dtype or shape; names the file.

    >>> read_image(np.zeros((4, 6, 3), dtype=np.uint8)).shape
    torch.Size([3, 4, 6])
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ImageError(f"An image tensor is uint8 of shape (3, H, W), not {image.dtype} {tuple(image.shape)}.")
        return image
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
            raise ImageError(f"An image array is uint8 of shape (H, W) or (H, W, 3), not {image.dtype} {image.shape}.")
        return torch.from_numpy(np.array(np.broadcast_to(array, (*array.shape[:2], 3)), order="C")).permute(2, 0, 1)
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image"
    try:
        if isinstance(image, Image.Image):
            rgb = to_rgb(image)
        else:
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else Path(image)) as opened:
                pixels, limit = opened.width * opened.height, Image.MAX_IMAGE_PIXELS
                if limit is not None and pixels > limit:  # of which Pillow only warns, up to twice the limit
                    raise Image.DecompressionBombError(
                        f"a decompression bomb: its header promises {pixels:,} pixels; Image.MAX_IMAGE_PIXELS is {limit:,}"
                    )
                rgb = to_rgb(opened)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist.") from error
    except Exception as error:  # on broken files Pillow's decoders also raise struct.error, EOFError, IndexError ...
        raise ImageError(f"{name} cannot be read as an image ({error}).") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


class Preprocess:
    """Fit images to the input size and normalise them, as a model's config says.

    >>> preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    >>> preprocess([np.zeros((48, 64, 3), dtype=np.uint8)]).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the config as JSON; an index keeps it."""
        return hashlib.sha256(self.config.model_dump_json().encode()).hexdigest()[:16]

    def fit(self, image: Tensor) -> Tensor:
        """Resize (and cut) one uint8 image (3, H, W) or a batch (N, 3, H, W) to the input size; stays uint8."""
        height, width = self.config.size
        if image.shape[-2:] == (height, width):
            return image
        mode = InterpolationMode(self.config.interpolation)
        if self.config.fit == "crop":
            # the far ends of an extreme shape go first: resized, 1 x 60,000 pixels would be gigabytes, only to be cut
            rows, columns = image.shape[-2:]
            longest = [-(-16 * columns * height // width), -(-16 * rows * width // height)]
            image = F.center_crop(image, [min(rows, longest[0]), min(columns, longest[1])])
            scale = max(height / image.shape[-2], width / image.shape[-1])
            resized = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
            return F.center_crop(F.resize(image, resized, mode, antialias=True), [height, width])
        return F.resize(image, [height, width], mode, antialias=True)

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 (N, 3, H, W), 0..255, to float32 with the config's mean and std; channels last in memory."""
        mean = torch.tensor(self.config.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.config.std, device=images.device).view(1, 3, 1, 1)
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: list[ImageLike]) -> Tensor:
        """Decode, fit and normalise: a list of N images to float32 (N, 3, H, W)."""
        return self.normalise(torch.stack([self.fit(read_image(image)) for image in images]))
