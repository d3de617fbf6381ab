"""`HeldCodes`: what codes on a device can do, whichever device it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TopK = tuple[NDArray[np.uint16], NDArray[np.int64]]
Ragged = tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]


class HeldCodes(Protocol):
    """N codes of K bits in the memory of one device; `CpuCodes` and `CudaCodes` implement it.

    Queries are packed codes uint8 (Q, ceil(K/8)) in host memory. `keep` is bool (N,): the rows that a search may return;
    all of them if left out.

    Attributes:
        size: N.
        bits: K.
    """

    size: int
    bits: int

    def top_k(self, queries: NDArray[np.uint8], k: int, keep: NDArray[np.bool_] | None = None) -> TopK:
        """Find the k nearest rows of each query; k is at least 1.

        Returns:
            Distances uint16 (Q, k) and rows int64 (Q, k), ascending by (distance, row); fewer than k columns where fewer
            rows may be returned.
        """

    def within(
        self,
        queries: NDArray[np.uint8],
        radius: int,
        keep: NDArray[np.bool_] | None = None,
        check: Callable[[int], None] = lambda hits: None,
    ) -> Ragged:
        """Find all rows within a Hamming radius, at least 0, of each query.

        `check` is called with the number of hits H before host memory is taken for them; it may raise.

        Returns:
            Offsets int64 (Q + 1,), distances uint16 (H,) and rows int64 (H,): query q has the hits from offsets[q] to
            offsets[q + 1], ascending by (distance, row).
        """

    def packed(self) -> NDArray[np.uint8]:
        """Copy the codes back to host memory: uint8 (N, ceil(K/8))."""
