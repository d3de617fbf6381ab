"""What is in the folder of an index now: one state of it, whatever writers do meanwhile."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from hashzoo.errors import CodesError
from hashzoo.index import manifest as manifests
from hashzoo.index import old, parts
from hashzoo.index.manifest import Maker, Manifest, Part
from hashzoo.index.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Contents:
    """One state of an index, with its codes and paths still on disk.

    Attributes:
        manifest: what the state is made of.
        ids: int64 (N,), part after part; a range where they are all the numbers from the first to the last.
        rows: where the items came from.
    """

    folder: Path
    manifest: Manifest
    ids: NDArray[np.int64] | range
    rows: Rows

    @property
    def maker(self) -> Maker:
        """What made the codes."""
        return self.manifest.maker

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed codes in the order of `ids`: uint8 (n, ceil(K/8)), read-only, n from 1 to 65,536.

        Raises:
            CodesError: a part cannot be read, or holds other bytes than codes.
        """
        for part in self.manifest.parts:
            yield from parts.code_batches(self.folder, part, self.maker)


def contents(folder: str | os.PathLike[str]) -> Contents:
    """Read what is in the folder but for the codes, which `Contents.batches` reads.

    Raises:
        CodesError: there is no index, or a part of it cannot be read or does not belong to the others.

    >>> import tempfile
    >>> from hashzoo.codes import Codes
    >>> from hashzoo.index.folder import append
    >>> folder = tempfile.mkdtemp()
    >>> append(folder, Codes.from_bits(np.eye(2, 12, dtype=bool)), ids=[7, 5])
    >>> found = contents(folder)
    >>> found.ids
    array([5, 7])
    >>> [batch.tolist() for batch in found.batches()]
    [[[64, 0], [128, 0]]]
    """
    folder = Path(folder)
    state = some_state(folder)
    ids = _ids(folder, state.parts)
    twice = None if isinstance(ids, range) else parts.repeated(ids)
    if twice is not None:
        holders = [part.file for part in state.parts if twice in parts.part_ids(folder, part)]
        raise CodesError(
            f"{folder} has id {twice} more than once (see {', '.join(holders)}); move one of its parts out of the folder."
        )
    return Contents(folder, state, ids, Rows.stored(folder, state.parts))


def state_of(folder: str | os.PathLike[str]) -> Manifest | None:
    """Read the manifest, or of an older format what it would say; None where there is no index.

    Raises:
        CodesError: the manifest, or a part of an older format, cannot be read.
    """
    folder = Path(folder)
    return manifests.read(folder) or old.read(folder)


def steady(folder: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """Call `read`, which reads `folder`; where it fails and a new state came meanwhile, call it again."""
    while True:
        before = manifests.version(Path(folder))
        try:
            return read()
        except CodesError:
            if manifests.version(Path(folder)) == before:
                raise


def sources(folder: str | os.PathLike[str]) -> pa.Table:
    """Read where the items came from: id, root, path, size, mtime_ns.

    Raises:
        CodesError: there is no index, or a part of it cannot be read.
    """
    import pyarrow as pa

    folder, tables = Path(folder), []
    for part in some_state(folder).parts:
        facts = parts.with_facts(parts.read(folder, part, parts.FACTS), part.rows)
        tables.append(facts.add_column(0, "id", pa.array(parts.part_ids(folder, part), pa.int64())))
    return pa.concat_tables(tables) if tables else parts.facts_table(0).add_column(0, "id", pa.array([], pa.int64()))


def some_state(folder: Path) -> Manifest:
    """Read the state of an index that must be there."""
    state = state_of(folder)
    if state is None:
        raise CodesError(f"{folder} holds no index (no {manifests.NAME}); make one with Index.save or `hashzoo index`.")
    return state


def _ids(folder: Path, found: Sequence[Part]) -> NDArray[np.int64] | range:
    """Return the ids of all parts, as a range where they are one."""
    found = [part for part in found if part.rows]
    if not found:
        return range(0)
    follows = all(after.low == before.high + 1 for before, after in itertools.pairwise(found))
    if follows and all(part.is_range for part in found):
        return range(found[0].low, found[-1].high + 1)
    return np.concatenate([parts.part_ids(folder, part) for part in found])


def listed(folder: str | os.PathLike[str], name: str) -> pa.Table | None:
    """Read one of the lists of an index, such as "skipped"; None where there is none.

    Raises:
        CodesError: the list, or the manifest, cannot be read.
    """
    import pyarrow.parquet as pq

    folder = Path(folder)
    state = state_of(folder)
    if state is None or name not in state.lists:
        return None
    path = folder / state.lists[name].file
    with parts.reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True).read()
