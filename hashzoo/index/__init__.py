"""`Index`: codes with ids and paths, in memory and as a folder of Parquet parts."""

from hashzoo.index.index import Hits, Index, RangeHits

__all__ = ["Hits", "Index", "RangeHits"]
