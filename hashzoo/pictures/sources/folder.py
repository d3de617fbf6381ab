"""A folder of image files, with its subfolders."""

from __future__ import annotations

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
    not_utf8: list[str] = field(default_factory=list)

    def holds(self, path: str) -> bool:
        """Whether a path is below the folder."""
        return path.startswith(os.path.join(self.folder, ""))  # noqa: PTH118 - with a slash at the end

    def picture(self, path: str) -> str:
        """A file's path is what is decoded."""
        return path


def accepts(place: Path) -> bool:
    """Whether it is a folder."""
    return place.is_dir()


def scan(place: Path) -> Folder:
    """List image files below a folder, by path, with what tells whether they have changed.

    Raises:
        ImageError: the folder holds no image file.
    """
    found = Folder(place.resolve())
    for path in sorted(str(path) for path in found.folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            stat = Path(path).stat()
            if not Path(path).is_file():
                continue
            path.encode()
            found.files[path] = stat.st_size, stat.st_mtime_ns
        except UnicodeEncodeError:
            found.not_utf8.append(path)
        except FileNotFoundError:
            pass  # gone since it was listed
    if not found.files and not found.not_utf8:
        raise ImageError(f"{found.folder} holds no image file ({', '.join(sorted(SUFFIXES))}).")
    return found
