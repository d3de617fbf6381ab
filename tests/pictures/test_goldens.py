"""What pictures of every kind come out as, by the pixel, on every machine and Pillow: `make lowest` runs this as well.

A difference changes codes. If it is meant, raise PREPROCESS_VERSION and run `python -m tests.pictures.goldens`.
"""

import json

import numpy as np
import pytest

from hashzoo.pictures.decode import decode
from hashzoo.pictures.fit import PREPROCESS_VERSION

from .awkward import grey_profile, pictures, waves
from .goldens import FILE, seen

EXPECTED = json.loads(FILE.read_text())


@pytest.mark.lowest
def test_goldens_are_of_this_version():
    assert EXPECTED["version"] == PREPROCESS_VERSION
    assert list(EXPECTED["pixels"]) == list(pictures())


@pytest.mark.lowest
@pytest.mark.parametrize("name", EXPECTED["pixels"])
def test_goldens(name):
    assert seen(pictures()[name]) == EXPECTED["pixels"][name]


# What the goldens must look like, whatever their sums: a golden alone would hold a fault for ever


@pytest.mark.parametrize(
    "name",
    ["png", "webp", "bmp", "cmyk", "profile-broken"],
)
def test_colour_is_kept(name):
    np.testing.assert_array_equal(decode(pictures()[name]), waves())


@pytest.mark.parametrize(
    "name",
    [
        "grey16-png", "grey16-black-is-zero", "grey16-white-is-zero", "grey12", "floats-to-1", "floats-to-255",
        "floats-white-is-zero",
    ],
)  # fmt: skip
def test_grey_of_more_than_8_bits_looks_like_grey_of_8(name):
    grey = decode(waves()[..., 0])
    assert np.abs(decode(pictures()[name]).astype(int) - grey).max() <= (1 if name == "grey12" else 0)


def srgb(linear):
    """IEC 61966-2-1: linear light 0..1 to 0..255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_colour_profiles_are_followed():
    plain, all_pictures = waves() / 255, pictures()
    assert np.abs(decode(all_pictures["profile-gamma"]) - srgb(plain**1.8)).max() <= 4
    swapped = srgb(plain**2.2)[..., ::-1]
    assert np.abs(decode(all_pictures["profile-swapped"]) - swapped).max() <= 4
    alpha = waves()[..., 1:2] / 255
    onto_white = swapped * alpha + 255 * (1 - alpha)
    assert np.abs(decode(all_pictures["profile-swapped-rgba"]) - onto_white).max() <= 4
    assert np.abs(decode(all_pictures["profile-swapped-grey"]) - srgb(plain[..., :1] ** 1.8)).max() <= 4
    assert np.abs(decode(all_pictures["profile-grey"]) - srgb(plain[..., :1] ** 1.8)).max() <= 4


def test_profiles_that_do_not_fit_or_say_srgb_change_nothing(encoded):
    from PIL import Image, ImageCms

    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (same, same[:200], same[:-20], b"", grey_profile(1.0)):
        data = encoded(waves(), icc_profile=profile) if profile else encoded(waves())
        np.testing.assert_array_equal(decode(data), waves())
    cmyk = encoded(Image.fromarray(waves()).convert("CMYK"), "TIFF", icc_profile=same)
    np.testing.assert_array_equal(decode(cmyk), waves())
