"""The indexer: a folder of pictures becomes an index, and the index follows the folder.

It is three calls, so that one process or many can do the work: `plan` compares the folder with the index, `encode` turns
some pictures into codes, `commit` writes them. `finish` then drops what is gone. `build_index` does all of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from hashzoo.errors import CodesError, ImageError
from hashzoo.index import folder as folders
from hashzoo.index import manifest as manifests
from hashzoo.index import parts, state
from hashzoo.index.manifest import Maker
from hashzoo.index.rows import located
from hashzoo.pictures import sources
from hashzoo.precision import Precision

if TYPE_CHECKING:
    from hashzoo.codes import Codes
    from hashzoo.index import Index
    from hashzoo.network import HashNetwork

# on classes kept out of training its method found more than any that learned from labels, in one run each (docs/baselines.md)
FOR_PICTURES = "itq-efficientnet_lite0-tinyimagenet-64bit"
PART, SECONDS = 1024, 10.0  # a Parquet part has at least so many images and took so long: what a kill can lose

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[ImageError], object]


class Picture(NamedTuple):
    """A picture file: where it is now, and what the index says of it."""

    location: str
    root: str | None
    path: bytes
    size: int
    mtime_ns: int


class Failure(NamedTuple):
    """A picture that has no code, and why."""

    picture: Picture
    reason: str


@dataclass
class Progress:
    """How far an indexing run is.

    Attributes:
        total: pictures to be encoded in this run.
        done: how many of them were read or failed.
        added: codes of files that the index did not have.
        changed: codes of files that had changed.
        vanished: files that are gone, whose codes are dropped at the end.
        there: files that had their code already.
        failed: what could not be read.
    """

    total: int = 0
    done: int = 0
    added: int = 0
    changed: int = 0
    vanished: int = 0
    there: int = 0
    failed: list[Failure] = field(default_factory=list)


@dataclass
class Plan:
    """What is to be done to bring an index up to date with a folder.

    Attributes:
        out: folder of the index.
        maker: what makes the codes.
        roots: where each named root is.
        source: what was looked through.
        todo: pictures without a code.
        changed: locations among them whose code is of an older state of the file.
        outdated: ids to be dropped in the end.
        progress: counts.
    """

    out: Path
    maker: Maker
    roots: dict[str, str]
    source: sources.Source
    todo: list[Picture]
    changed: set[str]
    outdated: list[int]
    progress: Progress


def maker_of(model: HashNetwork, precision: Precision) -> Maker:
    """Say what the codes of a model are made by."""
    return Maker(
        model=model.name, bits=model.bits, preprocess=model.preprocess.id, weights=model.weights_id, precision=precision
    )


def plan(found: sources.Source, out: Path, maker: Maker, roots: Mapping[str, str] | None = None) -> Plan:
    """Compare pictures that were found with an index, which is begun where there is none; the caller holds `folders.writing`.

    A file is done by its path, size and mtime. What lies in a subfolder that cannot be listed is not taken for gone.

    Raises:
        CodesError: the index is of another maker, or of an older format.
    """
    before = state.state_of(out)
    if before is not None:
        folders.check_extends(out, before, maker)
    known = {**(before.roots if before else {}), **(roots or {})}
    name, place = _root_of(found.folder, known)

    def picture(location: str, size: int, mtime_ns: int) -> Picture:
        return Picture(location, name, os.fsencode(os.path.relpath(location, place)), size, mtime_ns)

    made = Plan(out, maker, {**known, name: place}, found, [], set(), [], Progress())
    files = {location: picture(location, *facts) for location, facts in found.files.items()}
    for location, why in found.closed.items():
        reason = f"{location} cannot be listed ({why}); what the index has of it stays."
        made.progress.failed.append(Failure(picture(location, 0, 0), reason))
    begun = folders.begin(out, maker)
    if begun.roots != made.roots:
        folders.commit(out, begun.model_copy(update={"roots": made.roots}))
    done = _compare(made, files)
    made.todo = [picture for location, picture in files.items() if location not in done]
    made.progress.total, made.progress.there = len(made.todo), len(done)
    return made


def _root_of(folder: Path, roots: Mapping[str, str]) -> tuple[str, str]:
    """Find the root that a folder is in, or make one: its name and place. What has no UTF-8 name is in a root above it."""
    for name, place in roots.items():
        if folder == Path(place).resolve() or Path(place).resolve() in folder.parents:
            return name, os.fspath(Path(place).resolve())
    while not _is_utf8(os.fspath(folder)):
        folder = folder.parent
    stem = "".join(letter for letter in folder.name if letter.isprintable() and letter not in "/\\=") or "root"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in roots), os.fspath(folder)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _compare(made: Plan, files: dict[str, Picture]) -> set[str]:
    """Hold the rows of an index against the files that are there; return the locations that have their code."""
    done: set[str] = set()
    gone: set[str] = set()
    for batch in state.sources(made.out).to_batches():
        for item, root, path, *rest in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if path is None:
                continue
            location = located(root, path, made.roots)
            if location not in files:
                if made.source.holds(location):
                    gone.add(location)
                    made.outdated.append(item)
            elif location not in done and [files[location].size, files[location].mtime_ns] == rest:
                done.add(location)
            else:
                made.changed.add(location)
                made.outdated.append(item)
    made.changed -= done
    made.progress.vanished = len(gone)
    return done


def encode(
    model: HashNetwork, pictures: Sequence[Picture], precision: Precision, on_error: OnError
) -> tuple[list[Picture], Any, list[Failure]]:
    """Encode pictures: those that could be read, their bits bool (n, K), and those that could not be read.

    Raises:
        ImageError: a picture cannot be read, with `on_error="raise"`.
    """
    errors: list[str] = []

    def note(error: ImageError) -> None:
        errors.append(str(error))
        if callable(on_error):
            on_error(error)

    read, bits = set(), [np.empty((0, model.bits), dtype=bool)]
    batches = model.encode_batches(
        [picture.location for picture in pictures],
        batch_size=64,
        precision=precision,
        on_error="raise" if on_error == "raise" else note,
    )
    for places, u in batches:
        read.update(places)
        bits.append(u.numpy() >= 0)
    failed = [picture for place, picture in enumerate(pictures) if place not in read]
    failures = [Failure(picture, reason) for picture, reason in zip(failed, errors, strict=True)]  # both in order
    return [picture for place, picture in enumerate(pictures) if place in read], np.concatenate(bits), failures


def commit(
    out: Path, maker: Maker, pictures: Sequence[Picture], codes: Codes, ids: Sequence[int] | None = None
) -> None:
    """Write encoded pictures as one more part of the index at `out`."""
    facts = parts.facts_table(
        len(pictures),
        [picture.path for picture in pictures],
        [picture.size for picture in pictures],
        [picture.mtime_ns for picture in pictures],
        [picture.root for picture in pictures],
    )
    folders.append_rows(out, codes, maker, facts, ids)


def finish(made: Plan) -> None:
    """Drop what is outdated and list what failed, once all that is new is in the index."""
    if made.outdated:  # only now: a kill before leaves an item twice for a while, never not at all
        folders.remove(made.out, made.outdated)
    folders.compact(made.out)
    kept = [row for row in _skipped(made.out) if not made.source.holds(located(row["root"], row["path"], made.roots))]
    kept = [row for row in kept if located(row["root"], row["path"], made.roots) not in made.source.closed]
    _list_skipped(made.out, kept + [_row(failure) for failure in made.progress.failed])


def _row(failure: Failure) -> dict[str, Any]:
    picture = failure.picture
    return {"root": picture.root, "path": picture.path, "size": picture.size, "mtime_ns": picture.mtime_ns,
            "reason": failure.reason.encode(errors="backslashreplace").decode()}  # fmt: skip


def _skipped(out: Path) -> list[dict[str, Any]]:
    return [] if (table := state.listed(out, "skipped")) is None else table.to_pylist()


def _list_skipped(out: Path, rows: list[dict[str, Any]]) -> None:
    """Bring the list of what was not encoded up to date, if it is not."""
    import pyarrow as pa

    if rows != _skipped(out):
        columns = [("root", pa.string()), ("path", pa.binary()), ("size", pa.int64()), ("mtime_ns", pa.int64())]
        folders.replace_list(out, "skipped", pa.Table.from_pylist(rows, pa.schema([*columns, ("reason", pa.string())])))


def build_index(
    source: str | os.PathLike[str] | sources.Source,
    out: str | os.PathLike[str],
    model: HashNetwork | str = FOR_PICTURES,
    *,
    precision: Precision = "float32",
    on_error: OnError = "skip",
    on_progress: Callable[[Progress], object] | None = None,
    roots: Mapping[str, str] | None = None,
) -> Index:
    """Encode a folder of pictures into an index; called again, it goes on where it stopped and follows what has changed.

    A file is done by its path, size and mtime. One that has changed is encoded again, one that is gone is dropped; pictures
    of other folders in the same index are left alone. Paths are kept relative to a named root.

    Args:
        source: a folder, looked through with its subfolders, or what `hashzoo.pictures.sources.scan` found.
        out: folder of the index; made where it is missing.
        model: a loaded model, or the name of one.
        precision: of the network; an index has one.
        on_error: "skip" leaves out a picture that cannot be read and lists it in the index, "raise" stops there; a
            function is called with the ImageError of each that is left out.
        on_progress: is called with the same `Progress` after each slice, and once in the end.
        roots: where named roots are now, if the pictures have moved since, such as {"nas": "/mnt/nas"}.

    Returns:
        The index, opened on the CPU.

    Raises:
        ImageError: there is no such folder, no image in it, or none that can be read.
        CodesError: the index at `out` is of another model, other weights, another preprocessing or precision.
    """
    loaded = _loaded(model)
    maker, out = maker_of(loaded, precision), Path(out)
    report = on_progress or (lambda progress: None)
    found = sources.scan(Path(source)) if isinstance(source, str | os.PathLike) else source
    with folders.writing(out):
        made = plan(found, out, maker, roots)
        progress = made.progress
        for failure in progress.failed:
            _tell(on_error, failure)
        report(progress)

        def write(read: list[Picture], codes: Codes) -> None:
            commit(out, maker, read, codes)
            changed = sum(picture.location in made.changed for picture in read)
            progress.changed += changed
            progress.added += len(read) - changed

        _encode_all(loaded, made.todo, precision, on_error, progress, write, report)
        finish(made)
        report(progress)
        if not state.some_state(out).parts:
            raise ImageError(f"None of the {progress.total} images could be read, so there is nothing in {out}.")
    return _open(out, roots)


def _encode_all(
    model: HashNetwork,
    todo: Sequence[Picture],
    precision: Precision,
    on_error: OnError,
    progress: Progress,
    write: Callable[[list[Picture], Codes], None],
    report: Callable[[Progress], object],
) -> None:
    """Encode pictures slice by slice, and write what is worth a part."""
    read: list[Picture] = []
    bits: list[Any] = []
    since = time.monotonic()
    for some in _slices(todo, PART):
        good, made, failed = encode(model, some, precision, on_error)
        read += good
        bits.append(made)
        progress.failed += failed
        progress.done += len(some)
        if read and (time.monotonic() - since >= SECONDS or progress.done == len(todo)):
            write(read, model.codes(np.concatenate(bits), precision))
            read, bits, since = [], [], time.monotonic()
        report(progress)
    if read:
        write(read, model.codes(np.concatenate(bits), precision))


def _slices(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))


def reencode(
    out: str | os.PathLike[str],
    model: HashNetwork | str,
    *,
    precision: Precision = "float32",
    on_error: OnError = "skip",
    on_progress: Callable[[Progress], object] | None = None,
    roots: Mapping[str, str] | None = None,
) -> Index:
    """Encode the pictures of an index again, by another model, weights, preprocessing or precision; ids stay as they are.

    The new codes are gathered beside the old ones, which are there until all are replaced at once. Called again after it
    was stopped, it goes on. A picture that cannot be read any more loses its place in the index and is listed as skipped.

    Args:
        out: folder of the index, which may be of an older format.
        model: a loaded model, or the name of one.
        precision: as in `build_index`.
        on_error: as in `build_index`.
        on_progress: as in `build_index`.
        roots: as in `build_index`.

    Raises:
        CodesError: there is no index, an item has no path, or a root is not where it was.
        ImageError: no picture can be read, or one cannot with `on_error="raise"`.
    """
    loaded = _loaded(model)
    out, maker, report = Path(out), maker_of(loaded, precision), on_progress or (lambda progress: None)
    state.some_state(out)  # no folder is made where there is no index
    with folders.writing(out):
        before, beside = state.some_state(out), out / ".reencode"
        if before.maker.fits(maker):
            shutil.rmtree(beside, ignore_errors=True)
            report(Progress(there=sum(part.rows for part in before.parts)))
            return _open(out, roots)
        pictures = _pictures_of(out, {**before.roots, **(roots or {})})
        begun = manifests.read(beside)
        if begun is not None and not begun.maker.fits(maker):
            shutil.rmtree(beside)
        with folders.writing(beside):
            folders.begin(beside, maker)
            there = set(state.sources(beside)["id"].to_pylist())
            todo = {picture: item for item, picture in pictures.items() if item not in there}
            progress = Progress(total=len(todo), there=len(there))

            def write(read: list[Picture], codes: Codes) -> None:
                commit(beside, maker, read, codes, [todo[picture] for picture in read])
                progress.changed += len(read)

            report(progress)
            _encode_all(loaded, list(todo), precision, on_error, progress, write, report)
            if pictures and not state.some_state(beside).parts:
                raise ImageError(f"None of the {len(pictures)} images of {out} could be read; it is as it was.")
            _list_skipped(beside, [_row(failure) for failure in progress.failed])
        folders.swap(out, beside, before)
        report(progress)
    return _open(out, roots)


def _pictures_of(out: Path, roots: Mapping[str, str]) -> dict[int, Picture]:
    """List the pictures of an index by id, as their files are now."""
    found: dict[int, Picture] = {}
    for row in state.sources(out).to_pylist():
        if row["path"] is None:
            raise CodesError(
                f"{out} has items without a path, such as id {row['id']}: their images cannot be encoded again."
            )
        place = None if row["root"] is None else roots.get(row["root"])
        if place is not None and not Path(place).is_dir():
            raise CodesError(
                f"The root {row['root']!r} of {out} is not at {place}; say where it is with --root {row['root']}=FOLDER."
            )
        location = located(row["root"], row["path"], roots)
        size, mtime_ns = row["size"] or 0, row["mtime_ns"] or 0
        with contextlib.suppress(OSError):  # what cannot be read is told when it is read
            stat = Path(location).stat()
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
        found[row["id"]] = Picture(location, row["root"], row["path"], size, mtime_ns)
    return found


def _loaded(model: HashNetwork | str) -> HashNetwork:
    if not isinstance(model, str):
        return model
    from hashzoo.pretrained import load

    return load(model)


def _open(out: Path, roots: Mapping[str, str] | None) -> Index:
    from hashzoo.index import Index

    known = state.some_state(out).roots
    return Index.open(out, roots={name: place for name, place in (roots or {}).items() if name in known})


def _tell(on_error: OnError, failure: Failure) -> None:
    if on_error == "raise":
        raise ImageError(failure.reason)
    if callable(on_error):
        on_error(ImageError(failure.reason))
