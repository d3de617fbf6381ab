"""Protocols: which images are queries, training set and database, and how mAP is taken."""

from __future__ import annotations

import hashlib
import importlib.resources
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hashzoo.config import Schema, validate
from hashzoo.data.datasets import ImagePool
from hashzoo.errors import DataError, unknown


class Protocol(Schema):
    """An entry of protocols.toml.

    Attributes:
        dataset: the data set it is of; "*" for any.
        name: two numbers under different names are never put in one column.
        top_k: mAP@K; None is mAP over the whole database.
        unseen: so many classes are kept out of training; queries and database are of them alone.
        unseen_classes: which they are, by index; empty: drawn.
        draw: key of the drawn lists and classes; protocols that share it share their draws.
        sha256: of each list, checked whenever the lists are made.
    """

    name: str
    dataset: str
    summary: str
    query: str
    train: str
    database: str
    top_k: Annotated[int, Field(ge=1)] | None = None
    unseen: Annotated[int, Field(ge=0)] = 0
    unseen_classes: tuple[int, ...] = ()
    draw: str = ""
    sha256: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Lists:
    """Positions in the data set's pool, int64, ascending, one array a list."""

    query: NDArray[np.int64]
    train: NDArray[np.int64]
    database: NDArray[np.int64]

    def sha256(self) -> dict[str, str]:
        """The hash of each list: sha256 of its positions as little-endian int64."""
        lists = {"query": self.query, "train": self.train, "database": self.database}
        return {name: hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() for name, values in lists.items()}


@cache
def _protocols() -> dict[str, Protocol]:
    text = importlib.resources.files("hashzoo.data").joinpath("protocols.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text).items()
    return {name: validate(Protocol, {"name": name, **data}, f"protocols.toml, {name}") for name, data in entries}


def protocol_names() -> list[str]:
    """Names of all protocols."""
    return sorted(_protocols())


def get_protocol(name: str) -> Protocol:
    """Find a protocol by name.

    Raises:
        UnknownNameError: there is none of that name.

    >>> get_protocol("cifar10-54k").query
    'per-class:100'
    """
    if name not in _protocols():
        raise unknown("protocol", name, _protocols(), f"known are {', '.join(protocol_names())}.")
    return _protocols()[name]


def make_lists(protocol: Protocol, pool: ImagePool) -> Lists:
    """Make a protocol's lists over the data set's pool.

    Raises:
        DataError: the data set lacks a split, a class has too few images to draw from, there are too few classes to keep some
            out of training, images have several labels where one is drawn by, or the lists' hashes are not the protocol's, so
            numbers would not compare.
    """
    unseen = _unseen(protocol, pool) if protocol.unseen else None
    free = np.ones(len(pool), dtype=bool)
    made: dict[str, NDArray[np.int64]] = {}
    for name in ("query", "train", "database"):
        rule, _, argument = getattr(protocol, name).partition(":")
        if rule == "split":
            chosen = _split(protocol, pool, argument)
        elif rule == "per-class":
            count, _, split = argument.partition("@")
            among = free.copy()
            if split:
                among &= np.isin(np.arange(len(pool)), _split(protocol, pool, split))
            chosen = _draw(protocol, pool, among, int(count))
        else:
            left = free.copy()
            if rule == "rest+train":
                left[made["train"]] = True
            chosen = np.flatnonzero(left).astype(np.int64)
        if unseen is not None:
            chosen = chosen[unseen[pool.labels[chosen]] != (name == "train")]
        if rule == "per-class":
            free[chosen] = False
        made[name] = chosen
    lists = Lists(**made)
    if protocol.sha256 and lists.sha256() != protocol.sha256:
        raise DataError(
            f"The lists of {protocol.name} on this copy of {protocol.dataset} are not the protocol's (sha256 differs): "
            "labels or order of the data are not the original's."
        )
    return lists


def _split(protocol: Protocol, pool: ImagePool, name: str) -> NDArray[np.int64]:
    if name not in pool.bounds:
        raise DataError(
            f"Protocol {protocol.name} needs a split {name!r}, and {pool.name} has {', '.join(pool.bounds)}; "
            "take another protocol, or another data set."
        )
    return np.arange(*pool.bounds[name], dtype=np.int64)


def _unseen(protocol: Protocol, pool: ImagePool) -> NDArray[np.bool_]:
    """Mark, bool (C,), the protocol's unseen classes: as listed, or drawn as `_draw` draws, by "draw:class:index"."""
    _check_single_label(protocol, pool)
    count = len(pool.classes)
    marked = np.zeros(count, dtype=bool)
    if protocol.unseen_classes:
        marked[list(protocol.unseen_classes)] = True
        return marked
    if count <= protocol.unseen:
        raise DataError(
            f"Protocol {protocol.name} keeps {protocol.unseen} classes out of training, but {pool.name} has {count}; "
            "none is left to train on."
        )
    order = sorted(range(count), key=lambda index: hashlib.sha256(f"{protocol.draw}:class:{index}".encode()).digest())
    marked[order[: protocol.unseen]] = True
    return marked


def _check_single_label(protocol: Protocol, pool: ImagePool) -> None:
    if pool.labels.ndim != 1:
        raise DataError(
            f"Protocol {protocol.name} draws by class and needs one label an image, but {pool.name} has many."
        )


def _draw(protocol: Protocol, pool: ImagePool, free: NDArray[np.bool_], per_class: int) -> NDArray[np.int64]:
    """Take the first `per_class` free positions of each class by the sha256 of "draw:position": the same in any language."""
    _check_single_label(protocol, pool)
    labels = pool.labels
    for name, left in zip(pool.classes, np.bincount(labels[free], minlength=len(pool.classes)), strict=True):
        if left < per_class:
            raise DataError(
                f"Protocol {protocol.name} draws {per_class} images a class, but class {name} of {pool.name} has {left} left."
            )
    order = sorted(
        np.flatnonzero(free), key=lambda position: hashlib.sha256(f"{protocol.draw}:{position}".encode()).digest()
    )
    taken: dict[int, list[int]] = {}
    for position in order:
        group = taken.setdefault(int(labels[position]), [])
        if len(group) < per_class:
            group.append(int(position))
    return np.array(sorted(position for group in taken.values() for position in group), dtype=np.int64)
