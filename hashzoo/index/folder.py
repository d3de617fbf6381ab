"""The folder of an index: what is in it now, and how it comes into its next state.

A writer puts new files beside those that are there, and then a manifest that names them in place of the old one: until then
readers see the state before, from then on the state after. Files that no state names any more are deleted. Writers take
turns by an advisory lock on the file `.lock`, which the system lets go when its holder ends, killed or not.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.files import remove_partials
from hashzoo.index import manifest as manifests
from hashzoo.index import parts
from hashzoo.index.manifest import Listed, Maker, Manifest, Part
from hashzoo.index.state import contents, some_state, state_of

if TYPE_CHECKING:
    import pyarrow as pa

PATIENCE = 2.0  # seconds that a writer waits for another before it says so
SMALL = 1 << 16  # rows of a part below which it is small
MANY = 64  # small parts, from which on a writer joins them

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other writers out of `folder`, which is made where it is missing; the functions below may be called within.

    Waits for as long as another process or thread writes. What killed writers left is removed.

    Raises:
        OSError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", is_singleton=True)  # one object a folder: its thread may take it again
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        logger.warning("Waiting for another process that writes to %s.", folder)
        lock.acquire()
    try:
        remove_partials(folder)
        yield
    finally:
        lock.release()


def append(
    folder: str | os.PathLike[str],
    codes: Codes,
    ids: ArrayLike | None = None,
    paths: Sequence[Any] | NDArray[Any] | None = None,
    preprocess: str = "",
    sizes: ArrayLike | None = None,
    mtimes_ns: ArrayLike | None = None,
) -> None:
    """Write `codes` as one more part of the index in `folder`; the folder is made where it is missing.

    Waits for its turn where another process is writing to the folder.

    Args:
        folder: where the index is or will be.
        codes: N codes, of the model and length of those already there.
        ids: N int64 numbers that the index does not have yet; if left out, they go on after the highest there ever was.
        paths: N of str, bytes or None.
        preprocess: id of the preprocessing, the same in every part.
        sizes: int64 (N,), bytes of the files at `paths`.
        mtimes_ns: int64 (N,), when those files were last changed, in nanoseconds.

    Raises:
        CodesError: the codes or ids do not fit those already there, the index is of an older format, or a part cannot be
            read.
        OSError: the part cannot be written; what was there is as it was.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> append(folder, Codes.from_bits(np.eye(2, 8, dtype=bool)))
    >>> append(folder, Codes.from_bits(np.eye(3, 8, dtype=bool)))
    >>> contents(folder).ids
    range(0, 5)
    """
    facts = parts.facts_table(len(codes), paths, sizes, mtimes_ns)
    append_rows(folder, codes, Maker.of(codes, preprocess), facts, ids)


def append_rows(
    folder: str | os.PathLike[str], codes: Codes, maker: Maker, facts: pa.Table, ids: ArrayLike | None = None
) -> None:
    """Write codes as one more part, with a table of where they came from (see `parts.facts_table`)."""
    folder, count = Path(folder), len(codes)
    fresh = None if ids is None else parts.check_ids(ids, count)
    with writing(folder):
        state = begin(folder, maker)
        if fresh is None:
            if state.next_id + count > 1 << 63:
                raise CodesError(f"{folder} has no {count} ids left that fit in int64; give ids below its own.")
            fresh = np.arange(state.next_id, state.next_id + count)
        _check_new(folder, state, fresh)
        part = _written(folder, state, parts.part_table(fresh, codes.packed, facts))
        state = _advanced(state.with_parts(part), 1)
        commit(folder, state)
        small = [part for part in state.parts if part.rows < SMALL]
        if len(small) >= MANY:
            compact(folder)


def create(
    folder: str | os.PathLike[str],
    maker: Maker,
    pieces: Iterable[tuple[NDArray[np.int64], NDArray[np.uint8], pa.Table]],
    roots: Mapping[str, str],
) -> None:
    """Write a new index, a part a piece (ids, packed codes, where they came from); it is there once all are written.

    Raises:
        CodesError: `folder` already holds an index.
    """
    folder = Path(folder)
    with writing(folder):
        if state_of(folder) is not None:
            raise CodesError(
                f"{folder} already holds an index; save to a new folder, or add the codes to it with "
                "hashzoo.index.folder.append."
            )
        empty = Manifest(makers=(maker,), roots=dict(roots))
        written = [_written(folder, empty, parts.part_table(*piece), number) for number, piece in enumerate(pieces)]
        commit(folder, _advanced(empty.with_parts(*written), len(written)))


def begin(folder: Path, maker: Maker) -> Manifest:
    """Return the state that a writer of codes of `maker` goes on from; a new index gets its first, empty one.

    The caller holds the lock.

    Raises:
        CodesError: the index there is of another maker, or of an older format.
    """
    state = state_of(folder)
    if state is None:
        state = Manifest(makers=(maker,))
        manifests.write(folder, state)
        return state
    check_extends(folder, state, maker)
    if not _is_current(folder):
        raise CodesError(
            f"{folder} is an index of an older format; `hashzoo index --upgrade --out {folder}` writes it anew, then add to it."
        )
    _sweep(folder, state)
    return state.model_copy(update={"makers": (state.maker.joined(maker),)})


def check_extends(folder: Path, state: Manifest, maker: Maker) -> None:
    """Refuse to add codes of `maker` to an index of another.

    Raises:
        CodesError: as said.
    """
    if len(state.makers) > 1:
        raise CodesError(
            f"{folder} holds codes of {len(state.makers)} models, which this hashzoo reads but does not add to."
        )
    theirs = state.maker
    if not theirs.fits(maker):
        again = f"`hashzoo index --reencode --out {folder}` encodes its images again, or "
        same = theirs.model == maker.model and theirs.bits == maker.bits
        way_out = f"{again if same else ''}write them to a folder of their own"
        raise CodesError(f"{folder} holds {theirs}, but these are {maker}; {way_out}.")


def commit(folder: Path, state: Manifest) -> None:
    """Bring the folder into a new state, whose files are there already; the caller holds the lock."""
    manifests.write(folder, state)
    _sweep(folder, state)


def _sweep(folder: Path, state: Manifest) -> None:
    """Delete the numbered files that the state does not name: those that it replaced, and those of killed writers."""
    named = {part.file for part in state.parts} | {listed.file for listed in state.lists.values()}
    for pattern in ("part-[0-9]*.parquet", "_lists/*-[0-9]*.parquet"):
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in named:
                path.unlink(missing_ok=True)


def remove(folder: str | os.PathLike[str], ids: ArrayLike) -> int:
    """Take items out of the index in `folder`, for good and all at once; the others keep their ids.

    Args:
        folder: where the index is.
        ids: int64 (M,); those that are not there are passed over.

    Returns:
        How many items were taken out.

    Raises:
        CodesError: there is no index, it is of an older format, or a part of it cannot be read.
        OSError: a part cannot be written; the index is as it was.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> append(folder, Codes.from_bits(np.eye(3, 8, dtype=bool)))
    >>> remove(folder, [1, 7])
    1
    >>> contents(folder).ids
    array([0, 2])
    """
    import pyarrow as pa

    folder, gone = Path(folder), np.unique(ids)
    gone = parts.check_ids(gone, len(gone))
    some_state(folder)  # no folder is made where there is no index
    with writing(folder):
        state = begin(folder, some_state(folder).maker)
        touched: list[Part] = []
        written: list[Part] = []
        for part in state.parts:
            here = gone[np.searchsorted(gone, part.low) : np.searchsorted(gone, part.high, side="right")]
            keep = ~np.isin(parts.part_ids(folder, part), here) if len(here) else None
            if keep is None or keep.all():
                continue
            touched.append(part)
            if keep.any():
                table = parts.verified(folder, part).filter(pa.array(keep))
                written.append(_written(folder, state, table, len(written)))
        if touched:
            commit(folder, _advanced(state.with_parts(*written, without=tuple(touched)), len(written)))
    return sum(part.rows for part in touched) - sum(part.rows for part in written)


def compact(folder: str | os.PathLike[str]) -> None:
    """Join small parts of the index in `folder` that follow each other; ids stay as they are.

    Raises:
        CodesError: there is no index, or a part of it cannot be read.
        OSError: the part cannot be written; the index is as it was.
    """
    import pyarrow as pa

    folder = Path(folder)
    with writing(folder):
        state = begin(folder, some_state(folder).maker)
        joined: list[Part] = []
        written: list[Part] = []
        for is_small, run in itertools.groupby(state.parts, lambda part: part.rows < SMALL):
            small = list(run)
            if is_small and len(small) > 1:
                tables = [parts.verified(folder, part).replace_schema_metadata() for part in small]
                table = pa.concat_tables(tables, promote_options="default").sort_by("id")
                joined += small
                written.append(_written(folder, state, table, len(written)))
        if written:
            commit(folder, _advanced(state.with_parts(*written, without=tuple(joined)), len(written)))


def upgrade(folder: str | os.PathLike[str]) -> bool:
    """Write an index of an older format anew in the present one; whoever is stopped in between begins again.

    Returns:
        Whether there was anything to do.

    Raises:
        CodesError: there is no index, or a part of it cannot be read; it is as it was.
        OSError: a part cannot be written; the index is as it was.
    """
    folder = Path(folder)
    some_state(folder)
    with writing(folder):
        if _is_current(folder):
            return False
        found = contents(folder)
        before, maker = found.manifest.parts, found.maker
        state = found.manifest.model_copy(update={"parts": (), "next_part": _first_free(found.manifest)})
        written: list[Part] = []
        for part in before:
            batches = [np.empty((0, maker.width), np.uint8), *parts.code_batches(folder, part, maker)]
            facts = parts.with_facts(parts.read(folder, part, parts.FACTS), part.rows)
            table = parts.part_table(parts.part_ids(folder, part), np.concatenate(batches), facts)
            written.append(_written(folder, state, table, len(written)))
        manifests.write(folder, _advanced(state.with_parts(*written), len(written)))
        for part in before:
            (folder / part.file).unlink(missing_ok=True)
    return True


def replace_list(folder: Path, name: str, table: pa.Table) -> None:
    """Write one of the lists of an index anew."""
    with writing(folder):
        state = some_state(folder)
        file = f"_lists/{name}-{state.next_part:05d}.parquet"
        lists = {**state.lists, name: Listed(**parts.write_list(folder, file, table))}
        commit(folder, _advanced(state.model_copy(update={"lists": lists}), 1))


def swap(folder: Path, beside: Path, before: Manifest) -> None:
    """Put the parts and lists of the index in `beside` in place of those in `folder`, all at once; `beside` then goes.

    The caller holds the lock of `folder`. Whoever is stopped in between does it again.
    """
    after, number = some_state(beside), itertools.count(_first_free(before))
    renamed = [part.model_copy(update={"file": f"part-{next(number):05d}.parquet"}) for part in after.parts]
    lists = {
        name: listed.model_copy(update={"file": f"_lists/{name}-{next(number):05d}.parquet"})
        for name, listed in after.lists.items()
    }
    have = [part.file for part in after.parts] + [listed.file for listed in after.lists.values()]
    want = [part.file for part in renamed] + [listed.file for listed in lists.values()]
    for old, new in zip(have, want, strict=True):
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / new).unlink(missing_ok=True)
        try:
            os.link(beside / old, folder / new)
        except OSError:  # a file system without hard links
            shutil.copyfile(beside / old, folder / new)
    state = before.model_copy(
        update={"makers": after.makers, "parts": tuple(renamed), "lists": lists, "next_part": next(number)}
    )
    commit(folder, state)
    for part in before.parts:
        (folder / part.file).unlink(missing_ok=True)
    shutil.rmtree(beside)


def _first_free(state: Manifest) -> int:
    """Return a number that no file of a state has; files of older formats are numbered, too."""
    numbers = [int(match[1]) for part in state.parts if (match := re.fullmatch(r"part-(\d+)\.parquet", part.file))]
    return max([state.next_part - 1, *numbers]) + 1


def _written(folder: Path, state: Manifest, table: pa.Table, after: int = 0) -> Part:
    """Write the next part, or the one that is so many after it."""
    return parts.write(folder, f"part-{state.next_part + after:05d}.parquet", table, state.maker)


def _advanced(state: Manifest, files: int) -> Manifest:
    """Count the numbers of files that were used."""
    return state.model_copy(update={"next_part": state.next_part + files})


def _check_new(folder: Path, state: Manifest, fresh: NDArray[np.int64]) -> None:
    """Refuse ids that a part has already; only parts with ids between the new ones are opened."""
    low, high = (fresh.min(), fresh.max()) if len(fresh) else (0, -1)
    for part in state.parts:
        if part.low <= high and low <= part.high:
            again = fresh[np.isin(fresh, parts.part_ids(folder, part))]
            if again.size:
                raise CodesError(
                    f"{folder} already has id {again[0]}; give new items ids of their own, or leave ids out."
                )


def _is_current(folder: Path) -> bool:
    return (folder / manifests.NAME).exists()
