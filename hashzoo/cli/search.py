"""`hashzoo encode`, `index`, `search`."""

import contextlib
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from hashzoo.cli.output import Json, print_json, print_table, say
from hashzoo.errors import CodesError, HashzooError, ImageError
from hashzoo.precision import Precision

if TYPE_CHECKING:
    from hashzoo.codes import Codes
    from hashzoo.network import HashNetwork

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# on classes kept out of training its method found more than any that learned from labels, in one run each (docs/baselines.md)
FOR_PICTURES = "itq-efficientnet_lite0-tinyimagenet-64bit"
PART, SECONDS = 1024, 10.0  # a Parquet part has at least so many images and took so long: what a kill can lose

Device = Annotated[
    str | None, typer.Option(help='Where the network runs, "cpu" or "cuda"; default CUDA where there is one.')
]
EncodedIn = Annotated[
    Precision, typer.Option(help='Of the network. "bfloat16" is faster on CUDA, but its codes differ in some bits.')
]
OnError = Annotated[Literal["raise", "skip"], typer.Option(help="What to do with an image that cannot be read.")]


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
    import numpy as np

    import hashzoo

    model = hashzoo.load(name, device=device)
    rows = []
    batches = model.encode_batches(
        [str(path) for path in images],
        precision=precision,
        on_error="raise" if on_error == "raise" else lambda error: say(f"Skipped: {error}", fg="yellow", err=True),
    )
    for places, u in batches:
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


class Images(NamedTuple):
    """The image files below a folder, each with its size in bytes and mtime in nanoseconds, by absolute path.

    Those whose path is not UTF-8, which Parquet cannot hold, are apart.
    """

    folder: Path
    files: dict[str, tuple[int, int]]
    not_utf8: list[str]


def scan(folder: Path) -> Images:
    """List image files below a folder, with what tells whether they have changed.

    Raises:
        ImageError: as `find_images`.
    """
    images = Images(folder.resolve(), {}, [])
    for path in find_images(images.folder):
        try:
            path.encode()
            stat = Path(path).stat()
            images.files[path] = stat.st_size, stat.st_mtime_ns
        except UnicodeEncodeError:
            images.not_utf8.append(path)
        except FileNotFoundError:
            pass  # gone since it was listed
    return images


def same_content(files: dict[str, tuple[int, int]]) -> list[list[str]]:
    """Group the files of identical content, by sha256; only files of equal size are read."""
    from hashzoo.files import sha256

    of_size: dict[int, list[str]] = defaultdict(list)
    for path, (size, _) in files.items():
        of_size[size].append(path)
    groups: dict[str, list[str]] = defaultdict(list)
    for paths in of_size.values():
        for path in paths if len(paths) > 1 else []:
            with contextlib.suppress(OSError):  # what cannot be read is like nothing
                groups[sha256(path)].append(path)
    return sorted(group for group in groups.values() if len(group) > 1)


def index_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched through with its subfolders.")],
    out: Annotated[Path, typer.Option(help="The index: a folder of Parquet parts.")],
    model: Annotated[str, typer.Option(help="A model's name, local-dir:PATH or hf-hub:org/name.")] = FOR_PICTURES,
    on_error: OnError = "skip",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Show the files of identical content.")] = False,
    device: Device = None,
    precision: EncodedIn = "float32",
    as_json: Json = False,
) -> None:
    """Encode a folder of images into an index; started again, it goes on, and follows what has changed.

    A file is taken as done by its path, size and mtime. One that has changed is encoded again, one that is gone is
    dropped; images of other folders in the same index are left alone.

    Example: hashzoo index photos --out photos.index
    """
    import hashzoo

    images = scan(folder)
    report = make_index(hashzoo.load(model, device=device), images, out, on_error, precision)
    groups = same_content(images.files) if duplicates else []
    if as_json:
        print_json({**report, "duplicates": groups} if duplicates else report)
    elif duplicates:
        print_table(["content", "path"], [[row, path] for row, group in enumerate(groups, 1) for path in group])


def make_index(
    model: "HashNetwork",
    images: Images,
    out: Path,
    on_error: Literal["raise", "skip"] = "skip",
    precision: Precision = "float32",
) -> dict[str, Any]:
    """Bring the index at `out` up to date with `images`, a part at a time; what is done is said on stderr and returned."""
    from rich.console import Console
    from rich.progress import Progress

    from hashzoo.index import parts

    files, preprocess = images.files, model.preprocess.id
    maker = parts.Maker(model.name, model.bits, preprocess, model.weights_id, precision)
    console = Console(stderr=True)
    skipped = [f"Skipped: {path!r} is not named in UTF-8, as an index needs it; rename it." for path in images.not_utf8]
    count = {"added": 0, "changed": 0}
    with parts.writing(out):
        known = _compare(parts.sources(out, maker), images)
        todo = [path for path in files if path not in known.done]
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("encoding", total=len(todo))
            made = _encode_parts(model, todo, on_error, precision, skipped, lambda done: progress.advance(task, done))
            for paths, codes in made:
                sizes, mtimes_ns = zip(*(files[path] for path in paths), strict=True)
                parts.append(out, codes, None, paths, preprocess, sizes, mtimes_ns)
                changed = len(known.changed.intersection(paths))
                count["changed"] += changed
                count["added"] += len(paths) - changed
        if known.outdated:  # only now: a kill before leaves an item twice for a while, never not at all
            parts.remove(out, known.outdated)
    for line in skipped:
        say(line, fg="yellow", err=True)
    say(
        f"{out}: {count['added']} added, {count['changed']} changed and encoded again, {known.vanished} vanished and "
        f"dropped, {len(known.done)} there already, {len(skipped)} skipped.",
        err=True,
    )
    if not parts.parts(out):
        raise ImageError(f"None of the {len(files)} images could be read, so there is no index at {out}.")
    return {**count, "vanished": known.vanished, "there": len(known.done), "skipped": skipped}


class _Known(NamedTuple):
    """What an index has of a folder: paths as they are now, paths that changed, ids to drop, how many files are gone."""

    done: set[str]
    changed: set[str]
    outdated: list[int]
    vanished: int


def _compare(sources: Any, images: Images) -> _Known:
    """Hold the rows id, path, size, mtime_ns of an index against the files that are there."""
    done: set[str] = set()
    changed: set[str] = set()
    vanished: set[str] = set()
    outdated: list[int] = []
    root = os.path.join(images.folder, "")  # noqa: PTH118 - with a slash at the end
    for batch in sources.to_batches():
        for item, path, *state in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if path is None:
                continue
            if path not in images.files:
                if path.startswith(root):
                    vanished.add(path)
                    outdated.append(item)
            elif path not in done and images.files[path] == tuple(state):
                done.add(path)
            else:
                changed.add(path)
                outdated.append(item)
    return _Known(done, changed - done, outdated, len(vanished))


def _encode_parts(
    model: "HashNetwork",
    paths: list[str],
    on_error: Literal["raise", "skip"],
    precision: Precision,
    skipped: list[str],
    advance: Callable[[int], None],
) -> Iterator[tuple[list[str], "Codes"]]:
    """Encode images; yield the paths of those that could be read, and their codes, by the part."""
    import numpy as np

    def skip(error: ImageError) -> None:
        skipped.append(f"Skipped: {error}")

    left, read, bits, since = iter(paths), [], [], time.monotonic()
    while chunk := list(itertools.islice(left, PART)):
        batches = model.encode_batches(chunk, precision=precision, on_error=skip if on_error == "skip" else "raise")
        for places, u in batches:
            read += [chunk[place] for place in places]
            bits.append(u.numpy() >= 0)
        advance(len(chunk))
        if read and time.monotonic() - since >= SECONDS:
            yield read, model.codes(np.concatenate(bits), precision)
            read, bits, since = [], [], time.monotonic()
    if read:
        yield read, model.codes(np.concatenate(bits), precision)


def search(
    index: Annotated[Path, typer.Argument(help="An index that `hashzoo index` or Index.save wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Query images.")],
    k: Annotated[
        int | None, typer.Option("-k", help="How many neighbours; default 10, or all within --max-distance.")
    ] = None,
    max_distance: Annotated[int | None, typer.Option(help="Greatest Hamming distance, in bits.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the index's model is, if not under its own name.")] = None,
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
    opened = hashzoo.Index.open(index)
    name = model or opened.model
    if name is None:
        raise CodesError(f"{index} does not say which model made it; name it with --model.")
    loaded = hashzoo.load(name, device=device)
    if opened.preprocess and opened.preprocess != loaded.preprocess.id:
        raise HashzooError(f"{index} was made with another preprocessing of {name}; index the images again.")
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
