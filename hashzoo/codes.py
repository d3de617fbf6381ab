"""Binary codes: pack, unpack, and the `Codes` value that knows its length and its model.

Packed codes are uint8 of shape (N, ceil(K/8)), most significant bit first, as `numpy.packbits`; pad bits are 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashzoo.errors import CodesError
from hashzoo.precision import Precision, check_precision

MIN_BITS, MAX_BITS = 4, 1024


def check_bits(bits: int) -> int:
    """Return `bits` if it is a code length hashzoo supports.

    Raises:
        CodesError: `bits` is no integer from 4 to 1024.
    """
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not MIN_BITS <= bits <= MAX_BITS:
        raise CodesError(f"A code length is a whole number from {MIN_BITS} to {MAX_BITS}, not {bits!r}.")
    return int(bits)


def pack(bits: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack bool (N, K) into uint8 (N, ceil(K/8)).

    >>> pack(np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]], dtype=bool))
    array([[129, 128]], dtype=uint8)
    """
    return np.packbits(np.asarray(bits, dtype=bool), axis=-1)


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    """Unpack uint8 (N, ceil(K/8)) into bool (N, K).

    >>> unpack(np.array([[129, 128]], dtype=np.uint8), 12).astype(int)
    array([[1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]])
    """
    return np.unpackbits(packed, axis=-1, count=bits).astype(bool)


@dataclass(frozen=True, eq=False)
class Codes:
    """N codes of K bits.

    Args:
        packed: uint8 (N, ceil(K/8)), most significant bit first; the pad bits of the last byte must be 0.
        bits: K, from 4 to 1024.
        model: name of the model that made them, or None; an index refuses codes of another model.
        weights: which weights of that name, the first 16 digits of their file's sha256, or None; an index refuses others.
        precision: what the network ran in, "float32" or "bfloat16", or None; an index warns of another.
        failed: what was left out: the position of each picture that could not be read, and why.

    Raises:
        CodesError: the array's dtype, shape or pad bits do not fit `bits`, or there is no such precision.

    >>> codes = Codes.from_bits(np.eye(2, 12, dtype=bool), model="demo")
    >>> codes
    Codes(2 x 12 bits, model='demo')
    >>> codes.packed
    array([[128,   0],
           [ 64,   0]], dtype=uint8)
    >>> codes[1].to_bits().astype(int)
    array([[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    """

    packed: NDArray[np.uint8]
    bits: int
    model: str | None = None
    weights: str | None = None
    precision: Precision | None = None
    failed: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits))  # a plain int, which JSON can hold
        if self.precision is not None:
            check_precision(self.precision)
        packed = self.packed
        width = -(-self.bits // 8)
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 2:
            found = f"{packed.dtype} {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__
            raise CodesError(f"Packed codes are a uint8 array of shape (N, {width}), not {found}.")
        if packed.shape[1] != width:
            raise CodesError(f"Codes of {self.bits} bits take {width} bytes each, but the array has {packed.shape[1]}.")
        pad = 8 * width - self.bits
        if pad and (packed[:, -1] & ((1 << pad) - 1)).any():
            raise CodesError(
                f"The {pad} pad bits after bit {self.bits} must be 0; pack with Codes.from_bits or numpy.packbits."
            )

    @classmethod
    def from_bits(
        cls,
        bits: NDArray[Any],
        model: str | None = None,
        weights: str | None = None,
        precision: Precision | None = None,
    ) -> Codes:
        """Make codes from bool (N, K)."""
        array = np.asarray(bits)
        if array.ndim != 2:
            raise CodesError(f"Bits are an array of shape (N, K), not {array.shape}.")
        if array.dtype != bool and not np.isin(array, (0, 1)).all():
            raise CodesError("Bits are 0 or 1 (bit = 1 where u >= 0); codes in {-1, +1} become bits by `codes > 0`.")
        return cls(pack(array), array.shape[1], model, weights, precision)

    def to_bits(self) -> NDArray[np.bool_]:
        """Return bool (N, K)."""
        return unpack(self.packed, self.bits)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, key: Any) -> Codes:
        rows = self.packed[key]
        return dataclasses.replace(self, packed=np.atleast_2d(rows), failed=())

    def __iter__(self) -> Iterator[Codes]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return self._maker == other._maker and np.array_equal(self.packed, other.packed)

    __hash__ = None  # type: ignore[assignment]  # holds an array

    def __repr__(self) -> str:
        known = [
            f", {name}={value!r}" for name in ("weights", "precision") if (value := getattr(self, name)) is not None
        ]
        return f"Codes({len(self)} x {self.bits} bits, model={self.model!r}{''.join(known)})"

    @property
    def _maker(self) -> tuple[int, str | None, str | None, Precision | None]:
        """What made them, as far as it is known."""
        return self.bits, self.model, self.weights, self.precision

    @staticmethod
    def concatenate(parts: list[Codes]) -> Codes:
        """Join codes of one length, model, weights and precision, in order."""
        if not parts:
            raise CodesError("There are no codes to join; give at least one Codes.")
        first = parts[0]
        for part in parts:
            if part._maker != first._maker:
                raise CodesError(
                    f"{part!r} cannot be joined to {first!r}: length, model, weights and precision must be the same."
                )
        return dataclasses.replace(first, packed=np.concatenate([part.packed for part in parts]), failed=())
