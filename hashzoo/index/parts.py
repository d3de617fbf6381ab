"""The folder of an index: Parquet parts, each with ids, paths and packed codes.

A part `part-00000.parquet` has the columns id (int64), path (string), code (fixed-size binary of ceil(K/8) bytes), size
and mtime_ns (int64, of the file at path when it was encoded); all but id and code may be null. Its schema metadata has
under the key `hashzoo` one JSON object: format, model, bits, preprocess, weights, precision. Of parts without precision it
is not known. Format 2 had no weights, format 1 neither those nor size and mtime_ns.

A part appears, is replaced and goes whole or not at all. Any number of processes may read a folder: where a part was replaced
or went while they read, they begin anew. Those that write to it take turns by an advisory lock on the file `.lock` in it,
which the system lets go when its holder ends, killed or not.
Readers of the `*.parquet` files (DuckDB, pandas, Spark) pass over it as they do over every name with a dot in front.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes, check_bits
from hashzoo.errors import CodesError
from hashzoo.files import remove_partials, replacing
from hashzoo.precision import Precision, check_precision

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT = 3
ROWS = 1 << 16  # codes that are read at a time
_INT64 = np.iinfo(np.int64)
PATIENCE = 2.0  # seconds that a writer waits for another before it says so

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Maker(NamedTuple):
    """What made the codes; the same in every part of an index, but that of some weights and precision may not be known."""

    model: str | None
    bits: int
    preprocess: str
    weights: str | None
    precision: Precision | None = None

    @classmethod
    def of(cls, codes: Codes, preprocess: str) -> Maker:
        """Say what made `codes`."""
        return cls(codes.model, codes.bits, preprocess, codes.weights, codes.precision)

    def fits(self, other: Maker) -> bool:
        """Say whether codes of both may be in one index."""
        known = [pair for pair in zip(self[3:], other[3:], strict=True) if None not in pair]
        return self[:3] == other[:3] and all(ours == theirs for ours, theirs in known)

    def __str__(self) -> str:
        weights = f" (weights {self.weights})" if self.weights else ""
        precision = f" in {self.precision}" if self.precision else ""
        preprocess = f" and preprocessing {self.preprocess}" if self.preprocess else ""
        return f"{self.bits}-bit codes of model {self.model!r}{weights}{precision}{preprocess}"


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder holds, with the codes still on disk.

    Attributes:
        maker: what made the codes.
        ids: int64 (N,), part after part.
        files: what is known of where the items came from, as `append` takes it: "paths", "sizes" and "mtimes_ns", each a
            pyarrow ChunkedArray of N values or nulls, and only those of which there are any.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = append(folder, Codes.from_bits(np.eye(2, 12, dtype=bool)), ids=[7, 5])
    >>> found = contents(folder)
    >>> found.ids, found.files
    (array([7, 5]), {})
    >>> [batch.tolist() for batch in found.batches()]
    [[[128, 0], [64, 0]]]
    """

    maker: Maker
    ids: NDArray[np.int64]
    files: dict[str, pa.ChunkedArray]
    _parts: list[tuple[Path, tuple[int, ...]]]

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed codes in the order of `ids`: uint8 (n, ceil(K/8)), read-only, n from 1 to 65,536.

        Raises:
            CodesError: a part cannot be read, holds other bytes than codes, or was changed since `ids` were read.
        """
        width = -(-self.maker.bits // 8)
        for path, version in self._parts:
            with _opened(path) as (file, _):
                if _version(path) != version:
                    raise CodesError(f"{path} was changed while it was being read; open the index again.")
                left = file.metadata.num_rows
                for batch in file.iter_batches(ROWS, columns=["code"]):
                    code = batch.column(0)
                    left -= len(code)
                    if len(code):
                        flat = np.frombuffer(code.buffers()[1], np.uint8, len(code) * width, code.offset * width)
                        try:
                            yield Codes(flat.reshape(-1, width), self.maker.bits).packed
                        except CodesError as error:
                            raise CodesError(
                                f"{path} holds no {self.maker} ({str(error).partition(';')[0]}); move it out of the "
                                "folder and encode its items again."
                            ) from None
                if left:  # a page's header may say too little, which its checksum does not cover
                    raise CodesError(
                        f"{path} cannot be read ({left} codes are missing); restore it from a copy, or move it away and "
                        "encode its items again."
                    )


def ascending(ids: NDArray[np.int64]) -> bool:
    """Say whether each id is greater than the one before."""
    return bool((ids[1:] > ids[:-1]).all())


def check_ids(ids: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return a copy of `ids` as int64 (count,).

    Raises:
        CodesError: they are not whole numbers, not `count`, or not all different.

    >>> check_ids([3, 1, 3], 3)
    Traceback (most recent call last):
    hashzoo.errors.CodesError: Id 3 is there more than once; give every item an id of its own.
    """
    array = np.array(ids)
    if array.shape != (count,):
        raise CodesError(f"{count} codes need ids of shape ({count},), not {array.shape}.")
    if count and (array.dtype.kind not in "iu" or array.max() > _INT64.max):
        raise CodesError(f"Ids are whole numbers that fit in int64, not {array.dtype}; keep names in `paths`.")
    array = array.astype(np.int64, copy=False)
    twice = _repeated(array)
    if twice is not None:
        raise CodesError(f"Id {twice} is there more than once; give every item an id of its own.")
    return array


def check_paths(paths: Sequence[Any] | NDArray[Any] | None, count: int) -> NDArray[np.object_] | None:
    """Return a copy of `paths` as object (count,) of str and None, or None where no item has a path.

    Raises:
        CodesError: they are not `count`.
    """
    if paths is None:
        return None
    if isinstance(paths, str) or len(paths) != count:
        raise CodesError(f"{count} codes need a list of {count} paths, not {paths!r:.60}.")
    strings = [None if path is None else str(path) for path in paths]
    return None if strings.count(None) == count else np.array(strings, dtype=object)


def parts(folder: str | os.PathLike[str]) -> list[Path]:
    """List the parts in `folder` by name; a part that was never finished has another ending."""
    return sorted(Path(folder).glob("*.parquet"), key=lambda path: path.name)


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other writers out of `folder`, which is made where it is missing; `append` and `remove` may be called within.

    Waits for as long as another process or thread writes. What killed writers left half-written is removed.

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


def contents(folder: str | os.PathLike[str]) -> Contents:
    """Read all but the codes of the parts of `folder`; those are read by `Contents.batches`.

    Raises:
        CodesError: there are no parts, one of them cannot be read or is of a newer format, or they do not belong
            together (another model, length, preprocessing or other weights; the same id twice).
    """
    found = _some_parts(folder)
    seen = [(path, _version(path)) for path in found]  # before the ids are read: no later change goes unseen
    maker, table = _load(found, ["id", "path", "size", "mtime_ns"], only_known=True)
    ids = _ids(table)
    twice = _repeated(ids)
    if twice is not None:
        holders = [path.name for path in found if twice in _ids(_load([path], ["id"])[1])]
        raise CodesError(
            f"{folder} has id {twice} more than once (see {', '.join(holders)}); move one of its parts out of the folder."
        )
    names = {"paths": "path", "sizes": "size", "mtimes_ns": "mtime_ns"}
    return Contents(
        maker, ids, {name: table[column] for name, column in names.items() if column in table.column_names}, seen
    )


def steady(folder: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """Call `read`, which reads `folder`; where it fails and a part was meanwhile replaced or went, call it again."""
    while True:
        before = [(path, _version(path)) for path in parts(folder)]
        try:
            return read()
        except CodesError:
            if all(_version(path) == version for path, version in before):
                raise


def sources(folder: str | os.PathLike[str], maker: Maker) -> pa.Table:
    """Read where the items came from: id, path, size, mtime_ns; no rows where there is no index yet.

    Args:
        folder: where the index is or will be.
        maker: what makes the codes that are to be added.

    Raises:
        CodesError: another maker made the index, or a part of it cannot be read.
    """
    columns, found = ["id", "path", "size", "mtime_ns"], parts(folder)
    if not found:
        return _empty(maker, columns)
    theirs, table = _load(found, columns)
    _check_extends(Path(folder), theirs, maker)
    return table


def append(
    folder: str | os.PathLike[str],
    codes: Codes,
    ids: ArrayLike | None = None,
    paths: Sequence[Any] | NDArray[Any] | pa.ChunkedArray | None = None,
    preprocess: str = "",
    sizes: ArrayLike | pa.ChunkedArray | None = None,
    mtimes_ns: ArrayLike | pa.ChunkedArray | None = None,
) -> Path:
    """Write `codes` as one more part of the index in `folder`; the folder is made where it is missing.

    Waits for its turn where another process is writing to the folder. It opens only the parts that are new or were replaced
    since the last call in this process, and those whose span of ids has one of the new.

    Args:
        folder: where the index is or will be.
        codes: N codes, of the model and length of those already there.
        ids: N int64 numbers that the index does not have yet; if left out, they go on after its highest.
        paths: N strings or None.
        preprocess: hash of the preprocessing, the same in every part.
        sizes: int64 (N,), bytes of the files at `paths`.
        mtimes_ns: int64 (N,), when those files were last changed, in nanoseconds.

    Returns:
        The path of the new part.

    Raises:
        CodesError: the codes or ids do not fit those already there, or a part that is there cannot be read.
        OSError: the part cannot be written; what was there is as it was.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> append(folder, Codes.from_bits(np.eye(2, 8, dtype=bool))).name
    'part-00000.parquet'
    >>> append(folder, Codes.from_bits(np.eye(3, 8, dtype=bool))).name
    'part-00001.parquet'
    >>> contents(folder).ids
    array([0, 1, 2, 3, 4])
    """
    import pyarrow as pa

    folder, maker, count = Path(folder), Maker.of(codes, preprocess), len(codes)
    where = paths if isinstance(paths, pa.ChunkedArray) else check_paths(paths, count)
    states = [_whole_numbers(sizes, count), _whole_numbers(mtimes_ns, count)]
    fresh = None if ids is None else check_ids(ids, count)
    with writing(folder):
        spans = _spans(folder)
        if spans:
            _check_extends(folder, _one_maker([(path, span.maker) for path, span in spans.items()]), maker)
        if fresh is None:
            start = max((span.high for span in spans.values()), default=-1) + 1
            fresh = check_ids(np.arange(start, start + count), count)
        low, high = fresh.min(initial=_INT64.max), fresh.max(initial=_INT64.min)
        near = [path for path, span in spans.items() if span.low <= high and low <= span.high]
        again = fresh[np.isin(fresh, _ids(_load(near, ["id"])[1]))] if near else fresh[:0]
        if again.size:
            raise CodesError(f"{folder} already has id {again[0]}; give new items ids of their own, or leave ids out.")
        schema = _schema(maker)
        packed = pa.py_buffer(np.ascontiguousarray(codes.packed))
        columns = [
            pa.array(fresh),
            where
            if isinstance(where, pa.ChunkedArray)
            else pa.array([None] * count if where is None else where, pa.string()),
            pa.FixedSizeBinaryArray.from_buffers(schema.field("code").type, count, [None, packed]),
            *states,
        ]
        numbers = [int(match[1]) for path in spans if (match := re.fullmatch(r"part-(\d+)", path.stem))]
        path = folder / f"part-{max(numbers, default=-1) + 1:05d}.parquet"
        _write(path, pa.Table.from_arrays(columns, schema=schema))
    return path


def remove(folder: str | os.PathLike[str], ids: ArrayLike) -> int:
    """Take items out of the index in `folder`, for good; the others keep their ids.

    The parts that hold them are replaced one after the other. A part where nothing is left goes, but for the last, which
    keeps what is known of the codes and the number of the next part. Whoever is stopped in between does it again: ids
    that are not there are passed over.

    Args:
        folder: where the index is.
        ids: int64 (M,).

    Returns:
        How many items were taken out.

    Raises:
        CodesError: there is no index, or a part of it cannot be read.
        OSError: a part cannot be written; it is as it was.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = append(folder, Codes.from_bits(np.eye(3, 8, dtype=bool)))
    >>> remove(folder, [1, 7])
    1
    >>> contents(folder).ids
    array([0, 2])
    """
    import pyarrow as pa

    gone, count = np.unique(ids), 0
    gone = check_ids(gone, len(gone))
    _some_parts(folder)  # no folder is made where there is no index
    with writing(folder):
        found = parts(folder)
        for path in found:
            maker, table = _load([path], ["id"])
            kept = ~np.isin(_ids(table), gone)
            if not kept.any() and path != found[-1]:
                path.unlink()
            elif not kept.all():
                schema = _schema(maker)
                rows = _load([path], schema.names)[1].filter(pa.array(kept))
                _write(path, pa.Table.from_arrays(rows.columns, schema=schema))
            count += int((~kept).sum())
    return count


def _repeated(ids: NDArray[np.int64]) -> int | None:
    """Return the lowest id that is there more than once."""
    if ascending(ids):
        return None
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(twice[0]) if twice.size else None


def _whole_numbers(values: ArrayLike | pa.ChunkedArray | None, count: int) -> pa.Array | pa.ChunkedArray:
    """Make a column of int64, or of nulls where there are no values."""
    import pyarrow as pa

    if values is None:
        return pa.nulls(count, pa.int64())
    if isinstance(values, pa.ChunkedArray):
        return values
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise CodesError(f"{count} codes need {count} whole numbers, not {array.dtype} {array.shape}.")
    return pa.array(array, pa.int64())


def _some_parts(folder: str | os.PathLike[str]) -> list[Path]:
    """List the parts, of which there must be one."""
    found = parts(folder)
    if not found:
        raise CodesError(f"{folder} holds no index (no *.parquet file); make one with Index.save or `hashzoo index`.")
    return found


def _version(path: Path) -> tuple[int, ...]:
    """Return what is different after a part was replaced; () where it cannot be looked at, which opening it reports."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _schema(maker: Maker) -> pa.Schema:
    import pyarrow as pa

    columns = [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("code", pa.binary(-(-maker.bits // 8)), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
    ]
    return pa.schema(columns, metadata={"hashzoo": json.dumps({"format": FORMAT, **maker._asdict()})})


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with replacing(path) as partial:  # codes and ids do not repeat: a dictionary of them only costs time
        pq.write_table(table, partial, compression="zstd", use_dictionary=False, write_page_checksum=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[pq.ParquetFile, Maker]]:
    """Open a part; it is streamed, and each page that is read is held against its checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True) as file:
            yield file, _maker(path, file.schema_arrow)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise CodesError(
            f"{path} cannot be read ({reason}); restore it from a copy, or move it away and encode its items again."
        ) from error


def _load(found: list[Path], columns: list[str], only_known: bool = False) -> tuple[Maker, pa.Table]:
    """Read some columns of parts that must have one maker; nulls for those that format 1 did not have.

    With `only_known`, a column without a value in any part is neither read nor there.
    """
    import pyarrow as pa

    makers, tables = [], []
    for path in found:
        with _opened(path) as (file, maker):
            makers.append((path, maker))
            tables.append(file.read([name for name in columns if not (only_known and _all_null(file, name))]))
    whole = _one_maker(makers)
    if only_known:
        columns = [name for name in columns if any(name in table.column_names for table in tables)]
    return whole, pa.concat_tables([_empty(whole, columns), *tables], promote_options="default")


def _all_null(file: pq.ParquetFile, column: str) -> bool:
    """Say whether a column has no value, by what the part's footer says."""
    place = file.schema_arrow.get_field_index(column)
    if place < 0 or not file.schema_arrow.field(place).nullable:
        return place < 0
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    return all(
        not group.num_rows or ((said := group.column(place).statistics) and said.null_count == group.num_rows)
        for group in groups
    )


def _one_maker(found: list[tuple[Path, Maker]]) -> Maker:
    """Put together what the parts know of their maker; there must be one part, and one maker."""
    whole = found[0][1]
    for path, maker in found[1:]:
        if not maker.fits(whole):
            other, theirs = next((other, theirs) for other, theirs in found if not maker.fits(theirs))
            raise CodesError(
                f"{path} holds {maker}, but {other.name} holds {theirs}; keep each in a folder of its own."
            )
        whole = whole._replace(weights=whole.weights or maker.weights, precision=whole.precision or maker.precision)
    return whole


def _ids(table: pa.Table) -> NDArray[np.int64]:
    """Copy the ids; pyarrow's to_numpy would import pandas, which takes as long as to read ten million codes."""
    return np.concatenate([np.empty(0, np.int64), *(np.from_dlpack(chunk) for chunk in table["id"].chunks)])


class _Span(NamedTuple):
    """What `append` needs to know of a part: in which state it was seen, its maker, its lowest and highest id."""

    version: tuple[int, ...]
    maker: Maker
    low: int
    high: int


_seen: dict[Path, dict[Path, _Span]] = {}  # by folder; its writer holds the folder's lock


def _spans(folder: Path) -> dict[Path, _Span]:
    """Know the parts of `folder`; only those that were not seen as they are now are opened."""
    before, now = _seen.get(folder.resolve(), {}), {}
    for path in parts(folder):
        version, span = _version(path), before.get(path)
        if span is None or span.version != version:
            maker, table = _load([path], ["id"])
            ids = _ids(table)
            span = _Span(version, maker, int(ids.min(initial=_INT64.max)), int(ids.max(initial=-1)))
        now[path] = span
    _seen[folder.resolve()] = now
    return now


def _check_extends(folder: Path, theirs: Maker, ours: Maker) -> None:
    if not theirs.fits(ours):
        raise CodesError(f"{folder} holds {theirs}, but these are {ours}; write them to a folder of their own.")


def _empty(maker: Maker, columns: list[str]) -> pa.Table:
    import pyarrow as pa

    schema = _schema(maker)
    return pa.Table.from_batches([], pa.schema([schema.field(name) for name in columns]))


def _maker(path: Path, schema: pa.Schema) -> Maker:
    """Read a part's metadata and hold its columns against it."""
    try:
        facts = json.loads((schema.metadata or {})[b"hashzoo"])
        if facts["format"] <= FORMAT:
            known = facts.get("weights"), facts.get("precision")
            maker = Maker(facts["model"], check_bits(facts["bits"]), facts["preprocess"], *known)
            if not isinstance(maker.weights, str | None):
                raise ValueError("other weights")
            if maker.precision is not None:
                check_precision(maker.precision)
            columns = list(_schema(maker))
            if list(schema) != (columns[:3] if facts["format"] == 1 else columns):
                raise ValueError("other columns")
            return maker
    except (ValueError, KeyError, TypeError):
        raise CodesError(f"{path} was not written as a part of an index; move it out of the folder.") from None
    raise CodesError(
        f"{path} is of index format {facts['format']}, but this hashzoo reads up to {FORMAT}; "
        "upgrade it with `pip install -U hashzoo`."
    )
