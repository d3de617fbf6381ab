"""`hashzoo list`, `info`, `fetch`, `verify`."""

import dataclasses
import fnmatch
from typing import Annotated, Any

import typer

from hashzoo.cli.output import Json, print_json, print_table, say
from hashzoo.errors import HashzooError


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command("list")(list_models)
    app.command()(info)
    app.command()(fetch)
    app.command()(verify)


def list_models(
    pattern: Annotated[str, typer.Argument(help='Shell-style, e.g. "dahp-*".')] = "*",
    bits: Annotated[int | None, typer.Option(help="Only this code length.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only models trained on this data set.")] = None,
    method: Annotated[str | None, typer.Option(help="Only models of this method.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Models on the Hub, by anybody.")] = False,
    author: Annotated[str | None, typer.Option(help="With --hub: only of this user or organisation.")] = None,
    license: Annotated[str | None, typer.Option(help="Only models under this licence, such as apache-2.0.")] = None,
    methods: Annotated[bool, typer.Option("--methods", help="Methods that `hashzoo train` takes, no models.")] = False,
    as_json: Json = False,
) -> None:
    """List models that load by name, or all that the Hub has, or methods to train with."""
    if methods:
        if hub or author or bits or dataset or method or license:
            raise HashzooError(
                "--methods lists what is installed and takes a pattern only; leave the other options out."
            )
        _list_methods(pattern, as_json)
        return
    if hub:
        _list_hub(pattern, author=author, dataset=dataset, method=method, bits=bits, license=license, as_json=as_json)
        return
    if author:
        raise HashzooError("--author needs --hub.")
    from hashzoo.zoo import names as zoo

    found = zoo.list_models(pattern, bits=bits, dataset=dataset, method=method)
    found = [item for item in found if license in (None, item.license)]
    if as_json:
        left_out = ("files", "repo", "commit")
        shown = [{k: v for k, v in vars(item).items() if k not in left_out} for item in found]
        print_json([item | {"missing": info.missing} for item, info in zip(shown, found, strict=True)])
        return
    print_table(
        ["name", "bits", "data set", "protocol", "mAP", "licence", "MB"],
        [[m.name, m.bits, m.dataset, m.protocol, _map(m), m.license, _size(m)] for m in found],
    )


def _map(info: Any) -> str | None:
    return None if info.map is None else f"{info.map:.4f} @{info.top_k or 'all'}"


def _size(info: Any) -> str:
    notes = [f"needs {package}" for package in info.missing] + ([] if info.weights else ["no weights"])
    return ", ".join([f"{info.size / 1e6:.1f}", *notes])


def _list_methods(pattern: str, as_json: bool) -> None:
    from hashzoo.registry import registry

    versions = {plugin.distribution: plugin.version for plugin in registry().plugins}
    found = [item for item in registry().components("method") if fnmatch.fnmatchcase(item.name, pattern)]
    if as_json:
        print_json(
            [
                {"name": item.name, "package": item.owner, "version": versions[item.owner], "summary": item.summary}
                for item in found
            ]
        )
        return
    print_table(
        ["name", "package", "what it is"], [[m.name, f"{m.owner} {versions[m.owner]}", m.summary] for m in found]
    )


def _list_hub(pattern: str, *, as_json: bool, **wanted: Any) -> None:
    from hashzoo.zoo.hub import list_hub

    found = [item for item in list_hub(**wanted) if fnmatch.fnmatchcase(item.name.partition("/")[2], pattern)]
    if as_json:
        print_json([dataclasses.asdict(item) for item in found])
        return
    print_table(
        ["name", "bits", "data set", "protocol", "mAP", "licence", "downloads"],
        [
            [
                f"hf-hub:{m.name}",
                m.bits,
                m.dataset,
                m.protocol,
                m.map if m.readable else "unreadable",
                m.license,
                m.downloads,
            ]
            for m in found
        ],
    )


def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of the zoo, or hf-hub:org/repo[@revision].")],
    as_json: Json = False,
) -> None:
    """Download models into the Hub's cache, checked, so that they load without a network."""
    from hashzoo.zoo.names import locate

    fetched = []
    for name in names:
        folder = locate(name).folder
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        fetched.append({"name": name, "folder": folder, "size": size})
        if not as_json:
            say(f"{name}: {size / 1e6:.1f} MB in {folder}")
    if as_json:
        print_json(fetched)


def info(
    name: Annotated[str, typer.Argument(help="A model's name, local-dir:PATH or hf-hub:org/repo[@revision].")],
    as_json: Json = False,
) -> None:
    """Show a model's config, results and training facts; of a model of the Hub, without its weights."""
    from hashzoo.config import ModelConfig, read_json
    from hashzoo.zoo.names import locate
    from hashzoo.zoo.results import Results

    location = locate(name, ("config.json", "results.json"))
    folder, repo, commit = location.folder, location.repo, location.commit
    if location.files:  # in the Hub's cache, which may hold a part of the files
        size = sum(size for _, size in location.files.values())
    else:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    config = read_json(ModelConfig, folder / "config.json").model_dump(mode="json")
    path = folder / "results.json"
    results = read_json(Results, path) if path.exists() else Results()
    facts = results.model_dump(mode="json") if path.exists() else None
    if as_json:
        known = {"folder": folder, "repo": repo, "commit": commit, "size": size}
        print_json({**known, "config": config, "results": facts})
        return
    parts = ("backbone", "head", "quantizer")
    lines = [[key, value] for key, value in config.items() if key not in (*parts, "classes", "license")]
    lines += [[key, f"{config[key]['name']} {config[key]['args'] or ''}"] for key in parts]
    lines += [["classes", ", ".join(config["classes"])], ["MB", f"{size / 1e6:.1f}"], ["folder", folder]]
    lines += [["on the Hub", f"{repo} at {commit}"]] if repo else []
    lines += [["licence of weights", config["license"]]]
    if training := results.training:
        lines.append(["licence of training data", training.data_license or "not known to hashzoo"])
        lines.append(["trained", f"{training.epochs} epochs, seed {training.seed}, {training.data_copy}"])
    spread = results.spread() if training else None
    for place, row in enumerate(results.rows):
        over = f"one seed, {row.seed}: spread not known"
        if spread and place == 0:
            over = f"{spread} over {len(spread.seeds)} seeds"
        lines.append([f"mAP@{row.top_k or 'all'}", f"{row.map:.4f} ({over}) under {row.protocol}, ties {row.ties}"])
    print_table(["fact", name], lines)


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; default all that ship with their weights.")] = None,
    as_json: Json = False,
) -> None:
    """Check files, weights, preprocessing and bit order of models, without their data set."""
    from hashzoo.zoo import names as zoo
    from hashzoo.zoo.verify import verify as check

    reports: list[dict[str, Any]] = []
    for name in names or [item.name for item in zoo.list_models() if item.weights]:
        try:
            problems = check(name)
        except HashzooError as error:
            problems = [str(error)]
        reports.append({"name": name, "ok": not problems, "problems": problems})
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            say(f"{report['name']}: {'ok' if report['ok'] else '; '.join(report['problems'])}")
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)
