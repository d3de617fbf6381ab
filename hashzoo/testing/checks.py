"""The checks. Each builds a component of its own, and raises AssertionError with what it saw if that is not the contract."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import os
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hashzoo.config import ComponentRef, ModelConfig, PreprocessConfig, validate
from hashzoo.errors import HashzooError, PluginError
from hashzoo.hookspecs import Backbone
from hashzoo.network import HashNetwork
from hashzoo.pretrained import load
from hashzoo.registry import GIVEN, HOOKS, registry
from hashzoo.testing.harness import BITS, CLASSES, BackboneHarness, Harness, LossHarness, MethodHarness, made_up_pool
from hashzoo.training import read_recipe, run_recipe
from hashzoo.training.optimizer import make_optimizer
from hashzoo.training.recipe import recipe_toml
from hashzoo.training.run import build
from hashzoo.zoo.folder import open_folder, save_folder

if TYPE_CHECKING:
    from hashzoo.testing import Subject

Check = Callable[["Subject"], None]
CHECKS: dict[str, dict[str, Check]] = {kind: {} for kind in HOOKS}


def applies_to(*kinds: str) -> Callable[[Check], Check]:
    """Enter a check for these kinds; the order of the file is the order of the report."""

    def enter(check: Check) -> Check:
        for kind in kinds:
            CHECKS[kind][check.__name__] = check
        return check

    return enter


def expect(condition: object, problem: str, harness: Harness) -> None:
    """Fail with what was seen, and on what kind of input."""
    if not condition:
        raise AssertionError(f"{harness.variant}: {problem}" if harness.variant else problem)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of float32 sums in another order."""
    return a.shape == b.shape and bool(((a - b).abs() <= 1e-3 * b.abs().max() + 1e-6).all())


def gradients(harness: Harness, module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run forward and backward; the output, and the gradient of the input. Parameters keep theirs."""
    x = x.clone().requires_grad_()
    outputs = harness.outputs(module, x, labels)
    if ends := [made for made in outputs if made.requires_grad]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            torch.autograd.backward(ends, [torch.randn_like(made) if made.ndim else None for made in ends])
    return outputs[0].detach(), x.grad


def first_loss(model: HashNetwork, loss: Any, x: Tensor, targets: Tensor) -> Tensor:
    """The loss of the first items of a training list, as training gives them to it; x are their images."""
    views: int = getattr(loss, "views", 1)
    index = torch.arange(len(x)).repeat(views)
    output = dataclasses.replace(model(x.repeat(views, 1, 1, 1)), index=index)
    return torch.stack(list(loss(output, targets[index]).values())).sum()


# What it gives


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_builds(subject: Subject) -> None:
    """It is built with the contract's keywords; what it cannot do, it refuses with a HashzooError."""
    for harness in subject.harnesses:
        expect(isinstance(harness.module, nn.Module), "it is no torch.nn.Module", harness)


@applies_to("backbone")
def check_attributes(subject: Subject) -> None:
    """num_features, feature_shape and preprocess are there and agree."""
    (harness,) = subject.harnesses
    backbone: Any = harness.module
    expect(isinstance(backbone, Backbone), "it lacks num_features, feature_shape or preprocess", harness)
    validate(PreprocessConfig, backbone.preprocess, "its preprocess")
    shape = backbone.feature_shape
    expect(
        isinstance(shape, tuple) and len(shape) in (1, 3), f"feature_shape is {shape}, not (D,) or (D, H, W)", harness
    )
    expect(
        backbone.num_features == shape[0],
        f"num_features is {backbone.num_features}, but feature_shape is {shape}",
        harness,
    )


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_shapes(subject: Subject) -> None:
    """The output has the contract's shape, in training and in evaluation."""
    for harness in subject.harnesses:
        for training in (True, False):
            made = harness.read(harness.fresh(training), *harness.batch())
            wanted = harness.shape(harness.rows, BITS)
            expect(made.shape == wanted, f"the output has shape {tuple(made.shape)}, not {wanted}", harness)


@applies_to("head", "loss", "quantizer", "method")
def check_any_number_of_bits(subject: Subject) -> None:
    """K may be 4, 12, 48 and more: no power of two, no multiple of 8 is needed."""
    for harness in subject.harnesses:
        for bits in (48,) if subject.kind == "method" else (4, 12, 48, 65):  # all others have K = 12
            try:
                x, labels = harness.batch()
                if subject.kind in ("loss", "quantizer"):
                    x = torch.randn(len(labels), bits)
                made = harness.read(harness.build(bits), x, labels)
            except Exception as error:
                raise AssertionError(f"with K = {bits} it raises {type(error).__name__}: {error}") from error
            wanted = harness.shape(harness.rows, bits)
            expect(
                made.shape == wanted, f"with K = {bits} the output has shape {tuple(made.shape)}, not {wanted}", harness
            )


@applies_to("backbone", "head", "loss", "quantizer")
def check_dtypes(subject: Subject) -> None:
    """float32 goes in, float32 comes out."""
    for harness in subject.harnesses:
        made = harness.read(harness.fresh(), *harness.batch())
        expect(made.dtype == torch.float32, f"float32 goes in, {made.dtype} comes out", harness)


@applies_to("quantizer")
def check_training_range(subject: Subject) -> None:
    """In training, codes are within [-1, 1]."""
    for harness in subject.harnesses:
        x, labels = harness.batch()
        made = harness.read(harness.fresh(), 10 * x, labels)
        expect(made.abs().max() <= 1, f"in training it returns {made.abs().max():.4g}, beyond [-1, 1]", harness)


@applies_to("quantizer", "method")
def check_agrees_with_sign(subject: Subject) -> None:
    """In evaluation, codes are +1 where u >= 0 and -1 elsewhere, exactly."""
    for harness in subject.harnesses:
        module = harness.fresh(training=False)
        quantizer = module.quantizer if isinstance(module, HashNetwork) else module
        edges = torch.tensor([[-0.0, 0.0, 1e-45, -1e-45, 1e-8, -1e-8, 1e30, -1e30, 1.0, -1.0, 0.3, -0.3]])
        for u in (edges, torch.randn(1, BITS), torch.randn(16, BITS), torch.randn(16, BITS) + 1):
            codes = quantizer(u)
            wrong = codes != torch.where(u >= 0, 1.0, -1.0)
            if wrong.any():
                seen, got = u[wrong][0].item(), codes[wrong][0].item()
                wanted = "+1" if seen >= 0 else "-1"
                expect(False, f"in evaluation mode u = {seen:.4g} becomes {got:.4g}, not {wanted}", harness)


# Numbers and gradients


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_finite(subject: Subject) -> None:
    """Values and gradients are finite, for rows of zeros and of hundreds too, at the start and the end of training."""
    for harness in subject.harnesses:
        x, labels = harness.batch()
        x[0] = 0.0
        x[1] *= 100.0
        module = harness.fresh()
        staged: list[Any] = [part for part in module.modules() if hasattr(part, "set_progress")]
        for progress in (0.0, 1.0) if staged else (None,):
            for part in staged:
                part.set_progress(progress)
            when = "" if progress is None else f" at progress {progress:g}"
            made, gradient = gradients(harness, module, x, labels)
            expect(made.isfinite().all(), f"values are not finite{when}", harness)
            for name, found in [("the input", gradient), *((n, p.grad) for n, p in module.named_parameters())]:
                expect(found is None or found.isfinite().all(), f"the gradient of {name} is not finite{when}", harness)


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_gradient_reaches_the_input(subject: Subject) -> None:
    """Every row of the input gets a gradient; of several labels an item, every row that has one."""
    for harness in subject.harnesses:
        x, labels = harness.batch()
        _, gradient = gradients(harness, harness.fresh(), x, labels)
        reached = gradient is not None and gradient.flatten(1).any(dim=1)[harness.counts(labels)].all()
        expect(reached, "no gradient reaches some or all rows of the input", harness)


@applies_to("head", "loss")
def check_gradient_reaches_the_parameters(subject: Subject) -> None:
    """Every learned parameter gets a gradient within two steps; a factor that starts at 0 may hold back others for one."""
    for harness in subject.harnesses:
        module = harness.fresh()
        waiting = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        for _ in range(2):
            module.zero_grad()
            gradients(harness, module, *harness.batch())
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if parameter.grad is not None and parameter.grad.any():
                        waiting.discard(name)
                        parameter.sub_(0.1 * parameter.grad)
        expect(not waiting, f"no gradient reaches the parameter {min(waiting, default='')}", harness)


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_bfloat16(subject: Subject) -> None:
    """Under bfloat16 autocast (a loss: with logits in bfloat16; a quantizer: with such u) all stays finite."""
    for harness in subject.harnesses:
        x, labels = harness.batch(2)  # many processors are slow at it
        if isinstance(harness, LossHarness):  # training computes losses outside autocast, from what came out of it
            x.requires_grad_()
            made = harness.read(harness.fresh(), x, labels, dtype=torch.bfloat16)
            made.backward()
            gradient = x.grad
        elif subject.kind == "quantizer":
            made, gradient = gradients(harness, harness.fresh(), x.bfloat16(), labels)
        else:
            with torch.autocast("cpu", torch.bfloat16):
                made, gradient = gradients(harness, harness.fresh(), x, labels)
        expect(made.is_floating_point() and made.isfinite().all(), "values are not finite", harness)
        expect(gradient is not None and gradient.isfinite().all(), "the gradient is missing or not finite", harness)


# What a row or a batch may depend on


@applies_to("backbone", "head", "quantizer", "method")
def check_evaluation_is_deterministic(subject: Subject) -> None:
    """In evaluation, the same input gives the same output."""
    for harness in subject.harnesses:
        module = harness.fresh(training=False)
        one, two = (harness.read(module, *harness.batch()) for _ in "ab")
        expect(torch.equal(one, two), "in evaluation mode the same input gives two outputs", harness)


@applies_to("backbone", "head", "quantizer", "method")
def check_rows_are_independent(subject: Subject) -> None:
    """In evaluation, an item's output is the same alone, in any batch."""
    for harness in subject.harnesses:
        module = harness.fresh(training=False)
        x, labels = harness.batch()
        whole = harness.read(module, x, labels)
        parts = [harness.read(module, x[part], labels[part]) for part in (slice(0, 1), slice(1, None))]
        expect(close(torch.cat(parts), whole), "in evaluation mode an item's output depends on its batch", harness)


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_order_of_the_batch(subject: Subject) -> None:
    """Another order of the batch gives the same outputs in that order, and the same loss."""
    for harness in subject.harnesses:
        training = subject.kind == "loss"
        x, labels = harness.batch()
        order = harness.other_order(len(x))
        whole, moved = (
            harness.read(harness.fresh(training), x[rows], labels[rows]) for rows in (torch.arange(len(x)), order)
        )
        expect(close(moved, whole if training else whole[order]), "the order of the batch changes the outputs", harness)


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_batch_of_one(subject: Subject) -> None:
    """One item is a batch: encoding one image works, and so does the loss of one."""
    for harness in subject.harnesses:
        training = subject.kind in ("loss", "quantizer")
        try:
            made, gradient = gradients(harness, harness.fresh(training), *harness.batch(1))
        except Exception as error:
            raise AssertionError(f"with a batch of one it raises {type(error).__name__}: {error}") from error
        expect(made.shape == harness.shape(1, BITS), f"a batch of one gives shape {tuple(made.shape)}", harness)
        finite = made.isfinite().all() and (gradient is None or gradient.isfinite().all())
        expect(finite, "a batch of one gives values or gradients that are not finite", harness)


@applies_to("loss")
def check_one_class(subject: Subject) -> None:
    """A batch may hold one class only: no pair is dissimilar."""
    for harness in subject.harnesses:
        x, labels = harness.batch()
        made, gradient = gradients(harness, harness.fresh(), x, torch.ones_like(labels))
        finite = made.isfinite().all() and (gradient is None or gradient.isfinite().all())
        expect(finite, "a batch of one class gives values or gradients that are not finite", harness)


@applies_to("loss", "method")
def check_multi_label(subject: Subject) -> None:
    """Several labels an item work, or are refused with a HashzooError when the loss is built."""
    try:
        if subject.kind == "method":
            pool = made_up_pool(multi_label=True)
            model, loss = build(MethodHarness(subject).recipe(), pool)
            total = model(MethodHarness(subject).batch()[0]).u.sum()
            if loss is not None:
                targets = torch.from_numpy(pool.labels[slice(*pool.bounds["train"])]).float()
                if hasattr(loss, "start"):
                    loss.start(targets)
                total = first_loss(model, loss, MethodHarness(subject).batch()[0], targets)
        else:
            harness = LossHarness(subject, "multi-label")
            total = harness.read(harness.build(), *harness.batch())
    except PluginError:
        raise
    except HashzooError:
        return
    except Exception as error:
        raise AssertionError(
            f"multi-label targets are neither accepted nor refused when it is built ({type(error).__name__}: {error})"
        ) from error
    if not total.isfinite():
        raise AssertionError("with multi-label targets the loss is not finite")


@applies_to("loss")
def check_steps_after_an_epoch(subject: Subject) -> None:
    """If it has `end_epoch`: after a batch and that step it gives finite values, which its state_dict carries on."""
    for harness in subject.harnesses:
        module: Any = harness.fresh()
        if not hasattr(module, "end_epoch"):
            continue
        x, labels = harness.batch()
        harness.read(module, x, labels)
        with torch.no_grad():
            module.end_epoch()
        made, gradient = gradients(harness, module, x, labels)
        finite = made.isfinite().all() and gradient is not None and gradient.isfinite().all()
        expect(finite, "after end_epoch() values or gradients are not finite", harness)
        again = harness.build()
        again.load_state_dict(module.state_dict())
        expect(
            close(harness.read(again, x, labels), made), "what end_epoch() found is not all in its state_dict", harness
        )


@applies_to("head")
def check_closed_form(subject: Subject) -> None:
    """If it has `fit`: of any number of features it makes finite outputs that its state_dict carries on, none constant."""
    for harness in subject.harnesses:
        if not hasattr(harness.module, "fit"):
            continue
        for rows in (5, 200):  # fewer than bits, and more
            x, labels = harness.batch(rows)
            module: Any = harness.fresh(training=False)
            with torch.no_grad():
                module.fit(x, labels)
            made = harness.read(module, x, labels)
            expect(made.isfinite().all(), f"fitted to {rows} items its outputs are not finite", harness)
            expect(rows < BITS or (made.std(0) > 0).all(), f"fitted to {rows} items a bit is the same for all", harness)
            again = harness.build().eval()
            again.load_state_dict(module.state_dict())
            expect(
                close(harness.read(again, x, labels), made), "what fit() found is not all in its state_dict", harness
            )


# What is written and read again


@applies_to("backbone", "head", "loss", "quantizer")
def check_config_round_trip(subject: Subject) -> None:
    """Every option has a type; with its default it can stand in a recipe and config.json, and builds the same from there."""
    component, extra = registry().get(subject.kind, subject.ref.name)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(component.load()).parameters.items()
        if name not in (*GIVEN[subject.kind], *extra) and parameter.default is not parameter.empty
    }
    options = {**defaults, **subject.options}
    try:
        ref = ComponentRef(name=subject.ref.name, package=None, args=json.loads(json.dumps(options)))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"its options {options} cannot be written as JSON ({error})") from error
    for harness in subject.harnesses:
        again = harness.build(ref=ref)
        again.load_state_dict(harness.module.state_dict())
        one, two = (
            harness.read(module.train(subject.kind == "loss"), *harness.batch()) for module in (harness.fresh(), again)
        )
        expect(close(one, two), f"built from its options as JSON, {ref.args}, it gives other outputs", harness)


@applies_to("backbone", "head", "loss", "quantizer", "method")
def check_state_dict_round_trip(subject: Subject) -> None:
    """All that it has learned or drawn is in its state_dict: another one that loads it gives the same outputs."""
    for harness in subject.harnesses:
        torch.manual_seed(1)
        again = harness.build()
        again.load_state_dict(harness.module.state_dict())
        one, two = (
            harness.read(module.train(subject.kind == "loss"), *harness.batch()) for module in (harness.fresh(), again)
        )
        expect(close(one, two), "another one that loads its state_dict gives other outputs", harness)


@applies_to("backbone", "head", "quantizer")
def check_zoo_round_trip(subject: Subject) -> None:
    """A model with it, saved as the zoo keeps models, loads and gives the same codes."""
    parts = {"backbone": "tiny", "head": "linear", "quantizer": "sign"}
    refs = {kind: ComponentRef(name=name, package=None) for kind, name in parts.items()} | {subject.kind: subject.ref}
    if subject.kind == "head" and subject.harnesses[-1].variant != "feature maps":
        refs["backbone"] = ComponentRef(name="tiny", package=None, args={"pooled": True})
    harness = subject.harnesses[0]
    size = harness.size if isinstance(harness, BackboneHarness) else (16, 16)
    config = ModelConfig(
        name="under-test", method="under-test", bits=BITS, preprocess=PreprocessConfig(size=size), dtype="float32",
        backbone=refs["backbone"], head=refs["head"], quantizer=refs["quantizer"],
        dataset="none", classes=tuple(str(number) for number in range(CLASSES)), weights_sha256="0" * 64,
    )  # fmt: skip
    model = HashNetwork(
        config.backbone, config.head, config.quantizer,
        bits=BITS, preprocess=config.preprocess, num_classes=CLASSES,
    ).eval()  # fmt: skip
    images = torch.randint(256, (3, 3, *size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(folder, model, config)
        loaded = open_folder(folder)
    if not close(loaded.relaxed(images), model.relaxed(images)):
        raise AssertionError("a model with it, saved and loaded, gives other codes")


# A method as a whole


@applies_to("method")
def check_recipe_round_trip(subject: Subject) -> None:
    """Its recipe fits the schema, and is the same after it was written and read."""
    recipe = MethodHarness(subject).recipe()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.toml")
        path.write_text(recipe_toml(recipe), encoding="utf-8")
        if read_recipe(path) != recipe:
            raise AssertionError("its recipe, written and read again, is another one")


@applies_to("method")
def check_learns(subject: Subject) -> None:
    """Its loss falls on a batch seen again and again, and its gradient reaches every parameter of model and loss.

    A head found in closed form has no loss, and passes.
    """
    harness = MethodHarness(subject)
    recipe = harness.recipe(optimizer="adamw", lr=1e-4)
    if recipe.loss is None:
        return
    if not recipe.frozen:
        recipe = harness.recipe(optimizer="adamw", lr=1e-4, backbone_lr=1.0)
    model, loss = build(recipe, made_up_pool())
    optimizer = make_optimizer(recipe.optimization, model, loss)
    x, labels = harness.batch(CLASSES)
    if hasattr(loss, "start"):
        loss.start(labels)
    named = [*model.named_parameters(prefix="model"), *loss.named_parameters(prefix="loss")]
    waiting = {name for name, parameter in named if parameter.requires_grad}
    values: list[float] = []
    while not values or (values[-1] > values[0] - 0.2 * abs(values[0]) and len(values) < 40):
        total = first_loss(model, loss, x, labels)
        optimizer.zero_grad()
        total.backward()
        waiting -= {name for name, parameter in named if parameter.grad is not None and parameter.grad.any()}
        optimizer.step()
        values.append(total.item())
    if waiting:
        raise AssertionError(f"no gradient of its loss reaches the parameter {min(waiting)}")
    if not values[-1] < values[0]:
        raise AssertionError(
            f"after {len(values)} steps on one batch its loss went from {values[0]:.4g} to {values[-1]:.4g}"
        )


@applies_to("method")
def check_trains_and_loads(subject: Subject) -> None:
    """`hashzoo train` runs it for two steps and writes a model's folder that loads and encodes."""
    recipe = MethodHarness(subject).recipe(epochs=1, batch_size=4, precision="float32")
    pool = made_up_pool()
    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.redirect_stderr(io.StringIO()),  # its log is not the report
        unittest.mock.patch.dict(os.environ, {"HASHZOO_CACHE": out}),
    ):
        model = load(f"local-dir:{run_recipe(recipe, out, device='cpu', pool=pool)}")
    codes = model.encode(pool.images)
    if codes != model.encode(pool.images, batch_size=1):
        raise AssertionError("the trained model's codes depend on the batch")


# As it is registered


def check_listing(subject: Subject) -> None:
    """Its target can be imported, or its recipe can be read, and its summary is one line."""
    component, _ = registry().get(subject.kind, subject.ref.name)
    if subject.kind == "method":
        component.recipe_layers()
    else:
        component.load()
    if not component.summary.strip() or "\n" in component.summary:
        raise AssertionError("its summary is not one line")
