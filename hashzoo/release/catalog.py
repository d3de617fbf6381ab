"""catalog.json of the models that ship: written from their folders, and told where the Hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hashzoo.files import write_text
from hashzoo.zoo.names import CATALOG, describe, read_catalog, shipped_folder


def write_catalog() -> None:
    """Write the catalogue anew; an entry keeps its Hub repository and commit as long as its files are unchanged."""
    entries = {entry["name"]: entry for entry in _entries() if "repo" in entry}
    for config in shipped_folder().glob("*/config.json"):
        entry = describe(config.parent, hashes=True)
        if entries.get(entry["name"], {}).get("files") != entry["files"]:
            entries[entry["name"]] = entry
    _write(entries)


def set_published(folder: Path, sent: Path, repo: str, commit: str, *, found: bool = False) -> bool:
    """Note in the catalogue where the Hub has a model that ships, if `repo` is of the organisation that the catalogue names.

    Args:
        folder: the model's; another than one that ships is passed over.
        sent: a folder with the files as they are on the Hub.
        repo: `org/name` there.
        commit: of these files.
        found: name the organisation if the catalogue names none yet.

    Returns:
        Whether it was noted.
    """
    entries = {entry["name"]: entry for entry in _entries()}
    entry = describe(sent, hashes=True) | {"repo": repo, "commit": commit}
    ours = {entry["repo"].partition("/")[0] for entry in entries.values() if "repo" in entry}
    if repo.partition("/")[0] not in ours and (ours or not found):
        return False
    if entry["name"] not in entries or folder.resolve() != (shipped_folder() / entry["name"]).resolve():
        return False
    _write(entries | {entry["name"]: entry})
    return True


def _entries() -> list[dict[str, Any]]:
    return read_catalog(shipped_folder()) if (shipped_folder() / CATALOG).exists() else []


def _write(entries: dict[str, dict[str, Any]]) -> None:
    models = [entries[name] for name in sorted(entries)]
    write_text(shipped_folder() / CATALOG, json.dumps({"format": 1, "models": models}, indent=1) + "\n")
