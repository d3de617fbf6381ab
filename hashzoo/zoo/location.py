"""Where a model is: what `locate` and the Hub give, and a folder is read from."""

from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, tuple[str, int]]  # name -> (sha256, bytes)


@dataclass(frozen=True)
class Location:
    """Where a model is.

    Attributes:
        folder: with its files.
        repo, commit: where the Hub has it, if it was fetched from there.
        files: what the Hub has at that commit; of a folder of this machine, nothing.
    """

    folder: Path
    repo: str | None = None
    commit: str | None = None
    files: Files = field(default_factory=dict)
