"""Where a model is: what `locate` and the Hub give, and a folder is read from."""

from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, tuple[str, int]]  # name -> (sha256, bytes)


@dataclass(frozen=True)
class Location:
    """Where a model is.

    Attributes:
        folder: with its files.
        repo, commit: where the Hub has the same files, if it does.
        files: what the Hub has there, if it was fetched from the Hub.
    """

    folder: Path
    repo: str | None = None
    commit: str | None = None
    files: Files = field(default_factory=dict)
