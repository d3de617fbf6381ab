"""`Index`: codes with ids that can be searched, on the CPU or on a GPU."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.index import exports, folder, parts, state
from hashzoo.index.hits import Hits, PathsOfRows, RangeHits
from hashzoo.index.manifest import Maker
from hashzoo.index.rows import Rows, paths_of
from hashzoo.index.segments import Segments, need_hits
from hashzoo.machine import need_memory
from hashzoo.precision import Precision

if TYPE_CHECKING:
    import faiss

SAVED_ROWS = 1 << 22  # of a part that `save` writes


class Index:
    """Codes of one model with ids, held in memory for exact search.

    Args:
        codes: N codes; they say how long the codes are and which model made them.
        ids: N different int64 numbers; 0 to N-1 if left out, which take no memory.
        paths: N of str, bytes or None that say where each item is.
        device: "cpu", or "cuda" (also "cuda:1") to keep the codes on that GPU and search there.
        preprocess: id of the preprocessing that the codes were made with; kept in the folder that `save` writes.

    Raises:
        CodesError: ids or paths do not fit the codes, the device is not there, or there is not enough memory.

    >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool), model="demo"), ids=[30, 10, 20])
    >>> index
    Index(3 x 8 bits, model='demo', device='cpu')
    >>> hits = index.search(Codes.from_bits(np.eye(1, 8, dtype=bool)), k=2)
    >>> hits.distances, hits.ids
    (array([[0, 2]], dtype=uint16), array([[30, 10]]))
    """

    def __init__(
        self,
        codes: Codes,
        ids: ArrayLike | None = None,
        paths: Sequence[Any] | NDArray[Any] | None = None,
        device: str = "cpu",
        preprocess: str = "",
    ) -> None:
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise CodesError(f"An index is kept on device 'cpu' or 'cuda', not {device!r}.")
        self._maker, self.device = Maker.of(codes, preprocess), device
        self.roots: dict[str, str] = {}
        self._ids: range | NDArray[np.int64] = range(0)
        self._rows = Rows([], have_paths=False)
        self._codes = Segments(codes.bits, device)
        self._gone: NDArray[np.bool_] | None = None  # rows that were removed
        self._extend(self._new_ids(ids, len(codes)), _rows(len(codes), paths), [codes.packed])

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        device: str = "cpu",
        roots: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> Index:
        """Read the index that `save`, `hashzoo.index.folder.append` or `hashzoo index` wrote to a folder.

        Paths stay on disk until a hit asks for one.

        Args:
            path: of the folder.
            device: as in the class.
            roots: where the named roots of the paths are now, such as {"nas": "/mnt/nas"}; those that are left out are
                where they were when the index was written.

        Raises:
            CodesError: the folder holds no index, a part of it cannot be read or does not belong to the others, or it has
                no such root.
        """

        def read() -> Index:
            found = state.contents(path)
            maker = found.maker
            empty = Codes(np.empty((0, maker.width), np.uint8), maker.bits, maker.model, maker.weights, maker.precision)
            index = cls(empty, device=device, preprocess=maker.preprocess)
            index.roots = _placed(dict(found.manifest.roots), roots or {}, path)
            index._extend(found.ids, found.rows, found.batches())
            return index

        return state.steady(path, read)

    def _new_ids(self, ids: ArrayLike | None, count: int) -> range | NDArray[np.int64]:
        """Check the ids of new items, or make them."""
        if ids is None:
            start = max(0, int(self._ids[-1]) + 1) if len(self._ids) else 0
            return range(start, start + count)
        fresh = parts.check_ids(ids, count)
        if count and len(self._ids):
            again = fresh[self._places(fresh) >= 0]
            if again.size:
                raise CodesError(f"The index already has id {again[0]}; give new items ids of their own.")
        return fresh

    def _extend(self, ids: range | NDArray[np.int64], rows: Rows, batches: Iterable[NDArray[np.uint8]]) -> None:
        """Take in packed codes, batches of uint8 (n, ceil(K/8)) in the order of `ids`."""
        follow = isinstance(ids, range) or parts.ascending(ids)
        behind = not len(ids) or not len(self._ids) or ids[0] > self._ids[-1]
        size, width = len(ids), self._maker.width
        copies = 1 if follow and behind else 2
        need_memory(copies * size * width, f"An index of {size:,} codes of {self.bits} bits", "index fewer of them")
        if not (follow and behind):  # in rows sorted by id, ties by row are ties by id
            everything = np.concatenate([self._codes.packed(), *batches])
            new = np.concatenate([np.asarray(self._ids, np.int64), np.asarray(ids, np.int64)])
            keep = np.flatnonzero(np.append(self._alive(), np.ones(size, dtype=bool)))
            order = keep[np.argsort(new[keep])]
            known = self._rows + rows
            rows = Rows.of_table(known.take(order)) if known.have_paths else Rows.unknown(len(order))
            self._codes = Segments(self.bits, self.device).extend([everything[order]], len(order))
            self._ids, self._rows, self._gone = _joined(range(0), new[order]), rows, None
        else:
            self._codes = self._codes.extend(batches, size)
            self._ids, self._rows = _joined(self._ids, ids), self._rows + rows
            if self._gone is not None:
                self._gone = np.append(self._gone, np.zeros(size, dtype=bool))

    def add(
        self, codes: Codes, ids: ArrayLike | None = None, paths: Sequence[Any] | NDArray[Any] | None = None
    ) -> None:
        """Add N more codes to the index in memory; a folder it was opened from stays as it is.

        Ids above all that are there are the quick case: others are sorted in among them, which copies all codes.

        Args:
            codes: of the model and length of those that are there.
            ids: N int64 numbers that the index does not have; if left out, they go on after its highest.
            paths: N of str, bytes or None.

        Raises:
            CodesError: codes, ids or paths do not fit; then nothing is added.

        >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool)))
        >>> index.add(Codes.from_bits(np.eye(1, 8, dtype=bool)))
        >>> index.search(Codes.from_bits(np.eye(1, 8, dtype=bool)), k=2).ids
        array([[0, 3]])
        """
        maker = Maker.of(codes, self.preprocess)
        if not self._maker.fits(maker):
            raise CodesError(f"The index holds {self._maker}, but these are {maker}; keep each in an index of its own.")
        rows = _rows(len(codes), paths)
        self._extend(self._new_ids(ids, len(codes)), rows, [codes.packed])
        self._maker = self._maker.joined(maker)

    def remove(self, ids: ArrayLike) -> None:
        """Take the items with these ids out of the index in memory; a folder it was opened from stays as it is.

        Their codes are not found any more; the memory that they take is free when the index is saved and opened again.

        Raises:
            CodesError: the index does not have one of the ids; then nothing is removed.

        >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool)))
        >>> index.remove([1])
        >>> index.ids
        array([0, 2])
        """
        wanted = _whole(ids)
        places = self._places(wanted)
        if (places < 0).any():
            raise CodesError(f"The index has no item with id {wanted[places < 0][0]}; nothing was removed.")
        gone = np.zeros(len(self._ids), dtype=bool) if self._gone is None else self._gone.copy()
        gone[places] = True
        self._gone = gone if gone.any() else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index into a folder, with all it knows of its files; the folder is made if missing.

        Raises:
            CodesError: the folder already holds an index.
        """

        def pieces() -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], Any]]:
            kept = np.flatnonzero(self._alive())
            ids, packed = np.asarray(self.ids), self.codes.packed
            for start in range(0, len(kept) or 1, SAVED_ROWS):
                some = slice(start, start + SAVED_ROWS)
                yield ids[some], packed[some], self._rows.take(kept[some])

        folder.create(path, self._maker, pieces(), self.roots)

    @overload
    def search(
        self, query: Codes, k: int = 10, *, allow: ArrayLike | None = None, deny: ArrayLike | None = None
    ) -> Hits: ...

    @overload
    def search(
        self,
        query: Codes,
        k: int | None = None,
        *,
        max_distance: int,
        allow: ArrayLike | None = None,
        deny: ArrayLike | None = None,
    ) -> RangeHits: ...

    def search(
        self,
        query: Codes,
        k: int | None = None,
        *,
        max_distance: int | None = None,
        allow: ArrayLike | None = None,
        deny: ArrayLike | None = None,
    ) -> Hits | RangeHits:
        """Find the nearest items of each of Q queries, exactly and in (distance, id) order.

        Args:
            query: Q codes, made by the model that made the index; Q may be 0. Another precision than the index's is warned
                of.
            k: how many, at least 1; an index of fewer items returns all of them. If left out, 10, or all there are
                within `max_distance`.
            max_distance: greatest Hamming distance of a hit, at least 0; the number of hits then differs from query to
                query, and the result is a `RangeHits`.
            allow: ids that may be found, and no others; those that the index has not are passed over.
            deny: ids that may not be found.

        Raises:
            CodesError: `k` is below 1, `max_distance` below 0, the query's length or model is not that of the index, or
                there is not enough memory for the hits.

        >>> index = Index(Codes.from_bits(np.tri(5, 4, k=-1, dtype=bool)))
        >>> query = Codes.from_bits(np.zeros((1, 4), dtype=bool))
        >>> index.search(query, k=2, deny=[0]).ids
        array([[1, 2]])
        >>> index.search(query, max_distance=2)[0].ids
        array([[0, 1, 2]])
        """
        self._check_query(query)
        for name, value, least in (("k", k, 1), ("max_distance", max_distance, 0)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least
            ):
                raise CodesError(f"{name} is a whole number from {least}, not {value!r}.")
        keep = self._filter(allow, deny)
        if k is None and max_distance is not None:
            return self._range(*self._codes.within(query.packed, int(max_distance), keep))
        k = min(10 if k is None else int(k), len(self._ids) if keep is None else int(keep.sum()))
        need_hits(len(query) * k)
        distances, rows = self._codes.top_k(query.packed, max(k, 1), keep)
        if max_distance is None:
            return Hits(distances, self._ids_of(rows), self._paths_of(rows))
        near = distances <= max_distance
        offsets = np.concatenate([[0], np.cumsum(near.sum(axis=1))]).astype(np.int64)
        return self._range(offsets, distances[near], rows[near])

    def _range(self, offsets: NDArray[np.int64], distances: NDArray[np.uint16], rows: NDArray[np.int64]) -> RangeHits:
        return RangeHits(offsets, distances, self._ids_of(rows), self._paths_of(rows))

    def _check_query(self, query: Codes) -> None:
        if not isinstance(query, Codes):
            raise CodesError(
                f"A query is hashzoo.Codes, not {type(query).__name__}; make it with model.encode or hashzoo.Codes."
            )
        same_model = query.model == self.model or None in (query.model, self.model)  # None: not known
        if not same_model or query.bits != self.bits:
            way_out = f"hashzoo.load({self.model!r})" if self.model else "the model that made the index"
            raise CodesError(
                f"The query has {query.bits} bits of model {query.model!r}, but the index {self.bits} bits of model "
                f"{self.model!r}; encode the query with {way_out}."
            )
        if query.weights != self.weights and None not in (query.weights, self.weights):
            raise CodesError(
                f"The query is of other weights of model {self.model!r} ({query.weights}) than the index ({self.weights}); "
                "load the index's by 'local-dir:FOLDER' or 'hf-hub:org/name@revision', or index the images again."
            )
        if query.precision != self.precision and None not in (query.precision, self.precision):
            warnings.warn(
                f"The query was encoded in {query.precision} and the index in {self.precision}: codes of the same image may "
                f"differ in some bits, so that it is not found at distance 0; encode with precision={self.precision!r}.",
                stacklevel=3,
            )

    def _filter(self, allow: ArrayLike | None, deny: ArrayLike | None) -> NDArray[np.bool_] | None:
        """Say which rows may be found, bool (N,); None where all may."""
        if allow is None and deny is None:
            return None if self._gone is None else ~self._gone
        keep = self._alive()
        if allow is not None:
            keep &= self._has(allow)
        if deny is not None:
            keep &= ~self._has(deny)
        return keep

    def _has(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Mark the rows, bool (N,), whose id is among `ids`."""
        places, marks = self._places(_whole(ids)), np.zeros(len(self._ids), dtype=bool)
        marks[places[places >= 0]] = True
        return marks

    def _places(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Find the row of each id, -1 where the index has it not."""
        if not len(self._ids):
            return np.full(ids.shape, -1)
        if isinstance(self._ids, range):
            inside = (ids >= self._ids.start) & (ids < self._ids.stop)
            rows = np.where(inside, ids, self._ids.start).astype(np.int64) - self._ids.start
        else:
            rows = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            inside = self._ids[rows] == ids
        if self._gone is not None:
            inside = inside & ~self._gone[rows]
        return np.where(inside, rows, -1)

    def _alive(self) -> NDArray[np.bool_]:
        """Mark the rows, bool (N,), that were not removed."""
        return np.ones(len(self._ids), dtype=bool) if self._gone is None else ~self._gone

    def _ids_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows + self._ids.start if isinstance(self._ids, range) else self._ids[rows]

    def _paths_of(self, rows: NDArray[np.int64]) -> PathsOfRows | None:
        if not self._rows.have_paths:
            return None
        return PathsOfRows(functools.partial(_look_up, self._rows, dict(self.roots)), rows)

    def to_faiss(self) -> faiss.IndexBinary:
        """Copy the index to FAISS: an `IndexBinaryFlat`, within an `IndexBinaryIDMap2` unless the ids are 0 to N-1.

        FAISS measures codes in whole bytes: K is rounded up, with pad bits 0, and distances are the same.

        Raises:
            CodesError: FAISS is not installed.

        >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool)), ids=[5, 6, 7])
        >>> index.to_faiss().search(index.codes.packed[:1], 2)
        (array([[0, 2]], dtype=int32), array([[5, 6]]))
        """
        return exports.to_faiss(self.codes, self.ids)

    @classmethod
    def from_faiss(
        cls, index: faiss.IndexBinary, bits: int | None = None, model: str | None = None, device: str = "cpu"
    ) -> Index:
        """Copy the codes and ids of an `IndexBinaryFlat`, alone or within an `IndexBinaryIDMap` (or IDMap2).

        Args:
            index: any binary index of FAISS that holds its codes as they are.
            bits: K, where it is less than the whole bytes that FAISS knows of.
            model: the model that made the codes, if known.
            device: as in the class.

        Raises:
            CodesError: FAISS is not installed, the index is of another kind, or its codes have bits beyond `bits`.

        >>> index = Index(Codes.from_bits(np.eye(3, 12, dtype=bool)))
        >>> Index.from_faiss(index.to_faiss(), bits=12).codes == index.codes
        True
        """
        codes, ids = exports.from_faiss(index, bits, model)
        return cls(codes, ids, device=device)

    @property
    def model(self) -> str | None:
        """Name of the model that made the codes."""
        return self._maker.model

    @property
    def bits(self) -> int:
        """K."""
        return self._maker.bits

    @property
    def weights(self) -> str | None:
        """Which weights of that name, the first 16 digits of their file's sha256."""
        return self._maker.weights

    @property
    def precision(self) -> Precision | None:
        """What the network ran in."""
        return self._maker.precision

    @property
    def preprocess(self) -> str:
        """Id of the preprocessing."""
        return self._maker.preprocess

    @property
    def ids(self) -> NDArray[np.int64]:
        """Copy the ids: int64 (N,), ascending; `paths` and `codes` are in the same order."""
        ids = np.arange(self._ids.start, self._ids.stop) if isinstance(self._ids, range) else self._ids.copy()
        return ids if self._gone is None else ids[~self._gone]

    @property
    def codes(self) -> Codes:
        """The N codes in the order of `ids`, copied from the device."""
        packed = self._codes.packed()
        if self._gone is not None:
            packed = packed[~self._gone]
        return Codes(packed, self.bits, self.model, self.weights, self.precision)

    @property
    def paths(self) -> NDArray[np.object_] | None:
        """Where the items are, object (N,) of str or None, read from disk; None where there are no paths."""
        found = self._paths_of(np.flatnonzero(self._alive()))
        return None if found is None else found.read()

    def __len__(self) -> int:
        return len(self._ids) - (0 if self._gone is None else int(self._gone.sum()))

    def __repr__(self) -> str:
        return f"Index({len(self)} x {self.bits} bits, model={self.model!r}, device={self.device!r})"


def _rows(count: int, paths: Sequence[Any] | NDArray[Any] | None) -> Rows:
    return Rows.unknown(count) if paths is None else Rows.of_table(parts.facts_table(count, paths))


def _look_up(rows: Rows, roots: dict[str, str], some: NDArray[np.int64]) -> NDArray[np.object_]:
    return paths_of(rows.take(some), roots)


def _joined(first: range | NDArray[np.int64], second: range | NDArray[np.int64]) -> range | NDArray[np.int64]:
    """Put ids that follow each other together, as a range where they are one."""
    both = [ids for ids in (first, second) if len(ids)]
    if not both:
        return range(0)
    low, high = int(both[0][0]), int(both[-1][-1])
    if high - low + 1 == len(first) + len(second):
        return range(low, high + 1)
    return np.concatenate([np.asarray(ids, np.int64) for ids in both])


def _placed(
    roots: dict[str, str], given: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]
) -> dict[str, str]:
    """Say where roots are now."""
    for name, place in given.items():
        if name not in roots:
            known = ", ".join(map(repr, roots)) or "none"
            raise CodesError(f"{os.fspath(path)} has no root {name!r}; it has {known}.")
        roots[name] = os.fspath(place)
    return roots


def _whole(ids: ArrayLike) -> NDArray[Any]:
    wanted = np.asarray(ids).ravel()
    if wanted.size and wanted.dtype.kind not in "iu":
        raise CodesError(f"Ids are whole numbers, not {wanted.dtype}.")
    return wanted
