"""`hashzoo plugins`, `hashzoo plugin new` and `hashzoo plugin check`."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hashzoo.cli.output import Json, print_json, print_table, say


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(plugins)
    group = typer.Typer(help="Write a plugin, or check one.", no_args_is_help=True)
    group.command()(new)
    group.command()(check)
    app.add_typer(group, name="plugin")


def plugins(as_json: Json = False) -> None:
    """List plugins with what they register, or why they failed and the line to fix."""
    from hashzoo.registry import registry

    found = registry()
    clashes = [{"kind": kind, "name": name, "packages": owners} for (kind, name), owners in found.clashes().items()]
    if as_json:
        listing = [
            {
                "name": plugin.name,
                "package": plugin.distribution,
                "version": plugin.version,
                "api": plugin.api,
                "notice": plugin.notice,
                "error": plugin.error,
                "where": plugin.where,
                "components": [
                    {"kind": item.kind, "name": item.name, "summary": item.summary} for item in plugin.components
                ],
            }
            for plugin in found.plugins
        ]
        print_json({"plugins": listing, "clashes": clashes})
        return
    rows = [
        [plugin.distribution, plugin.version, str(plugin.api), item.kind, item.name, item.summary]
        for plugin in found.plugins
        for item in plugin.components
    ]
    print_table(["package", "version", "API", "kind", "name", "what it is"], rows)
    for plugin in found.plugins:
        if plugin.error:
            say(f"{plugin.distribution} {plugin.version} is broken: {plugin.error}", fg="red")
            say(f"  fix {plugin.where}", fg="red")
        if plugin.notice:
            say(f"{plugin.distribution} {plugin.version}: {plugin.notice}", fg="yellow")
    for clash in clashes:
        say(
            f"{clash['kind']} {clash['name']!r} is registered by {' and '.join(clash['packages'])}: "
            "write package/name.",
            fg="yellow",
        )


def new(
    name: Annotated[str, typer.Argument(help="Of the package, such as my-method: lower-case words joined by -.")],
    kind: Annotated[
        Literal["loss", "head", "backbone", "quantizer", "method"],
        typer.Option(help="What it adds, beside a recipe that trains with it; a method adds all four."),
    ],
) -> None:
    """Write a package that adds a component: it installs, trains and passes its own tests as it is.

    Example: hashzoo plugin new my-loss --kind loss
    """
    from hashzoo.scaffold import write_package

    folder = write_package(name, kind, Path.cwd())
    say(f"{folder}: `pip install -e {name}`, then `pytest {name}`")


def check(
    name: Annotated[str, typer.Argument(help="A package, or a component or method such as timm/resnet50.")],
    as_json: Json = False,
) -> None:
    """Run the conformance checks on a package's components, or on one component; exit 1 if any fails.

    Example: hashzoo plugin check hashzoo-dsbh
    """
    from hashzoo.errors import UnknownNameError, unknown
    from hashzoo.registry import HOOKS, registry
    from hashzoo.testing import Subject

    found = registry()
    plugins = [plugin for plugin in found.plugins if name in (plugin.name, plugin.distribution)]
    names = [(item.kind, f"{item.owner}/{item.name}") for plugin in plugins for item in plugin.components]
    if not plugins:
        for kind in HOOKS:
            with contextlib.suppress(UnknownNameError):
                found.get(kind, name)
                names.append((kind, name))
    if not plugins and not names:
        packages = {plugin.distribution for plugin in found.plugins}
        known = packages | {item.name for kind in HOOKS for item in found.components(kind)}
        raise unknown("package or component", name, known, "`hashzoo plugins` shows what is installed.")

    report: list[dict[str, Any]] = [
        {
            "subject": plugin.distribution,
            "check": "loads",
            "ok": False,
            "problem": f"{plugin.error}; fix {plugin.where}",
        }
        for plugin in plugins
        if plugin.error
    ]
    for kind, full in names:
        if full.endswith("/*"):  # a family has as many members as there are models; one is checked by its name
            if not as_json:
                say(f"{kind} {full}: not checked; name a member of this family")
            continue
        subject = Subject(kind, full)
        results = subject.results()
        report += [{"subject": str(subject), "check": r.check, "ok": r.ok, "problem": r.problem} for r in results]
        if not as_json:
            failed = sum(not result.ok for result in results)
            say(f"{subject}: {len(results)} checks, " + (f"{failed} failed" if failed else "all passed"))
    wrong = [result for result in report if not result["ok"]]
    if as_json:
        print_json(report)
    for result in [] if as_json else wrong:
        say(f"{result['subject']}: {result['check']}: {result['problem']}", fg="red")
    if wrong:
        raise typer.Exit(1)
