"""`hashzoo encode`, `index`, `search`."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hashzoo.cli.output import Json, print_json, print_table
from hashzoo.errors import CodesError, HashzooError, ImageError

if TYPE_CHECKING:
    from hashzoo.model import HashModel

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PART = 1024  # images of one Parquet part: what a kill can lose

Device = Annotated[str | None, typer.Option(help='"cpu" or "cuda"; default CUDA where there is one.')]
OnError = Annotated[Literal["raise", "skip"], typer.Option(help="What to do with an image that cannot be read.")]


def add_to(app: typer.Typer) -> None:
    """Register this group's commands."""
    app.command()(encode)
    app.command("index")(index_folder)
    app.command()(search)


def encode(
    name: Annotated[str, typer.Argument(help="A model's name, or local-dir:PATH.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    on_error: OnError = "raise",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print the code of each image in hexadecimal, most significant bit first."""
    import numpy as np

    import hashzoo

    model = hashzoo.load(name, device=device)
    rows = []
    for places, u in model.encode_batches([str(path) for path in images], on_error=on_error):
        packed = np.packbits(u.numpy() >= 0, axis=1)
        rows += [[str(images[place]), code.tobytes().hex()] for place, code in zip(places, packed, strict=True)]
    if as_json:
        print_json([{"path": path, "code": code, "bits": model.bits, "model": model.name} for path, code in rows])
    else:
        print_table(["image", "code"], rows)


def find_images(folder: Path) -> list[str]:
    """List image files below a folder, by path.

    Raises:
        ImageError: the folder is missing or holds no image file.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder; give one that holds images.")
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageError(f"{folder} holds no image file ({', '.join(sorted(SUFFIXES))}).")
    return found


def index_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched through with its subfolders.")],
    out: Annotated[Path, typer.Option(help="The index: a folder of Parquet parts.")],
    model: Annotated[str, typer.Option(help="A model's name, or local-dir:PATH.")] = "dahp-resnet18-cifar10-48bit",
    on_error: OnError = "skip",
    device: Device = None,
) -> None:
    """Encode a folder of images into an index; started again, it goes on with what is not there yet.

    Example: hashzoo index photos --out photos.index
    """
    import hashzoo

    wanted = find_images(folder)
    make_index(hashzoo.load(model, device=device), wanted, out, on_error)


def make_index(model: "HashModel", wanted: list[str], out: Path, on_error: Literal["raise", "skip"] = "skip") -> None:
    """Append what `wanted` has and the index at `out` has not, a part at a time."""
    import warnings

    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from hashzoo.codes import Codes
    from hashzoo.search import store

    done: set[str] = set()
    if store.parts(out):
        items = store.read(out)
        done = set(items.paths.tolist()) if items.paths is not None else set()
    todo = [path for path in wanted if str(Path(path).resolve()) not in done]
    console = Console(stderr=True)
    added = 0
    skipped: list[str] = []
    paths_left = iter(todo)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("encoding", total=len(todo))
        while chunk := list(itertools.islice(paths_left, PART)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                parts = list(model.encode_batches(chunk, on_error=on_error))
            skipped += [str(warning.message) for warning in caught if str(warning.message).startswith("Skipped")]
            read = [chunk[place] for places, _ in parts for place in places]
            if read:
                codes = Codes.from_bits(np.concatenate([u.numpy() >= 0 for _, u in parts]), model.name)
                store.append(
                    out, codes, paths=[str(Path(path).resolve()) for path in read], preprocess=model.preprocess.hash
                )
                added += len(read)
            progress.advance(task, len(chunk))
    for line in skipped:
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    console.print(
        f"{out}: {added} added, {len(wanted) - len(todo)} there already, {len(skipped)} skipped.",
        highlight=False,
        soft_wrap=True,
    )
    if not store.parts(out):
        raise ImageError(f"None of the {len(wanted)} images could be read, so there is no index at {out}.")


def search(
    index: Annotated[Path, typer.Argument(help="An index that `hashzoo index` or Index.save wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Query images.")],
    k: Annotated[int, typer.Option("-k", help="How many neighbours.")] = 10,
    model: Annotated[str | None, typer.Option(help="Where the index's model is, if not under its own name.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the nearest images of an index, exactly, by (distance, id).

    Example: hashzoo search photos.index cat.jpg -k 5
    """
    import hashzoo

    opened = hashzoo.Index.open(index)
    name = model or opened.model
    if name is None:
        raise CodesError(f"{index} does not say which model made it; name it with --model.")
    if k < 1:
        raise CodesError(f"-k is at least 1, not {k}.")
    loaded = hashzoo.load(name, device=device)
    if opened.preprocess and opened.preprocess != loaded.preprocess.hash:
        raise HashzooError(f"{index} was made with another preprocessing of {name}; index the images again.")
    hits = opened.search(loaded.encode([str(path) for path in images]), k=k)
    where = None if hits.paths is None else hits.paths.tolist()
    found: list[dict[str, Any]] = [
        {
            "query": str(path),
            "hits": [
                {"distance": int(d), "id": int(i), "path": where and where[row][place]}
                for place, (d, i) in enumerate(zip(hits.distances[row], hits.ids[row], strict=True))
            ],
        }
        for row, path in enumerate(images)
    ]
    if as_json:
        print_json(found)
        return
    for entry in found:
        print_table(
            [f"near {entry['query']}", "id", "distance"],
            [[hit["path"] or "-", hit["id"], hit["distance"]] for hit in entry["hits"]],
        )
