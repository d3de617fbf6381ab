"""`hold` copies codes to a device and returns a `HeldCodes`, which searches them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hashzoo.errors import CodesError

if TYPE_CHECKING:
    from hashzoo.search.cpu import CpuCodes
    from hashzoo.search.cuda import CudaCodes

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


def hold(batches: Iterable[NDArray[np.uint8]], size: int, bits: int, device: str = "cpu") -> HeldCodes:
    """Copy packed codes to a device, one batch after the other, so that at most one batch is in memory twice.

    Args:
        batches: packed codes uint8 (n, ceil(bits/8)); together `size` rows.
        size: N, the number of codes.
        bits: K, the bits of a code.
        device: "cpu", or "cuda" (also "cuda:1") for a GPU.

    Raises:
        CodesError: the device is not there or has too little memory, or the batches are not `size` codes of `bits` bits.

    >>> held = hold([np.array([[7], [0]], dtype=np.uint8), np.array([[1], [0]], dtype=np.uint8)], size=4, bits=8)
    >>> distances, rows = held.top_k(np.array([[1]], dtype=np.uint8), k=3)
    >>> distances.tolist(), rows.tolist()
    ([[0, 1, 1]], [[2, 1, 3]])
    """
    codes = _empty(size, bits, device)
    start = 0
    for batch in batches:
        if batch.shape[1] != -(-bits // 8) or start + len(batch) > size:
            raise CodesError(f"Codes {batch.shape} do not fit behind row {start} of {size} codes of {bits} bits.")
        codes.put(start, batch)
        start += len(batch)
    if start != size:
        raise CodesError(f"There are {start} codes where {size} were announced; give all of them.")
    return codes


def _empty(size: int, bits: int, device: str) -> CpuCodes | CudaCodes:
    if device == "cpu":
        from hashzoo.search.cpu import CpuCodes

        return CpuCodes(size, bits)
    if device.partition(":")[0] != "cuda":
        raise CodesError(f"Codes are held on device 'cpu' or 'cuda', not {device!r}; use device='cpu'.")
    from hashzoo.search.cuda import CudaCodes

    try:
        return CudaCodes(size, bits, device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        reason = str(error).partition("\n")[0]
        raise CodesError(f"Device {device!r} cannot hold the codes ({reason}); use device='cpu'.") from error
