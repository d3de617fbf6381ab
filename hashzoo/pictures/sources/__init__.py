"""Where pictures are. A new kind of source is a module here that has `accepts` and `scan`, and a row of SOURCES."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

from hashzoo.errors import ImageError
from hashzoo.pictures.decode import PictureLike

# the first whose `accepts(place)` holds scans it
SOURCES = ("hashzoo.pictures.sources.folder",)


class Source(Protocol):
    """The pictures of one place."""

    @property
    def folder(self) -> Path:
        """The folder that they are in, as an absolute path."""

    @property
    def files(self) -> dict[str, tuple[int, int]]:
        """Size in bytes and mtime in nanoseconds of each picture, by its path, in order; they tell whether it has changed.

        A path may be any bytes, as `os.fsdecode` gives them.
        """

    @property
    def closed(self) -> dict[str, str]:
        """Places within that could not be looked at, each with the reason."""

    def holds(self, path: str) -> bool:
        """Whether a path is of this place and could be looked at: one that is not among `files` any more has vanished from it."""

    def picture(self, path: str) -> PictureLike:
        """Give what `hashzoo.pictures.decode` takes for a path of `files`."""


def scan(place: Path) -> Source:
    """List the pictures of a place.

    Raises:
        ImageError: it is no place that is known here, or holds no picture.
    """
    for name in SOURCES:
        kind = importlib.import_module(name)
        if kind.accepts(place):
            return kind.scan(place)
    raise ImageError(f"{place} is no folder; give one that holds images.")
