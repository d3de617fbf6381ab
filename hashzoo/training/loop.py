"""The training loop: a recipe in, a model's folder out; killed and started again, it goes on."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from hashzoo import machine
from hashzoo.config import ModelConfig
from hashzoo.data import ImagePool, get_protocol, make_lists, open_pool
from hashzoo.errors import ConfigError, DataError
from hashzoo.files import replacing, write_text
from hashzoo.model import HashModel, build_component
from hashzoo.training.recipe import Augment, Optimization, Recipe, recipe_toml
from hashzoo.zoo.folder import open_folder, save_folder
from hashzoo.zoo.probe import write_probe
from hashzoo.zoo.results import Results, TrainingFacts


def train(recipe: Recipe, out: str | Path, *, device: str | None = None, pool: ImagePool | None = None) -> Path:
    """Run a recipe and write the model's folder to `out/<name>`.

    After every epoch `out/checkpoint.pt` and `out/log.csv` are replaced; a run that was killed goes on from there, and on the
    CPU ends in the same weights as one that was not. The last epoch's weights are kept.

    Args:
        recipe: what to train.
        out: the run's folder; one recipe each.
        device: "cpu" or "cuda"; default CUDA where there is one.
        pool: the data set, if it is loaded already.

    Returns:
        The model's folder: config.json, model.safetensors, recipe.toml, probe.json.

    Raises:
        ConfigError: `out` holds the run of another recipe.
        DataError, UnknownNameError: data, protocol or component are not to be had, before any work starts.
    """
    out = Path(out)
    protocol = get_protocol(recipe.protocol)
    if protocol.dataset not in ("*", recipe.dataset):
        raise DataError(f"Protocol {protocol.name} is of data set {protocol.dataset}, not {recipe.dataset}.")
    text = recipe_toml(recipe)
    kept = out / "recipe.toml"
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{out} holds the run of another recipe; choose another --out, or remove that folder.")

    settings = recipe.optimization
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if settings.precision == "bfloat16" else "no"
    )  # fmt: skip
    if accelerator.num_processes > 1:
        raise ConfigError("Training on several processes is not supported yet; start one.")
    pool = pool or open_pool(recipe.dataset)
    set_seed(recipe.seed)
    multi_label = pool.labels.ndim == 2
    model = HashModel(
        recipe.backbone, recipe.head, recipe.quantizer, bits=recipe.bits, preprocess=recipe.preprocess,
        num_classes=len(pool.classes), name=recipe.name, pretrained=settings.pretrained,
    )  # fmt: skip
    loss = build_component(
        "loss", recipe.loss, bits=recipe.bits, num_classes=len(pool.classes), multi_label=multi_label
    )
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(settings, model, loss)
    model, loss, optimizer = accelerator.prepare(model, loss, optimizer)

    out.mkdir(parents=True, exist_ok=True)
    write_text(kept, text)
    checkpoint, log = out / "checkpoint.pt", out / "log.csv"
    first, rows, commit = 0, [], machine.commit()
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        model.load_state_dict(state["model"])
        loss.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        first, rows, commit = state["epoch"], state["rows"], state["commit"]

    console = Console(stderr=True)
    lists = make_lists(protocol, pool)
    steps = len(lists.train) // settings.batch_size
    if not steps:
        raise DataError(f"{len(lists.train)} training images are fewer than one batch of {settings.batch_size}.")
    if first < settings.epochs:
        console.print(f"Decoding {len(lists.train):,} images of {pool.name}: {pool.copy}", highlight=False)
        images = pool.decode(lists.train)
        targets = torch.from_numpy(pool.labels[lists.train])
        targets = targets.float() if multi_label else targets
    model.train()
    for epoch in range(first, settings.epochs):
        began, sums = time.monotonic(), dict[str, float]()
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=steps)
            for step in range(steps):
                done = (epoch * steps + step) / (settings.epochs * steps)
                set_learning_rate(optimizer, settings, done)
                for module in (model.quantizer, loss):
                    if hasattr(module, "set_progress"):
                        module.set_progress(done)
                rows_of_batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
                batch = augment(images[rows_of_batch], recipe, epoch, generator).to(accelerator.device)
                with accelerator.autocast():
                    output = model(model.preprocess.normalise(batch))
                terms = loss(output, targets[rows_of_batch].to(accelerator.device))
                total = torch.stack(list(terms.values())).sum()
                optimizer.zero_grad()
                accelerator.backward(total)
                optimizer.step()
                if step % 50 == 0 and not torch.isfinite(total):
                    raise ConfigError(f"The loss is {total.item()} in epoch {epoch + 1}; lower the learning rate.")
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.item() / steps
                progress.advance(task)
        seconds = time.monotonic() - began
        means = {name: round(value, 5) for name, value in sums.items()}
        rows.append({"epoch": epoch + 1, "seconds": round(seconds, 1), **means})
        save_checkpoint(checkpoint, model, loss, optimizer, {"epoch": epoch + 1, "rows": rows, "commit": commit})
        write_text(log, to_csv(rows))
        speed = steps * settings.batch_size / seconds
        terms_text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        console.print(f"epoch {epoch + 1}/{settings.epochs}: {terms_text}; {speed:.0f} images/s", highlight=False)

    folder = out / recipe.name
    config = ModelConfig(
        name=recipe.name, method=recipe.method, bits=recipe.bits, backbone=recipe.backbone, head=recipe.head,
        quantizer=recipe.quantizer, preprocess=recipe.preprocess, dataset=recipe.dataset, classes=pool.classes,
        multi_label=multi_label, weights_sha256="0" * 64,
    )  # fmt: skip
    trained = accelerator.unwrap_model(model).cpu().eval()
    save_folder(folder, trained, config)
    write_text(folder / "recipe.toml", text)
    write_probe(folder, open_folder(folder))  # of the weights as stored
    seconds = sum(row["seconds"] for row in rows)
    facts = TrainingFacts(
        protocol=protocol.name, data_copy=pool.copy, seed=recipe.seed, epochs=settings.epochs,
        device=machine.device_name(accelerator.device.type), precision=settings.precision, seconds=round(seconds, 1),
        images_per_s=round(settings.epochs * steps * settings.batch_size / seconds, 1),
        commit=commit, versions=machine.versions(),
        init="from the backbone's published weights" if settings.pretrained else "from random weights",
    )  # fmt: skip
    write_text(folder / "results.json", Results(training=facts).model_dump_json(indent=1) + "\n")
    return folder


def make_optimizer(settings: Optimization, model: HashModel, loss: nn.Module) -> torch.optim.Optimizer:
    """Group parameters by learning rate and weight decay; the loss's own parameters train as the head's do."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module in (model, loss):
        for name, parameter in module.named_parameters():
            key = (module is model and name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": members,
            "scale": settings.backbone_lr if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (in_backbone, is_matrix), members in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(parameters, lr=settings.lr)


def set_learning_rate(optimizer: Any, settings: Optimization, done: float) -> None:
    """Set the rate for the share of training done: up in a line for the warm-up, then down in a line to 0."""
    rising = done / settings.warmup if settings.warmup else 1.0
    rate = settings.lr * min(rising, (1 - done) / (1 - settings.warmup))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def augment(images: Tensor, recipe: Recipe, epoch: int, generator: torch.Generator) -> Tensor:
    """Cut, mirror and fit a uint8 batch (N, 3, S, S) for training.

    Returns:
        uint8 (N, 3, s, s): s is the network's input side, times the window's share of S if the window is smaller.
    """
    rule, side = recipe.augment, images.shape[-1]
    if epoch >= recipe.optimization.epochs - rule.plain_epochs:
        rule = Augment(flip=False, shift=0)
    window = window_side(rule, epoch, side)
    border = max(0, rule.shift - (side - window) // 2)
    if border:
        images = F.pad(images.float(), (border,) * 4, mode="reflect").to(torch.uint8)
    # the window's top left corner lies within `shift` of the centred one's, as far as there are pixels
    room = images.shape[-1] - window
    corner = torch.randint(room + 1, (2, len(images), 1), generator=generator) + torch.arange(window)
    rows = torch.arange(len(images))[:, None, None]
    cut = images.permute(0, 2, 3, 1)[rows, corner[0][:, :, None], corner[1][:, None, :]].permute(0, 3, 1, 2)
    if rule.flip:
        mirrored = torch.rand(len(cut), 1, 1, 1, generator=generator) < 0.5
        cut = torch.where(mirrored, cut.flip(3), cut)
    height, width = recipe.preprocess.size
    target = [height * window // side, width * window // side]
    if list(cut.shape[2:]) == target:
        return cut
    return F.interpolate(cut.contiguous(), size=target, mode=recipe.preprocess.interpolation, antialias=True)


def window_side(rule: Augment, epoch: int, side: int) -> int:
    """The crop's side in pixels at an epoch (counted from 0)."""
    return ([side] + [crop for start, crop in sorted(rule.crops) if start <= epoch])[-1]


def save_checkpoint(path: Path, model: nn.Module, loss: nn.Module, optimizer: Any, facts: dict[str, Any]) -> None:
    """Write everything a run needs to go on, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "loss": loss.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        **facts,
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write a run's epochs as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
