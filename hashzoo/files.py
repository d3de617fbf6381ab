"""Files: written whole or not at all; read only if they are regular, and no larger than their kind may be."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

LIMITS = {  # of the files of a model's folder, in bytes
    "config.json": 1 << 20,
    "model.safetensors": 8 << 30,
    "README.md": 1 << 20,
    "codes.parquet": 1 << 28,
    "pr-curve.png": 1 << 24,
    "probe.json": 1 << 20,
    "recipe.toml": 1 << 20,
    "results.json": 1 << 22,
}
SMALL = 1 << 20  # bytes of a file of another name that is read whole


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on any error `path` stays as it was.

    The temporary name starts with a dot and ends in `.partial`, so that no reader takes it for a whole one after a kill. No
    two writers share it, be they threads or processes of two machines: each writes a whole file, and the last one's stays.
    Permissions are those of the file that is replaced, or a new file's (by the umask), whatever the writer set.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(target) as partial:
    ...     _ = partial.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.touch()  # learns the umask without changing it, which would be felt by other threads
        mode = (path if path.exists() else partial).stat().st_mode
        partial.unlink()
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(stat.S_IMODE(mode))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left half-written in `folder`; only for who knows that nobody is writing there now.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".a.txt.4711.partial").touch()
    >>> remove_partials(folder)
    >>> list(folder.iterdir())
    []
    """
    for path in Path(folder).glob(".*.partial"):
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *, links: bool = True) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes; nothing else is waited for or read, whatever its name says.

    Args:
        path: of the file.
        links: whether `path` itself may be a link.

    Raises:
        OSError: it cannot be opened, is larger than LIMITS has for its name, or is a folder, pipe, device or such a link.
    """
    path = Path(path)
    _check(path, path.stat() if links else path.lstat())  # before it is opened, which may set a device to work
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    with os.fdopen(os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0))), "rb") as file:
        _check(path, os.fstat(file.fileno()))  # another may have come to its place
        yield file


def read_bytes(path: str | os.PathLike[str], *, links: bool = True) -> bytes:
    """Read a whole file, of at most what LIMITS has for its name, or 1 MiB.

    Raises:
        OSError: as `opened`.
    """
    path = Path(path)
    with opened(path, links=links) as file:
        data = file.read(LIMITS.get(path.name, SMALL) + 1)
    _check_size(path, len(data), SMALL)
    return data


def read_json_value(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file of a model's folder.

    Raises:
        OSError: as `opened`.
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(read_bytes(path), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def copy(path: str | os.PathLike[str], target: str | os.PathLike[str], *, links: bool = False) -> None:
    """Copy the bytes of a file of a model's folder to a new file.

    Raises:
        OSError: as `opened`, or `target` is there or cannot be written.
    """
    size = 0
    with opened(path, links=links) as source, Path(target).open("xb") as file:
        while part := source.read(1 << 20):
            size += len(part)
            _check_size(Path(target), size, size)
            file.write(part)


def _check(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "It is a link; put the file itself there", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "It is no regular file", str(path))
    _check_size(path, status.st_size, status.st_size)


def _check_size(path: Path, size: int, others: int) -> None:
    limit = LIMITS.get(path.name, others)
    if size > limit:
        raise OSError(errno.EFBIG, f"It has more than the {limit:,} bytes that such a file may have", str(path))


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a regular file's bytes; 64 hexadecimal digits."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
