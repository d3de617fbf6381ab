"""How codes lie in memory for the kernels: bit by bit, in blocks of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hashzoo.search import kernels
from hashzoo.search.kernels import BLOCK


class Planes:
    """N codes of P bytes, stored as bit planes: all first bits of a block of `BLOCK` rows, then all second bits, and so on.

    It begins with all codes 0; `put` writes them.

    Attributes:
        words: uint64 (blocks, B, BLOCK/64), starting at a multiple of 64 bytes, where B is 8 P or the next multiple
            of 16; bit r of word w of [b, j] is bit j of row b * BLOCK + 64 w + r.
        live: uint64 (blocks, BLOCK/64), the same bit set for each of the N rows.
        size: N.
        width: P.

    >>> planes = Planes(size=2, width=2)
    >>> planes.put(0, np.array([[1, 2], [3, 4]], dtype=np.uint8))
    >>> planes.packed()
    array([[1, 2],
           [3, 4]], dtype=uint8)
    """

    def __init__(self, size: int, width: int) -> None:
        blocks, bits = -(-size // BLOCK), -(-width // 2) * 16
        count = blocks * bits * BLOCK // 64
        raw = np.zeros(count + 8, dtype=np.uint64)
        start = -raw.ctypes.data % 64 // 8  # no vector then straddles two cache lines
        self.words = raw[start : start + count].reshape(blocks, bits, BLOCK // 64)
        self.live = words_of_bits(np.ones(size, dtype=bool))
        self.size, self.width = size, width

    def put(self, start: int, packed: NDArray[np.uint8]) -> None:
        """Write packed codes uint8 (n, P) to the rows from `start` on, which must still be 0."""
        kernels.put_rows(self.words.view(np.uint8), start, np.require(packed, requirements=["C", "W"]))

    def packed(self) -> NDArray[np.uint8]:
        """Copy the codes back: uint8 (N, P)."""
        result = np.empty((self.size, self.width), dtype=np.uint8)
        kernels.get_rows(self.words.view(np.uint8), result)
        return result


def words_of_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool (N,) into uint64 (blocks, BLOCK/64), row r of a block in bit r % 64 of word r // 64, zeros behind."""
    words = np.zeros((-(-len(bits) // BLOCK), BLOCK // 64), dtype="<u8")
    octets = np.packbits(bits, bitorder="little")
    words.view(np.uint8).ravel()[: len(octets)] = octets
    return words.astype(np.uint64, copy=False)
