"""`Index`: codes with ids that can be searched, on the CPU or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.search import exact, store

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest items of each query, ascending by (distance, id).

    Args:
        distances: uint16 (Q, k), Hamming distances in bits.
        ids: int64 (Q, k).
        paths: object (Q, k) of str or None, where the index has paths; else None.
    """

    distances: NDArray[np.uint16]
    ids: NDArray[np.int64]
    paths: NDArray[np.object_] | None = None


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
        paths: object (N,) of str or None, or None where there are no paths.

    Raises:
        CodesError: ids or paths do not fit the codes, or the device is not there.

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
        self.bits, self.model, self.device, self.preprocess = codes.bits, codes.model, device, preprocess
        self.ids = np.arange(len(codes)) if ids is None else store.check_ids(ids, len(codes))
        self.paths = store.check_paths(paths, len(codes))
        packed = codes.packed
        if not store.ascending(self.ids):  # in rows sorted by id, ties by row are ties by id
            order = np.argsort(self.ids)
            packed, self.ids = packed[order], self.ids[order]
            self.paths = None if self.paths is None else self.paths[order]
        words = exact.to_words(packed)
        self._words = words if device == "cpu" else _on_gpu(words, device)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], device: str = "cpu") -> Index:
        """Read the index that `save` or `store.append` wrote to `folder`.

        Raises:
            CodesError: the folder holds no index, or a part of it cannot be read or does not belong to the others.
        """
        items = store.read(folder)
        return cls(items.codes, items.ids, items.paths, device, items.preprocess)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index as one Parquet part into `folder`, which is made where it is missing.

        Raises:
            CodesError: `folder` already holds an index.
        """
        if store.parts(folder):
            raise CodesError(
                f"{folder} already holds an index; save to a new folder, or add the codes to it with "
                "hashzoo.search.store.append."
            )
        store.append(folder, self.codes, self.ids, self.paths, self.preprocess)

    def search(self, query: Codes, k: int = 10) -> Hits:
        """Find the k nearest items of each of Q queries, exactly and in (distance, id) order.

        Args:
            query: Q codes, made by the model that made the index; Q may be 0.
            k: how many, at least 1; an index of fewer items returns all of them.

        Raises:
            CodesError: `k` is below 1, or the query's length or model is not that of the index.
        """
        if k < 1:
            raise CodesError(f"A search returns at least one item, so k cannot be {k}.")
        same_model = query.model == self.model or None in (query.model, self.model)  # None: not known
        if not same_model or query.bits != self.bits:
            way_out = f"hashzoo.load({self.model!r})" if self.model else "the model that made the index"
            raise CodesError(
                f"The query has {query.bits} bits of model {query.model!r}, but the index {self.bits} bits of model "
                f"{self.model!r}; encode the query with {way_out}."
            )
        distances, rows = exact.top_k(exact.to_words(query.packed), self._words, k)
        return Hits(distances, self.ids[rows], None if self.paths is None else self.paths[rows])

    @property
    def codes(self) -> Codes:
        """The N codes in the order of `ids`, copied from the device."""
        words = self._words if isinstance(self._words, np.ndarray) else self._words.cpu().numpy()
        return Codes(words.view(np.uint8)[:, : -(-self.bits // 8)].copy(), self.bits, self.model)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Index({len(self)} x {self.bits} bits, model={self.model!r}, device={self.device!r})"


def _on_gpu(words: NDArray[np.uint64], device: str) -> torch.Tensor:
    """Copy words uint64 (N, W) to an int64 tensor on a CUDA device."""
    if device.partition(":")[0] != "cuda":
        raise CodesError(f"An index is kept on device 'cpu' or 'cuda', not {device!r}.")
    import torch

    try:
        return torch.from_numpy(words.view(np.int64)).to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        reason = str(error).partition("\n")[0]
        raise CodesError(f"Device {device!r} cannot hold the index ({reason}); use device='cpu'.") from error
