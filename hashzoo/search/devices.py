"""`hold` copies codes to a device and returns what searches them there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashzoo.errors import CodesError
from hashzoo.search.held import HeldCodes

if TYPE_CHECKING:
    from hashzoo.search.cpu import CpuCodes
    from hashzoo.search.cuda import CudaCodes


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
