"""`Index`: codes with ids and paths, in memory and as a folder of Parquet parts."""

from hashzoo.index.hits import Hits, RangeHits
from hashzoo.index.index import Index

__all__ = ["Hits", "Index", "RangeHits"]
