"""`hashzoo demo`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashzoo.cli.output import print_table, say
from hashzoo.machine import local_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from hashzoo.pictures.page import Group


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(demo)


def demo(
    images: Annotated[
        Path | None, typer.Argument(help="A folder of your own; default the photographs that ship.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page (and the index of your folder).")] = Path("demo"),
    model: Annotated[
        str | None,
        typer.Option(help="A model's name, local-dir:PATH or hf-hub:org/name; default one that suits the pictures."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many neighbours.")] = 10,
) -> None:
    """Search with real photographs by a trained model, and write a page that shows what was found.

    Without a folder, the photographs that ship are searched in the codes of the model's own database. With a folder, its
    pictures are indexed and each one's nearest neighbours shown.
    """
    import hashzoo
    from hashzoo.files import write_text
    from hashzoo.ingest import FOR_PICTURES
    from hashzoo.pictures.page import render

    out.mkdir(parents=True, exist_ok=True)
    model = model or ("dahp-resnet18-cifar10-48bit" if images is None else FOR_PICTURES)
    loaded = hashzoo.load(model, device="cpu")
    if images is None:
        title, groups = _against_published_codes(loaded, model, k)
    else:
        title, groups = _within_folder(loaded, images, out, k)
    write_text(out / "index.html", render(title, groups))
    say(f"Open {out / 'index.html'} in a browser.")


def _against_published_codes(model: Any, name: str, k: int) -> tuple[str, list[Group]]:
    """Search the shipped photographs in the model's own database codes; pictures are shown where the data set is at hand."""
    from hashzoo import Index
    from hashzoo.pictures import sources
    from hashzoo.pictures.page import Group, Neighbour, thumbnail
    from hashzoo.zoo.names import locate
    from hashzoo.zoo.published_codes import FILE, read_codes

    published = read_codes(locate(name).folder / FILE)
    index = Index(published.codes["database"], ids=published.positions["database"])
    row_of = {item: row for row, item in enumerate(published.positions["database"].tolist())}
    photos = list(sources.scan(_photos()).files)
    hits = index.search(model.encode(photos), k=k)
    picture = _database_pictures(published.protocol)
    groups = []
    for row, photo in enumerate(photos):
        near = [
            Neighbour(
                distance=int(distance),
                caption=_classes(published, row_of[int(item)]),
                title=f"database image {item}",
                picture=picture(int(item)),
            )
            for distance, item in zip(hits.distances[row], hits.ids[row], strict=True)
        ]
        groups.append(Group(Path(photo).name, thumbnail(photo), near))
        print_table(
            [f"nearest to {Path(photo).name}", "distance", "class"],
            [[hit.title, hit.distance, hit.caption] for hit in near],
        )
    count = len(index)
    return f"{model.name}: photographs searched among {count:,} codes of {published.protocol}", groups


def _classes(published: Any, row: int) -> str:
    """Name the classes of a database image."""
    label = published.labels["database"][row]
    return ", ".join(published.classes[number] for number in (label.nonzero()[0] if label.ndim else [label]))


def _within_folder(model: Any, folder: Path, out: Path, k: int) -> tuple[str, list[Group]]:
    """Index a folder and show each picture's nearest others."""
    from hashzoo.ingest import build_index
    from hashzoo.pictures.page import Group, Neighbour, thumbnail

    key = f"{model.name} {folder.resolve()}"  # an index for each
    place = out / f"index-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    index = build_index(folder, place, model)
    shown = min(len(index), 200)  # a page of more pictures is no use
    hits = index.search(index.codes[:shown], k=k + 1)  # a picture finds itself as well
    paths = index.paths
    assert paths is not None
    assert hits.paths is not None
    groups = []
    for row, path in enumerate(paths[:shown]):
        near = [
            Neighbour(int(distance), Path(where).name, where, thumbnail(where))
            for distance, item, where in zip(hits.distances[row], hits.ids[row], hits.paths[row], strict=True)
            if item != index.ids[row]
        ][:k]
        groups.append(Group(Path(path).name, thumbnail(path), near))
        if row < 20:
            print_table([f"nearest to {Path(path).name}", "distance"], [[hit.caption, hit.distance] for hit in near])
    note = f", the first {shown} shown" if shown < len(index) else ""
    return f"{model.name}: {len(index):,} pictures of {folder}{note}", groups


def _photos() -> Path:
    package = Path(__file__).parent.parent
    installed = package / "photos"
    return installed if installed.is_dir() else package.parent / "examples" / "photos"


def _database_pictures(protocol: str) -> Callable[[int], str | None]:
    """Give a database image by its position in the data set, if $HASHZOO_DATA holds the data set; else None."""
    from hashzoo.data import get_protocol, open_pool
    from hashzoo.pictures.page import thumbnail

    dataset = get_protocol(protocol).dataset
    if not any(path.is_dir() for path in local_data(dataset)):
        return lambda position: None
    pool = open_pool(dataset)
    return lambda position: thumbnail(pool.images[position])
