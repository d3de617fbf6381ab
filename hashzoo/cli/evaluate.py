"""`hashzoo eval`."""

from typing import Annotated, Any

import typer

from hashzoo.cli.output import Json, print_json, print_table
from hashzoo.errors import ConfigError, HashzooError


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command("eval")(evaluate)


def evaluate(
    name: Annotated[str, typer.Argument(help="A model's name, local-dir:PATH or hf-hub:org/name.")],
    protocol: Annotated[str | None, typer.Option(help="Default the one it was trained under.")] = None,
    from_codes: Annotated[
        bool,
        typer.Option("--from-codes", help="From its codes.parquet alone, in seconds, and held against results.json."),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Write results, codes, plot and card into its folder.")
    ] = False,
    repeat_of: Annotated[
        str | None,
        typer.Option(help="A model trained by the same recipe with another seed: write the row into its results."),
    ] = None,
    float_cosine: Annotated[
        bool, typer.Option("--float-cosine", help="Also mAP of the backbone's features by cosine: what hashing costs.")
    ] = False,
    device: Annotated[str | None, typer.Option(help='"cpu" or "cuda"; default CUDA where there is one.')] = None,
    as_json: Json = False,
) -> None:
    """Measure a model under a protocol: tie-aware mAP, P@N, PR curve, P@H<=2, code health.

    Example: hashzoo eval dahp-resnet18-cifar10-48bit --from-codes
    """
    _check_options(name, protocol, from_codes, update, repeat_of, float_cosine)
    from hashzoo.evaluation import figures_from_codes, find_mismatches, run_protocol
    from hashzoo.release.record import check_repeat, read_record, write_repeat, write_results
    from hashzoo.zoo.names import locate

    folder = locate(name).folder
    mismatches: list[str] = []
    if from_codes:
        figures = figures_from_codes(folder)
        mismatches = find_mismatches(figures, read_record(folder).results)
    else:
        record, model = read_record(folder), read_record(locate(repeat_of).folder) if repeat_of else None
        if model:
            check_repeat(model, record)
        figures, published = run_protocol(folder, record.results, protocol, device=device, float_cosine=float_cosine)
        if update:
            write_results(record, figures, published)
        if model:
            write_repeat(model, record, figures)
    if as_json:
        print_json(figures.model_dump(mode="json"))
    else:
        _print(figures.model_dump(mode="json"))
    if mismatches:
        raise HashzooError(
            f"results.json of {name} says otherwise of {', '.join(mismatches)}; `hashzoo eval` measures anew."
        )


def _check_options(
    name: str, protocol: str | None, from_codes: bool, update: bool, repeat_of: str | None, float_cosine: bool
) -> None:
    """Refuse options that do not go together, and to write into the Hub's cache."""
    for option, written in (("--update", name if update else ""), ("--repeat-of", repeat_of or "")):
        if written.startswith("hf-hub:"):
            raise ConfigError(
                f"{option} writes into the model's folder, and {written} is in the Hub's cache; copy it and name it by "
                "local-dir:PATH."
            )
    if from_codes and (update or protocol or float_cosine or repeat_of):
        raise ConfigError("--from-codes measures the codes as published; the other options need the data.")
    if repeat_of and (update or protocol):
        raise ConfigError(
            "--repeat-of writes the row under the protocol of training into another model's results only."
        )


def _print(figures: dict[str, Any]) -> None:
    skip = ("pr_precision", "pr_recall", "precision_at", "health", "list_sha256")
    lines = [[key, value] for key, value in figures.items() if key not in skip]
    lines += [[f"P@{n}", value] for n, value in figures["precision_at"].items()]
    lines += [[key, value] for key, value in figures["health"].items()]
    print_table(
        ["figure", "value"], [[key, f"{value:.4f}" if isinstance(value, float) else value] for key, value in lines]
    )
