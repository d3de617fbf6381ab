"""`python -m tests.pictures.goldens`: write goldens.json anew, after PREPROCESS_VERSION was raised."""

import hashlib
import json
from pathlib import Path

from hashzoo.config import PreprocessConfig
from hashzoo.pictures.decode import decode
from hashzoo.pictures.fit import PREPROCESS_VERSION, prepare

from .awkward import pictures

FILE = Path(__file__).with_suffix(".json")
FITS = {
    "crop": PreprocessConfig(size=(32, 32)),
    "squash": PreprocessConfig(size=(24, 40), fit="squash", interpolation="bicubic"),
}


def seen(picture):
    """Sum up what a picture comes out as: 16 digits of the sha256 of its pixels, decoded and fitted."""
    arrays = {"decoded": decode(picture), **{name: prepare(picture, config) for name, config in FITS.items()}}
    return {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in arrays.items()}


if __name__ == "__main__":
    found = {"version": PREPROCESS_VERSION, "pixels": {name: seen(data) for name, data in pictures().items()}}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
