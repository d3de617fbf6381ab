"""The Parquet parts of an index: one file each, written whole, never changed afterwards.

A part has the columns id (int64), root (string), path (binary), code (fixed-size binary of ceil(K/8) bytes), size and
mtime_ns (int64, of the file at path when it was encoded), its rows in order of id. A reader passes over other columns, and
takes all but id and code for null where they are missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.files import replacing, sha256
from hashzoo.index.manifest import FORMAT, Maker, Part

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 1 << 16  # of a row group: what is read at a time
FACTS = ("root", "path", "size", "mtime_ns")  # columns that say where an item came from
_INT64 = np.iinfo(np.int64)


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
    twice = repeated(array)
    if twice is not None:
        raise CodesError(f"Id {twice} is there more than once; give every item an id of its own.")
    return array


def repeated(ids: NDArray[np.int64]) -> int | None:
    """Return the lowest id that is there more than once."""
    if ascending(ids):
        return None
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(twice[0]) if twice.size else None


def facts_table(
    count: int,
    paths: Sequence[Any] | NDArray[Any] | None = None,
    sizes: ArrayLike | None = None,
    mtimes_ns: ArrayLike | None = None,
    roots: Sequence[str | None] | None = None,
) -> pa.Table:
    """Make the columns that say where `count` items came from.

    Args:
        count: N.
        paths: N of str, bytes, path objects or None.
        sizes: int64 (N,), bytes of the files.
        mtimes_ns: int64 (N,), when the files were last changed, in nanoseconds.
        roots: N names of the roots that the paths are relative to, or None for a path that stands alone.

    Raises:
        CodesError: they are not N, or not of these types.
    """
    import pyarrow as pa

    if paths is not None and (isinstance(paths, str | bytes) or len(paths) != count):
        raise CodesError(f"{count} codes need a list of {count} paths, not {paths!r:.60}.")
    where = [None if path is None else os.fsencode(_as_path(path)) for path in paths] if paths is not None else None
    columns = {
        "root": pa.nulls(count, pa.string()) if roots is None else pa.array(roots, pa.string()),
        "path": pa.nulls(count, pa.binary()) if where is None else pa.array(where, pa.binary()),
        "size": _whole_numbers(sizes, count),
        "mtime_ns": _whole_numbers(mtimes_ns, count),
    }
    return pa.table(columns)


def _as_path(path: Any) -> Any:
    return path if isinstance(path, str | bytes) else str(path)


def _whole_numbers(values: ArrayLike | None, count: int) -> pa.Array:
    """Make a column of int64, or of nulls where there are no values."""
    import pyarrow as pa

    if values is None:
        return pa.nulls(count, pa.int64())
    array = np.asarray(values)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise CodesError(f"{count} codes need {count} whole numbers, not {array.dtype} {array.shape}.")
    return pa.array(array, pa.int64())


def part_table(ids: NDArray[np.int64], packed: NDArray[np.uint8], facts: pa.Table) -> pa.Table:
    """Put the columns of a part together, in order of id."""
    import pyarrow as pa

    if not ascending(ids):
        order = np.argsort(ids)
        ids, packed, facts = ids[order], packed[order], facts.take(pa.array(order))
    code = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(packed.shape[1]), len(ids), [None, pa.py_buffer(np.ascontiguousarray(packed))]
    )
    columns = {"id": pa.array(ids, pa.int64()), **{name: facts[name] for name in ("root", "path")}, "code": code}
    return pa.table(columns | {name: facts[name] for name in facts.column_names if name not in columns})


def write(folder: Path, name: str, table: pa.Table, maker: Maker) -> Part:
    """Write a part whole or not at all; nobody reads it before a manifest names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"format": FORMAT, **maker.model_dump(mode="json")}
    nullable = [field.with_nullable(field.name not in ("id", maker.column)) for field in table.schema]
    table = table.cast(pa.schema(nullable)).replace_schema_metadata({"hashzoo": json.dumps(about)})
    with replacing(folder / name) as partial:
        # codes and ids do not repeat: a dictionary of them only costs time
        options = {"compression": "zstd", "use_dictionary": ["root"], "write_page_checksum": True}
        pq.write_table(table, partial, row_group_size=ROWS, **options)
        size, digest, footer = partial.stat().st_size, sha256(partial), _footer_sha256(partial)
    ids = ids_of(table)
    low, high = (int(ids[0]), int(ids[-1])) if len(ids) else (0, -1)
    return Part(file=name, rows=len(ids), low=low, high=high, size=size, sha256=digest, footer_sha256=footer)


def _footer_sha256(path: Path) -> str:
    """Hash the last bytes of a Parquet file: what is in it, and how long that is."""
    with path.open("rb") as file:
        size = file.seek(-8, os.SEEK_END) + 8
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.sha256(file.read()).hexdigest()


def write_list(folder: Path, name: str, table: pa.Table) -> dict[str, Any]:
    """Write Parquet that is no part into `_lists/`; return what the manifest says of it."""
    import pyarrow.parquet as pq

    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        return {"file": name, "rows": table.num_rows, "size": partial.stat().st_size, "sha256": sha256(partial)}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one sentence that names it."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise CodesError(
            f"{path} cannot be read ({reason}); restore it from a copy, or move the index away and encode its items again."
        ) from error


def opened(folder: Path, part: Part) -> pq.ParquetFile:
    """Open a part for streaming; each page that is read is held against its checksum, and the columns against the manifest.

    Raises:
        CodesError: it cannot be read, or is not what the manifest says.
    """
    import pyarrow.parquet as pq

    path = folder / part.file
    with reading(path):
        size = path.stat().st_size
        if size != part.size:
            raise OSError(f"it has {size:,} bytes in place of {part.size:,}")
        if part.footer_sha256 and _footer_sha256(path) != part.footer_sha256:
            raise OSError("its footer is not the one that was written")
        file = pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
        if file.metadata.num_rows != part.rows:
            raise OSError(f"it has {file.metadata.num_rows} rows in place of {part.rows}")
        return file


def read(folder: Path, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a part, all of them if left out."""
    with opened(folder, part) as file, reading(folder / part.file):
        table = file.read(None if columns is None else [name for name in columns if name in file.schema_arrow.names])
        if table.num_rows != part.rows:
            raise OSError(f"{part.rows - table.num_rows} rows are missing")
        return table


def verified(folder: Path, part: Part) -> pa.Table:
    """Read all of a part that is to be written again, and hold it against its hash first.

    Raises:
        CodesError: it cannot be read, or was changed since it was written.
    """
    with reading(folder / part.file):
        if part.sha256 and sha256(folder / part.file) != part.sha256:
            raise OSError("its sha256 is not the manifest's")
    return read(folder, part)


def ids_of(table: pa.Table) -> NDArray[np.int64]:
    """Copy the ids; pyarrow's to_numpy would import pandas, which takes as long as to read ten million codes."""
    return np.concatenate([np.empty(0, np.int64), *(np.from_dlpack(chunk) for chunk in table["id"].chunks)])


def part_ids(folder: Path, part: Part) -> NDArray[np.int64]:
    """Return the ids of a part; those of a range are not read.

    Raises:
        CodesError: the part cannot be read, or its ids are not what the manifest says.
    """
    if part.is_range:
        return np.arange(part.low, part.high + 1)
    ids = ids_of(read(folder, part, ["id"]))
    wrong = part.order == "id" and not ascending(ids)
    if len(ids) and (wrong or (ids.min(), ids.max()) != (part.low, part.high)):
        with reading(folder / part.file):
            raise OSError("its ids are not the manifest's")
    return ids


def code_batches(folder: Path, part: Part, maker: Maker) -> Iterator[NDArray[np.uint8]]:
    """Yield the packed codes of a part: uint8 (n, ceil(K/8)), read-only, n from 1 to 65,536.

    Raises:
        CodesError: the part cannot be read, or holds other bytes than codes.
    """
    path, width, left = folder / part.file, maker.width, part.rows
    with opened(folder, part) as file, reading(path):
        place = file.schema_arrow.get_field_index(maker.column)
        if place < 0 or str(file.schema_arrow.field(place).type) != f"fixed_size_binary[{width}]":
            raise OSError(f"it has no column {maker.column} of {width} bytes")
        for batch in file.iter_batches(ROWS, columns=[maker.column]):
            code = batch.column(0)
            left -= len(code)
            if code.null_count:
                raise OSError("a code is missing")
            if len(code):
                flat = np.frombuffer(code.buffers()[1], np.uint8, len(code) * width, code.offset * width)
                try:
                    yield Codes(flat.reshape(-1, width), maker.bits).packed
                except CodesError as error:
                    raise OSError(f"it holds no {maker}: {str(error).partition(';')[0]}") from None
        if left:  # a page's header may say too little, which its checksum does not cover
            raise OSError(f"{left} codes are missing")


def with_facts(table: pa.Table, count: int) -> pa.Table:
    """Give a table all columns of where items came from, nulls where it has none, in the types of this format."""
    import pyarrow as pa

    empty = facts_table(table.num_rows or count)
    columns = {}
    for name in FACTS:
        has = name in table.column_names
        columns[name] = table[name].cast(empty.schema.field(name).type) if has else empty[name]
    return pa.table(columns)
