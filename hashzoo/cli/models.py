"""`hashzoo list`, `info`, `verify`."""

from typing import Annotated, Any

import typer

from hashzoo.cli.output import Json, print_json, print_table
from hashzoo.errors import HashzooError


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command("list")(list_models)
    app.command()(info)
    app.command()(verify)


def list_models(
    pattern: Annotated[str, typer.Argument(help='Shell-style, e.g. "dahp-*".')] = "*",
    bits: Annotated[int | None, typer.Option(help="Only this code length.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only models trained on this data set.")] = None,
    method: Annotated[str | None, typer.Option(help="Only models of this method.")] = None,
    as_json: Json = False,
) -> None:
    """List models that load by name."""
    from hashzoo.zoo import index

    found = index.list_models(pattern, bits=bits, dataset=dataset, method=method)
    if as_json:
        keys = ("name", "method", "backbone", "bits", "dataset", "protocol", "map", "license", "size", "folder")
        print_json([{key: getattr(item, key) for key in keys} for item in found])
        return
    print_table(
        ["name", "bits", "data set", "protocol", "mAP", "licence", "MB"],
        [[m.name, m.bits, m.dataset, m.protocol, m.map, m.license, f"{m.size / 1e6:.1f}"] for m in found],
    )


def info(
    name: Annotated[str, typer.Argument(help="A model's name, or local-dir:PATH.")],
    as_json: Json = False,
) -> None:
    """Show a model's config, results and training facts."""
    from hashzoo.config import ModelConfig, read_json
    from hashzoo.zoo import resolve
    from hashzoo.zoo.results import Results

    folder = resolve(name)
    config = read_json(ModelConfig, folder / "config.json").model_dump(mode="json")
    results = folder / "results.json"
    facts = read_json(Results, results).model_dump(mode="json") if results.exists() else None
    if as_json:
        print_json({"folder": folder, "config": config, "results": facts})
        return
    lines = [[key, value] for key, value in config.items() if key not in ("backbone", "head", "quantizer", "classes")]
    lines += [[key, f"{config[key]['name']} {config[key]['args'] or ''}"] for key in ("backbone", "head", "quantizer")]
    lines += [["classes", ", ".join(config["classes"])], ["folder", folder]]
    if facts:
        training = facts["training"]
        lines.append(["trained", f"{training['epochs']} epochs, seed {training['seed']}, {training['data_copy']}"])
        for row in facts["rows"]:
            depth = row["top_k"] or "all"
            lines.append(
                [f"mAP@{depth}", f"{row['map']:.4f} under {row['protocol']}, ties {row['ties']}, seed {row['seed']}"]
            )
    print_table(["fact", name], lines)


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; default all that ship.")] = None,
    as_json: Json = False,
) -> None:
    """Check files, weights, preprocessing and bit order of models, without their data set."""
    from hashzoo.zoo import index
    from hashzoo.zoo.verify import verify as check

    reports: list[dict[str, Any]] = []
    for name in names or [item.name for item in index.list_models()]:
        try:
            problems = check(name)
        except HashzooError as error:
            problems = [str(error)]
        reports.append({"name": name, "ok": not problems, "problems": problems})
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            typer.echo(f"{report['name']}: {'ok' if report['ok'] else '; '.join(report['problems'])}")
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)
