"""Models of other packages, found without importing them; where a name leads."""

import json
import shutil
import sys

import pytest

import hashzoo
from hashzoo.zoo.names import list_models, locate, model_folders, shipped_folder

NAME = "dsbh-cnn3-cifar10-48bit"


@pytest.fixture
def package(site):
    """A package that ships a model, and that must never be imported."""
    info = site.folder / "others-1.0.dist-info"
    site.add("others", {"others/__init__.py": "raise RuntimeError('imported')"})
    (info / "entry_points.txt").write_text("[hashzoo.models]\nothers = others:weights\n")
    folder = shutil.copytree(shipped_folder() / NAME, site.folder / "others" / "weights" / "theirs")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": "theirs"}))
    return folder


def test_a_package_ships_models(package):
    assert model_folders() == [shipped_folder(), package.parent]
    (info,) = list_models("theirs")
    assert (info.folder, info.bits, info.missing) == (package, 48, [])
    assert "others" not in sys.modules
    assert locate("theirs").folder == package
    assert hashzoo.load("theirs", device="cpu").encode([]).bits == 48


def test_ours_come_first_and_hashzoo_path_before_them(package, monkeypatch):
    config = json.loads((package / "config.json").read_text())
    (package / "config.json").write_text(json.dumps(config | {"name": NAME}))
    assert locate(NAME).folder == list_models(NAME)[0].folder == shipped_folder() / NAME
    monkeypatch.setenv("HASHZOO_PATH", str(package.parent))
    assert locate(NAME).folder == list_models(NAME)[0].folder == package


def test_a_package_without_its_folder_is_warned_of(package):
    shutil.rmtree(package.parent)
    with pytest.warns(UserWarning, match="others = others:weights names no folder of models"):
        assert NAME in {info.name for info in list_models()}


def test_what_a_model_needs_is_named(package):
    config = json.loads((package / "config.json").read_text())
    config["backbone"]["package"] = "hashzoo-no-such"
    (package / "config.json").write_text(json.dumps(config))
    (info,) = list_models("theirs")
    assert info.missing == ["hashzoo-no-such"]


def test_a_path_is_a_model_too(package):
    assert hashzoo.load(package, device="cpu").folder == package
    with pytest.raises(hashzoo.UnknownNameError, match="is no model's folder"):
        hashzoo.load(package.parent, device="cpu")


@pytest.mark.parametrize(
    "catalog",
    [
        "",
        "{",
        "[]",
        '{"models": 3}',
        '{"models": [3]}',
        '{"models": [{"name": "theirs"}]}',
        '{"models": ' + "[" * 10**5,
    ],
)
def test_a_broken_catalogue_of_others_costs_only_theirs(package, catalog):
    (package.parent / "catalog.json").write_text(catalog)
    with pytest.warns(UserWarning, match=r"catalog\.json cannot be read .* Its models are passed over"):
        assert {info.name for info in list_models()} >= {NAME}
    with pytest.warns(UserWarning, match="passed over"):
        assert locate(NAME).folder == shipped_folder() / NAME
