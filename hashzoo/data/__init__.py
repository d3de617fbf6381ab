"""Data sets and protocols."""

from hashzoo.data.datasets import ImagePool, dataset_names, open_pool
from hashzoo.data.protocols import Lists, Protocol, get_protocol, make_lists, protocol_names

__all__ = [
    "ImagePool",
    "Lists",
    "Protocol",
    "dataset_names",
    "get_protocol",
    "make_lists",
    "open_pool",
    "protocol_names",
]
