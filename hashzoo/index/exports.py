"""To FAISS and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError, require_extra

if TYPE_CHECKING:
    import faiss


def to_faiss(codes: Codes, ids: NDArray[np.int64] | range) -> faiss.IndexBinary:
    """Copy N codes to an `IndexBinaryFlat`, within an `IndexBinaryIDMap2` unless the ids are 0 to N-1.

    Raises:
        CodesError: FAISS is not installed.
    """
    faiss = _faiss()
    flat = faiss.IndexBinaryFlat(8 * codes.packed.shape[1])
    if np.array_equal(ids, np.arange(len(codes))):
        flat.add(codes.packed)
        return flat
    mapped = faiss.IndexBinaryIDMap2(flat)
    mapped.add_with_ids(codes.packed, np.asarray(ids, dtype=np.int64))
    flat.this.disown()  # the map keeps it alive
    mapped.own_fields = True
    return mapped


def from_faiss(
    index: faiss.IndexBinary, bits: int | None = None, model: str | None = None
) -> tuple[Codes, NDArray[np.int64] | None]:
    """Copy the codes and ids of an `IndexBinaryFlat`, alone or within an `IndexBinaryIDMap` (or IDMap2).

    Raises:
        CodesError: FAISS is not installed, the index is of another kind, or its codes have bits beyond `bits`.
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
    return Codes(packed, flat.d if bits is None else bits, model), ids


def _faiss() -> Any:
    require_extra("export", "faiss")
    import faiss

    return faiss
