"""`hashzoo plugins`."""

import typer

from hashzoo.cli.output import Json, print_json, print_table


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(plugins)


def plugins(as_json: Json = False) -> None:
    """List plugins with what they register, or why they failed."""
    from hashzoo.registry import registry

    found = registry()
    clashes = [{"kind": kind, "name": name, "packages": owners} for (kind, name), owners in found.clashes().items()]
    if as_json:
        listing = [
            {
                "name": plugin.name,
                "package": plugin.distribution,
                "version": plugin.version,
                "error": plugin.error,
                "components": [
                    {"kind": item.kind, "name": item.name, "summary": item.summary} for item in plugin.components
                ],
            }
            for plugin in found.plugins
        ]
        print_json({"plugins": listing, "clashes": clashes})
        return
    rows = [
        [f"{plugin.distribution} {plugin.version}", item.kind, item.name, item.summary]
        for plugin in found.plugins
        for item in plugin.components
    ]
    print_table(["package", "kind", "name", "what it is"], rows)
    for plugin in found.plugins:
        if plugin.error:
            typer.secho(f"{plugin.distribution} {plugin.version} is broken: {plugin.error}", fg="red")
    for clash in clashes:
        typer.secho(
            f"{clash['kind']} {clash['name']!r} is registered by {' and '.join(clash['packages'])}: "
            "write package/name.",
            fg="yellow",
        )
