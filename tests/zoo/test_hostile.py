"""Configs and recipes that want to run code, read files or ask addresses: one sentence, and nothing happens."""

import copy
import json
import os
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import tomli_w
import torch

import hashzoo
from hashzoo import HashzooError, cli
from hashzoo.errors import ConfigError, PluginError
from hashzoo.files import sha256
from hashzoo.registry import registry
from hashzoo.training import read_recipe

pytestmark = pytest.mark.hostile

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "cat-1.jpg"
CONFIG = {
    "name": "evil", "method": "dsbh", "bits": 12, "backbone": {"name": "cnn3"}, "head": {"name": "linear"},
    "quantizer": {"name": "sign"}, "preprocess": {"size": [32, 32]}, "dataset": "cifar10", "classes": ["a", "b"],
}  # fmt: skip
RECIPE = {key: value for key, value in CONFIG.items() if key != "classes"} | {
    "protocol": "cifar10-full", "loss": {"name": "classification"}, "optimization": {"epochs": 1},
}  # fmt: skip
BACKBONES = ["timm/resnet18", "torchvision/resnet18", "cnn3", "resnet18", "alexnet"]
OTHERS = [("head", "linear"), ("head", "itq"), ("quantizer", "tanh"), ("loss", "classification"), ("loss", "csq")]


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    """A pickle that would make a folder if it were read, and must not; also where torchvision keeps its downloads."""
    mark, file = tmp_path / "executed", tmp_path / "pr-curve.png"
    torch.save(Bomb(mark), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    downloads = tmp_path / "torch" / "hub" / "checkpoints"
    downloads.mkdir(parents=True)
    for name in ("resnet18-f37072fd.pth", "alexnet-owt-7be5be79.pth"):
        (downloads / name).write_bytes(file.read_bytes())
    yield file
    assert not mark.exists()
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(file, weights_only=True)
    torch.load(file, weights_only=False)
    assert mark.exists()  # so the test could have failed


def write_model(folder, **parts):
    """Write a folder with this config and an empty file of weights, whose hash is right."""
    folder.mkdir()
    (folder / "model.safetensors").touch()
    config = CONFIG | {"weights_sha256": sha256(folder / "model.safetensors")} | parts
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def write_recipe(path, **parts):
    path.write_text(tomli_w.dumps(RECIPE | parts))
    return path


def attacks(file):
    """What the args of a config could try; a file, an address, weights, other outputs, another network."""
    return {
        "checkpoint_path": str(file),
        "pretrained_cfg": {"file": str(file)},
        "pretrained_cfg_overlay": {"file": str(file), "hf_hub_id": "evil/model"},
        "pretrained_model_args": {"file": str(file)},
        "cache_dir": str(file.parent),
        "pretrained": True,
        "weights": "DEFAULT",
        "weights_backbone": "DEFAULT",
        "features_only": True,
        "scriptable": True,
        "norm_layer": "torch.nn:Module",
        "num_classes": 7,
        "model": "resnet50",
        "self": 1,
        "kind": "backbone",
        "name": "timm/resnet50",
        "args": {"checkpoint_path": str(file)},
        "kwargs": 1,
        "": 1,
        "a b": 1,
        "__class__": "x",
        "device": "cuda",
        "file": f"file://{file}",
        "url": "http://127.0.0.1:9/weights.pth",
    }


def one_sentence(error):
    text = str(error)
    return isinstance(error, HashzooError) and text.endswith(".") and "\n" not in text and len(text) < 700


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_backbone_takes_them_from_a_config(bomb, tmp_path, backbone):
    for number, (name, value) in enumerate(attacks(bomb).items()):
        where = write_model(tmp_path / str(number), backbone={"name": backbone, "args": {name: value}})
        with pytest.raises(HashzooError) as caught:
            hashzoo.load(where, device="cpu")
        assert one_sentence(caught.value), caught.value


@pytest.mark.parametrize(("kind", "component"), [*(("backbone", name) for name in BACKBONES), *OTHERS])
def test_no_component_takes_them_from_a_recipe(bomb, tmp_path, kind, component):
    for name, value in attacks(bomb).items():
        path = write_recipe(tmp_path / "recipe.toml", **{kind: {"name": component, "args": {name: value}}})
        with pytest.raises(HashzooError) as caught:
            read_recipe(path)
        assert one_sentence(caught.value), caught.value


@pytest.mark.parametrize(("kind", "component"), [other for other in OTHERS if other[0] != "loss"])
def test_no_head_or_quantizer_takes_them_from_a_config(bomb, tmp_path, kind, component):
    for number, (name, value) in enumerate(attacks(bomb).items()):
        where = write_model(tmp_path / str(number), **{kind: {"name": component, "args": {name: value}}})
        with pytest.raises(HashzooError) as caught:
            hashzoo.load(where, device="cpu")
        assert one_sentence(caught.value), caught.value


# a value of the wrong type, of every argument that a file may set
ARGUMENTS = {
    "timm/resnet18": ["pool", "img_size", "output_stride", "drop_rate", "drop_path_rate"],
    "torchvision/resnet18": ["dropout", "image_size", "aux_logits", "init_weights"],
    "resnet18": ["stem"],
    "alexnet": ["fc_features", "dropout"],
}


@pytest.mark.parametrize("backbone", ARGUMENTS)
def test_values_of_another_kind(bomb, tmp_path, backbone):
    deep: list = []
    for _ in range(300):
        deep = [deep]
    values = [
        str(bomb), "http://127.0.0.1:9/w", "x" * 10_000, deep, [1.0] * 10_000, {"file": str(bomb)}, 10**400, 2**62,
        float("nan"), float("inf"), [str(bomb), str(bomb)], -1e308 * 10, [[[1]]],
    ]  # fmt: skip
    for name in ARGUMENTS[backbone]:
        for number, value in enumerate(values):
            where = write_model(tmp_path / f"{name}{number}", backbone={"name": backbone, "args": {name: value}})
            with pytest.raises(ConfigError) as caught:
                hashzoo.load(where, device="cpu")
            assert one_sentence(caught.value), caught.value


@pytest.mark.parametrize("depth", [30, 900, 100_000])
def test_files_nested_deeply(tmp_path, depth):
    folder = tmp_path / "model"
    where = write_model(folder)
    text = json.dumps(CONFIG | {"weights_sha256": "0" * 64, "backbone": {"name": "cnn3", "args": {"stem": "DEEP"}}})
    (folder / "config.json").write_text(text.replace('"DEEP"', "[" * depth + "]" * depth))
    with pytest.raises(ConfigError) as caught:
        hashzoo.load(where, device="cpu")
    assert one_sentence(caught.value), caught.value
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(RECIPE) + "[head.args]\nx = " + "[" * depth + "]" * depth)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert one_sentence(caught.value), caught.value


@pytest.mark.parametrize(
    "name", ["timm/hf-hub:evil/model", "timm/local-dir:/etc", "timm/resnet18.x/../../y", "timm/resnet18.no_such_tag",
             "timm/../resnet18", "torchvision/../resnet18", "torchvision/quantized_resnet18", "os:system", "builtins:exec",
             "hashzoo/torchvision/fcn_resnet50"],
)  # fmt: skip
def test_names_that_lead_elsewhere(bomb, tmp_path, name):
    with pytest.raises(HashzooError) as caught:
        hashzoo.load(write_model(tmp_path / "model", backbone={"name": name}), device="cpu")
    assert one_sentence(caught.value), caught.value


@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "torchvision/alexnet", "resnet18", "alexnet"])
def test_published_weights_are_not_unpickled(bomb, backbone):
    """A recipe's `optimization.pretrained` reads what torchvision's cache holds, and that may have been replaced."""
    with pytest.raises(PluginError, match=r"cannot be built with pretrained=True .*Weights only load failed"):
        registry().build("backbone", backbone, pretrained=True)


@pytest.mark.parametrize(("command", "code"), [("encode", 2), ("index", 2), ("train", 2), ("verify", 1), ("info", 0)])
def test_the_command_line_says_it_in_one_sentence(bomb, tmp_path, monkeypatch, capsys, command, code):
    backbone = {"name": "timm/resnet18", "args": {"checkpoint_path": str(bomb)}}
    where = write_model(tmp_path / "model", backbone=backbone)
    recipe = write_recipe(tmp_path / "recipe.toml", backbone=backbone)
    line = {
        "encode": [where, PHOTO],
        "index": [PHOTO.parent, "--model", where, "--out", tmp_path / "index"],
        "train": [recipe, "--out", tmp_path / "run"],
        "verify": [where],
        "info": [where],  # shows what the config says, and builds nothing
    }[command]
    monkeypatch.setattr(sys, "argv", ["hashzoo", command, *map(str, line)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = "".join(capsys.readouterr())
    assert (stop.value.code or 0) == code
    assert "Traceback" not in said
    if command != "info":
        assert "The backbone 'timm/resnet18' of hashzoo takes no argument 'checkpoint_path'" in said
        assert said.count("\n") == 1


def test_nothing_is_loaded_before_a_recipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hashzoo.training.run.open_pool", lambda *_: pytest.fail("the data set was opened"))
    wrong = copy.deepcopy(RECIPE) | {"loss": {"name": "csq", "args": {"quantization_wieght": 1.0}}}
    path = write_recipe(tmp_path / "recipe.toml", **wrong)
    message = r"The loss 'csq' of .* takes no argument 'quantization_wieght' .*did you mean 'quantization_weight'"
    with pytest.raises(ConfigError, match=message):
        hashzoo.train(path, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        hashzoo.training.make_recipe(
            "csq", bits=12, dataset="cifar10", protocol="cifar10-full", changes={"loss": wrong["loss"]}
        )
