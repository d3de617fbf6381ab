"""Names to places: models under $HASHZOO_PATH, those that packages ship, those of the Hub.

A package ships models by an entry point in the group `hashzoo.models`, whose value is "package:folder"; it is found without
importing the package. hashzoo's own models come the same way. Imports no torch, pydantic or Hub client.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashzoo.errors import ConfigError, UnknownNameError, unknown
from hashzoo.files import read_json_value, sha256
from hashzoo.registry import is_installed, package_of
from hashzoo.zoo.location import Files, Location

GROUP = "hashzoo.models"
KINDS = {  # of the facts that a folder states
    **dict.fromkeys(("name", "backbone", "license"), str), "method": str | None, "dataset": str | None,
    "bits": int, "protocol": str | None, "map": float | int | None, "top_k": int | None,
}  # fmt: skip
CATALOG = "catalog.json"  # beside models that ship: facts and hashes of each, and where the Hub has it; `make index` writes it


@dataclass(frozen=True)
class ModelInfo:
    """What a listing says of a model.

    Attributes:
        method, dataset: None of a network that no method trained, or no data set.
        map: the first result's mAP@top_k, 0 to 1, under `protocol`; None for a model without results.
        top_k: None is mAP over the whole database.
        size: bytes of all its files.
        weights: whether its weights are there; a model that ships without has card, figures, codes and recipe.
        packages: those whose code it needs.
        folder: where it is; need not exist for a model of the Hub.
        files: name -> (sha256, bytes); known for models of a catalogue, else empty.
        repo, commit: where the Hub has it; None if it was never published.
    """

    name: str
    method: str | None
    backbone: str
    bits: int
    dataset: str | None
    protocol: str | None
    map: float | None
    top_k: int | None
    license: str
    size: int
    weights: bool
    packages: tuple[str, ...]
    folder: Path
    files: Files
    repo: str | None = None
    commit: str | None = None

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [package for package in self.packages if not is_installed(package)]


def model_folders() -> list[Path]:
    """Folders of models that installed packages ship, hashzoo's own first; a package that names none is warned of."""
    points = importlib.metadata.entry_points(group=GROUP)
    folders = []
    for point in sorted(points, key=lambda point: (point.value != "hashzoo:model_cards", point.value)):
        folder = _folder_of(point.value)
        if folder is None:
            warnings.warn(f"The entry point {point.name} = {point.value} names no folder of models.", stacklevel=2)
        else:
            folders.append(folder)
    return folders


def _folder_of(value: str) -> Path | None:
    """Find "package:folder" without importing the package: inside it or, in a checkout, beside it."""
    package, _, folder = value.partition(":")
    try:
        spec = importlib.util.find_spec(package.partition(".")[0])
    except (ImportError, ValueError):
        return None
    roots = [Path(root, *package.split(".")[1:]) for root in (spec.submodule_search_locations or [] if spec else [])]
    places = [place / folder for root in roots for place in (root, root.parent)]
    return next((place for place in places if folder and place.is_dir()), None)


def shipped_folder() -> Path:
    """Where hashzoo's own models are: in the wheel beside the code, in a checkout in model_cards/."""
    folder = _folder_of("hashzoo:model_cards")
    return folder or Path(__file__).parent.parent / "model_cards"


def describe(folder: Path, *, hashes: bool = False) -> dict[str, Any]:
    """Read a model's facts from its folder, as an entry of a catalogue.

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
            "method": config.get("method"),
            "backbone": config["backbone"]["name"],
            "bits": config["bits"],
            "dataset": config.get("dataset"),
            "protocol": rows[0]["protocol"] if rows else None,
            "map": rows[0]["map"] if rows else None,
            "top_k": rows[0].get("top_k") if rows else None,
            "license": config["license"],
            "packages": sorted(
                {
                    package_of(kind, config[kind]["name"], config[kind].get("package"))
                    for kind in ("backbone", "head", "quantizer")
                }
            ),
            "size": sum(path.stat().st_size for path in files),
            "weights": any(path.name == "model.safetensors" for path in files),
            "files": {path.name: [sha256(path), path.stat().st_size] for path in files} if hashes else {},
        }
        for key, kind in KINDS.items():
            if not isinstance(facts[key], kind):
                raise TypeError(f"{key} is {facts[key]!r:.60}")
        if not all(isinstance(package, str) for package in facts["packages"]):
            raise TypeError("a package is no text")
        return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no model's folder ({type(error).__name__}: {error}).") from error


def find_models() -> dict[str, ModelInfo]:
    """Every model by name; of one name, the first of $HASHZOO_PATH, hashzoo's own models, other packages' models counts."""
    found: dict[str, ModelInfo] = {}
    for info in _each():
        found.setdefault(info.name, info)
    return found


def _each() -> Iterator[ModelInfo]:
    for root in filter(None, os.environ.get("HASHZOO_PATH", "").split(os.pathsep)):
        yield from _described(Path(root))
    for folder in model_folders():
        if (folder / CATALOG).is_file():
            try:
                yield from [_info(entry, folder / entry["name"]) for entry in read_catalog(folder)]
            except ConfigError as error:
                warnings.warn(f"{error} Its models are passed over.", stacklevel=2)
        else:
            yield from _described(folder)


def _described(root: Path) -> Iterator[ModelInfo]:
    """Look at the models of a folder without a catalogue."""
    for config in sorted(root.glob("[!.]*/config.json")):
        try:
            yield _info(describe(config.parent), config.parent)
        except ConfigError as error:  # of another program, or half copied: the other models are none the worse
            warnings.warn(f"{error} It is passed over.", stacklevel=2)


def read_catalog(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of a folder's catalogue.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        entries = list(json.loads((folder / CATALOG).read_text(encoding="utf-8"))["models"])
        for entry in entries:
            _info(entry, folder / entry["name"])
        return entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{folder / CATALOG} cannot be read ({error}); install its package again.") from error


def _info(entry: dict[str, Any], folder: Path) -> ModelInfo:
    """Make what a listing says of an entry, as `describe` or a catalogue has it."""
    files = {name: (digest, size) for name, (digest, size) in entry["files"].items()}
    return ModelInfo(**{**entry, "files": files, "packages": tuple(entry["packages"])}, folder=folder)


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
    wanted = {"bits": bits, "dataset": dataset, "method": method}
    return [
        info
        for name, info in sorted(find_models().items())
        if fnmatch.fnmatchcase(name, pattern)
        and all(value is None or getattr(info, key) == value for key, value in wanted.items())
    ]


def locate(name: str, wanted: tuple[str, ...] | None = None) -> Location:
    """Find a model by name, `local-dir:PATH` or `hf-hub:org/repo[@revision]`; fetch it if it is only on the Hub.

    Args:
        name: what `hashzoo.load` takes.
        wanted: files to fetch where it is only on the Hub; default all that a model may have.

    Raises:
        UnknownNameError: there is no such model or folder.
        HubError, WeightsError: the Hub does not give the model whole.

    >>> locate("dsbh-cnn3-cifar10-48bit").folder.name
    'dsbh-cnn3-cifar10-48bit'
    """
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not (folder / "config.json").exists():
            raise UnknownNameError(f"{folder} is no model's folder: it has no config.json.")
        return Location(folder)
    if name.startswith("hf-hub:"):
        from hashzoo.zoo import hub

        return hub.fetch(*hub.parse(name), wanted=wanted or hub.FILES)
    if any(mark in name for mark in "/\\:"):
        raise UnknownNameError(
            f"{name!r} is no model name; for a folder write 'local-dir:{name}', for the Hub 'hf-hub:org/repo'."
        )
    models = find_models()
    if name not in models:
        raise unknown("model", name, models, "`hashzoo list` shows all.")
    info = models[name]
    if info.repo and info.commit and not (info.folder / "config.json").exists():
        from hashzoo.zoo import hub

        return hub.fetch(info.repo, info.commit, info.files, wanted or hub.FILES)
    return Location(info.folder, info.repo, info.commit)
