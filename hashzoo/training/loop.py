"""The training loop: a recipe in, a model's folder out; killed and started again, it goes on."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from hashzoo import machine, provenance
from hashzoo.config import BackboneSource, ModelConfig, read_json
from hashzoo.data import ImagePool, get_protocol, make_lists, open_pool
from hashzoo.data.datasets import public_name
from hashzoo.errors import ConfigError, DataError
from hashzoo.files import replacing, write_text
from hashzoo.hookspecs import HashOutput
from hashzoo.model import HashModel, build_component
from hashzoo.training.batches import Validation, draw, keep_aside, load, onto
from hashzoo.training.optimizer import average_of, make_optimizer, set_learning_rate
from hashzoo.training.recipe import Recipe, recipe_toml
from hashzoo.zoo.folder import open_folder, save_folder, stored_dtype
from hashzoo.zoo.names import resolve
from hashzoo.zoo.probe import write_probe
from hashzoo.zoo.results import Results, TrainingFacts


def train(recipe: Recipe, out: str | Path, *, device: str | None = None, pool: ImagePool | None = None) -> Path:
    """Run a recipe and write the model's folder to `out/<name>`.

    After every epoch `out/checkpoint.pt` and `out/log.csv` are replaced; a run that was killed goes on from there, and on the
    CPU ends in the same weights as one that was not. A finished run is left as it is. Started by `accelerate launch` in
    several processes, each takes its share of every batch, and the loss sees the whole.

    Args:
        recipe: what to train.
        out: the run's folder; one recipe each.
        device: "cpu" or "cuda"; default CUDA where there is one.
        pool: the data set, if it is loaded already.

    Returns:
        The model's folder: config.json, model.safetensors, recipe.toml, probe.json.

    Raises:
        ConfigError: `out` holds the run of another recipe, or a batch cannot be shared out evenly.
        HashzooError: the device, data, protocol or a component is not to be had, before any work starts.
    """
    out, settings = Path(out), recipe.optimization
    folder = out / recipe.name
    protocol = get_protocol(recipe.protocol)
    if protocol.dataset not in ("*", recipe.dataset):
        raise DataError(f"Protocol {protocol.name} is of data set {protocol.dataset}, not {recipe.dataset}.")
    text = recipe_toml(recipe)
    kept = out / "recipe.toml"
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{out} holds the run of another recipe; choose another --out, or remove that folder.")
    if folder.exists():
        return folder
    accelerator = Accelerator(cpu=machine.choose_device(device) == "cpu")
    if settings.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"A batch of {settings.batch_size} cannot be shared by {accelerator.num_processes} processes; "
            "start a number of them that divides it."
        )
    pool = pool or open_pool(recipe.dataset)
    positions = make_lists(protocol, pool).train
    if settings.validate_share:
        positions, aside = keep_aside(pool.labels, positions, settings.validate_share, recipe.seed)
    if recipe.loss is not None and len(positions) < settings.batch_size:
        raise DataError(f"{len(positions)} training images are fewer than one batch of {settings.batch_size}.")
    if pool.side and recipe.augment.cutout >= pool.side:
        raise ConfigError(
            f"augment.cutout = {recipe.augment.cutout} blanks whole images of {pool.side} pixels; take less."
        )
    cpu = torch.backends.cpu.get_cpu_capability()
    if accelerator.device.type == "cpu" and settings.precision == "bfloat16" and cpu in ("DEFAULT", "NO AVX", "AVX2"):
        Console(stderr=True).print(
            f"This CPU ({cpu}) imitates bfloat16: --set 'optimization.precision = \"float32\"' may be several times faster.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    torch.backends.cudnn.benchmark = True  # batches have one shape, so the search for the best kernel pays
    set_seed(recipe.seed)
    model, loss = build(recipe, pool)
    start, before = start_backbone(model, recipe)
    model.to(accelerator.device)
    with accelerator.main_process_first():
        out.mkdir(parents=True, exist_ok=True)
        write_text(kept, text)
        images = load(model, recipe, pool, positions)
        validation = Validation.of(model, recipe, pool, aside) if settings.validate_share else None
    targets = torch.from_numpy(pool.labels[positions])
    targets = targets.float() if targets.ndim == 2 else targets
    rows: list[dict[str, Any]] = []
    if loss is None:
        began, commit = time.monotonic(), provenance.commit()
        with torch.no_grad():
            cast(Any, model.head).fit(images[0].to(accelerator.device), targets.to(accelerator.device))
        seconds, seen = time.monotonic() - began, len(positions)
    else:
        rows, commit = descend(accelerator, model, loss, recipe, out, images, targets, validation)
        seconds = sum(row["seconds"] for row in rows)
        seen = settings.epochs * (len(positions) // settings.batch_size) * settings.batch_size

    seconds = max(0.1, seconds)
    facts = TrainingFacts(
        protocol=protocol.name,
        data_copy=pool.copy,
        seed=recipe.seed,
        epochs=settings.epochs,
        device=provenance.device_name(accelerator.device.type)
        + (f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""),
        precision=settings.precision,
        seconds=round(seconds, 1),
        images_per_s=round(seen / seconds, 1),
        commit=commit,
        versions=provenance.versions(),
        init=start,
        seen=before,
        kept_epoch=kept_epoch(rows) if settings.keep == "best" else None,
        frozen=recipe.frozen,
        base_model=getattr(model.backbone, "base_model", None),
        data_license=pool.license,
    )
    if accelerator.is_main_process:
        write_model(folder, model, recipe, pool, facts)
    accelerator.wait_for_everyone()
    return folder


def descend(
    accelerator: Accelerator,
    model: HashModel,
    loss: Any,
    recipe: Recipe,
    out: Path,
    images: Tensor,
    targets: Tensor,
    validation: Validation | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Train epoch by epoch, from the checkpoint in `out` if there is one, and leave the weights to keep in `model`.

    Args:
        accelerator: the processes and their device.
        model: on that device.
        loss: moved to that device and started here.
        recipe: the settings.
        out: the run's folder.
        images: of the training list, as `load` gives them.
        targets: of the training list.
        validation: measured after each epoch, if some images were kept aside.

    Returns:
        The log's rows, and the commit that the run began with.
    """
    settings, device, checkpoint = recipe.optimization, accelerator.device, out / "checkpoint.pt"
    images, targets = onto(device, images), targets.to(device)
    loss.to(device)
    if hasattr(loss, "start"):
        loss.start(targets)
    optimizer = make_optimizer(settings, model, loss)
    average = average_of(model, settings.ema) if settings.ema else None
    kept: HashModel = cast(Any, average.module) if average else model  # what is measured, and stored in the end
    best: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []  # of the log, one an epoch
    commit = provenance.commit()
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"], strict=not recipe.frozen)
        if average:
            average.load_state_dict(state["average"], strict=not recipe.frozen)
        loss.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        best, rows, commit = state["best"], state["rows"], state["commit"]
        write_text(out / "log.csv", to_csv(rows))  # the kill may have come between the two files

    console = Console(stderr=True, quiet=not accelerator.is_main_process)
    images_an_epoch = len(targets) // settings.batch_size * settings.batch_size
    model.train()
    model.backbone.train(not recipe.frozen)
    for epoch in range(len(rows), settings.epochs):
        began = time.monotonic()
        means = run_epoch(accelerator, model, loss, optimizer, average, recipe, epoch, images, targets, console)
        seconds = time.monotonic() - began
        rows.append({"epoch": epoch + 1, "seconds": round(seconds, 1), **means})
        if validation:
            rows[-1]["validation_map"] = round(validation.mean_average_precision(kept, recipe.frozen), 5)
            if settings.keep == "best" and rows[-1]["validation_map"] > best.get("map", -1):
                best = {"map": rows[-1]["validation_map"], "model": _trained(kept, recipe)}
        if accelerator.is_main_process:
            state = {"model": _trained(model, recipe), "loss": loss.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"average": _trained(average, recipe) if average else None, "best": best}
            with replacing(checkpoint) as partial:
                torch.save(state | {"rng": torch.get_rng_state(), "rows": rows, "commit": commit}, partial)
            write_text(out / "log.csv", to_csv(rows))
        line = ", ".join(f"{name} {value:.4f}" for name, value in rows[-1].items() if name not in ("epoch", "seconds"))
        speed = images_an_epoch / max(seconds, 1e-9)
        console.print(
            f"epoch {epoch + 1}/{settings.epochs}: {line}; {speed:.0f} images/s", highlight=False, soft_wrap=True
        )
    model.load_state_dict(best.get("model") or kept.state_dict(), strict=not recipe.frozen)
    return rows, commit


def kept_epoch(rows: list[dict[str, Any]]) -> int:
    """The first epoch, counted from 1, with the highest mAP on the images kept aside."""
    return max(rows, key=lambda row: row["validation_map"])["epoch"]


def _trained(module: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """A copy of the module's weights and buffers, without those of a frozen backbone, which are as they were built."""
    state = module.state_dict()
    names = [name for name in state if not (recipe.frozen and name.removeprefix("module.").startswith("backbone."))]
    return {name: state[name].clone() for name in names}


def run_epoch(
    accelerator: Accelerator,
    model: HashModel,
    loss: Any,
    optimizer: torch.optim.Optimizer,
    average: Any,
    recipe: Recipe,
    epoch: int,
    images: Tensor,
    targets: Tensor,
    console: Console,
) -> dict[str, float]:
    """Take every image of the training list once, in an order and with changes that the seed and the epoch decide.

    Returns:
        The mean of each of the loss's terms over the steps.
    """
    settings, device = recipe.optimization, accelerator.device
    staged: list[Any] = [module for module in (model.quantizer, loss) if hasattr(module, "set_progress")]
    steps = len(targets) // settings.batch_size
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(len(targets), generator=generator)
    sums: dict[str, Tensor] = {}  # on the device: to read one is to wait for it
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=steps)
        for step in range(steps):
            done = epoch * steps + step
            set_learning_rate(optimizer, settings, done, settings.epochs * steps)
            for module in staged:
                module.set_progress(done / (settings.epochs * steps))
            chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            batch, index = draw(images, chosen, recipe, epoch, getattr(loss, "views", 1), generator)
            index = index.to(device)
            output = dataclasses.replace(share_out(accelerator, model, batch, recipe), index=index)
            terms = loss(output, targets[index])
            total = torch.stack(list(terms.values())).sum()
            if (step % 50 == 0 or step == steps - 1) and not torch.isfinite(total):
                raise ConfigError(f"The loss is {total.item()} in epoch {epoch + 1}; lower the learning rate.")
            optimizer.zero_grad()
            total.backward()
            if accelerator.num_processes > 1:  # each has its part of the model's gradient, and all of the loss's
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad = accelerator.reduce(parameter.grad, "sum")
            optimizer.step()
            if average:
                average.update_parameters(model)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach().double() / steps
            progress.advance(task)
    if hasattr(loss, "end_epoch"):
        with torch.no_grad():
            loss.end_epoch()
    return {name: round(value.item(), 5) for name, value in sums.items()}


def share_out(accelerator: Accelerator, model: HashModel, batch: Tensor, recipe: Recipe) -> HashOutput:
    """Run the model on a batch, uint8 images or features; of several processes each runs a part and gets the others' results.

    Pairs and quantizers then see the whole batch in every process; the gradient of each reaches its own part.
    """
    count, rank = accelerator.num_processes, accelerator.process_index
    part = batch.tensor_split(count)[rank].to(accelerator.device)
    with torch.autocast(part.device.type, torch.bfloat16, enabled=recipe.optimization.precision == "bfloat16"):
        output = model.from_features(part) if recipe.frozen else model(model.preprocess.normalise(part))
    if count == 1:
        return output

    def whole(mine: Tensor) -> Tensor:
        parts = list(accelerator.gather(mine.detach()).tensor_split(count))
        parts[rank] = mine
        return torch.cat(parts)

    u = whole(output.u)
    return HashOutput(u, model.quantizer(u), None if output.logits is None else whole(output.logits))


def build(recipe: Recipe, pool: ImagePool) -> tuple[HashModel, Any]:
    """Build a recipe's model and loss for a data set's classes; there is no loss for a head in closed form.

    Raises:
        ConfigError: the recipe has no loss, and its head is not found in closed form; or the other way round.
    """
    settings, classes = recipe.optimization, len(pool.classes)
    model = HashModel(
        recipe.backbone,
        recipe.head,
        recipe.quantizer,
        bits=recipe.bits,
        preprocess=recipe.preprocess,
        num_classes=classes,
        name=recipe.name,
        pretrained=settings.pretrained,
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
        for tensor in model.backbone.state_dict().values():
            tensor.copy_(tensor.to(stored_dtype(tensor, "float16")))
    multi_label = pool.labels.ndim == 2
    if recipe.loss is None:
        return model.to(memory_format=torch.channels_last), None
    loss = build_component("loss", recipe.loss, bits=recipe.bits, num_classes=classes, multi_label=multi_label)
    return model.to(memory_format=torch.channels_last), loss


def start_backbone(model: HashModel, recipe: Recipe) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Give a new model the backbone of the one that its recipe starts from, if any.

    Returns:
        In words where the backbone starts, and what it has seen: `TrainingFacts.seen`.

    Raises:
        ConfigError: that model has another backbone, or it, or what it started from, was trained on other lists of the same
            data, which may hold queries.
        HashzooError: it cannot be opened.
    """
    if recipe.optimization.pretrained:
        weights = getattr(model.backbone, "weights_file", None) or "the backbone's published weights"
        return f"from {weights}", ()
    if recipe.init is None:
        return "from random weights", ()
    folder = resolve(recipe.init)
    source, trained = open_folder(folder), read_json(Results, folder / "results.json").training
    assert isinstance(source.config, ModelConfig)
    theirs, ours = source.config.backbone, recipe.backbone
    if (theirs.name, theirs.args) != (ours.name, ours.args):
        raise ConfigError(
            f"{recipe.init} has the backbone {theirs.name} {theirs.args}, the recipe {ours.name} {ours.args}; "
            "start from a model with the same."
        )
    history = ((source.config.dataset, trained.protocol), *trained.seen)
    for dataset, protocol in history:
        if dataset == public_name(recipe.dataset) and protocol != recipe.protocol:
            raise ConfigError(
                f"{recipe.init} was trained under {protocol} and may have seen queries of {recipe.protocol}; "
                "start from a model trained under the same protocol or on other data."
            )
    model.backbone.load_state_dict(source.backbone.state_dict())
    words = f"from the backbone of {source.name} (weights {source.config.weights_sha256[:12]})"
    return words, tuple(pair for pair in history if pair != (public_name(recipe.dataset), recipe.protocol))


def write_model(folder: Path, model: HashModel, recipe: Recipe, pool: ImagePool, facts: TrainingFacts) -> Path:
    """Write a trained model's folder, whole or not at all: config, weights, recipe, probe, and results without a row yet."""
    source, backbone = None, recipe.backbone
    model.cpu().eval()
    if hasattr(model.backbone, "fold"):
        backbone = backbone.model_copy(update={"args": cast(Any, model.backbone).fold()})
    if recipe.frozen and recipe.init and ":" not in recipe.init:  # a name leads there on every machine
        theirs = read_json(ModelConfig, resolve(recipe.init) / "config.json")
        source = theirs.backbone_from or BackboneSource(model=recipe.init, weights_sha256=theirs.weights_sha256)
    config = ModelConfig(
        name=recipe.name,
        method=recipe.method,
        bits=recipe.bits,
        backbone=backbone,
        head=recipe.head,
        quantizer=recipe.quantizer,
        preprocess=recipe.preprocess,
        dataset=pool.name,
        classes=pool.classes,
        multi_label=pool.labels.ndim == 2,
        weights_sha256="0" * 64,
        backbone_from=source,
    )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a kill may have left one
    save_folder(partial, model, config)
    shown = {"dataset": pool.name, "init": recipe.init}  # names in place of paths, since it is published
    if recipe.init and recipe.init.startswith("local-dir:"):
        shown["init"] = read_json(ModelConfig, resolve(recipe.init) / "config.json").name
    write_text(partial / "recipe.toml", recipe_toml(recipe.model_copy(update=shown)))
    write_probe(partial, open_folder(partial))  # of the weights as stored
    write_text(partial / "results.json", Results(training=facts).model_dump_json(indent=1) + "\n")
    return partial.rename(folder)


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write a run's epochs as CSV."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))  # a term may come later than the first epoch
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
