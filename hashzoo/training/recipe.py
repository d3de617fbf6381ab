"""Recipes: everything a training run needs, as TOML."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field

from hashzoo.codes import MAX_BITS, MIN_BITS, check_bits
from hashzoo.config import ComponentRef, Name, PreprocessConfig, Schema, validate
from hashzoo.data.datasets import default_protocol
from hashzoo.errors import ConfigError
from hashzoo.network import check_component
from hashzoo.registry import Component, registry

COMPONENTS = ("backbone", "head", "quantizer", "loss")


class Augment(Schema):
    """Random changes of training images, at the data set's own resolution.

    Attributes:
        flip: mirror half of the images, at random; "alternating" mirrors each in every second epoch, half of them in the first
            (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
        shift: cut windows up to this many pixels off the centre, the border reflected.
        cutout: blank a square of this side in pixels with the mean colour, anywhere inside the window (DeVries and Taylor,
            "Improved Regularization of Convolutional Neural Networks with Cutout", 2017). 0: none.
        crops: (from epoch, side in pixels) pairs: the window's side from that epoch on. A smaller window is cheaper; objects
            keep their scale, because the network's input shrinks with it. Empty: always the whole side.
        plain_epochs: this many epochs at the end see the images unchanged, as the database holds them.
        versions: of a frozen backbone, whose features are computed once: of the unchanged images, and of this many changed
            versions of each; a step takes one of them all at random.
    """

    plain_epochs: Annotated[int, Field(ge=0)] = 0
    flip: bool | Literal["alternating"] = True
    shift: Annotated[int, Field(ge=0)] = 4
    cutout: Annotated[int, Field(ge=0)] = 0
    crops: tuple[tuple[int, int], ...] = ()
    versions: Annotated[int, Field(ge=0)] = 0


class Optimization(Schema):
    """How weights are found.

    Attributes:
        epochs: passes over the training list. 0: the head is found in closed form, and there is no loss.
        batch_size: images a step.
        optimizer: "sgd" is Nesterov's momentum 0.9; "adamw" has betas 0.9, 0.999.
        lr: the highest learning rate, reached after the share `warmup` of all steps, then falling in a line towards 0.
        backbone_lr: factor on `lr` for the backbone; less than 1 where it is pretrained. 0 freezes it: its features are computed
            once, in evaluation mode, and kept in the cache (see `hashzoo.features`).
        weight_decay: on matrices and kernels, not on biases and normalisation.
        precision: of the network's forward pass; "bfloat16" is autocast.
        pretrained: start the backbone from its own published weights.
        ema: keep a running average of the weights in place of the last ones: after each step, this share of the average stays and
            the rest is the step's (Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992).
            0: none.
        validate_share: this share of each class of the training list is not trained on. After each epoch one half of it is
            searched for the other, and the log says the tie-aware mAP.
        keep: which epoch's weights are kept: the "last", or the "best" by that mAP. Never by that of queries.
    """

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    backbone_lr: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    pretrained: bool = False
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    validate_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    keep: Literal["last", "best"] = "last"


class Recipe(Schema):
    """recipe.toml: one training run, whole."""

    name: Name
    method: str
    origin: str = Field("", description="whose method it is, and what of it is reconstructed; sentences for the card")
    bits: Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
    dataset: str
    protocol: str = Field(description="its training list is trained on; its queries are never looked at")
    seed: int = 0
    init: str | None = Field(
        None,
        description="a model with the same backbone, whose weights are the start; of the same protocol, or of other data",
    )
    backbone: ComponentRef
    head: ComponentRef
    quantizer: ComponentRef
    loss: ComponentRef | None = None
    preprocess: PreprocessConfig
    optimization: Optimization
    augment: Augment = Augment()

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return self.optimization.backbone_lr == 0 or self.loss is None

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.loss is None) != (self.optimization.epochs == 0):
            raise ValueError("a loss needs epochs, and epochs need a loss; a head found in closed form has neither")
        if self.augment.versions and not self.frozen:
            raise ValueError("augment.versions is for a frozen backbone (optimization.backbone_lr = 0)")
        if self.frozen and self.augment.flip == "alternating":
            raise ValueError(
                'augment.flip = "alternating" is for a backbone that is trained; take true where that is frozen'
            )
        if self.optimization.keep == "best" and not self.optimization.validate_share:
            raise ValueError('optimization.keep = "best" needs images kept aside: optimization.validate_share')
        if self.loss is None and (self.optimization.ema or self.optimization.validate_share):
            raise ValueError("ema and validate_share are for training by steps; a head found in closed form has none")
        if self.augment.cutout >= min([*(side for _, side in self.augment.crops), *self.preprocess.size]):
            raise ValueError("augment.cutout must be smaller than the network's input and every window")
        if self.augment.crops and self.frozen:
            raise ValueError("augment.crops is for a backbone that is trained; leave it empty where that is frozen")
        if self.init and self.optimization.pretrained:
            raise ValueError("init and optimization.pretrained both say where the backbone starts; keep one")
        return self


def find_recipe(
    method: str | Path | Recipe,
    *,
    dataset: str | None = None,
    bits: int | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    changes: dict[str, Any] | None = None,
) -> Recipe:
    """Give the recipe that a run is asked for by a method's name with its options, by a recipe.toml, or by a recipe.

    Args:
        method: a method's name; a file, as a `Path` or a text that ends in ".toml"; or a recipe.
        dataset: of a method; default "cifar10".
        bits: of a method; default 48.
        protocol: of a method; default the data set's own.
        seed: default 0, or the recipe's own.
        changes: of a method, see `make_recipe`.

    Raises:
        ConfigError: a recipe comes with an option that only a method takes.
        HashzooError: as `make_recipe` and `read_recipe`.
    """
    if isinstance(method, str) and not method.endswith(".toml"):
        dataset = dataset or "cifar10"
        return make_recipe(
            method,
            bits=check_bits(48 if bits is None else bits),
            dataset=dataset,
            protocol=protocol or default_protocol(dataset),
            seed=seed or 0,
            changes=changes,
        )
    if changes or dataset or bits or protocol:
        raise ConfigError("A recipe is run as it is but for its seed; edit it instead of giving other options.")
    recipe = method if isinstance(method, Recipe) else read_recipe(method)
    return recipe if seed is None else recipe.model_copy(update={"seed": seed})


def make_recipe(
    method: str,
    *,
    bits: int,
    dataset: str,
    protocol: str,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
) -> Recipe:
    """Fill a registered method's recipe for one run.

    A method's TOML or dict holds the recipe's tables. Those under `[on.NAME]` replace them for the data set NAME, and `changes`
    (nested dicts) replace both. `base = "FILE.toml"` names a file beside it in the package; the method's own tables are laid
    over that file's. A component that is replaced by another starts without the other's `args`.

    Raises:
        UnknownNameError: no such method or component.
        ConfigError: the result does not follow the schema, or a component does not take its `args`.
        PluginError: the method's recipe cannot be read, or a component cannot be imported.
    """
    component, _ = registry().get("method", method)
    data: dict[str, Any] = {}
    for layer in component.recipe_layers():
        on_this_dataset = _pop_on(layer, component).get(dataset, {})
        data = merge(merge(data, layer), on_this_dataset)
    data = merge(data, changes or {})
    for kind in COMPONENTS:
        ref = data.get(kind)
        if isinstance(ref, dict) and isinstance(ref.get("name"), str):
            ref.setdefault("package", registry().get(kind, ref["name"])[0].owner)
    found = data.get("backbone")
    backbone = str(found.get("name", "") if isinstance(found, dict) else found).replace("/", "_")
    name = f"{component.name}-{backbone}-{Path(dataset).name.replace('-', '')}-{bits}bit"
    facts = {
        "name": name,
        "method": component.name,
        "bits": bits,
        "dataset": dataset,
        "protocol": protocol,
        "seed": seed,
    }
    for key in ("method", "bits", "dataset", "protocol", "seed"):
        if key in data:
            raise ConfigError(
                f"{key!r} is not among a recipe's changes; give it {'as METHOD' if key == 'method' else f'by --{key}'}."
            )
    return _checked(validate(Recipe, {**facts, **data}, f"The recipe of {method}"))


def _pop_on(layer: dict[str, Any], method: Component) -> dict[str, Any]:
    """Take the tables `[on.NAME]` out of a method's TOML; before 0.2 they were written `[dataset.NAME]`."""
    tables: dict[str, Any] = layer.pop("on", {})
    if isinstance(layer.get("dataset"), dict):
        warnings.warn(
            f"The recipe of method {method.name!r} ({method.owner}) says [dataset.NAME]; write [on.NAME] instead.",
            FutureWarning,
            stacklevel=3,
        )
        tables = merge(layer.pop("dataset"), tables)
    return tables


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.toml.

    Raises:
        ConfigError: it is missing, no TOML, or does not follow the schema, or a component does not take its `args`.
        UnknownNameError, PluginError: a component is not installed or cannot be imported.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as a recipe ({error}).") from error
    return _checked(validate(Recipe, data, str(path)))


def recipe_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML that `read_recipe` reads back equal."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _checked(recipe: Recipe) -> Recipe:
    """Look at every component's `args` before data or weights are loaded."""
    for kind in COMPONENTS:
        if ref := getattr(recipe, kind):
            check_component(kind, ref)
    return recipe


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay `changes` over `base`, table by table; a component replaced by another starts without the other's `args`."""
    merged = dict(base)
    old: Any
    for key, value in changes.items():
        old = merged.get(key)
        tables = isinstance(old, dict) and isinstance(value, dict)
        replaced = tables and key in COMPONENTS and value.get("name", old["name"]) != old["name"]
        merged[key] = merge(old, value) if tables and not replaced else value
    return merged
