"""probe.json: made-up images with their expected codes, so that `hashzoo verify` needs no data set."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from hashzoo.config import Schema, read_json
from hashzoo.files import write_text
from hashzoo.network import HashNetwork
from hashzoo.pictures.fit import PREPROCESS_VERSION

FILE = "probe.json"
COUNT = 8
LOOSER = 64  # a resize by another library rounds pixels otherwise; up to 33 tolerances were seen in shipped models


class Probe(Schema):
    """Expected output for images that `probe_images` makes.

    Attributes:
        images: name of the generator of images.
        preprocess: version of the preprocessing that made them a network's input; files of hashzoo 0.1.0 do not say it.
        u: relaxed codes in float32 on a CPU, rounded to 5 decimals; one row an image.
        codes: packed codes in hexadecimal.
        tolerance: allowed difference of u; bits whose |u| is below it are not compared.
    """

    format: Literal[1] = 1
    images: Literal["waves-1"] = "waves-1"
    preprocess: Annotated[int, Field(ge=1, le=PREPROCESS_VERSION)] = 1
    u: tuple[tuple[float, ...], ...]
    codes: tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")], ...]
    tolerance: Annotated[float, Field(gt=0)]


def probe_images() -> list[NDArray[np.uint8]]:
    """Make 8 images, uint8 (40, 48, 3), from integers alone: the same on every machine and for ever ("waves-1").

    Each channel is a triangle wave over a linear form of x, y and x*y; most sides differ from any input size, so that
    resizing is checked too.

    >>> probe_images()[0].shape, int(probe_images()[0].sum())
    ((40, 48, 3), 734825)
    """
    y, x = np.mgrid[0:40, 0:48]
    images = []
    for seed in range(COUNT):
        numbers = random.Random(seed)
        channels = []
        for _ in range(3):
            a, b, c, d = (int(numbers.random() * limit) for limit in (24, 24, 3, 512))
            wave = (a * x + b * y + c * x * y // 8 + d) % 512
            channels.append(np.where(wave < 256, wave, 511 - wave))
        images.append(np.stack(channels, axis=2).astype(np.uint8))
    return images


def probe_u(model: HashNetwork) -> NDArray[np.float32]:
    """Run the model on the probe's images, float32 on its device; (8, K). One at a time: some networks need much memory."""
    return torch.cat([u for _, u in model.encode_batches(probe_images(), batch_size=1, precision="float32")]).numpy()


def write_probe(folder: str | Path, model: HashNetwork) -> None:
    """Write probe.json for a model."""
    u = probe_u(model)
    packed = np.packbits(u >= 0, axis=1)
    probe = Probe(
        preprocess=PREPROCESS_VERSION,
        u=tuple(tuple(round(float(value), 5) for value in row) for row in u),
        codes=tuple(row.tobytes().hex() for row in packed),
        tolerance=round(max(1e-3, 2e-3 * float(np.abs(u).mean())), 6),
    )
    write_text(Path(folder) / FILE, probe.model_dump_json(indent=1) + "\n")


def check_probe(folder: str | Path, model: HashNetwork) -> list[str]:
    """Run the probe; return what is wrong, in sentences (empty: all as expected).

    What was written with an earlier preprocessing is compared within `LOOSER` times its tolerance.
    """
    probe = read_json(Probe, Path(folder) / FILE)
    sizes = {*map(len, probe.u)}, {len(code) // 2 for code in probe.codes}
    if sizes != ({model.bits}, {-(-model.bits // 8)}) or not len(probe.u) == len(probe.codes) == COUNT:
        return [f"probe.json does not have {COUNT} codes of {model.bits} bits and their values"]
    u, expected = probe_u(model), np.array(probe.u, dtype=np.float32)
    problems, tolerance = [], probe.tolerance * (1 if probe.preprocess == PREPROCESS_VERSION else LOOSER)
    worst = float(np.abs(u - expected).max())
    if not worst <= tolerance:  # also true for NaN
        problems.append(f"relaxed codes differ by up to {worst:.4g} (tolerance {tolerance:g})")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(probe.codes)), np.uint8).reshape(len(u), -1), axis=1)
    sure = np.abs(expected) >= tolerance
    wrong = int(((u >= 0) != bits[:, : u.shape[1]])[sure].sum())
    if wrong:
        problems.append(f"{wrong} of {int(sure.sum())} bits differ")
    return problems
