"""Is each file of a model's folder what its name says, and nothing else beside?"""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

from safetensors import safe_open

from hashzoo.config import ModelConfig, read_toml
from hashzoo.errors import HubError
from hashzoo.files import read_bytes
from hashzoo.zoo.folder import WEIGHTS
from hashzoo.zoo.published_codes import FILE, read_codes

PNG = b"\x89PNG\r\n\x1a\n"
# chunks that say how a picture looks; others carry words, profiles, times, or what a camera knew
CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"bKGD", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"IDAT", b"IEND")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
PLOT_BYTES = 1 << 28  # of a picture unpacked


def check_contents(folder: Path, config: ModelConfig) -> None:
    """Check the files that no other check of a folder opens: weights' header, recipe, codes and plot.

    Raises:
        HashzooError: a file is something else, or has what others of its kind have not; the message names it.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        if file.metadata():
            raise HubError(f"{folder / WEIGHTS} has words beside its tensors; save it without metadata.")
    recipe = read_toml(folder / "recipe.toml")
    for key in ("method", "bits"):
        if recipe.get(key) != getattr(config, key):
            raise HubError(f"{folder}/recipe.toml is no recipe of this model: its {key} is not the config's.")
    if (path := folder / FILE).exists():
        codes = read_codes(path)
        if codes.codes["query"].bits != config.bits or codes.classes != config.classes:
            raise HubError(f"{path} is of another model: its code length or its classes are not the config's.")
    if (path := folder / "pr-curve.png").exists() and (wrong := _wrong_png(read_bytes(path))):
        raise HubError(f"{path} is no plain PNG ({wrong}); `hashzoo eval --update` draws it anew.")


def _wrong_png(data: bytes) -> str | None:
    """Say what makes these bytes no PNG of pixels alone; None if nothing does. See the PNG specification, 5.3 and 11."""
    chunks, place = [], len(PNG)
    if not data.startswith(PNG):
        return "it does not begin as one"
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        body, check = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if kind not in CHUNKS:
            return f"it has a chunk {kind!r}"
        if len(check) != 4 or zlib.crc32(kind + body) != int.from_bytes(check):
            return f"its chunk {kind!r} is damaged"
        chunks.append((kind, body))
        place += 12 + length
    kinds = [kind for kind, _ in itertools.groupby(kind for kind, _ in chunks)]
    if kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or len(set(kinds)) != len(kinds) or len(chunks[0][1]) != 13:
        return "its chunks are in no order"
    width, height = (int.from_bytes(chunks[0][1][at : at + 4]) for at in (0, 4))
    depth, colour, packing, filters, interlaced = chunks[0][1][8:]
    if colour not in CHANNELS or depth not in (1, 2, 4, 8, 16) or packing or filters or interlaced:
        return "its pixels are stored in another way"
    size = height * (1 + -(-width * depth * CHANNELS[colour] // 8))
    if size > PLOT_BYTES:
        return f"{width} x {height} pixels are too many"
    unpacking = zlib.decompressobj()
    try:
        pixels = unpacking.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"), size + 1)
    except zlib.error:
        return "its pixels are damaged"
    if len(pixels) != size or not unpacking.eof or unpacking.unused_data:
        return "its pixels are fewer or more than it says"
    return None
