"""What a search finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Paths = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class PathsOfRows:
    """Paths that are looked up when somebody asks for them.

    Args:
        look_up: gives the paths, object (n,), of rows int64 (n,).
        rows: int64 of any shape.
    """

    look_up: Callable[[NDArray[np.int64]], Paths]
    rows: NDArray[np.int64]

    def __getitem__(self, key: Any) -> PathsOfRows:
        return PathsOfRows(self.look_up, self.rows[key])

    def read(self) -> Paths:
        """Look the paths up; object, of the shape of `rows`."""
        return self.look_up(self.rows.ravel()).reshape(self.rows.shape)


class _WithPaths:
    """Paths are read from the index when they are first asked for, and then kept."""

    _paths: Paths | PathsOfRows | None

    @property
    def paths(self) -> Paths | None:
        """Where the items are, object of str or None, in the shape of `ids`; None where the index has no paths."""
        if isinstance(self._paths, PathsOfRows):
            self._paths = self._paths.read()
        return self._paths


class Hits(_WithPaths):
    """The nearest items of each query, ascending by (distance, id); `hits[q]` and `hits[q:r]` are `Hits` of fewer queries.

    Args:
        distances: uint16 (Q, k), Hamming distances in bits.
        ids: int64 (Q, k).
        paths: object (Q, k) of str or None, where the index has paths; else None.
    """

    def __init__(
        self, distances: NDArray[np.uint16], ids: NDArray[np.int64], paths: Paths | PathsOfRows | None = None
    ) -> None:
        self.distances, self.ids, self._paths = distances, ids, paths

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, query: int | slice) -> Hits:
        some = query if isinstance(query, slice) else slice(row := range(len(self))[query], row + 1)
        return Hits(self.distances[some], self.ids[some], None if self._paths is None else self._paths[some])

    def __repr__(self) -> str:
        return f"Hits(distances={self.distances!r}, ids={self.ids!r})"


class RangeHits(_WithPaths):
    """The items within some distance of each query: as many as there are, ascending by (distance, id).

    Query q has those from `offsets[q]` to `offsets[q + 1]`; `hits[q]` is a `Hits` of one row with them, `hits[q:r]` is a
    `RangeHits` of fewer queries.

    Args:
        offsets: int64 (Q + 1,).
        distances: uint16 (H,), Hamming distances in bits of the hits of all queries.
        ids: int64 (H,).
        paths: object (H,) of str or None, where the index has paths; else None.
    """

    def __init__(
        self,
        offsets: NDArray[np.int64],
        distances: NDArray[np.uint16],
        ids: NDArray[np.int64],
        paths: Paths | PathsOfRows | None = None,
    ) -> None:
        self.offsets, self.distances, self.ids, self._paths = offsets, distances, ids, paths

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, query: int) -> Hits: ...

    @overload
    def __getitem__(self, query: slice) -> RangeHits: ...

    def __getitem__(self, query: int | slice) -> Hits | RangeHits:
        if isinstance(query, slice):
            queries = np.arange(len(self))[query]
            counts = self.offsets[queries + 1] - self.offsets[queries]
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            places = np.repeat(self.offsets[queries] - offsets[:-1], counts) + np.arange(offsets[-1])
            paths = None if self._paths is None else self._paths[places]
            return RangeHits(offsets, self.distances[places], self.ids[places], paths)
        query = range(len(self))[query]
        here = slice(self.offsets[query], self.offsets[query + 1])
        paths = None if self._paths is None else self._paths[None, here]
        return Hits(self.distances[None, here], self.ids[None, here], paths)

    def __repr__(self) -> str:
        return f"RangeHits(offsets={self.offsets!r}, distances={self.distances!r}, ids={self.ids!r})"
