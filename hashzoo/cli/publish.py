"""`hashzoo publish`."""

from pathlib import Path
from typing import Annotated

import typer

from hashzoo.cli.output import Json, print_json, print_table, say
from hashzoo.errors import HubError


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(publish)


def publish(
    folder: Annotated[Path | None, typer.Argument(help="A model's folder.")] = None,
    repo: Annotated[str | None, typer.Option(help="org/name; with --all the organisation alone.")] = None,
    all_models: Annotated[
        bool, typer.Option("--all", help="Every model that ships with its weights, to org/<its name>.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Do it; without, only show what would change.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request in place of a commit.")] = False,
    as_json: Json = False,
) -> None:
    """Put a model's folder on the Hugging Face Hub: checked, in one commit, with a version tag.

    Example: hashzoo publish runs/dahp/dahp-resnet18-cifar10-48bit --repo me/dahp-resnet18-cifar10-48bit --push
    """
    from hashzoo.release import publish as publishing
    from hashzoo.zoo.names import shipped_folder

    if repo is None or all_models is (folder is not None):
        raise HubError("Say what goes where: FOLDER --repo org/name, or --all --repo org.")
    if all_models:
        folders = sorted(path.parent for path in shipped_folder().glob("*/config.json"))
        bare = [path for path in folders if not (path / "model.safetensors").exists()]
        for path in bare:
            say(f"{path.name} is left out: it ships without its weights.", err=True)
        plans = [publishing.plan(path, f"{repo}/{path.name}") for path in folders if path not in bare]
    else:
        assert folder is not None
        plans = [publishing.plan(folder, repo)]
    reports = []
    for plan in plans:
        done = publishing.push(plan, private=private, pr=pr, whole_zoo=all_models) if push else None
        reports.append(
            {"repo": plan.repo, "folder": plan.folder, "files": plan.states, "sizes": plan.sizes, "pushed": done}
        )
        if as_json:
            continue
        rows = [[name, state, plan.sizes[name]] for name, state in plan.states.items()]
        print_table([f"{plan.repo} ({'new' if plan.parent is None else plan.parent[:12]})", "state", "bytes"], rows)
        if not push and "README.md" in plan.changed:
            for line in plan.card.split("\n"):
                say(line)
        say(done or f"Nothing was sent; {len(plan.changed)} files would change. Add --push to publish.")
    if as_json:
        print_json(reports)
