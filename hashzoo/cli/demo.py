"""`hashzoo demo`."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashzoo.cli.output import print_table, say
from hashzoo.cli.search import FOR_PICTURES, find_images, make_index, scan
from hashzoo.errors import ImageError
from hashzoo.machine import local_data
from hashzoo.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 160  # pixels of a picture on the page


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

    out.mkdir(parents=True, exist_ok=True)
    model = model or ("dahp-resnet18-cifar10-48bit" if images is None else FOR_PICTURES)
    loaded = hashzoo.load(model, device="cpu")
    if images is None:
        title, groups = _against_published_codes(loaded, model, k)
    else:
        title, groups = _within_folder(loaded, images, out, k)
    page = _render(title, groups)
    from hashzoo.files import write_text

    write_text(out / "index.html", page)
    say(f"Open {out / 'index.html'} in a browser.")


def _against_published_codes(model: Any, name: str, k: int) -> tuple[str, list[dict[str, Any]]]:
    """Search the shipped photographs in the model's own database codes; pictures are shown where the data set is at hand."""
    from hashzoo import Index
    from hashzoo.zoo import resolve
    from hashzoo.zoo.published_codes import FILE, read_codes

    published = read_codes(resolve(name) / FILE)
    index = Index(published.codes["database"], ids=published.positions["database"])
    row_of = {item: row for row, item in enumerate(published.positions["database"].tolist())}
    photos = find_images(_photos())
    hits = index.search(model.encode(photos), k=k)
    picture = _database_pictures(published.protocol)
    groups = []
    for row, photo in enumerate(photos):
        near = [
            {
                "distance": int(distance),
                "caption": _classes(published, row_of[int(item)]),
                "picture": picture(int(item)),
                "title": f"database image {item}",
            }
            for distance, item in zip(hits.distances[row], hits.ids[row], strict=True)
        ]
        groups.append({"picture": _thumbnail(photo), "caption": Path(photo).name, "hits": near})
        print_table(
            [f"nearest to {Path(photo).name}", "distance", "class"],
            [[hit["title"], hit["distance"], hit["caption"]] for hit in near],
        )
    count = len(index)
    return f"{model.name}: photographs searched among {count:,} codes of {published.protocol}", groups


def _classes(published: Any, row: int) -> str:
    """Name the classes of a database image."""
    label = published.labels["database"][row]
    return ", ".join(published.classes[number] for number in (label.nonzero()[0] if label.ndim else [label]))


def _within_folder(model: Any, folder: Path, out: Path, k: int) -> tuple[str, list[dict[str, Any]]]:
    """Index a folder and show each picture's nearest others."""
    from hashzoo import Index

    key = f"{model.name} {folder.resolve()}"  # an index for each
    place = out / f"index-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    make_index(model, scan(folder), place)
    index = Index.open(place)
    shown = min(len(index), 200)  # a page of more pictures is no use
    hits = index.search(index.codes[:shown], k=k + 1)  # a picture finds itself as well
    paths = index.paths
    assert paths is not None
    assert hits.paths is not None
    groups = []
    for row, path in enumerate(paths[:shown]):
        near = [
            {
                "distance": int(distance),
                "caption": Path(where).name,
                "picture": _thumbnail(where),
                "title": where,
            }
            for distance, item, where in zip(hits.distances[row], hits.ids[row], hits.paths[row], strict=True)
            if item != index.ids[row]
        ][:k]
        groups.append({"picture": _thumbnail(path), "caption": Path(path).name, "hits": near})
        if row < 20:
            print_table(
                [f"nearest to {Path(path).name}", "distance"], [[hit["caption"], hit["distance"]] for hit in near]
            )
    note = f", the first {shown} shown" if shown < len(index) else ""
    return f"{model.name}: {len(index):,} pictures of {folder}{note}", groups


def _photos() -> Path:
    package = Path(__file__).parent.parent
    installed = package / "photos"
    return installed if installed.is_dir() else package.parent / "examples" / "photos"


def _database_pictures(protocol: str) -> Callable[[int], str | None]:
    """Give a database image by its position in the data set, if $HASHZOO_DATA holds the data set; else None."""
    from hashzoo.data import get_protocol, open_pool

    dataset = get_protocol(protocol).dataset
    if not any(path.is_dir() for path in local_data(dataset)):
        return lambda position: None
    pool = open_pool(dataset)
    return lambda position: _thumbnail(pool.images[position])


def _thumbnail(image: str | bytes) -> str | None:
    """A picture as a data URI of at most SIDE pixels; None if it cannot be read any more."""
    from torchvision.transforms.v2.functional import to_pil_image

    from hashzoo.preprocess import read_image

    try:
        picture = to_pil_image(read_image(image))
    except ImageError:
        return None
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if max(picture.size) <= 64 else "JPEG")
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _render(title: str, groups: list[dict[str, Any]]) -> str:
    import jinja2

    template = importlib.resources.files("hashzoo.cli").joinpath("demo.html.jinja").read_text(encoding="utf-8")
    return (
        jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, finalize=lambda value: clean(value, 1 << 20)
        )
        .from_string(template)
        .render(title=title, groups=groups)
    )
