"""Names to folders: models under $HASHZOO_PATH, those that ship, those of the Hub. Imports no torch, pydantic or Hub client."""

from __future__ import annotations

import fnmatch
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashzoo.errors import ConfigError, UnknownNameError, unknown
from hashzoo.files import read_json_value, sha256, write_text

KINDS = {  # of the facts that a folder states
    **dict.fromkeys(("name", "method", "backbone", "dataset", "license"), str),
    "bits": int, "protocol": str | None, "map": float | int | None, "top_k": int | None,
}  # fmt: skip
INDEX = Path(__file__).with_name("index.json")  # the models that ship; `make index` writes it


@dataclass(frozen=True)
class ModelInfo:
    """What a listing says of a model.

    Attributes:
        map: the first result's mAP@top_k, 0 to 1, under `protocol`; None for a model without results.
        top_k: None is mAP over the whole database.
        size: bytes of all its files.
        weights: whether its weights are there; a model that ships without has card, figures, codes and recipe.
        folder: where it is; need not exist for a model of the Hub.
        files: name -> (sha256, bytes); known for models of the index, else empty.
        repo, commit: where the Hub has it; None if it was never published.
    """

    name: str
    method: str
    backbone: str
    bits: int
    dataset: str
    protocol: str | None
    map: float | None
    top_k: int | None
    license: str
    size: int
    weights: bool
    folder: Path
    files: dict[str, tuple[str, int]]
    repo: str | None = None
    commit: str | None = None


def shipped_folder() -> Path:
    """Where the models that ship are: in the wheel beside the code, in a checkout in model_cards/."""
    package = Path(__file__).parent.parent
    installed = package / "model_cards"
    return installed if installed.is_dir() else package.parent / "model_cards"


def describe(folder: Path, *, hashes: bool = False) -> dict[str, Any]:
    """Read a model's facts from its folder, as an entry of the index.

    Raises:
        ConfigError: config.json or results.json is missing a fact or is no JSON.
    """
    try:
        config = read_json_value(folder / "config.json")
        results = folder / "results.json"
        rows = read_json_value(results)["rows"] if results.exists() else []
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        facts = {
            "name": config["name"],
            "method": config["method"],
            "backbone": config["backbone"]["name"],
            "bits": config["bits"],
            "dataset": config["dataset"],
            "protocol": rows[0]["protocol"] if rows else None,
            "map": rows[0]["map"] if rows else None,
            "top_k": rows[0].get("top_k") if rows else None,
            "license": config["license"],
            "size": sum(path.stat().st_size for path in files),
            "weights": any(path.name == "model.safetensors" for path in files),
            "files": {path.name: [sha256(path), path.stat().st_size] for path in files} if hashes else {},
        }
        for key, kind in KINDS.items():
            if not isinstance(facts[key], kind):
                raise TypeError(f"{key} is {facts[key]!r:.60}")
        return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no model's folder ({type(error).__name__}: {error}).") from error


def write_index() -> None:
    """Write the index anew from the folders of the models that ship; where the Hub has the same files is kept."""
    entries = {entry["name"]: entry for entry in _entries() if "repo" in entry}
    for config in shipped_folder().glob("*/config.json"):
        entry = describe(config.parent, hashes=True)
        if entries.get(entry["name"], {}).get("files") != entry["files"]:  # what is on the Hub is another
            entries[entry["name"]] = entry
    _write(entries)


def set_published(folder: Path, sent: Path, repo: str, commit: str, *, found: bool = False) -> bool:
    """Note in the index where the Hub has a model that ships, if `repo` is of the organisation that the index names.

    Args:
        folder: the model's; another than one that ships is passed over.
        sent: a folder with the files as they are on the Hub.
        repo: `org/name` there.
        commit: of these files.
        found: name the organisation if the index names none yet.

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
    return json.loads(INDEX.read_text(encoding="utf-8"))["models"]


def _write(entries: dict[str, dict[str, Any]]) -> None:
    models = [entries[name] for name in sorted(entries)]
    write_text(INDEX, json.dumps({"format": 1, "models": models}, indent=1) + "\n")


def _all() -> Iterator[ModelInfo]:
    """Every model, in the order in which names are resolved."""
    for root in filter(None, os.environ.get("HASHZOO_PATH", "").split(os.pathsep)):
        for config in sorted(Path(root).glob("[!.]*/config.json")):
            try:
                yield _info(describe(config.parent), config.parent)
            except ConfigError as error:  # of another program, or half copied: the other models are none the worse
                warnings.warn(f"{error} It is passed over.", stacklevel=2)
    for entry in _entries():
        yield _info(entry, shipped_folder() / entry["name"])


def _info(entry: dict[str, Any], folder: Path) -> ModelInfo:
    files = {name: (digest, size) for name, (digest, size) in entry["files"].items()}
    return ModelInfo(**{**entry, "files": files}, folder=folder)


def list_models(
    pattern: str = "*", *, bits: int | None = None, dataset: str | None = None, method: str | None = None
) -> list[ModelInfo]:
    """List models by name.

    Args:
        pattern: shell-style, e.g. "dahp-*".
        bits: only this code length.
        dataset: only models trained on this data set.
        method: only models of this method.

    >>> [info.bits for info in list_models("dahp-resnet18-*bit", dataset="cifar10")]
    [12, 24, 32, 48]
    """
    found: dict[str, ModelInfo] = {}
    for info in _all():
        found.setdefault(info.name, info)
    wanted = {"bits": bits, "dataset": dataset, "method": method}
    return [
        info
        for name, info in sorted(found.items())
        if fnmatch.fnmatchcase(name, pattern)
        and all(value is None or getattr(info, key) == value for key, value in wanted.items())
    ]


def resolve(name: str, wanted: tuple[str, ...] | None = None) -> Path:
    """Find a model's folder by name, `local-dir:PATH` or `hf-hub:org/repo[@revision]`; fetch it if it is only on the Hub.

    Args:
        name: what `hashzoo.load` takes.
        wanted: files to fetch where it is only on the Hub; default all that a model may have.

    Raises:
        UnknownNameError: there is no such model or folder.
        HubError, WeightsError: the Hub does not give the model whole.

    >>> resolve("dsbh-cnn3-cifar10-48bit").name
    'dsbh-cnn3-cifar10-48bit'
    """
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "config.json").exists():
            raise UnknownNameError(f"{folder} is no model's folder: it has no config.json.")
        return folder
    if name.startswith("hf-hub:"):
        from hashzoo.zoo import hub

        return hub.fetch(*hub.parse(name), wanted=wanted or hub.FILES)
    if any(mark in name for mark in "/\\:"):
        raise UnknownNameError(
            f"{name!r} is no model name; for a folder write 'local-dir:{name}', for the Hub 'hf-hub:org/repo'."
        )
    infos = {info.name: info for info in reversed(list(_all()))}
    if name not in infos:
        raise unknown("model", name, infos, "`hashzoo list` shows all.")
    info = infos[name]
    if info.repo and info.commit and not (info.folder / "config.json").exists():
        from hashzoo.zoo import hub

        return hub.fetch(info.repo, info.commit, info.files, wanted or hub.FILES)
    return info.folder
