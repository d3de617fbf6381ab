"""Codes in stretches of rows: more are added without a copy of all that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from hashzoo.machine import need_memory
from hashzoo.search import HeldCodes, hold

Keep = NDArray[np.bool_] | None


class Segments:
    """N codes of K bits on a device, held in a few stretches of rows, each at least twice as long as the next.

    Args:
        bits: K.
        device: where the codes are held.
    """

    def __init__(self, bits: int, device: str) -> None:
        self.bits, self.device = bits, device
        self._held: list[HeldCodes] = []

    def extend(self, batches: Iterable[NDArray[np.uint8]], size: int) -> Segments:
        """Return these codes and `size` more, packed; what is held is shared, so that a search under way goes on.

        Raises:
            CodesError: the device is not there, or has too little memory.
        """
        grown = Segments(self.bits, self.device)
        held = [*self._held, hold(batches, size, self.bits, self.device)]
        while len(held) > 1 and held[-2].size < 2 * held[-1].size:
            first, second = held[-2:]
            held[-2:] = [hold([first.packed(), second.packed()], first.size + second.size, self.bits, self.device)]
        grown._held = held
        return grown

    def packed(self) -> NDArray[np.uint8]:
        """Copy the codes back: uint8 (N, ceil(K/8))."""
        found = [held.packed() for held in self._held]
        return found[0] if len(found) == 1 else np.concatenate([np.empty((0, -(-self.bits // 8)), np.uint8), *found])

    def top_k(self, queries: NDArray[np.uint8], k: int, keep: Keep) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Find the k nearest rows of each query, as `HeldCodes.top_k`."""
        found = [(start, *held.top_k(queries, k, some)) for held, start, some in self._each(keep)]
        if len(found) == 1:
            return found[0][1:]
        distances = np.concatenate([distances for _, distances, _ in found], axis=1)
        rows = np.concatenate([rows + start for start, _, rows in found], axis=1)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]  # rows ascend, so equal distances stay in order
        return np.take_along_axis(distances, nearest, axis=1), np.take_along_axis(rows, nearest, axis=1)

    def within(
        self, queries: NDArray[np.uint8], radius: int, keep: Keep
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """Find all rows within a radius of each query, as `HeldCodes.within`."""
        found = [(start, *held.within(queries, radius, some, need_hits)) for held, start, some in self._each(keep)]
        if len(found) == 1:
            return found[0][1:]
        of = np.concatenate([np.repeat(np.arange(len(queries)), np.diff(offsets)) for _, offsets, _, _ in found])
        distances = np.concatenate([distances for *_, distances, _ in found])
        rows = np.concatenate([rows + start for start, _, _, rows in found])
        order = np.lexsort((rows, distances, of))
        offsets = np.searchsorted(of[order], np.arange(len(queries) + 1)).astype(np.int64)
        return offsets, distances[order], rows[order]

    def _each(self, keep: Keep) -> Iterator[tuple[HeldCodes, int, Keep]]:
        """Give what is held, each with its first row and its own part of `keep`."""
        start = 0
        for held in self._held:
            yield held, start, None if keep is None else keep[start : start + held.size]
            start += held.size


def need_hits(hits: int) -> None:
    """Refuse an answer that does not fit in memory: for each hit a distance, a row, an id and a copy of the three.

    Raises:
        CodesError: as said.
    """
    need_memory(
        36 * hits, f"The answer of {hits:,} hits", "ask for fewer (k, max_distance) or search fewer queries at a time"
    )
