"""`hashzoo train`."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from hashzoo.cli.output import say
from hashzoo.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(train)


def train(
    method: Annotated[str, typer.Argument(help="A method's name (`hashzoo list --methods`), or a recipe.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of this run; a killed run goes on when started again.")],
    dataset: Annotated[str | None, typer.Option(help="A data set's name, or a folder; default cifar10.")] = None,
    bits: Annotated[int | None, typer.Option(help="Code length K, 4 to 1024; default 48.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Whose training list to use; default the data set's own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation; default 0.")] = None,
    device: Annotated[str | None, typer.Option(help='"cpu" or "cuda"; default CUDA where there is one.')] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the method's recipe, as TOML: --set 'optimization.epochs = 3'. Repeatable."),
    ] = None,
) -> None:
    """Train a model and write its folder.

    Example: hashzoo train dahp --dataset cifar10 --bits 48 --out runs/dahp
    """
    from hashzoo.training import train as run

    try:
        changes: dict[str, Any] = tomllib.loads("\n".join(change or []))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--set takes TOML such as 'optimization.epochs = 3' ({error}).") from error
    model = run(method, out, dataset=dataset, bits=bits, protocol=protocol, seed=seed, device=device, changes=changes)
    say(model.folder)
