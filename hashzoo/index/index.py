"""`Index`: codes with ids that can be searched, on the CPU or on a GPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError, require_extra
from hashzoo.index import parts
from hashzoo.machine import need_memory
from hashzoo.search import HeldCodes, hold

if TYPE_CHECKING:
    import faiss
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest items of each query, ascending by (distance, id); `hits[q]` and `hits[q:r]` are `Hits` of fewer queries.

    Args:
        distances: uint16 (Q, k), Hamming distances in bits.
        ids: int64 (Q, k).
        paths: object (Q, k) of str or None, where the index has paths; else None.
    """

    distances: NDArray[np.uint16]
    ids: NDArray[np.int64]
    paths: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, query: int | slice) -> Hits:
        paths = None if self.paths is None else np.atleast_2d(self.paths[query])
        return Hits(np.atleast_2d(self.distances[query]), np.atleast_2d(self.ids[query]), paths)


@dataclass(frozen=True, eq=False)
class RangeHits:
    """The items within some distance of each query: as many as there are, ascending by (distance, id).

    Query q has those from `offsets[q]` to `offsets[q + 1]`; `hits[q]` is a `Hits` of one row with them.

    Args:
        offsets: int64 (Q + 1,).
        distances: uint16 (H,), Hamming distances in bits of the hits of all queries.
        ids: int64 (H,).
        paths: object (H,) of str or None, where the index has paths; else None.
    """

    offsets: NDArray[np.int64]
    distances: NDArray[np.uint16]
    ids: NDArray[np.int64]
    paths: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> Hits:
        query = range(len(self))[query]
        here = slice(self.offsets[query], self.offsets[query + 1])
        return Hits(
            self.distances[None, here], self.ids[None, here], None if self.paths is None else self.paths[None, here]
        )


class Index:
    """Codes of one model with ids, held in memory for exact search.

    Args:
        codes: N codes; they say how long the codes are and which model made them.
        ids: N different int64 numbers; 0 to N-1 if left out.
        paths: N strings (or None) that say where each item is.
        device: "cpu", or "cuda" (also "cuda:1") to keep the codes on that GPU and search there.
        preprocess: hash of the preprocessing that the codes were made with; kept in the folder that `save` writes.

    Attributes:
        ids: int64 (N,), ascending; paths and codes are in the same order.

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
        paths: Sequence[str | None] | NDArray[Any] | None = None,
        device: str = "cpu",
        preprocess: str = "",
    ) -> None:
        rows = np.arange(len(codes)) if ids is None else parts.check_ids(ids, len(codes))
        where, files = parts.check_paths(paths, len(codes)), {}
        if where is not None:
            import pyarrow as pa

            files["paths"] = pa.chunked_array([pa.array(where, pa.string())])
        self._fill(parts.Maker.of(codes, preprocess), rows, files, [codes.packed], device)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], device: str = "cpu") -> Index:
        """Read the index that `save`, `parts.append` or `hashzoo index` wrote to `folder`.

        Raises:
            CodesError: the folder holds no index, or a part of it cannot be read or does not belong to the others.
        """
        index = cls.__new__(cls)

        def read() -> None:
            found = parts.contents(folder)
            index._fill(found.maker, found.ids, found.files, found.batches(), device)

        parts.steady(folder, read)
        return index

    def _fill(
        self,
        maker: parts.Maker,
        ids: NDArray[np.int64],
        files: dict[str, pa.ChunkedArray],
        batches: Iterable[NDArray[np.uint8]],
        device: str,
    ) -> None:
        """Take in packed codes, batches of uint8 (n, ceil(K/8)) in the order of `ids`, and put them in order of id."""
        self.model, self.bits, self.preprocess, self.weights, self.precision = maker
        self.device, self.ids, self._files = device, ids, files
        size, width = len(ids), -(-maker.bits // 8)
        in_order = parts.ascending(ids)  # in rows sorted by id, ties by row are ties by id
        copies = 1 if in_order else 2
        need_memory(copies * size * width, f"An index of {size:,} codes of {maker.bits} bits", "index fewer of them")
        if not in_order:
            packed, done = np.empty((size, width), dtype=np.uint8), 0
            for batch in batches:
                packed[done : done + len(batch)] = batch
                done += len(batch)
            order = np.argsort(ids)
            batches, self.ids = [packed[order]], ids[order]
            self._files = {name: column.take(order) for name, column in files.items()}
        self._codes: HeldCodes = hold(batches, size, maker.bits, device)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index as one Parquet part into `folder`, with all it knows of its files; the folder is made if missing.

        Raises:
            CodesError: `folder` already holds an index.
        """
        if parts.parts(folder):
            raise CodesError(
                f"{folder} already holds an index; save to a new folder, or add the codes to it with "
                "hashzoo.index.parts.append."
            )
        parts.append(folder, self.codes, self.ids, preprocess=self.preprocess, **self._files)

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
            return self._range(*self._codes.within(query.packed, int(max_distance), keep, _need_hits))
        k = min(10 if k is None else int(k), len(self) if keep is None else int(keep.sum()))
        _need_hits(len(query) * k)
        distances, rows = self._codes.top_k(query.packed, max(k, 1), keep)
        if max_distance is None:
            return Hits(distances, self.ids[rows], self._paths_of(rows))
        near = distances <= max_distance
        offsets = np.concatenate([[0], np.cumsum(near.sum(axis=1))]).astype(np.int64)
        return self._range(offsets, distances[near], rows[near])

    def _range(self, offsets: NDArray[np.int64], distances: NDArray[np.uint16], rows: NDArray[np.int64]) -> RangeHits:
        return RangeHits(offsets, distances, self.ids[rows], self._paths_of(rows))

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
            return None
        keep = np.ones(len(self), dtype=bool) if allow is None else self._has(allow)
        return keep if deny is None else keep & ~self._has(deny)

    def _has(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Mark the rows, bool (N,), whose id is among `ids`."""
        wanted = np.asarray(ids).ravel()
        if wanted.size and wanted.dtype.kind not in "iu":
            raise CodesError(f"Ids are whole numbers, not {wanted.dtype}.")
        marks = np.zeros(len(self), dtype=bool)
        if len(self):
            rows = np.minimum(np.searchsorted(self.ids, wanted), len(self) - 1)
            marks[rows[self.ids[rows] == wanted]] = True
        return marks

    def _paths_of(self, rows: NDArray[np.int64]) -> NDArray[np.object_] | None:
        if "paths" not in self._files:
            return None
        found = np.empty(rows.size, dtype=object)
        found[:] = self._files["paths"].take(rows.ravel()).to_pylist()
        return found.reshape(rows.shape)

    def remove(self, ids: ArrayLike) -> None:
        """Take the items with these ids out of the index in memory; a folder it was opened from stays as it is.

        Raises:
            CodesError: the index does not have one of the ids; then nothing is removed.

        >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool)))
        >>> index.remove([1])
        >>> index.ids
        array([0, 2])
        """
        wanted = np.asarray(ids).ravel()
        missing = wanted[~np.isin(wanted, self.ids)]
        if missing.size:
            raise CodesError(f"The index has no item with id {missing[0]}; nothing was removed.")
        keep = np.flatnonzero(~self._has(wanted))
        codes, files = self.codes, {name: column.take(keep) for name, column in self._files.items()}
        maker = parts.Maker.of(codes, self.preprocess)
        self._fill(maker, self.ids[keep], files, [codes.packed[keep]], self.device)

    def to_faiss(self) -> faiss.IndexBinary:
        """Copy the index to FAISS: an `IndexBinaryFlat`, within an `IndexBinaryIDMap2` unless the ids are 0 to N-1.

        FAISS measures codes in whole bytes: K is rounded up, with pad bits 0, and distances are the same.

        Raises:
            CodesError: FAISS is not installed.

        >>> index = Index(Codes.from_bits(np.eye(3, 8, dtype=bool)), ids=[5, 6, 7])
        >>> index.to_faiss().search(index.codes.packed[:1], 2)
        (array([[0, 2]], dtype=int32), array([[5, 6]]))
        """
        faiss = _faiss()
        packed = self.codes.packed
        flat = faiss.IndexBinaryFlat(8 * packed.shape[1])
        if np.array_equal(self.ids, np.arange(len(self))):
            flat.add(packed)
            return flat
        mapped = faiss.IndexBinaryIDMap2(flat)
        mapped.add_with_ids(packed, self.ids)
        flat.this.disown()  # the map keeps it alive
        mapped.own_fields = True
        return mapped

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
        faiss = _faiss()
        ids, flat = None, faiss.downcast_IndexBinary(index)
        if isinstance(flat, faiss.IndexBinaryIDMap | faiss.IndexBinaryIDMap2):
            ids, flat = faiss.vector_to_array(flat.id_map), faiss.downcast_IndexBinary(flat.index)
        if not isinstance(flat, faiss.IndexBinaryFlat):
            raise CodesError(
                f"A {type(flat).__name__} does not hand out its codes in order; give an IndexBinaryFlat, alone or in an "
                "IndexBinaryIDMap."
            )
        packed = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, flat.code_size)
        return cls(Codes(packed, flat.d if bits is None else bits, model), ids, device=device)

    @property
    def codes(self) -> Codes:
        """The N codes in the order of `ids`, copied from the device."""
        return Codes(self._codes.packed(), self.bits, self.model, self.weights, self.precision)

    @property
    def paths(self) -> NDArray[np.object_] | None:
        """Where the items are, object (N,) of str or None; None where there are no paths."""
        return self._paths_of(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Index({len(self)} x {self.bits} bits, model={self.model!r}, device={self.device!r})"


def _need_hits(hits: int) -> None:
    """Refuse an answer that does not fit in memory: for each hit a distance, a row, an id and a copy of the three."""
    need_memory(
        36 * hits, f"The answer of {hits:,} hits", "ask for fewer (k, max_distance) or search fewer queries at a time"
    )


def _faiss() -> Any:
    require_extra("export", "faiss")
    import faiss

    return faiss
