"""`hashzoo bench search`."""

from typing import Annotated, Any

import typer

from hashzoo.cli.output import Json, print_json, print_table, say


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    group = typer.Typer(help="Measure this machine.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(search)
    app.add_typer(group, name="bench")


def _group() -> None:
    """Measure this machine."""


def search(
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    as_json: Json = False,
) -> None:
    """Time exact search beside FAISS in one process, in turns; takes some minutes.

    Example: hashzoo bench search --json > search.json
    """
    from rich.console import Console

    from hashzoo.bench.search import bench, describe

    console = Console(stderr=True)
    with console.status("timing") as status:
        done: list[dict[str, Any]] = []

        def report(row: dict[str, Any]) -> None:
            done.append(row)
            status.update(f"timing, {len(done)} cases done")

        result = bench(device, report)
    if as_json:
        print_json(result)
        return
    rows = [
        [
            describe(row), f"{row['size']:,}", row["queries"], row["k"],
            f"{row['giga_pairs']:.3g}", f"{row['seconds'] * 1e3:.3g} ms", row["rival"],
            row["times_rival"] and f"{row['times_rival']:.1f}",
            row["share_of_limit"] and f"{row['share_of_limit']:.0%} of {row['limit']}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    print_table(["bits", "N", "queries", "k", "G pairs/s", "time", "rival", "times rival", "share of limit"], rows)
    print_table(
        ["limit", "G pairs/s a core, or GB/s"], [[name, f"{value:.1f}"] for name, value in result["limits"].items()]
    )
    say(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
