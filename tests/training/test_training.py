import csv
import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import tomllib
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hashzoo.cli import app
from hashzoo.data import Protocol, make_lists, protocols
from hashzoo.errors import ConfigError, DataError, PluginError, UnknownNameError
from hashzoo.evaluation import encode_protocol, run_protocol
from hashzoo.metrics import cosine_map
from hashzoo.pretrained import open_model
from hashzoo.registry import Component, Plugin, Registry, discover, registry, using
from hashzoo.release.record import read_record, write_results
from hashzoo.training import Recipe, loop, make_recipe, read_recipe, run_recipe, train
from hashzoo.training.batches import Validation, augment, draw_batch, keep_aside, training_inputs, window_side
from hashzoo.training.loop import to_csv
from hashzoo.training.optimizer import make_optimizer, set_learning_rate
from hashzoo.training.recipe import Augment, Optimization, recipe_toml
from hashzoo.training.run import build, write_model
from hashzoo.zoo.names import shipped_folder

FROZEN = {"backbone_lr": 0.0}
TINY = {"name": "tiny", "dataset": "cifar10", "summary": "", "draw": "tiny-0"}
TINY |= {"query": "per-class:2", "train": "per-class:6", "database": "rest"}


def make(seed=0, bits=12, augment=None, head=None, loss=None, **optimization):
    settings = {"epochs": 2, "batch_size": 20, "lr": 1e-3, "precision": "float32"} | optimization
    augment = {"flip": True, "plain_epochs": 3} | (augment or {})  # the method's own may refuse a frozen backbone
    changes = {"optimization": settings, "augment": augment, "head": head or {}, "loss": loss or {}}
    return make_recipe("dsbh", bits=bits, dataset="cifar10", protocol="tiny", seed=seed, changes=changes)


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_pool):
    """Train on the tiny data set; give the run's folder."""
    monkeypatch.setitem(protocols._protocols(), "tiny", Protocol(**TINY))

    def run(name, recipe):
        run_recipe(recipe, tmp_path / name, device="cpu", pool=tiny_pool)
        return tmp_path / name

    return run


def weights(folder):
    (path,) = folder.glob("*/model.safetensors")
    return path.read_bytes()


def log(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Runs


def test_a_run_and_its_seed(run, tiny_pool):
    one, same, other = run("one", make()), run("same", make()), run("other", make(seed=1))
    assert weights(one) == weights(same)
    assert weights(one) != weights(other)

    rows = log(one)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {"epoch", "seconds", "pair", "class", "balance"}
    folder = one / make().name
    assert read_recipe(folder / "recipe.toml") == read_recipe(one / "recipe.toml") == make()
    model = open_model(folder)
    assert (model.name, model.bits) == ("dsbh-cnn3-cifar10-12bit", 12)
    assert len(model.encode(tiny_pool.images[:3])) == 3
    assert not list(one.rglob("*.partial"))
    facts = json.loads((folder / "results.json").read_text())["training"]
    assert (facts["data_license"], facts["base_model"]) == ("unknown (so says its Hub card)", None)

    before = weights(one)
    (folder / "results.json").write_text("measured since")
    assert weights(run("one", make())) == before  # a finished run is not trained further, and keeps what was measured
    assert (folder / "results.json").read_text() == "measured since"
    assert log(one) == rows
    with pytest.raises(ConfigError, match="one holds the run of another recipe; choose another --out"):
        run("one", make(seed=1))
    assert weights(one) == before


def test_a_run_is_plain_gradient_descent(run, tiny_pool):
    """Three steps over all images, written out; one batch, so that their order does not matter."""
    settings = {"epochs": 3, "batch_size": 60, "optimizer": "sgd", "lr": 0.01, "warmup": 0.0, "weight_decay": 0.0}
    recipe = make(augment={"flip": False, "shift": 0}, **settings)
    folder = run("run", recipe)
    torch.manual_seed(recipe.seed)
    model, loss = build(recipe, tiny_pool)
    rows = make_lists(Protocol(**TINY), tiny_pool).train
    images = model.preprocess([tiny_pool.images[row] for row in rows])
    targets = torch.from_numpy(tiny_pool.labels[rows])
    parameters, logged = [*model.parameters(), *loss.parameters()], []
    optimizer = torch.optim.SGD(parameters, momentum=0.9, nesterov=True)
    for rate in (0.01, 0.01 * 2 / 3, 0.01 / 3):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        terms = loss(model(images), targets)
        sum(terms.values()).backward()
        optimizer.step()
        logged.append({name: term.item() for name, term in terms.items()})
    for row, terms in zip(log(folder), logged, strict=True):
        assert {name: float(row[name]) for name in terms} == pytest.approx(terms, abs=1e-4)
    for name, tensor in open_model(folder / recipe.name).state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-4, rtol=1e-3, msg=name)


KILLED = """
import pickle, sys, time
from hashzoo.data import Protocol, protocols
from hashzoo.training import loop, read_recipe, run_recipe
import torch

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
with open(f"{folder}/tiny.pickle", "rb") as file:
    facts, pool = pickle.load(file)
protocols._protocols()["tiny"] = Protocol(**facts)
draw = loop.draw_batch

def slow(images, chosen, recipe, epoch, views, generator):
    time.sleep(0.5 if epoch else 0)  # the kill comes in the middle of the second epoch
    return draw(images, chosen, recipe, epoch, views, generator)

loop.draw_batch = slow
run_recipe(read_recipe(f"{folder}/recipe.toml"), f"{folder}/run", device="cpu", pool=pool)
"""


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, run, tiny_pool, start_python, frozen):
    more = {**FROZEN, "keep": "best"} if frozen else {}
    recipe = make(epochs=3, ema=0.9, validate_share=0.1, **more)
    expected = weights(run("whole", recipe))
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe))
    (tmp_path / "tiny.pickle").write_bytes(pickle.dumps((TINY, tiny_pool)))
    child = start_python(KILLED, tmp_path, torch.get_num_threads())
    folder, deadline = tmp_path / "run", time.monotonic() + 300
    while not (folder / "log.csv").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    child.kill()
    assert child.wait() == -9
    assert [row["epoch"] for row in log(folder)] == ["1"]
    assert not list(folder.glob("*/model.safetensors"))

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert len(state["rows"]) == 1
    assert weights(run("run", recipe)) == expected
    assert [row["epoch"] for row in log(folder)] == ["1", "2", "3"]
    assert [row["pair"] for row in log(folder)] == [row["pair"] for row in log(tmp_path / "whole")]


def test_a_run_killed_before_its_last_log_writes_it(run):
    folder = run("a", make(epochs=1))
    before = log(folder)
    (folder / "log.csv").unlink()  # as a kill between checkpoint and log leaves it
    shutil.rmtree(folder / make().name)
    run("a", make(epochs=1))
    assert log(folder) == before


def test_the_time_of_short_epochs_adds_up(run, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(loop, "time", type("Clock", (), {"monotonic": staticmethod(lambda: next(clock) * 0.0123)}))
    folder = run("fast", make(epochs=30))
    facts = json.loads((folder / make().name / "results.json").read_text())["training"]
    assert facts["seconds"] == pytest.approx(30 * 0.0123, abs=1e-3)
    assert facts["images_per_s"] == pytest.approx(60 / 0.0123, rel=1e-3)
    monkeypatch.setattr(loop, "time", type("Clock", (), {"monotonic": staticmethod(lambda: 0.0)}))
    run("in no time", make(epochs=1))


LOSS = {
    "zoo_edited/__init__.py": "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_losses(register):\n"
    "    register('edited', 'zoo_edited.loss:Edited', summary='A loss that its author changes')\n",
    "zoo_edited/loss.py": """
import torch
class Edited(torch.nn.Module):
    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__()

    def forward(self, output, targets):
        return {"size": 1.0 * output.u.square().mean()}
""",
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "killed"])
def test_a_run_of_other_code_is_refused(run, site, finished):
    """The recipe is the same, but the plugin's author has changed the loss since."""
    site.add("zoo-edited", LOSS, {"edited": "zoo_edited"})
    with using(discover()):
        recipe = make(epochs=1, loss={"name": "edited"})
        folder = run("one", recipe)
        run("one", recipe)  # the same code: left as it is
        before = weights(folder)
        if not finished:
            shutil.rmtree(folder / recipe.name)
        path = site.folder / "zoo_edited" / "loss.py"
        path.write_text(path.read_text().replace("1.0 *", "9.0 *"))
        way_out = r"its model is .*12bit\. Choose another" if finished else "choose another"
        with pytest.raises(ConfigError, match=rf"made by other code of zoo_edited; {way_out} --out, or remove that"):
            run("one", recipe)
        assert not finished or weights(folder) == before
        (folder / "code.json").unlink()  # as hashzoo 0.1 left it
        run("one", recipe)


def test_two_precisions_in_one_process(run):
    run("float32", make(epochs=1))
    assert weights(run("bfloat16", make(epochs=1, precision="bfloat16"))) != weights(run("again", make(epochs=1)))


def test_a_loss_that_is_no_number_is_reported(run, tmp_path):
    with pytest.raises(ConfigError, match=r"The loss is (nan|inf) in epoch [12]; lower the learning rate\."):
        run("wild", make(lr=1e30, warmup=0.0))
    assert not list((tmp_path / "wild").glob("*/model.safetensors"))


def test_a_loss_that_is_no_number_in_the_last_steps_is_reported(run, tmp_path):
    with pytest.raises(ConfigError, match=r"The loss is (nan|inf) in epoch 1; lower the learning rate\."):
        run("wild", make(lr=1e30, warmup=0.0, epochs=1))
    assert not (tmp_path / "wild" / "checkpoint.pt").exists()  # started again, it would never get out


def test_what_is_refused_before_any_work(run, tmp_path, tiny_pool):
    with pytest.raises(DataError, match="60 training images are fewer than one batch of 61"):
        run("a", make(batch_size=61))
    with pytest.raises(DataError, match="Protocol tiny-imagenet is of data set tiny-imagenet, not cifar10"):
        run("b", make().model_copy(update={"protocol": "tiny-imagenet"}))
    with pytest.raises(UnknownNameError, match="No protocol is named 'tini'"):
        run("c", make().model_copy(update={"protocol": "tini"}))
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()


# Recipes


def test_recipe_round_trip(tmp_path):
    recipe = make(seed=7, augment={"crops": [[0, 24], [1, 32]], "shift": 2, "plain_epochs": 1}, lr=1 / 3)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_toml(recipe), encoding="utf-8")
    assert read_recipe(path) == recipe
    assert recipe_toml(read_recipe(path)) == path.read_text(encoding="utf-8")
    assert (recipe.name, recipe.method, recipe.seed) == ("dsbh-cnn3-cifar10-12bit", "dsbh", 7)
    assert {ref.name: ref.package for ref in (recipe.backbone, recipe.head, recipe.quantizer, recipe.loss)} == {
        "cnn3": "hashzoo-dsbh", "linear": "hashzoo", "sign": "hashzoo", "dsbh": "hashzoo-dsbh",
    }  # fmt: skip
    assert recipe.quantizer.args == {"gradient": "hard-tanh"}
    assert (recipe.optimization.optimizer, recipe.optimization.lr) == ("adamw", 1 / 3)  # the method's, and the change


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("bits = 12", "bits = 2", "bits"),
        ("bits = 12", 'bits = "many"', "bits"),
        ("epochs = 2", "epochs = -1", r"optimization\.epochs"),
        ("batch_size = 20", "batch_size = 1", r"optimization\.batch_size"),
        ('"adamw"', '"adam"', r"optimization\.optimizer"),
        ("lr = 0.001", "lr = 0.0", r"optimization\.lr"),
        ("lr = 0.001", "lr = nan", r"optimization\.lr"),
        ("lr = 0.001", "lr = 0.001\nlearning_rate = 1", r"optimization\.learning_rate"),
        ("warmup = 0.1", "warmup = 1.0", r"optimization\.warmup"),
        ("shift = 4", "shift = -1", r"augment\.shift"),
        ('name = "dsbh-cnn3-cifar10-12bit"', 'name = "../x"', "name"),
        ("[preprocess]", "[preprocessing]", "preprocess"),
    ],
)
def test_wrong_recipes(tmp_path, old, new, field):
    text = recipe_toml(make())
    assert old in text
    (tmp_path / "recipe.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=rf"recipe\.toml: '{field}' is (wrong|no key)"):
        read_recipe(tmp_path / "recipe.toml")


def test_recipes_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read as a recipe"):
        read_recipe(tmp_path / "gone.toml")
    for data in (b"a =", b"[a]\n[a]\n", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(data)
        with pytest.raises(ConfigError, match=r"bad\.toml cannot be read as a recipe"):
            read_recipe(tmp_path / "bad.toml")


def test_recipes_of_components_that_are_not_there():
    with pytest.raises(UnknownNameError, match=r"No method is named 'dsbhh' \(did you mean 'dsbh'"):
        make_recipe("dsbhh", bits=12, dataset="cifar10", protocol="tiny")
    with pytest.raises(UnknownNameError, match="No backbone is named 'cnn33'"):
        make_recipe("dsbh", bits=12, dataset="cifar10", protocol="tiny", changes={"backbone": {"name": "cnn33"}})
    with pytest.raises(ConfigError, match=r"The recipe of dsbh: 'optimization\.epoch' is no key"):
        make(epoch=3)


# Augmentation


@pytest.fixture
def ramp():
    """Two images (3, 32, 32) whose pixels tell where they were: row in channel 0, column in channel 1."""
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    return torch.stack([row, column, row * 0 + 9]).to(torch.uint8).repeat(400, 1, 1, 1)


def cut(images, epoch=0, seed=0, epochs=4, size=(32, 32), **rule):
    recipe = make(augment=rule, epochs=epochs)
    recipe = recipe.model_copy(update={"preprocess": recipe.preprocess.model_copy(update={"size": size})})
    return augment(images, recipe, epoch, torch.Generator().manual_seed(seed), torch.arange(len(images)))


def corners(made):
    """Where the windows of a ramp were cut: the top left pixel's row and column."""
    return made[:, :2, 0, 0].long()


def test_whole_images_shift_within_bounds(ramp):
    made = cut(ramp, flip=False, shift=4)
    assert (made.shape, made.dtype) == ((400, 3, 32, 32), torch.uint8)
    offsets = made[:, :2, 16, 16].long() - 16  # the centre is never a reflected pixel
    for axis in (0, 1):
        assert sorted(set(offsets[:, axis].tolist())) == list(range(-4, 5))
    assert (made[:, 2] == 9).all()  # the border is reflected, not filled
    assert (made[:, 0, :, 5] == made[:, 0, :, 20]).all()  # rows stay straight
    assert torch.equal(cut(ramp, flip=False, shift=4), made)
    assert not torch.equal(cut(ramp, flip=False, shift=4, seed=1), made)


def test_smaller_windows_stay_inside(ramp):
    made = cut(ramp, flip=False, shift=4, crops=[[0, 24], [2, 32]])
    assert made.shape == (400, 3, 24, 24)  # the network's input shrinks with the window
    for axis in (0, 1):
        assert sorted(set(corners(made)[:, axis].tolist())) == list(range(9))
    first = corners(made).to(torch.uint8)
    steps = torch.arange(24, dtype=torch.uint8)
    assert torch.equal(made[:, 0], (first[:, 0, None] + steps)[:, :, None].expand(-1, 24, 24))
    assert torch.equal(made[:, 1], (first[:, 1, None] + steps)[:, None, :].expand(-1, 24, 24))
    assert cut(ramp, epoch=2, crops=[[0, 24], [2, 32]]).shape == (400, 3, 32, 32)


@pytest.mark.parametrize("shift", [0, 2])
def test_smaller_windows_stay_near_the_centre(ramp, shift):
    made = cut(ramp, flip=False, shift=shift, crops=[[0, 24]])
    for axis in (0, 1):
        assert sorted(set(corners(made)[:, axis].tolist())) == list(range(4 - shift, 4 + shift + 1))


def test_plain_epochs_see_the_images_unchanged(ramp):
    rule = {"plain_epochs": 2, "crops": [[0, 24]]}
    assert not torch.equal(cut(ramp, epoch=1, **rule), ramp[:, :, :24, :24])
    for epoch in (2, 3):
        assert torch.equal(cut(ramp, epoch=epoch, **rule), ramp)
    assert cut(ramp, epoch=1, **rule).shape == (400, 3, 24, 24)


def test_flip_mirrors_half_of_the_images(ramp):
    made = cut(ramp, shift=0)
    mirrored = (made[:, 1, 0, 0] == 31).tolist()
    assert 140 < sum(mirrored) < 260  # 400 fair coins
    for image, flipped in zip(made, mirrored, strict=True):
        assert torch.equal(image, ramp[0].flip(2) if flipped else ramp[0])


def test_alternating_flips_mirror_each_image_in_every_second_epoch(ramp):
    first, second, third = (
        cut(ramp, epoch=epoch, shift=0, flip="alternating", plain_epochs=0, seed=epoch)[:, 1, 0, 0] == 31
        for epoch in range(3)
    )
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 140 < first.sum() < 260
    with pytest.raises(ConfigError, match=r'augment\.flip = "alternating" is for a backbone that is trained'):
        make(augment={"flip": "alternating"}, **FROZEN)


def test_cutout_blanks_a_square_inside_the_window(ramp):
    made = cut(ramp, shift=0, flip=False, cutout=12)
    mean = [round(255 * value) for value in make().preprocess.mean]
    blank = (made == torch.tensor(mean, dtype=torch.uint8).view(1, 3, 1, 1)).all(1)
    assert torch.equal(torch.where(blank[:, None], ramp, made), ramp)  # all else is as it was
    assert blank.sum((1, 2)).tolist() == [144] * 400
    corner = blank.flatten(1).float().argmax(1)
    for first in (corner // 32, corner % 32):
        assert sorted(set(first.tolist())) == list(range(21))
    for image, place in zip(blank, corner.tolist(), strict=True):
        assert image[place // 32 : place // 32 + 12, place % 32 : place % 32 + 12].all()
    assert torch.equal(cut(ramp, epoch=3, cutout=12, plain_epochs=1), ramp)
    with pytest.raises(ConfigError, match=r"augment\.cutout must be smaller"):
        make(augment={"cutout": 24, "crops": [[0, 24]]})


@pytest.mark.parametrize(("size", "expected"), [((64, 64), (48, 48)), ((16, 48), (12, 36))])
def test_windows_are_fitted_to_the_network(ramp, size, expected):
    made = cut(ramp[:5], size=size, flip=False, shift=4, crops=[[0, 24]])
    assert (made.shape, made.dtype) == ((5, 3, *expected), torch.uint8)
    assert (made[:, 2] == 9).all()


def test_the_windows_side():
    rule = Augment(crops=((5, 32), (0, 16), (2, 24)))
    assert [window_side(rule, epoch, 32) for epoch in range(7)] == [16, 16, 24, 24, 24, 32, 32]
    assert window_side(Augment(), 3, 64) == 64
    assert [window_side(Augment(crops=((2, 24),)), epoch, 32) for epoch in range(3)] == [32, 32, 24]


# Optimisation


def test_learning_rates():
    settings = Optimization(epochs=1, lr=0.5, warmup=0.2, backbone_lr=0.1)
    optimizer = torch.optim.SGD(
        [
            {"params": [torch.nn.Parameter(torch.zeros(1))], "scale": 1.0},
            {"params": [torch.nn.Parameter(torch.zeros(1))], "scale": 0.1},
        ],
        lr=9.0,
    )
    # 4 steps of warm-up in 20, then 16 down
    for step, expected in ((0, 0.1), (1, 0.2), (3, 0.4), (4, 0.5), (12, 0.25), (19, 0.5 / 16)):
        set_learning_rate(optimizer, settings, step, 20)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected, expected / 10])
    for step, expected in ((0, 0.5), (10, 0.25), (19, 0.025)):
        set_learning_rate(optimizer, settings.model_copy(update={"warmup": 0.0}), step, 20)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_no_step_is_wasted_on_rate_0(run, monkeypatch):
    """With one step an epoch and half of the run as warm-up, the first epoch moves the weights."""
    rates = []
    monkeypatch.setattr(
        loop,
        "set_learning_rate",
        lambda *given: (set_learning_rate(*given), rates.append(given[0].param_groups[0]["lr"])),
    )
    run("a", make(batch_size=60, epochs=4, warmup=0.5, lr=0.3))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.15])


def test_an_average_of_the_weights(run, monkeypatch):
    """What is stored is the running average over the steps, as a plain loop computes it."""
    steps = []
    update = loop.average_of

    def watched(model, decay):
        average = update(model, decay)
        before = average.update_parameters

        def after(model):
            steps.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            before(model)

        average.update_parameters = after
        return average

    monkeypatch.setattr(loop, "average_of", watched)
    recipe = make(ema=0.75, batch_size=20)
    stored = load_file(run("averaged", recipe) / recipe.name / "model.safetensors")
    assert len(steps) == 6
    for name, tensor in stored.items():
        mean = steps[0][name].double()
        for step in steps[1:]:
            mean = 0.75 * mean + 0.25 * step[name].double()
        torch.testing.assert_close(tensor.float(), mean.float(), atol=1e-3, rtol=1e-3)
    assert any(not torch.equal(tensor, steps[-1][name].half()) for name, tensor in stored.items())


# Images kept aside


def test_a_share_of_every_class_is_kept_aside(tiny_pool):
    positions = np.arange(120)
    ours, aside = keep_aside(tiny_pool.labels, positions, 0.25, seed=0)
    assert np.array_equal(np.sort(np.concatenate([ours, aside])), positions)
    assert np.bincount(tiny_pool.labels[aside]).tolist() == [3] * 10
    assert not np.array_equal(aside, keep_aside(tiny_pool.labels, positions, 0.25, seed=1)[1])
    many = np.eye(10, dtype=bool)[tiny_pool.labels]
    assert len(keep_aside(many, positions, 0.25, seed=0)[1]) == 30


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
def test_the_best_epoch_on_images_kept_aside(run, tiny_pool, monkeypatch, frozen):
    """The kept weights are those of the epoch that the log says, and are not trained on what was kept aside."""
    recipe = make(validate_share=1 / 3, keep="best", epochs=4, lr=0.02, **(FROZEN if frozen else {}))
    loaded = []
    real = training_inputs

    def watched(model, recipe, pool, positions):
        loaded.append(positions)
        return real(model, recipe, pool, positions)

    monkeypatch.setattr("hashzoo.training.run.training_inputs", watched)
    folder = run("best", recipe)
    rows = [float(row["validation_map"]) for row in log(folder)]
    facts = json.loads((folder / recipe.name / "results.json").read_text())["training"]
    assert facts["kept_epoch"] == 1 + rows.index(max(rows))
    train_list = make_lists(Protocol(**TINY), tiny_pool).train
    ours, aside = keep_aside(tiny_pool.labels, train_list, 1 / 3, recipe.seed)
    assert np.array_equal(loaded[0], ours) and len(aside) == 20
    model = open_model(folder / recipe.name)
    again = Validation.of(model, recipe, tiny_pool, aside)
    assert sorted(again.labels[::2]) == sorted(again.labels[1::2])  # each class in both halves
    assert again.mean_average_precision(model, frozen) == pytest.approx(max(rows), abs=0.02)  # stored as float16
    with pytest.raises(ConfigError, match="needs images kept aside"):
        make(keep="best")


def test_a_fold_leaves_the_plain_network(run, tiny_pool):
    """AlexNet trained with batch normalisation is stored without, and computes the same."""
    changes = {
        "optimization": {"epochs": 1, "batch_size": 20, "precision": "float32", "optimizer": "sgd", "lr": 0.01},
        "backbone": {"args": {"fc_features": 16, "batch_norm": True}},
        "preprocess": {"size": [64, 64]},
        "augment": {"crops": []},
    }
    recipe = make_recipe("dphb", bits=12, dataset="cifar10", protocol="tiny", changes=changes)
    trained = []
    real = write_model

    def watched(folder, model, *rest):
        batch = model.preprocess.normalise(tiny_pool.fitted(np.arange(8), model.preprocess))
        with torch.no_grad():
            trained.append(model.cpu().eval()(batch).u)
        return real(folder, model, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hashzoo.training.run.write_model", watched)
        folder = run("folded", recipe) / recipe.name
    model = open_model(folder)
    assert model.config.backbone.args == {"fc_features": 16, "dropout": 0.2, "batch_norm": False}
    assert not [module for module in model.modules() if "Norm" in type(module).__name__]
    batch = model.preprocess.normalise(tiny_pool.fitted(np.arange(8), model.preprocess))
    with torch.no_grad():
        torch.testing.assert_close(model(batch).u, trained[0], atol=0.02, rtol=0.02)  # stored as float16


def test_parameter_groups(make_model):
    model, loss = make_model(), torch.nn.Linear(12, 10)
    for kind in ("sgd", "adamw"):
        settings = Optimization(epochs=1, lr=0.5, backbone_lr=0.1, weight_decay=0.3, optimizer=kind)
        groups = make_optimizer(settings, model, loss).param_groups
        found = {id(member): (group["scale"], group["weight_decay"]) for group in groups for member in group["params"]}
        for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
            scale = 0.1 if name.startswith("backbone.") else 1.0
            assert found.pop(id(parameter)) == (scale, 0.3 if parameter.ndim > 1 else 0.0), name
        assert found == {}


def test_a_recipe_is_a_value():
    assert make() == make()
    assert isinstance(make(), Recipe)
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 3


def test_a_recipe_file_takes_another_seed_and_nothing_else(tmp_path, monkeypatch):
    path, recipe, trained = tmp_path / "recipe.toml", make(seed=1), []
    path.write_text(recipe_toml(recipe))
    model = shipped_folder() / "dsbh-cnn3-cifar10-48bit"
    monkeypatch.setattr("hashzoo.training.run.run_recipe", lambda recipe, *_, **__: trained.append(recipe) or model)

    def command(*arguments):
        return CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path), *arguments]).exception

    assert [command(), command("--seed", "0"), command("--seed", "2")] == [None] * 3
    assert trained == [recipe, recipe.model_copy(update={"seed": 0}), recipe.model_copy(update={"seed": 2})]
    for option in (["--bits", "12"], ["--dataset", "cifar10"], ["--protocol", "cifar10-54k"], ["--set", "seed = 1"]):
        error = command(*option)
        assert isinstance(error, ConfigError) and "A recipe is run as it is but for its seed" in str(error)
    assert len(trained) == 3


def test_train_takes_a_method_a_file_or_a_recipe_and_gives_a_model(run, tmp_path, tiny_pool):
    recipe = make(epochs=1)
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe))
    options = {"bits": 12, "dataset": "cifar10", "protocol": "tiny"}
    changes = {"optimization": {"epochs": 1, "batch_size": 20, "lr": 1e-3, "precision": "float32"}}
    changes["augment"] = {"flip": True, "plain_epochs": 3}
    made = [
        train("dsbh", tmp_path / "a", **options, changes=changes, device="cpu", pool=tiny_pool),
        train(tmp_path / "recipe.toml", tmp_path / "b", device="cpu", pool=tiny_pool),
        train(recipe, tmp_path / "c", device="cpu", pool=tiny_pool),
    ]
    assert [model.folder for model in made] == [tmp_path / name / recipe.name for name in "abc"]
    assert len({weights(tmp_path / name) for name in "abc"}) == 1
    assert len(made[0].encode(tiny_pool.images[:3])) == 3


@pytest.mark.parametrize(
    ("cpu", "precision", "said"), [("AVX2", "bfloat16", 1), ("AVX512", "bfloat16", 0), ("AVX2", "float32", 0)]
)
def test_a_cpu_that_imitates_bfloat16_is_named(run, monkeypatch, capsys, cpu, precision, said):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    run("one", make(epochs=1, precision=precision))
    assert capsys.readouterr().err.count(f"This CPU ({cpu}) imitates bfloat16") == said


# Frozen backbones, closed forms, and what a loss may ask for


def test_a_frozen_backbone_keeps_its_features(run, tiny_pool):
    recipe = make(**FROZEN)
    folder = run("frozen", recipe) / recipe.name
    assert recipe.frozen and not make().frozen
    model = open_model(folder)
    start, _ = build(recipe, tiny_pool)
    torch.manual_seed(recipe.seed)
    start, _ = build(recipe, tiny_pool)
    for name, tensor in start.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    assert not torch.equal(start.head.linear.weight.half(), model.head.linear.weight.half())
    assert json.loads((folder / "results.json").read_text())["training"]["frozen"]
    # codes from kept features are those of the images
    lists = make_lists(protocols._protocols()["tiny"], tiny_pool)
    kept, none = encode_protocol(model, "tiny", tiny_pool, lists, cached=True)
    fresh, speed = encode_protocol(model, "tiny", tiny_pool, lists)
    assert kept.codes == fresh.codes
    assert none is None and speed > 0
    results = read_record(folder).results
    row, published = run_protocol(folder, results, "tiny", pool=tiny_pool, float_cosine=True)
    assert published.codes == kept.codes and row.images_per_s is None
    with torch.no_grad():
        found = model.backbone(model.preprocess(tiny_pool.images)).numpy()
    labels = tiny_pool.labels
    cosine = cosine_map(
        found[lists.query], found[lists.database], labels[lists.query], labels[lists.database], row.top_k
    )
    assert row.map_float_cosine == pytest.approx(cosine, abs=1e-5)
    assert run_protocol(folder, results, "tiny", pool=tiny_pool)[0].map_float_cosine is None


def test_the_loss_of_a_frozen_backbone_is_that_of_its_images(run):
    still = make(augment={"plain_epochs": 0}, epochs=1, **FROZEN)
    rows = log(run("still", still))
    changed = make(augment={"plain_epochs": 0, "versions": 2}, epochs=1, **FROZEN)
    assert log(run("changed", changed))[0]["class"] != rows[0]["class"]
    with pytest.raises(ConfigError, match=r"augment\.versions is for a frozen backbone"):
        make(augment={"versions": 2})
    with pytest.raises(ConfigError, match=r"augment\.crops is for a backbone that is trained"):
        make(augment={"crops": [[0, 24]]}, **FROZEN)


def test_versions_of_a_frozen_backbones_images_are_changed(tiny_pool, monkeypatch):
    monkeypatch.setitem(protocols._protocols(), "tiny", Protocol(**TINY))
    recipe = make(augment={"plain_epochs": 2, "versions": 1}, epochs=2, **FROZEN)  # each epoch is a plain one
    model, _ = build(recipe, tiny_pool)
    positions = make_lists(Protocol(**TINY), tiny_pool).train
    plain, changed = training_inputs(model, recipe, tiny_pool, positions)
    assert not torch.equal(plain, changed)
    closed = recipe.model_copy(update={"loss": None})  # sees the first alone
    assert torch.equal(training_inputs(model, closed, tiny_pool, positions), plain[None])


@pytest.mark.parametrize("backbone_lr", [0.0, 1.0], ids=["frozen", "whole"])
def test_a_run_may_start_from_another_models_backbone(run, backbone_lr):
    first = open_model(run("first", make(seed=1)) / make().name)
    recipe = make(bits=24, backbone_lr=backbone_lr).model_copy(update={"init": f"local-dir:{first.folder}"})
    folder = run("second", recipe) / recipe.name
    second, wanted = open_model(folder), first.backbone.state_dict()
    kept = [torch.equal(tensor, wanted[name]) for name, tensor in second.backbone.state_dict().items()]
    assert second.bits == 24 and all(kept) == recipe.frozen
    start = json.loads((folder / "results.json").read_text())["training"]["init"]
    assert start == f"from the backbone of {first.name} (weights {first.config.weights_sha256[:12]})"
    alone = run("alone", make(bits=24, backbone_lr=backbone_lr))
    assert float(log(run("second", recipe))[0]["class"]) < float(log(alone)[0]["class"])  # it has learned already


def test_a_head_on_anothers_backbone_is_stored_alone(run, tmp_path, monkeypatch, tiny_pool):
    first = open_model(run("first", make(seed=1)) / make().name)
    monkeypatch.setenv("HASHZOO_PATH", str(tmp_path / "first"))
    other = make(bits=24, **FROZEN)  # a name of the zoo, not a folder
    recipe = other.model_copy(update={"init": first.name, "name": "second"})
    folder = run("second", recipe) / "second"
    second = open_model(folder)
    assert set(load_file(folder / "model.safetensors")) == {"head.linear.weight", "head.linear.bias"}
    assert second.config.backbone_from.model_dump(exclude_none=True) == {
        "model": first.name, "weights_sha256": first.config.weights_sha256,
    }  # fmt: skip
    for key, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[key], value)
    # the same backbone once more: it is that of the first, not of the one between
    monkeypatch.setenv("HASHZOO_PATH", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")]))
    third = open_model(run("third", recipe.model_copy(update={"init": "second", "name": "third"})) / "third")
    assert third.config.backbone_from == second.config.backbone_from
    # one that is trained on is stored whole
    whole = run("whole", make(bits=24).model_copy(update={"init": first.name, "name": "whole"})) / "whole"
    assert open_model(whole).config.backbone_from is None


def test_a_run_starts_only_from_what_fits_and_saw_no_query(run, tmp_path, monkeypatch):
    folder = run("first", make()) / make().name
    init = {"init": f"local-dir:{folder}"}
    other = make().backbone.model_copy(update={"name": "cnn3-wide"})
    with pytest.raises(ConfigError, match=r"has the backbone cnn3 \{\}, the recipe cnn3-wide \{\}; start from a model"):
        run("other", make().model_copy(update={**init, "backbone": other}))
    monkeypatch.setitem(protocols._protocols(), "tiny-2", Protocol(**TINY | {"name": "tiny-2"}))
    with pytest.raises(ConfigError, match="was trained under tiny and may have seen queries of tiny-2; start from"):
        run("lists", make().model_copy(update={**init, "protocol": "tiny-2"}))
    with pytest.raises(UnknownNameError, match="gone is no model's folder"):
        run("gone", make().model_copy(update={"init": f"local-dir:{tmp_path}/gone"}))
    assert not any((tmp_path / name).exists() for name in ("other", "lists", "gone"))  # refused before work began
    with pytest.raises(ConfigError, match=r"init and optimization\.pretrained both say where the backbone starts"):
        make_recipe(
            "dphb", bits=12, dataset="cifar10", protocol="tiny",
            changes={"init": "a-model", "optimization": {"pretrained": True}},
        )  # fmt: skip


def test_what_a_start_has_seen_is_kept(run, tmp_path, monkeypatch):
    monkeypatch.setitem(protocols._protocols(), "tiny-2", Protocol(**TINY | {"name": "tiny-2"}))
    first = run("first", make()) / make().name
    edit_json(first / "config.json", dataset="elsewhere")  # as if it was of other data
    second = run("second", make().model_copy(update={"init": f"local-dir:{first}"})) / make().name
    facts = json.loads((second / "results.json").read_text())["training"]
    assert facts["seen"] == [["elsewhere", "tiny"]]
    third = run("third", make(seed=1).model_copy(update={"init": f"local-dir:{second}"})) / make().name
    assert json.loads((third / "results.json").read_text())["training"]["seen"] == [["elsewhere", "tiny"]]

    edit_json(second / "config.json", dataset="elsewhere")
    edit_json(second / "results.json", training=facts | {"seen": [["cifar10", "tiny-2"]]})
    with pytest.raises(ConfigError, match="was trained under tiny-2 and may have seen queries of tiny; start from"):
        run("fourth", make().model_copy(update={"init": f"local-dir:{second}"}))


def test_a_term_that_comes_later_is_logged():
    assert to_csv([{"epoch": 1, "pair": 2.0}, {"epoch": 2, "pair": 1.0, "late": 3.0}]) == (
        "epoch,pair,late\n1,2.0,\n2,1.0,3.0\n"
    )


def test_versions_and_views():
    images = torch.arange(3.0)[:, None, None] * 100 + torch.arange(10.0)[None, :, None]  # version * 100 + row
    chosen = torch.tensor([7, 2, 5, 1])
    recipe = make(augment={"versions": 2}, **FROZEN)
    seen = set()
    for seed in range(20):
        batch, rows = draw_batch(images, chosen, recipe, 0, 2, torch.Generator().manual_seed(seed))
        assert rows.tolist() == [7, 2, 5, 1] * 2
        assert (batch[:, 0] % 100).tolist() == rows.tolist()
        first, second = (batch[:, 0] // 100).chunk(2)
        assert (first != second).all()
        seen |= set(first.tolist())
    assert seen == {0, 1, 2}
    ramp = torch.arange(32 * 32).view(1, 1, 32, 32).expand(10, 3, -1, -1).to(torch.uint8)
    moving = make(augment={"plain_epochs": 0})
    batch, rows = draw_batch(ramp, chosen, moving, 0, 2, torch.Generator().manual_seed(0))
    assert batch.shape == (8, 3, 32, 32) and not torch.equal(*batch.chunk(2))


class MeanHead(torch.nn.Module):
    """Bits: is a feature above its mean? Closed form."""

    def __init__(self, feature_shape, bits, num_classes=0):
        super().__init__()
        self.bits = bits
        self.register_buffer("mean", torch.zeros(feature_shape[0]))

    def fit(self, features, targets):
        assert features.shape == (60, 500) and targets.shape == (60,) and targets.dtype == torch.int64
        self.mean.copy_(features.mean(0))

    def forward(self, features):
        return (features - self.mean)[:, : self.bits]


@pytest.fixture
def mean_head():
    """Register it."""
    component = Component("head", "mean", "hashzoo-testing", MeanHead, "For tests")
    with using(Registry([*registry().plugins, Plugin("test", "hashzoo-testing", "0", (component,))])):
        yield


def closed_form(recipe):
    """The recipe without loss and epochs."""
    data = tomllib.loads(recipe_toml(recipe))
    del data["loss"]
    data["optimization"]["epochs"] = 0
    return Recipe(**data)


def test_a_head_in_closed_form(run, tiny_pool, mean_head):
    recipe = closed_form(make(head={"name": "mean"}))
    folder = run("closed", recipe) / recipe.name
    model = open_model(folder)
    train_list = make_lists(protocols._protocols()["tiny"], tiny_pool).train
    with torch.no_grad():
        wanted = model.backbone(model.preprocess([tiny_pool.images[row] for row in train_list])).mean(0)
    torch.testing.assert_close(model.head.mean, wanted)
    facts = json.loads((folder / "results.json").read_text())["training"]
    assert (facts["epochs"], facts["frozen"]) == (0, True)
    assert not (folder.parent / "checkpoint.pt").exists()


def test_heads_and_losses_that_do_not_fit_together(run, mean_head):
    with pytest.raises(ConfigError, match="a loss needs epochs, and epochs need a loss"):
        make(epochs=0)
    with pytest.raises(ConfigError, match="The head 'mean' is found in closed form; give the recipe no loss"):
        run("a", make(head={"name": "mean"}))
    with pytest.raises(ConfigError, match="The head 'linear' is not found in closed form; give the recipe a loss"):
        run("b", closed_form(make()))


class Diary(torch.nn.Module):
    """A loss that notes what it is told."""

    views = 2
    log: ClassVar[list] = []

    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__()

    def start(self, targets):
        self.register_buffer("memory", torch.zeros(len(targets)))
        self.targets = targets
        self.log.append("start")

    def forward(self, output, targets):
        assert torch.equal(self.targets[output.index], targets)
        assert torch.equal(*output.index.chunk(2))
        self.memory[output.index] += 1
        self.log.append(len(targets))
        return {"size": output.u.square().mean()}

    def end_epoch(self):
        assert not torch.is_grad_enabled()
        self.log.append(self.memory.tolist())


def test_what_a_loss_is_told(run):
    Diary.log.clear()
    component = Component("loss", "diary", "hashzoo-testing", Diary, "For tests")
    with using(Registry([*registry().plugins, Plugin("test", "hashzoo-testing", "0", (component,))])):
        run("diary", make(loss={"name": "diary"}))
    steps = [40] * 3
    checked = ["start", 8]  # the random batch before the run
    assert Diary.log == [*checked, "start", *steps, [1.0] * 60, *steps, [2.0] * 60]  # indexing adds once a row


def test_a_component_that_breaks_its_contract_is_named_before_data_is_read(site, tmp_path, monkeypatch):
    broken = LOSS["zoo_edited/loss.py"].replace('{"size": 1.0 * output.u.square().mean()}', "output.u.mean()")
    site.add("zoo-edited", LOSS | {"zoo_edited/loss.py": broken}, {"edited": "zoo_edited"})
    monkeypatch.setattr("hashzoo.training.run.open_pool", None)
    with using(discover()):
        recipe = make(loss={"name": "edited"}).model_copy(update={"protocol": "cifar10-full"})
        with pytest.raises(PluginError, match=r"The loss 'edited' of zoo-edited gives a tensor .*zoo_edited/loss\.py"):
            run_recipe(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_recipes_build_on_a_base(site):
    base = """
[backbone]
name = "cnn3"
[head]
name = "linear"
[quantizer]
name = "tanh"
args = { beta = 2.0 }
[loss]
name = "dsbh"
args = { pair_weight = 0.5 }
[preprocess]
size = [32, 32]
[optimization]
epochs = 5
lr = 0.1
[on.cifar10]
optimization = { epochs = 7, batch_size = 32 }
"""
    own = """
base = "base.toml"
[quantizer]
name = "sign"
[loss]
name = "dsbh"
args = { class_weight = 2.0 }
[optimization]
epochs = 9
[dataset.cifar10]  # as 0.1 spelled it
optimization = { batch_size = 16 }
"""
    module = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_methods(register):\n"
    module += "    register('on-base', 'zoo_on_base:own.toml', summary='On a base')\n"
    files = {"zoo_on_base/__init__.py": module, "zoo_on_base/base.toml": base, "zoo_on_base/own.toml": own}
    site.add("zoo-on-base", files, {"based": "zoo_on_base"})
    with using(discover()):
        with pytest.warns(FutureWarning, match=r"'on-base' \(zoo-on-base\) says \[dataset.NAME\]; write \[on.NAME\]"):
            recipe = make_recipe("on-base", bits=12, dataset="cifar10", protocol="tiny")
        with pytest.warns(FutureWarning):
            other = make_recipe("on-base", bits=12, dataset="folder", protocol="split")
        (site.folder / "zoo_on_base" / "own.toml").write_text("a = = 1")
        with pytest.raises(PluginError, match=r"The recipe of method 'on-base' of package zoo-on-base is no TOML"):
            make_recipe("on-base", bits=12, dataset="cifar10", protocol="tiny")
    assert (recipe.quantizer.name, recipe.quantizer.args) == ("sign", {})  # another component, without the other's args
    assert recipe.loss.args == {"pair_weight": 0.5, "class_weight": 2.0}
    settings = recipe.optimization
    assert (settings.epochs, settings.batch_size, settings.lr) == (9, 16, 0.1)  # what is the method's own comes last
    assert (other.optimization.epochs, other.optimization.batch_size) == (9, 128)


# Several processes

SHARED = """
import pickle, sys
from hashzoo.data import Protocol, protocols
from hashzoo.training import read_recipe, run_recipe
import torch

folder, out = sys.argv[1:3]
torch.set_num_threads(1)
with open(f"{folder}/tiny.pickle", "rb") as file:
    facts, pool = pickle.load(file)
protocols._protocols()["tiny"] = Protocol(**facts)
print(run_recipe(read_recipe(f"{folder}/recipe.toml"), out, device="cpu", pool=pool))
"""


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
def test_two_processes_train_as_one(tmp_path, run, tiny_pool, frozen):
    """Pairs, the sign's gradient and the balance of bits see the whole batch, also with each process at a half of it."""
    recipe = make(epochs=2, optimizer="sgd", lr=0.01, **(FROZEN if frozen else {}))
    one = run("one", recipe)
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe))
    (tmp_path / "tiny.pickle").write_bytes(pickle.dumps((TINY, tiny_pool)))
    (tmp_path / "shared.py").write_text(SHARED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = tmp_path / "two"
    done = subprocess.run(
        [*command, tmp_path / "shared.py", tmp_path, two], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(log(one), log(two), strict=True):
        for term in ("pair", "class", "balance"):
            assert float(theirs[term]) == pytest.approx(float(mine[term]), abs=2e-4), term
    expected, made = (open_model(folder / recipe.name).state_dict() for folder in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, atol=2e-3, rtol=1e-2, msg=name)
    facts = json.loads((two / recipe.name / "results.json").read_text())["training"]
    assert facts["device"].endswith("2 processes")


def test_a_batch_that_cannot_be_shared_evenly(run, monkeypatch):
    class Three:
        def __init__(self, cpu):
            self.num_processes = 3

    monkeypatch.setattr("hashzoo.training.run.Accelerator", Three)
    with pytest.raises(ConfigError, match="A batch of 20 cannot be shared by 3 processes; start a number"):
        run("three", make())


def test_no_path_of_a_data_set_is_published(tmp_path, tiny_pool, monkeypatch):
    """A folder's name stands for it in the model's files; the run's own recipe says where it lies, for those who measure."""
    recipe = make().model_copy(update={"dataset": str(tmp_path / "private" / "pictures"), "protocol": "split"})
    pool = dataclasses.replace(tiny_pool, name="pictures")
    asked = []
    monkeypatch.setattr("hashzoo.training.run.open_pool", lambda name: asked.append(name) or pool)
    monkeypatch.setattr("hashzoo.evaluation.run.open_pool", lambda name: asked.append(name) or pool)
    folder = run_recipe(recipe, tmp_path / "run", device="cpu")
    record = read_record(folder)
    write_results(record, *run_protocol(folder, record.results))
    assert asked == [recipe.dataset] * 2
    assert read_recipe(tmp_path / "run" / "recipe.toml") == recipe
    assert read_recipe(folder / "recipe.toml").dataset == "pictures"
    start = shutil.copytree(folder, tmp_path / "private" / "model")
    started = recipe.model_copy(update={"init": f"local-dir:{start}"})
    again = run_recipe(started, tmp_path / "started", device="cpu")
    assert read_recipe(again / "recipe.toml").init == recipe.name
    for path in (*folder.iterdir(), *again.iterdir()):
        assert b"private" not in path.read_bytes(), path
