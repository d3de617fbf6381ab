"""`hashzoo encode`, `index`, `search`."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hashzoo.cli.output import Json, print_json, print_table, say
from hashzoo.errors import CodesError, HashzooError, ImageError
from hashzoo.precision import Precision

if TYPE_CHECKING:
    from hashzoo.index import Index
    from hashzoo.ingest import Progress

Device = Annotated[
    str | None, typer.Option(help='Where the network runs, "cpu" or "cuda"; default CUDA where there is one.')
]
EncodedIn = Annotated[
    Precision, typer.Option(help='Of the network. "bfloat16" is faster on CUDA, but its codes differ in some bits.')
]
OnError = Annotated[Literal["raise", "skip"], typer.Option(help="What to do with an image that cannot be read.")]


Roots = Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: where a named root of the index's paths is now.")]


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(encode)
    app.command("index")(index_folder)
    app.command()(search)


def encode(
    name: Annotated[str, typer.Argument(help="A model's name, local-dir:PATH or hf-hub:org/name.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    on_error: OnError = "raise",
    device: Device = None,
    precision: EncodedIn = "float32",
    as_json: Json = False,
) -> None:
    """Print the code of each image in hexadecimal, most significant bit first."""
    import hashzoo

    model = hashzoo.load(name, device=device)
    codes = model.encode([str(path) for path in images], precision=precision, on_error=on_error)
    for _, reason in codes.failed:
        say(f"Skipped: {reason}", fg="yellow", err=True)
    left_out = {position for position, _ in codes.failed}
    read = [str(path) for position, path in enumerate(images) if position not in left_out]
    rows = [[path, code.tobytes().hex()] for path, code in zip(read, codes.packed, strict=True)]
    if as_json:
        print_json([{"path": path, "code": code, "bits": model.bits, "model": model.name} for path, code in rows])
    else:
        print_table(["image", "code"], rows)


def same_content(index: "Index") -> list[list[str]]:
    """Group the files of an index of identical content, by sha256; only files of equal size are read."""
    from hashzoo.files import sha256

    of_size: dict[int, list[str]] = defaultdict(list)
    for path in [] if index.paths is None else index.paths:
        with contextlib.suppress(OSError, TypeError):  # what cannot be read is like nothing
            of_size[Path(path).stat().st_size].append(path)
    groups: dict[str, list[str]] = defaultdict(list)
    for paths in of_size.values():
        for path in paths if len(paths) > 1 else []:
            with contextlib.suppress(OSError):
                groups[sha256(path)].append(path)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def index_folder(
    out: Annotated[Path, typer.Option(help="The index: a folder.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of images, searched through with its subfolders.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's name, local-dir:PATH or hf-hub:org/name; default the index's, or one for pictures of any kind."
        ),
    ] = None,
    on_error: OnError = "skip",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Show the files of identical content.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Write an index of an older format anew.")] = False,
    reencode: Annotated[
        bool,
        typer.Option("--reencode", help="Encode the index's images again where its model or preprocessing changed."),
    ] = False,
    root: Roots = None,
    device: Device = None,
    precision: EncodedIn = "float32",
    as_json: Json = False,
) -> None:
    """Encode a folder of images into an index; started again, it goes on, and follows what has changed.

    A file is taken as done by its path, size and mtime. One that has changed is encoded again, one that is gone is
    dropped; images of other folders in the same index are left alone.

    Examples: hashzoo index photos --out photos.index; hashzoo index --reencode --out photos.index
    """
    import hashzoo
    from hashzoo import ingest
    from hashzoo.index import folder as folders
    from hashzoo.index import state
    from hashzoo.pictures import sources

    if upgrade and folders.upgrade(out):
        say(f"{out} is now an index of the present format.", err=True)
    if folder is None and not reencode:
        if not upgrade:
            raise ImageError("Name a folder of images, or --reencode or --upgrade for an index that is there.")
        return
    pictures = None if folder is None else sources.scan(folder)  # refused before a model is loaded
    found = state.state_of(out)
    loaded = hashzoo.load(model or (found and found.maker.model) or ingest.FOR_PICTURES, device=device)
    reports: list[dict[str, Any]] = []
    with _progress() as told:
        options: Any = {"precision": precision, "on_error": on_error, "on_progress": told, "roots": _roots(root)}
        if reencode:
            index = ingest.reencode(out, loaded, **options)
            reports.append(_report(out, told.last))
        if pictures is not None:
            index = ingest.build_index(pictures, out, loaded, **options)
            reports.append(_report(out, told.last))
    if duplicates:
        reports[-1]["duplicates"] = same_content(index)
    if as_json:
        print_json(reports[-1])
    elif duplicates:
        _print_groups(reports[-1]["duplicates"])


def _print_groups(groups: list[list[str]]) -> None:
    print_table(["content", "path"], [[row, path] for row, group in enumerate(groups, 1) for path in group])


class _Told:
    """Shows how far a run is, and keeps the last that was said."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.task = bar, bar.add_task("encoding", total=None)

    def __call__(self, progress: "Progress") -> None:
        self.last = progress
        self.bar.update(self.task, total=progress.total, completed=progress.done)


@contextlib.contextmanager
def _progress() -> Iterator[_Told]:
    """Show a bar where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Told(bar)


def _report(out: Path, done: "Progress") -> dict[str, Any]:
    """Say on stderr what a run did, and return it."""
    reasons = [failure.reason for failure in done.failed]
    for reason in reasons:
        say(f"Skipped: {reason}", fg="yellow", err=True)
    say(
        f"{out}: {done.added} added, {done.changed} changed and encoded again, {done.vanished} vanished and "
        f"dropped, {done.there} there already, {len(reasons)} skipped.",
        err=True,
    )
    counts = {"added": done.added, "changed": done.changed, "vanished": done.vanished, "there": done.there}
    return {**counts, "skipped": reasons}


def _roots(given: list[str] | None) -> dict[str, str]:
    """Read NAME=FOLDER."""
    pairs = [text.partition("=") for text in given or []]
    for name, sign, place in pairs:
        if not (name and sign and Path(place).is_dir()):
            raise HashzooError(f"--root is NAME=FOLDER with a folder that is there, not {name + sign + place!r}.")
    return {name: os.path.abspath(place) for name, _, place in pairs}  # noqa: PTH100 - links stay as they are


def search(
    index: Annotated[Path, typer.Argument(help="An index that `hashzoo index` or Index.save wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Query images.")],
    k: Annotated[
        int | None, typer.Option("-k", help="How many neighbours; default 10, or all within --max-distance.")
    ] = None,
    max_distance: Annotated[int | None, typer.Option(help="Greatest Hamming distance, in bits.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the index's model is, if not under its own name.")] = None,
    root: Roots = None,
    device: Device = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the network; default the index's.")] = None,
    as_json: Json = False,
) -> None:
    """Find the nearest images of an index, exactly, by (distance, id).

    Examples: hashzoo search photos.index cat.jpg -k 5; hashzoo search photos.index cat.jpg --max-distance 4
    """
    import hashzoo

    for option, value, least in (("-k", k, 1), ("--max-distance", max_distance, 0)):
        if value is not None and value < least:
            raise CodesError(f"{option} is at least {least}, not {value}.")
    opened = hashzoo.Index.open(index, roots=_roots(root))
    name = model or opened.model
    if name is None:
        raise CodesError(f"{index} does not say which model made it; name it with --model.")
    loaded = hashzoo.load(name, device=device)
    if opened.preprocess and opened.preprocess != loaded.preprocess.id:
        raise HashzooError(
            f"{index} was made with another preprocessing of {name}, so that a picture cannot be held against its codes; "
            f"`hashzoo index --reencode --out {index}` encodes its images again."
        )
    query = loaded.encode([str(path) for path in images], precision=precision or opened.precision or "float32")
    hits = opened.search(query, k or 10) if max_distance is None else opened.search(query, k, max_distance=max_distance)
    found: list[dict[str, Any]] = []
    for row, path in enumerate(images):
        one = hits[row]
        paths = [None] * one.ids.size if one.paths is None else one.paths[0].tolist()
        columns = zip(one.distances[0].tolist(), one.ids[0].tolist(), paths, strict=True)
        found.append({"query": str(path), "hits": [{"distance": d, "id": i, "path": where} for d, i, where in columns]})
    if as_json:
        print_json(found)
        return
    for entry in found:
        print_table(
            [f"near {entry['query']}", "id", "distance"],
            [[hit["path"] or "-", hit["id"], hit["distance"]] for hit in entry["hits"]],
        )
