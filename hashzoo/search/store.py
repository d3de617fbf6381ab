"""The folder of an index: Parquet parts, each with ids, paths and packed codes, and nothing else.

A part `part-00000.parquet` has the columns id (int64), path (string, may be null) and code (fixed-size binary of
ceil(K/8) bytes), and in its schema metadata, under the key `hashzoo`, one JSON object: format, model, bits, preprocess.
A part appears whole or not at all. One process at a time may append to a folder; any number may read it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1


class Maker(NamedTuple):
    """What made the codes; the same in every part of an index."""

    model: str | None
    bits: int
    preprocess: str

    def __str__(self) -> str:
        preprocess = f" and preprocessing {self.preprocess}" if self.preprocess else ""
        return f"{self.bits}-bit codes of model {self.model!r}{preprocess}"


class Items(NamedTuple):
    """What a folder holds, part after part; paths are None where no item has one."""

    codes: Codes
    ids: NDArray[np.int64]
    paths: NDArray[np.object_] | None
    preprocess: str


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
    if count and (array.dtype.kind not in "iu" or array.max() > np.iinfo(np.int64).max):
        raise CodesError(f"Ids are whole numbers that fit in int64, not {array.dtype}; keep names in `paths`.")
    array = array.astype(np.int64, copy=False)
    if not ascending(array):
        ordered = np.sort(array)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise CodesError(f"Id {twice[0]} is there more than once; give every item an id of its own.")
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
    return sorted(Path(folder).glob("*.parquet"))


def read(folder: str | os.PathLike[str]) -> Items:
    """Read all parts of `folder`.

    Raises:
        CodesError: there are no parts, one of them cannot be read or is of a newer format, or they do not belong
            together (another model, length or preprocessing; the same id twice).
    """
    found = parts(folder)
    if not found:
        raise CodesError(f"{folder} holds no index (no *.parquet file); make one with Index.save or `hashzoo index`.")
    maker, table = _load(found, ["id", "path", "code"])
    ids = table["id"].to_numpy()
    code, width = table["code"].combine_chunks(), -(-maker.bits // 8)
    flat = np.frombuffer(code.buffers()[1], np.uint8, count=len(code) * width, offset=code.offset * width)
    try:
        check_ids(ids, len(ids))
        codes = Codes(flat.reshape(-1, width), maker.bits, maker.model)
    except CodesError as error:
        raise CodesError(f"The parts of {folder} are not one index: {error}") from None
    paths = check_paths(table["path"].to_numpy(), len(ids))
    return Items(codes, ids, paths, maker.preprocess)


def append(
    folder: str | os.PathLike[str],
    codes: Codes,
    ids: ArrayLike | None = None,
    paths: Sequence[Any] | NDArray[Any] | None = None,
    preprocess: str = "",
) -> Path:
    """Write `codes` as one more part of the index in `folder`; the folder is made where it is missing.

    Args:
        folder: where the index is or will be.
        codes: N codes, of the model and length of those already there.
        ids: N int64 numbers that the index does not have yet; if left out, they go on after its highest.
        paths: N strings or None.
        preprocess: hash of the preprocessing, the same in every part.

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
    >>> read(folder).ids
    array([0, 1, 2, 3, 4])
    """
    folder, maker = Path(folder), Maker(codes.model, codes.bits, preprocess)
    found, taken = parts(folder), np.empty(0, dtype=np.int64)
    if found:
        theirs, table = _load(found, ["id"])
        if theirs != maker:
            raise CodesError(f"{folder} holds {theirs}, but these are {maker}; write them to a folder of their own.")
        taken = table["id"].to_numpy()
    if ids is None:
        start = int(taken.max(initial=-1)) + 1
        ids = np.arange(start, start + len(codes))
    fresh, where = check_ids(ids, len(codes)), check_paths(paths, len(codes))
    again = fresh[np.isin(fresh, taken)]
    if again.size:
        raise CodesError(f"{folder} already has id {again[0]}; give new items ids of their own, or leave ids out.")
    numbers = [int(match[1]) for path in found if (match := re.fullmatch(r"part-(\d+)", path.stem))]
    path = folder / f"part-{max(numbers, default=-1) + 1:05d}.parquet"
    _write(path, maker, Items(codes, fresh, where, preprocess))
    return path


def _schema(maker: Maker) -> pa.Schema:
    import pyarrow as pa

    columns = [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("code", pa.binary(-(-maker.bits // 8)), nullable=False),
    ]
    return pa.schema(columns, metadata={"hashzoo": json.dumps({"format": FORMAT, **maker._asdict()})})


def _write(path: Path, maker: Maker, items: Items) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, schema = len(items.ids), _schema(maker)
    packed = pa.py_buffer(np.ascontiguousarray(items.codes.packed))
    code = pa.FixedSizeBinaryArray.from_buffers(schema.field("code").type, count, [None, packed])
    paths = pa.nulls(count, pa.string()) if items.paths is None else pa.array(items.paths, pa.string())
    table = pa.Table.from_arrays([pa.array(items.ids), paths, code], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:  # codes and ids do not repeat: a dictionary of them only costs time
        pq.write_table(table, partial, compression="zstd", use_dictionary=False, write_page_checksum=True)


def _load(found: list[Path], columns: list[str]) -> tuple[Maker, pa.Table]:
    """Read some columns of parts that must have one maker."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    makers, tables = [], []
    for path in found:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                makers.append(_maker(path, file.schema_arrow))
                tables.append(file.read(columns))
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0]
            raise CodesError(
                f"{path} cannot be read ({reason}); restore it from a copy, or move it away and encode its items again."
            ) from error
        if makers[-1] != makers[0]:
            raise CodesError(
                f"{path} holds {makers[-1]}, but {found[0].name} holds {makers[0]}; keep each in a folder of its own."
            )
    return makers[0], pa.concat_tables(tables).replace_schema_metadata()


def _maker(path: Path, schema: pa.Schema) -> Maker:
    """Read a part's metadata and hold its columns against it."""
    try:
        facts = json.loads((schema.metadata or {})[b"hashzoo"])
        if facts["format"] <= FORMAT:
            maker = Maker(facts["model"], facts["bits"], facts["preprocess"])
            if not schema.equals(_schema(maker)):
                raise ValueError("other columns")
            return maker
    except (ValueError, KeyError, TypeError):
        raise CodesError(f"{path} was not written as a part of an index; move it out of the folder.") from None
    raise CodesError(
        f"{path} is of index format {facts['format']}, but this hashzoo reads up to {FORMAT}; "
        "upgrade it with `pip install -U hashzoo`."
    )
