"""Files that are whole or not there: written beside, flushed, then renamed."""

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

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


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes; 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
