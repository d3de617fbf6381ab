"""A run from its recipe to its model's folder: check, build, train, write; killed and started again, it goes on."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from hashzoo import machine, provenance
from hashzoo.config import BackboneSource, ModelConfig
from hashzoo.contract import check_contract
from hashzoo.data import ImagePool, Protocol, get_protocol, make_lists, open_pool
from hashzoo.data.datasets import public_name
from hashzoo.errors import ConfigError, DataError
from hashzoo.features import code_of
from hashzoo.files import read_json_value, write_text
from hashzoo.network import HashNetwork, build_component
from hashzoo.pretrained import HashModel, open_model
from hashzoo.registry import registry
from hashzoo.training.batches import Validation, keep_aside, training_inputs
from hashzoo.training.loop import History, Trainer, train_epochs
from hashzoo.training.recipe import COMPONENTS, Recipe, find_recipe, recipe_toml
from hashzoo.zoo.folder import Stored, fill, network_of, open_folder, read, save_folder, stored_dtype
from hashzoo.zoo.names import locate
from hashzoo.zoo.probe import write_probe
from hashzoo.zoo.results import Results, TrainingFacts

RECIPE, CODE = "recipe.toml", "code.json"  # of a run, in its folder


def train(
    method: str | Path | Recipe,
    out: str | Path,
    *,
    dataset: str | None = None,
    bits: int | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    changes: dict[str, Any] | None = None,
    pool: ImagePool | None = None,
) -> HashModel:
    """Train a model, and write its folder to `out/NAME`; `hashzoo train` does the same.

    After every epoch `out/checkpoint.pt` and `out/log.csv` are replaced. A run that was killed goes on from there, and on the
    CPU ends in the same weights as one that was not. A finished run is left as it is. Started by `accelerate launch` in
    several processes, each takes its share of every batch, and the loss sees the whole.

    Args:
        method: a method's name, a recipe.toml, or a recipe.
        out: the run's folder; one recipe each.
        dataset: of a method: a data set's name or a folder; default "cifar10".
        bits: of a method: K, 4 to 1024; default 48.
        protocol: of a method: whose training list to use; default the data set's own.
        seed: of weights, order and augmentation; default 0, or the recipe's.
        device: "cpu" or "cuda"; default CUDA where there is one.
        changes: of a method: nested dicts, laid over its recipe.
        pool: the data set, if it is loaded already.

    Returns:
        The trained model on the CPU, as `hashzoo.load` gives it; `evaluate` measures it.

    Raises:
        ConfigError: `out` holds the run of another recipe or of other code, a recipe comes with options that only a method
            takes, or a batch cannot be shared out evenly.
        PluginError: a component breaks its contract on a random batch; names package, file and line.
        HashzooError: the device, data, protocol or a component is not to be had; nothing has been trained or written then.
    """
    recipe = find_recipe(method, dataset=dataset, bits=bits, protocol=protocol, seed=seed, changes=changes)
    return open_model(run_recipe(recipe, out, device=device, pool=pool))


def run_recipe(recipe: Recipe, out: str | Path, *, device: str | None = None, pool: ImagePool | None = None) -> Path:
    """Run a recipe as `train` does, and return the model's folder."""
    out, settings = Path(out), recipe.optimization
    folder = out / recipe.name
    protocol = _check_protocol(recipe)
    code = _check_folder(out, recipe)
    if folder.exists():
        return folder
    parts = (recipe.backbone, recipe.head, recipe.quantizer, recipe.loss)
    check_contract(*parts, bits=recipe.bits, preprocess=recipe.preprocess)  # before data and weights are read
    accelerator = Accelerator(cpu=machine.choose_device(device) == "cpu")
    if settings.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"A batch of {settings.batch_size} cannot be shared by {accelerator.num_processes} processes; "
            "start a number of them that divides it."
        )
    pool = pool or open_pool(recipe.dataset)
    positions, aside = _training_lists(recipe, protocol, pool)
    _name_slow_precision(accelerator.device, recipe)
    torch.backends.cudnn.benchmark = True  # batches have one shape, so the search for the best kernel pays
    set_seed(recipe.seed)
    model, loss = build(recipe, pool)
    start = start_backbone(model, recipe)
    model.to(accelerator.device)
    with accelerator.main_process_first():
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECIPE, recipe_toml(recipe))
        write_text(out / CODE, json.dumps(code, indent=1) + "\n")
        inputs = training_inputs(model, recipe, pool, positions)
        validation = Validation.of(model, recipe, pool, aside) if settings.validate_share else None
    targets = torch.from_numpy(pool.labels[positions])
    targets = targets.float() if targets.ndim == 2 else targets
    if loss is None:
        history, seconds = History(provenance.commit()), _fit_head(model, inputs[0], targets)
    else:
        history = train_epochs(Trainer(accelerator, model, loss, recipe, inputs, targets), out, validation)
        seconds = history.seconds
    if accelerator.is_main_process:
        steps = settings.epochs * (len(positions) // settings.batch_size)
        images = len(positions) if loss is None else steps * settings.batch_size
        facts = _facts(accelerator, model, recipe, pool, start, history, seconds, images)
        write_model(folder, model, recipe, pool, start, facts)
    accelerator.wait_for_everyone()
    return folder


def _check_protocol(recipe: Recipe) -> Protocol:
    protocol = get_protocol(recipe.protocol)
    if protocol.dataset not in ("*", recipe.dataset):
        raise DataError(f"Protocol {protocol.name} is of data set {protocol.dataset}, not {recipe.dataset}.")
    return protocol


def _check_folder(out: Path, recipe: Recipe) -> dict[str, str]:
    """Refuse a run's folder that another recipe, or other code of its components, has begun or finished.

    Returns:
        What tells the code of the recipe's components, see `code_of`.
    """
    path = out / RECIPE
    if path.exists() and path.read_text(encoding="utf-8") != recipe_toml(recipe):
        raise ConfigError(f"{out} holds the run of another recipe; choose another --out, or remove that folder.")
    refs = {kind: ref for kind in COMPONENTS if (ref := getattr(recipe, kind))}
    code = code_of([registry().get(kind, ref.name)[0].load() for kind, ref in refs.items()])
    try:
        before = read_json_value(out / CODE)
    except (OSError, ValueError):  # a run of hashzoo 0.1 has none
        return code
    changed = [name for name, digest in code.items() if before.get(name, digest) != digest]
    if changed:
        finished = f"its model is {out / recipe.name}. C" if (out / recipe.name).exists() else "c"
        raise ConfigError(
            f"{out} holds a run of this recipe made by other code of {', '.join(changed)}; {finished}hoose another --out, or "
            "remove that folder to train anew."
        )
    return code


def _training_lists(recipe: Recipe, protocol: Protocol, pool: ImagePool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make the training list without what is kept aside, and what is kept aside; refuse settings that do not fit the data."""
    settings = recipe.optimization
    positions, aside = make_lists(protocol, pool).train, np.empty(0, dtype=np.int64)
    if settings.validate_share:
        positions, aside = keep_aside(pool.labels, positions, settings.validate_share, recipe.seed)
    if recipe.loss is not None and len(positions) < settings.batch_size:
        raise DataError(f"{len(positions)} training images are fewer than one batch of {settings.batch_size}.")
    if pool.side and recipe.augment.cutout >= pool.side:
        raise ConfigError(
            f"augment.cutout = {recipe.augment.cutout} blanks whole images of {pool.side} pixels; take less."
        )
    return positions, aside


def _name_slow_precision(device: torch.device, recipe: Recipe) -> None:
    """Say so where this CPU has no instructions for bfloat16."""
    cpu = torch.backends.cpu.get_cpu_capability()
    if device.type != "cpu" or recipe.optimization.precision != "bfloat16" or cpu not in ("DEFAULT", "NO AVX", "AVX2"):
        return
    Console(stderr=True).print(
        f"This CPU ({cpu}) imitates bfloat16: --set 'optimization.precision = \"float32\"' may be several times faster.",
        highlight=False,
        soft_wrap=True,
    )


def new_config(recipe: Recipe, pool: ImagePool) -> ModelConfig:
    """The config of the model that a recipe makes, before it has weights."""
    return ModelConfig(
        name=recipe.name,
        method=recipe.method,
        bits=recipe.bits,
        backbone=recipe.backbone,
        head=recipe.head,
        quantizer=recipe.quantizer,
        preprocess=recipe.preprocess,
        dataset=pool.name,
        classes=pool.classes,
        multi_label=pool.labels.ndim == 2,
        weights_sha256="0" * 64,
    )


def build(recipe: Recipe, pool: ImagePool) -> tuple[HashNetwork, Any]:
    """Build a recipe's model and loss for a data set's classes; there is no loss for a head in closed form.

    Raises:
        ConfigError: the recipe has no loss, and its head is not found in closed form; or the other way round.
    """
    classes = len(pool.classes)
    model = HashNetwork(
        recipe.backbone,
        recipe.head,
        recipe.quantizer,
        bits=recipe.bits,
        preprocess=recipe.preprocess,
        num_classes=classes,
        name=recipe.name,
        pretrained=recipe.optimization.pretrained,
    )
    if (recipe.loss is None) != hasattr(model.head, "fit"):
        raise ConfigError(
            f"The head {recipe.head.name!r} is "
            + (
                "not found in closed form; give the recipe a loss and epochs."
                if recipe.loss is None
                else "found in closed form; give the recipe no loss and epochs = 0."
            )
        )
    if recipe.frozen:  # as the folder will keep it, so that its features are those of the model that is loaded
        model.backbone.requires_grad_(False)
        dtype = new_config(recipe, pool).dtype
        for tensor in model.backbone.state_dict().values():
            tensor.copy_(tensor.to(stored_dtype(tensor, dtype)))
    model = model.to(memory_format=torch.channels_last)
    if recipe.loss is None:
        return model, None
    multi_label = pool.labels.ndim == 2
    return model, build_component("loss", recipe.loss, bits=recipe.bits, num_classes=classes, multi_label=multi_label)


@dataclass(frozen=True)
class Start:
    """Where a run's backbone starts.

    Attributes:
        words: the same in words, `TrainingFacts.init`.
        seen: training lists that these weights have seen, `TrainingFacts.seen`.
        name: of the model that they are from, if they are from one.
        source: the file that has the very same backbone, where it is found on every machine.
    """

    words: str
    seen: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    source: BackboneSource | None = None


def start_backbone(model: HashNetwork, recipe: Recipe) -> Start:
    """Give a new model the backbone of the one that its recipe starts from, if any.

    Raises:
        ConfigError: that model has another backbone, or it, or what it started from, was trained on other lists of the same
            data, which may hold queries.
        HashzooError: it cannot be opened.
    """
    if recipe.optimization.pretrained:
        weights = getattr(model.backbone, "weights_file", None) or "the backbone's published weights"
        return Start(f"from {weights}")
    if recipe.init is None:
        return Start("from random weights")
    stored = read(locate(recipe.init))
    if stored.results is None:
        raise ConfigError(
            f"{recipe.init} does not say what it was trained on (no results.json); start from another model."
        )
    source, config, trained = fill(stored, network_of), stored.config, stored.results.trained
    theirs, ours = config.backbone, recipe.backbone
    if (theirs.name, theirs.args) != (ours.name, ours.args):
        raise ConfigError(
            f"{recipe.init} has the backbone {theirs.name} {theirs.args}, the recipe {ours.name} {ours.args}; "
            "start from a model with the same."
        )
    own = (public_name(recipe.dataset), recipe.protocol)
    seen = ((config.dataset or "", trained.protocol), *trained.seen)
    for dataset, protocol in seen:
        if dataset == own[0] and protocol != own[1]:
            raise ConfigError(
                f"{recipe.init} was trained under {protocol} and may have seen queries of {recipe.protocol}; "
                "start from a model trained under the same protocol or on other data."
            )
    model.backbone.load_state_dict(source.backbone.state_dict())
    words = f"from the backbone of {source.name} (weights {config.weights_sha256[:12]})"
    return Start(words, tuple(pair for pair in seen if pair != own), config.name, _source_of(stored, recipe.init))


def _source_of(stored: Stored, init: str) -> BackboneSource | None:
    """Say where others find a start's backbone; None of a folder that only this machine has."""
    if init.startswith("local-dir:"):
        return None
    location, config = stored.location, stored.config
    own = BackboneSource(
        model=config.name, weights_sha256=config.weights_sha256, repo=location.repo, commit=location.commit
    )
    return config.backbone_from or own


def _fit_head(model: HashNetwork, features: Tensor, targets: Tensor) -> float:
    """Find a head in closed form on its device; return the seconds that it took."""
    began = time.monotonic()
    with torch.no_grad():
        cast(Any, model.head).fit(features.to(model.device), targets.to(model.device))
    return time.monotonic() - began


def _facts(
    accelerator: Accelerator,
    model: HashNetwork,
    recipe: Recipe,
    pool: ImagePool,
    start: Start,
    history: History,
    seconds: float,
    images: int,
) -> TrainingFacts:
    """Say how the weights came about: `images` in all, seen in `seconds`."""
    settings = recipe.optimization
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    return TrainingFacts(
        protocol=recipe.protocol,
        data_copy=pool.copy,
        seed=recipe.seed,
        epochs=settings.epochs,
        device=provenance.device_name(accelerator.device.type) + processes,
        precision=settings.precision,
        seconds=round(seconds, 3),
        images_per_s=round(images / max(seconds, 1e-9), 1),
        commit=history.commit,
        versions=provenance.versions(),
        init=start.words,
        seen=start.seen,
        kept_epoch=history.best_epoch if settings.keep == "best" else None,
        frozen=recipe.frozen,
        base_model=getattr(model.backbone, "base_model", None),
        data_license=pool.license,
    )


def write_model(
    folder: Path, model: HashNetwork, recipe: Recipe, pool: ImagePool, start: Start, facts: TrainingFacts
) -> None:
    """Write a trained model's folder, whole or not at all: config, weights, recipe, probe, and results without a row yet."""
    config = new_config(recipe, pool)
    model.cpu().eval()
    if hasattr(model.backbone, "fold"):
        backbone = recipe.backbone.model_copy(update={"args": cast(Any, model.backbone).fold()})
        config = config.model_copy(update={"backbone": backbone})
    if recipe.frozen and start.source:
        config = config.model_copy(update={"backbone_from": start.source})
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a kill may have left one
    save_folder(partial, model, config)
    published = {"dataset": pool.name, "init": recipe.init}  # names in place of paths
    if start.name and str(recipe.init).startswith("local-dir:"):
        published["init"] = start.name
    write_text(partial / RECIPE, recipe_toml(recipe.model_copy(update=published)))
    write_probe(partial, open_folder(partial))  # of the weights as stored
    write_text(partial / "results.json", Results(training=facts).as_json())
    partial.rename(folder)
