"""A folder of image files, with its subfolders."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from hashzoo.errors import ImageError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Folder:
    """The image files below a folder, by absolute path; see `Source`."""

    folder: Path
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)

    def holds(self, path: str) -> bool:
        """Whether a path is below the folder, and not in a subfolder that could not be looked at."""
        return _is_below(path, os.fspath(self.folder)) and not any(_is_below(path, place) for place in self.closed)

    def picture(self, path: str) -> str:
        """A file's path is what is decoded."""
        return path


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))  # noqa: PTH118 - with a slash at the end


def accepts(place: Path) -> bool:
    """Whether it is a folder."""
    return place.is_dir()


def scan(place: Path) -> Folder:
    """List image files below a folder, by path, with what tells whether they have changed; links to folders are not followed.

    Raises:
        ImageError: the folder holds no image file.
    """
    found = Folder(place.resolve())

    def close(error: OSError) -> None:
        found.closed[os.fsdecode(error.filename)] = str(error.strerror)

    named = []
    for folder, _, names in os.walk(found.folder, onerror=close):
        named += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    for path in sorted(named, key=str):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            stat = path.stat()
            if path.is_file():
                found.files[str(path)] = stat.st_size, stat.st_mtime_ns
    if not found.files:
        raise ImageError(f"{found.folder} holds no image file ({', '.join(sorted(SUFFIXES))}).")
    return found
