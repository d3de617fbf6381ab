"""The one way from pictures to codes: decode, fit, batch, run, and report what could not be read.

It asks an `Encoder` (hashzoo.hookspecs) for codes and knows nothing of torch, so whatever runs the network is behind it.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hashzoo.codes import Codes, pack
from hashzoo.errors import ImageError
from hashzoo.hookspecs import Encoder
from hashzoo.machine import run_all
from hashzoo.pictures.decode import PictureLike
from hashzoo.pictures.fit import prepare
from hashzoo.pictures.sources import scan

Picture: TypeAlias = PictureLike  # or a uint8 tensor (3, H, W)
OnError: TypeAlias = Literal["raise", "skip"] | Callable[[ImageError], object]


def encode(
    encoder: Encoder, pictures: Picture | Iterable[Picture], *, batch_size: int = 64, on_error: OnError = "raise"
) -> Codes:
    """Encode pictures; see `HashNetwork.encode`.

    Raises:
        ImageError: a picture cannot be read (`on_error="raise"`); the message names it.
    """
    failed: list[tuple[int, str]] = []

    def note(error: ImageError) -> None:
        failed.append((error.position, str(error)))
        if callable(on_error):
            on_error(error)

    leave_out = note if on_error == "skip" or callable(on_error) else on_error
    batches = encode_batches(encoder, pictures, batch_size=batch_size, on_error=leave_out)
    rows = [u >= 0 for _, u in batches]
    packed = pack(np.concatenate(rows)) if rows else np.empty((0, -(-encoder.bits // 8)), dtype=np.uint8)
    return Codes(packed, encoder.bits, encoder.name, encoder.weights_id, encoder.precision, tuple(failed))


def encode_batches(
    encoder: Encoder, pictures: Picture | Iterable[Picture], *, batch_size: int = 64, on_error: OnError = "raise"
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield, batch by batch, the positions of the pictures that could be read and their u, float32 (n, K).

    Args:
        encoder: makes the codes.
        pictures: one or many, as `HashNetwork.encode` takes them.
        batch_size: pictures a run.
        on_error: "raise" stops at a picture that cannot be read, "skip" leaves it out, and so does a function, which is given
            the ImageError, whose `position` says which picture it is of.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ImageError(f"on_error is 'raise', 'skip' or a function, not {on_error!r}.")
    if batch_size < 1:
        raise ImageError(f"batch_size is at least 1, not {batch_size}.")
    return _batches(encoder, enumerate(each_picture(pictures)), batch_size, on_error)


def _batches(
    encoder: Encoder, numbered: Iterator[tuple[int, Picture]], batch_size: int, on_error: OnError
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    while chunk := list(itertools.islice(numbered, batch_size)):
        fitted: list[NDArray[np.uint8]] = []
        positions: list[int] = []
        for (position, _), result in zip(chunk, _prepare([picture for _, picture in chunk], encoder), strict=True):
            if isinstance(result, ImageError):
                if on_error == "raise":
                    raise result
                if callable(on_error):
                    result.position = position
                    on_error(result)
            else:
                fitted.append(result)
                positions.append(position)
        if fitted:
            yield positions, encoder.run(np.stack(fitted))


def _prepare(pictures: list[Picture], encoder: Encoder) -> list[NDArray[np.uint8] | ImageError]:
    """Decode and fit pictures, those from files and bytes on all cores; what cannot be read leaves its error."""
    results: list[Any] = [None] * len(pictures)

    def prepare_one(place: int) -> None:
        picture = pictures[place]
        try:
            results[place] = prepare(_array_of(picture) if _is_tensor(picture) else picture, encoder.preprocess)
        except ImageError as error:
            results[place] = error

    apart = [
        isinstance(picture, str | os.PathLike | bytes) for picture in pictures
    ]  # no two threads share what they read
    run_all([functools.partial(prepare_one, place) for place, alone in enumerate(apart) if alone])
    for place, alone in enumerate(apart):
        if not alone:
            prepare_one(place)
    return results


def each_picture(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """See one picture, a batch, an iterable, or a folder as an iterable of pictures.

    Raises:
        ImageError: it is none of these, or the folder holds no picture.
    """
    if isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(
        pictures, "read"
    ):
        if isinstance(pictures, str | os.PathLike) and Path(pictures).is_dir():
            return list(scan(Path(pictures)).files)
        return [pictures]
    if hasattr(pictures, "ndim"):  # an array or a tensor
        return pictures if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, Iterable):
        return pictures
    raise ImageError(f"An image is a path, bytes, PIL image, uint8 array or tensor, not {type(pictures).__name__}.")


def _is_tensor(picture: Picture) -> bool:
    return hasattr(picture, "permute")


def _array_of(tensor: Any) -> NDArray[np.uint8]:
    """Turn a picture given as a tensor of torch, uint8 (3, H, W), into an array (H, W, 3)."""
    if str(tensor.dtype) != "torch.uint8" or tensor.ndim != 3 or tensor.shape[0] != 3 or 0 in tensor.shape:
        raise ImageError(f"An image tensor is uint8 of shape (3, H, W), not {tensor.dtype} {tuple(tensor.shape)}.")
    return tensor.permute(1, 2, 0).numpy(force=True)
