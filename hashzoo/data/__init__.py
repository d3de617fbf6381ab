"""Data sets and protocols."""

from hashzoo.data.datasets import ImagePool, dataset_names, open_pool
from hashzoo.data.features import backbone_features
from hashzoo.data.protocols import Lists, Protocol, get_protocol, make_lists, protocol_names

__all__ = [
    "ImagePool",
    "Lists",
    "Protocol",
    "backbone_features",
    "dataset_names",
    "get_protocol",
    "make_lists",
    "open_pool",
    "protocol_names",
]
