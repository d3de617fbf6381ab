"""The training loop: steps make an epoch, and after every epoch a checkpoint is written, from which a killed run goes on."""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hashzoo import provenance
from hashzoo.errors import ConfigError
from hashzoo.files import replacing, write_text
from hashzoo.hookspecs import HashOutput
from hashzoo.network import HashNetwork
from hashzoo.training.batches import Validation, draw_batch, move_if_it_fits
from hashzoo.training.optimizer import average_of, make_optimizer, set_learning_rate
from hashzoo.training.recipe import Recipe


@dataclass
class History:
    """What a run has behind it.

    Attributes:
        commit: of hashzoo, when the run began.
        rows: of log.csv, one an epoch.
        best_map: the highest mAP on the images kept aside, where the recipe keeps the best epoch.
        best_weights: those of that epoch.
    """

    commit: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_map: float = -1.0
    best_weights: dict[str, Tensor] | None = None

    @property
    def seconds(self) -> float:
        """Of all epochs, validation and checkpoints not counted."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def best_epoch(self) -> int:
        """The first epoch, counted from 1, with the highest mAP on the images kept aside."""
        return max(self.rows, key=lambda row: row["validation_map"])["epoch"]


@dataclass
class Trainer:
    """All that a step needs.

    Attributes:
        accelerator: the processes and their device.
        model: on that device.
        loss: likewise.
        recipe: the settings.
        inputs: of the training list, as `training_inputs` gives them.
        targets: of the training list, on the device.
        average: the running average of the model's weights, where the recipe asks for one.
    """

    accelerator: Accelerator
    model: HashNetwork
    loss: Any
    recipe: Recipe
    inputs: Tensor
    targets: Tensor
    optimizer: torch.optim.Optimizer = field(init=False)
    average: AveragedModel | None = field(init=False)

    def __post_init__(self) -> None:
        device, settings = self.accelerator.device, self.recipe.optimization
        self.inputs, self.targets = move_if_it_fits(self.inputs, device), self.targets.to(device)
        self.loss.to(device)
        if hasattr(self.loss, "start"):
            self.loss.start(self.targets)
        self.optimizer = make_optimizer(settings, self.model, self.loss)
        self.average = average_of(self.model, settings.ema) if settings.ema else None

    @property
    def result(self) -> HashNetwork:
        """The model that is measured, and stored in the end."""
        return cast(Any, self.average.module) if self.average else self.model

    @property
    def steps(self) -> int:
        """Steps of an epoch; images beyond the last whole batch wait for another epoch's order."""
        return len(self.targets) // self.recipe.optimization.batch_size


def train_epochs(trainer: Trainer, out: Path, validation: Validation | None = None) -> History:
    """Train epoch by epoch, from the checkpoint in `out` if there is one, and leave the weights to keep in the model.

    Args:
        trainer: its model and loss are as the recipe builds them.
        out: the run's folder, which gets checkpoint.pt and log.csv.
        validation: measured after each epoch, if some images were kept aside.

    Raises:
        ConfigError: the loss is no number.
    """
    recipe, model = trainer.recipe, trainer.model
    epochs, is_main = recipe.optimization.epochs, trainer.accelerator.is_main_process
    console = Console(stderr=True, quiet=not is_main)
    checkpoint = Checkpoint(out, trainer)
    history = checkpoint.load() or History(provenance.commit())
    model.train()
    model.backbone.train(not recipe.frozen)
    for epoch in range(len(history.rows), epochs):
        began = time.monotonic()
        means = run_epoch(trainer, epoch, console)
        seconds = time.monotonic() - began
        row = {"epoch": epoch + 1, "seconds": round(seconds, 4), **means}
        if validation:
            row["validation_map"] = round(validation.mean_average_precision(trainer.result, recipe.frozen), 5)
            if recipe.optimization.keep == "best" and row["validation_map"] > history.best_map:
                history.best_map = row["validation_map"]
                history.best_weights = trained_weights(trainer.result, recipe.frozen)
        history.rows.append(row)
        if is_main:
            checkpoint.save(history)
        values = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name not in ("epoch", "seconds"))
        speed = trainer.steps * recipe.optimization.batch_size / max(seconds, 1e-9)
        line = f"epoch {epoch + 1}/{epochs}: {values}; {speed:.0f} images/s"
        console.print(line, highlight=False, soft_wrap=True)
    model.load_state_dict(history.best_weights or trainer.result.state_dict(), strict=not recipe.frozen)
    return history


def run_epoch(trainer: Trainer, epoch: int, console: Console) -> dict[str, float]:
    """Take every image of the training list once, in an order and with changes that the seed and the epoch decide.

    Returns:
        The mean of each of the loss's terms over the steps.
    """
    settings, steps, loss = trainer.recipe.optimization, trainer.steps, trainer.loss
    staged: list[Any] = [module for module in (trainer.model.quantizer, loss) if hasattr(module, "set_progress")]
    generator = torch.Generator().manual_seed(trainer.recipe.seed * 100_003 + epoch)
    batches = torch.randperm(len(trainer.targets), generator=generator).split(settings.batch_size)
    sums: dict[str, Tensor] = {}  # on the device: to read one is to wait for it
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=steps)
        for step in range(steps):
            done, total = epoch * steps + step, settings.epochs * steps
            set_learning_rate(trainer.optimizer, settings, done, total)
            for module in staged:
                module.set_progress(done / total)
            terms = run_step(trainer, batches[step], epoch, generator, check=step % 50 == 0 or step == steps - 1)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach().double() / steps
            progress.advance(task)
    if hasattr(loss, "end_epoch"):
        with torch.no_grad():
            loss.end_epoch()
    return {name: round(value.item(), 5) for name, value in sums.items()}


def run_step(
    trainer: Trainer, chosen: Tensor, epoch: int, generator: torch.Generator, check: bool
) -> dict[str, Tensor]:
    """Move the weights by one batch: the images `chosen`, int64 (n,), of the training list.

    Args:
        trainer: its learning rate is set.
        chosen: on the CPU.
        epoch: counted from 0.
        generator: of all that is random in the batch.
        check: also look whether the loss is a number, which waits for the device.

    Returns:
        The loss's terms.
    """
    recipe, accelerator = trainer.recipe, trainer.accelerator
    batch, rows = draw_batch(trainer.inputs, chosen, recipe, epoch, getattr(trainer.loss, "views", 1), generator)
    rows = rows.to(accelerator.device)
    output = dataclasses.replace(forward(trainer, batch), index=rows)
    terms = trainer.loss(output, trainer.targets[rows])
    total = torch.stack(list(terms.values())).sum()
    if check and not torch.isfinite(total):
        raise ConfigError(f"The loss is {total.item()} in epoch {epoch + 1}; lower the learning rate.")
    trainer.optimizer.zero_grad()
    total.backward()
    if accelerator.num_processes > 1:  # each has its part of the model's gradient, and all of the loss's
        for parameter in trainer.model.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "sum")
    trainer.optimizer.step()
    if trainer.average:
        trainer.average.update_parameters(trainer.model)
    return terms


def forward(trainer: Trainer, batch: Tensor) -> HashOutput:
    """Run the model on a batch, uint8 images or features; of several processes each runs a part and gets the others' results.

    Pairs and quantizers then see the whole batch in every process; the gradient of each reaches its own part.
    """
    accelerator, model, recipe = trainer.accelerator, trainer.model, trainer.recipe
    count, rank = accelerator.num_processes, accelerator.process_index
    part = batch.tensor_split(count)[rank].to(accelerator.device)
    with torch.autocast(part.device.type, torch.bfloat16, enabled=recipe.optimization.precision == "bfloat16"):
        output = model.from_features(part) if recipe.frozen else model(model.preprocess.normalise(part))
    if count == 1:
        return output

    def gather(mine: Tensor) -> Tensor:
        parts = list(accelerator.gather(mine.detach()).tensor_split(count))
        parts[rank] = mine  # with its gradient
        return torch.cat(parts)

    u = gather(output.u)
    return HashOutput(u, model.quantizer(u), None if output.logits is None else gather(output.logits))


class Checkpoint:
    """checkpoint.pt of a run: all that its next epoch starts from, written whole or not at all.

    Args:
        out: the run's folder; log.csv is written beside it.
        trainer: whose weights, averages, optimizer and loss are kept. A frozen backbone is as it was built, and is not.
    """

    def __init__(self, out: Path, trainer: Trainer) -> None:
        self.path, self.log, self.trainer = out / "checkpoint.pt", out / "log.csv", trainer

    def save(self, history: History) -> None:
        """Replace the file, then the log."""
        trainer, frozen = self.trainer, self.trainer.recipe.frozen
        best = {"map": history.best_map, "model": history.best_weights} if history.best_weights else {}
        state = {
            "model": trained_weights(trainer.model, frozen),
            "average": trained_weights(trainer.average, frozen) if trainer.average else None,
            "loss": trainer.loss.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "best": best,
            "rows": history.rows,
            "commit": history.commit,
        }
        with replacing(self.path) as partial:
            torch.save(state, partial)
        write_text(self.log, to_csv(history.rows))

    def load(self) -> History | None:
        """Put the state back into the trainer; None where the run has no checkpoint yet."""
        if not self.path.exists():
            return None
        trainer, strict = self.trainer, not self.trainer.recipe.frozen
        state = torch.load(self.path, map_location=trainer.accelerator.device, weights_only=True)
        trainer.model.load_state_dict(state["model"], strict=strict)
        if trainer.average:
            trainer.average.load_state_dict(state["average"], strict=strict)
        trainer.loss.load_state_dict(state["loss"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        write_text(self.log, to_csv(state["rows"]))  # the kill may have come between the two files
        best = state["best"]
        return History(state["commit"], state["rows"], best.get("map", -1.0), best.get("model"))


def trained_weights(module: nn.Module, frozen: bool) -> dict[str, Tensor]:
    """Copy a model's weights and buffers, or its average's; without the backbone's if that is frozen."""
    state = module.state_dict()
    names = [name for name in state if not (frozen and name.removeprefix("module.").startswith("backbone."))]
    return {name: state[name].clone() for name in names}


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write a run's epochs as CSV."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))  # a term may come later than the first epoch
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
