"""What an index knows of where its items came from: in memory, or in the parts until a hit asks for it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashzoo.index import parts
from hashzoo.index.manifest import Part

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

OPEN_FILES = 200  # parts that are kept open; of more, the facts are read into memory at once
GROUPS = 64  # row groups that are kept in memory after a hit asked for one

Piece = tuple[int, Callable[[], "pa.Table"]]  # how many rows, and how to get them


class Rows:
    """The columns root, path, size and mtime_ns of N rows, in pieces.

    An open part keeps its bytes for as long as it is open, also when a writer has replaced it meanwhile.

    Attributes:
        have_paths: whether any row has a path.
    """

    def __init__(self, pieces: Sequence[Piece], have_paths: bool) -> None:
        self.have_paths = have_paths
        self._pieces = [piece for piece in pieces if piece[0]]
        self._ends = np.cumsum([count for count, _ in self._pieces])

    @classmethod
    def of_table(cls, table: pa.Table) -> Rows:
        """Hold a table that is in memory."""
        return cls([(table.num_rows, lambda: table)], table["path"].null_count < table.num_rows)

    @classmethod
    def unknown(cls, count: int) -> Rows:
        """Know nothing of `count` rows."""
        return cls([(count, lambda: parts.facts_table(count))], have_paths=False)

    @classmethod
    def stored(cls, folder: Path, found: Sequence[Part]) -> Rows:
        """Leave the rows of parts on disk, one piece a row group."""
        if len(found) > OPEN_FILES:
            tables = [parts.with_facts(parts.read(folder, part, parts.FACTS), part.rows) for part in found]
            known = [cls.of_table(table) for table in tables]
        else:
            known = [cls._in_file(folder / part.file, parts.opened(folder, part)) for part in found]
        return cls([piece for rows in known for piece in rows._pieces], any(rows.have_paths for rows in known))

    @classmethod
    def _in_file(cls, path: Path, file: pq.ParquetFile) -> Rows:
        columns, lock = [name for name in parts.FACTS if name in file.schema_arrow.names], threading.Lock()

        @functools.lru_cache(GROUPS)
        def group(number: int) -> pa.Table:
            with lock, parts.reading(path):  # a file has one place that it is read from
                return parts.with_facts(file.read_row_group(number, columns), counts[number])

        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        counts, place = [group.num_rows for group in groups], file.schema_arrow.get_field_index("path")
        states = [group.column(place).statistics for group in groups] if place >= 0 else []
        have = any(not said or said.null_count < count for said, count in zip(states, counts, strict=bool(states)))
        return cls([(count, functools.partial(group, number)) for number, count in enumerate(counts)], have)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __add__(self, other: Rows) -> Rows:
        return Rows([*self._pieces, *other._pieces], self.have_paths or other.have_paths)

    def take(self, rows: NDArray[np.int64]) -> pa.Table:
        """Return some rows, in the order asked for."""
        import pyarrow as pa

        if not len(rows):
            return parts.facts_table(0)
        of = np.searchsorted(self._ends, rows, side="right")
        order, tables = np.argsort(of, kind="stable"), []
        for piece in np.unique(of):
            count, get = self._pieces[piece]
            tables.append(get().take(pa.array(rows[order[of[order] == piece]] - (self._ends[piece] - count))))
        back = np.empty(len(rows), dtype=np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(tables).take(pa.array(back))


def paths_of(table: pa.Table, roots: Mapping[str, str]) -> NDArray[np.object_]:
    """Say where each row's file is, as a path of this system; None where it is not known.

    Args:
        table: with the columns root and path.
        roots: where each root is now.
    """
    found = np.empty(table.num_rows, dtype=object)
    pairs = zip(table["root"].to_pylist(), table["path"].to_pylist(), strict=True)
    found[:] = [None if path is None else located(root, path, roots) for root, path in pairs]
    return found


def located(root: str | None, path: bytes, roots: Mapping[str, str]) -> str:
    """Join the path of an item to its root."""
    name = os.fsdecode(path)
    return name if root is None else os.path.join(roots.get(root, root), name)  # noqa: PTH118 - bytes of any name
