import numpy as np
import pytest
from PIL import Image

from hashzoo.config import PreprocessConfig
from hashzoo.pictures.fit import fit, prepare, preprocess_id


def given(image, size, fit="crop", interpolation="bilinear"):
    return prepare(image, PreprocessConfig(size=size, fit=fit, interpolation=interpolation))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(97, 61), (20, 24), (33, 200)])
def test_squash_is_the_resize_of_pillow(photo, interpolation, shape):
    theirs = Image.fromarray(photo(*shape)).resize((32, 40), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(given(photo(*shape), (40, 32), "squash", interpolation), np.asarray(theirs))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "resized", "corner"), [
    ((64, 40), (32, 51), (0, 10)), ((40, 65), (52, 32), (10, 0)), ((600, 500), (32, 38), (0, 3)), ((9, 7), (32, 41), (0, 4)),
])  # fmt: skip
def test_crop_resizes_the_shorter_side_and_cuts_the_centre(photo, interpolation, shape, resized, corner):
    left, top = corner
    whole = Image.fromarray(photo(*shape)).resize(resized, Image.Resampling[interpolation.upper()])
    expected = np.asarray(whole)[top : top + 32, left : left + 32].astype(int)
    assert np.abs(given(photo(*shape), (32, 32), "crop", interpolation) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_shorter_side_that_fits_is_only_cut(photo, interpolation):
    for columns, left in ((64, 16), (63, 16), (65, 16), (61, 14)):  # a half goes to the even side
        found = given(photo(32, columns), (32, 32), interpolation=interpolation)
        np.testing.assert_array_equal(found, photo(32, columns)[:, left : left + 32])


def test_a_fitting_picture_stays_as_it_is(photo):
    np.testing.assert_array_equal(given(photo(24, 40), (24, 40)), photo(24, 40))
    image = Image.fromarray(photo(24, 40))
    fit(image, PreprocessConfig(size=(24, 40)))[:] = 0
    np.testing.assert_array_equal(np.asarray(image), photo(24, 40))


def test_crop_and_squash_differ_in_shape_alone(photo):
    np.testing.assert_array_equal(given(photo(48, 48), (32, 32)), given(photo(48, 48), (32, 32), "squash"))
    assert (given(photo(48, 96), (32, 32)) != given(photo(48, 96), (32, 32), "squash")).any()


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (24, 40)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 9), (24, 41), (400, 3)])
def test_every_shape_fits(fit, size, shape):
    fitted = given(np.full((*shape, 3), 77, np.uint8), size, fit)
    assert fitted.shape == (*size, 3)
    assert fitted.dtype == np.uint8
    assert (fitted == 77).all()  # no border of another colour comes in


@pytest.mark.parametrize("size", [(32, 32), (16, 64), (64, 16)])
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 20_000_000), (20_000_001, 1)])
def test_extreme_shapes_show_their_middle(shape, size):
    image = np.zeros((*shape, 3), np.uint8)
    middle = tuple(slice(max(0, side // 2 - 20), side // 2 + 20) for side in shape)
    image[middle] = 200
    assert (given(image, size) == 200).all()


def test_ids_say_the_version_and_what_is_not_a_default():
    ids = {preprocess_id(PreprocessConfig(size=(32, 48), **more)) for more in (
        {}, {"fit": "squash"}, {"interpolation": "bicubic"}, {"mean": (0, 0, 0)}, {"std": (1, 1, 1)},
    )} | {preprocess_id(PreprocessConfig(size=(48, 32)))}  # fmt: skip
    assert len(ids) == 6
    same = PreprocessConfig(size=(32, 48), fit="crop", interpolation="bilinear", std=(0.229, 0.224, 0.225))
    assert preprocess_id(same) == preprocess_id(PreprocessConfig(size=(32, 48)))


def test_a_key_added_with_a_default_leaves_ids_as_they_are():
    class Later(PreprocessConfig):
        background: str = "white"

    assert preprocess_id(Later(size=(32, 48))) == preprocess_id(PreprocessConfig(size=(32, 48)))
    assert preprocess_id(Later(size=(32, 48), background="black")) != preprocess_id(PreprocessConfig(size=(32, 48)))


def test_the_ids_are_those_of_indexes_on_disk(monkeypatch):
    assert preprocess_id(PreprocessConfig(size=(32, 48))) == "3f729d92dcc5981c"
    monkeypatch.setattr("hashzoo.pictures.fit.PREPROCESS_VERSION", 3)
    assert preprocess_id(PreprocessConfig(size=(32, 48))) != "3f729d92dcc5981c"
