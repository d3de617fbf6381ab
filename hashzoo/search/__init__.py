"""Exact Hamming search: `Index` holds packed codes, `Hits` are the nearest of them in (distance, id) order."""

from hashzoo.search.index import Hits, Index, RangeHits

__all__ = ["Hits", "Index", "RangeHits"]
