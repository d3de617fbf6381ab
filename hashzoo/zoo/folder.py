"""A model's folder: write it, open it strictly."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from hashzoo.config import BackboneSource, ModelConfig, read_json
from hashzoo.errors import ConfigError, UnknownNameError, WeightsError
from hashzoo.files import LIMITS, copy, read_bytes, replacing, sha256, write_text
from hashzoo.network import HashNetwork
from hashzoo.zoo.location import Location
from hashzoo.zoo.names import locate, shipped_folder
from hashzoo.zoo.results import Results

N = TypeVar("N", bound=HashNetwork)

WEIGHTS = "model.safetensors"
BACKBONE = "backbone."
MAX_HEADER = 4 << 20  # bytes; a tensor takes about 120


def stored_dtype(tensor: Tensor, dtype: str) -> torch.dtype:
    """The dtype a tensor has in the file: matrices as the config says, vectors and scalars in float32, counters as they are."""
    if not tensor.is_floating_point():
        return tensor.dtype
    return getattr(torch, dtype) if tensor.ndim > 1 else torch.float32


def save_folder(folder: str | os.PathLike[str], model: HashNetwork, config: ModelConfig) -> ModelConfig:
    """Write model.safetensors, then config.json, which makes the folder a model; return the config with the weights' hash.

    A backbone that `config.backbone_from` has, tensor by tensor, is not stored again; one that has changed is.

    Raises:
        ConfigError: the folder holds a model already; it stays as it is.
        HashzooError: the model that `config.backbone_from` names cannot be read.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds a model already; save to another folder, or remove that one first.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: value.to(stored_dtype(value, config.dtype)).contiguous() for key, value in model.state_dict().items()
    }
    if config.backbone_from:
        theirs = _read_backbone(config.backbone_from, tensors)
        ours = {key: tensors[key].cpu() for key in theirs}
        if all(ours[key].dtype == value.dtype and torch.equal(ours[key], value) for key, value in theirs.items()):
            tensors = {key: value for key, value in tensors.items() if key not in theirs}
        else:
            config = config.model_copy(update={"backbone_from": None})
    with replacing(folder / WEIGHTS) as partial:
        save_file(tensors, partial)
    config = config.model_copy(update={"weights_sha256": sha256(folder / WEIGHTS)})
    write_text(folder / "config.json", config.as_json())
    return config


def copy_others(folder: Path, target: str | os.PathLike[str]) -> None:
    """Copy what a model's folder has beside the files that `save_folder` wrote to `target`.

    Raises:
        ConfigError: a file is a link out of the Hub's cache, or no regular file.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).resolve()
    for name in LIMITS.keys() - {path.name for path in Path(target).iterdir()}:
        path = folder / name
        if cache in path.resolve().parents and cache in folder.resolve().parents:  # where every file is a link
            path = path.resolve()
        try:
            if path.exists() or path.is_symlink():
                copy(path, Path(target, name))
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be copied ({error.strerror}).") from error


@dataclass(frozen=True)
class Stored:
    """What a model's folder holds, read once.

    Attributes:
        location: where it was read.
        config: of config.json.
        weights: the bytes of model.safetensors, whose hash is the config's.
    """

    location: Location
    config: ModelConfig
    weights: bytes

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.location.folder

    @functools.cached_property
    def results(self) -> Results | None:
        """What results.json says, read when it is first asked for, since a network runs without; None where there is none.

        Raises:
            ConfigError: it is wrong.
        """
        path = self.folder / "results.json"
        return read_json(Results, path) if path.exists() else None


def read(location: Location) -> Stored:
    """Read config and weights of a model's folder; the weights that are parsed are the very bytes that were hashed.

    Raises:
        ConfigError: config.json is missing, newer, or wrong.
        WeightsError: the weights are missing, or their hash is not the config's.
    """
    folder = location.folder
    config = read_json(ModelConfig, folder / "config.json")
    path = folder / WEIGHTS
    if not path.exists():
        again = f"hashzoo train {folder / 'recipe.toml'} --out runs/{config.name}"
        raise WeightsError(f"{path} is missing; copy the model's folder again, or train it anew with `{again}`.")
    weights = _read_weights(path, config.weights_sha256)
    if weights is None:
        raise WeightsError(
            f"{path} is damaged: its sha256 is not the config's; fetch or copy the model's folder again."
        )
    return Stored(location, config, weights)


@overload
def open_folder(folder: Location | str | Path) -> HashNetwork: ...


@overload
def open_folder(folder: Location | str | Path, make: Callable[[Stored], N]) -> N: ...


def open_folder(folder: Location | str | Path, make: Callable[[Stored], Any] | None = None) -> Any:
    """Build the network a folder holds, in evaluation mode on the CPU.

    Args:
        folder: a model's, or where `locate` found it.
        make: builds it from what was read, without its weights; default a `HashNetwork`.

    Raises:
        ConfigError, WeightsError: as `read`, or the weights' keys, shapes or dtypes are not the config's.
        PluginError, UnknownNameError: a component is not installed.
    """
    stored = read(folder if isinstance(folder, Location) else Location(Path(folder)))
    return fill(stored, make or network_of)


def fill(stored: Stored, make: Callable[[Stored], N]) -> N:
    """Build a network from what was read, and fill in its weights.

    Raises:
        WeightsError, PluginError, UnknownNameError: as `open_folder`.
    """
    config, path = stored.config, stored.folder / WEIGHTS
    outline = _outline(stored, make)
    network = make(stored) if outline is None else outline
    expected, tensors = network.state_dict(), dict[str, Tensor]()
    if config.backbone_from:
        tensors = _read_backbone(config.backbone_from, expected)
    own = {key: value for key, value in expected.items() if key not in tensors}
    tensors |= _parse_strictly(path, stored.weights, own, config.dtype)
    if network is outline:  # all that it consists of is in the file, so that it may take memory
        network = make(stored)
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in tensors.items()}, strict=True)
    return network.eval()


def network_arguments(config: ModelConfig) -> dict[str, Any]:
    """What builds the network of a config."""
    return {
        "backbone": config.backbone, "head": config.head, "quantizer": config.quantizer, "bits": config.bits,
        "preprocess": config.preprocess, "num_classes": len(config.classes), "name": config.name,
    }  # fmt: skip


def network_of(stored: Stored) -> HashNetwork:
    """Make the network that a folder holds, its weights not yet filled in."""
    network = HashNetwork(**network_arguments(stored.config))
    network.weights_id = stored.config.weights_sha256[:16]
    return network


def _outline(stored: Stored, make: Callable[[Stored], N]) -> N | None:
    """Build a network whose tensors have shapes and dtypes, but no memory; None where its parts look at values meanwhile."""
    try:
        with torch.device("meta"):
            return make(stored)
    except Exception:  # if it was not for the lack of values, it comes again when the network is built
        return None


def _read_weights(path: Path, digest: str) -> bytes | None:
    """Read a weights' file whose sha256 this is; None if it is another.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).") from error
    return data if hashlib.sha256(data).hexdigest() == digest else None


def _read_backbone(source: BackboneSource, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the backbone's tensors from the file of the model that has them; `like` has their names and shapes."""
    wanted = {key: value for key, value in like.items() if key.startswith(BACKBONE)}
    places: list[Path] = []
    for location in _places(source):
        if location.folder in places:
            continue
        places.append(location.folder)
        path = location.folder / WEIGHTS
        data = _read_weights(path, source.weights_sha256) if path.exists() else None
        if data is not None:
            dtype = read_json(ModelConfig, location.folder / "config.json").dtype
            return _parse_strictly(path, data, wanted, dtype, BACKBONE)
    raise WeightsError(
        f"{places[0] / WEIGHTS} is missing or not the file that a backbone was taken from (sha256 differs); get that "
        f"version of {source.model}, or train the model that takes it anew."
    )


def _places(source: BackboneSource) -> Iterator[Location]:
    """Say where a backbone may be: under its name, among the models that ship, at its commit on the Hub."""
    try:
        yield locate(source.model)
    except UnknownNameError:
        if source.repo is None:
            raise
    yield Location(shipped_folder() / source.model)
    if source.repo and source.commit:
        yield locate(f"hf-hub:{source.repo}@{source.commit}")


def _parse_strictly(
    path: Path, data: bytes, expected: dict[str, Tensor], dtype: str, prefix: str = ""
) -> dict[str, Tensor]:
    """Read the tensors of that prefix as stored; any missing, extra, misshapen or mistyped one is an error that names it."""
    try:
        if (size := int.from_bytes(data[:8], "little")) > MAX_HEADER:
            raise SafetensorError(f"a header of {size:,} bytes")
        found = load_tensors(data)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no whole safetensors file ({error}).") from error
    tensors = {key: found[key] for key in sorted(found) if key.startswith(prefix)}
    for problem, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has an unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise WeightsError(f"{path} {problem} tensor {min(names)!r}; it does not fit its config.json.")
    for key, tensor in tensors.items():
        wanted = (tuple(expected[key].shape), stored_dtype(expected[key], dtype))
        if (tuple(tensor.shape), tensor.dtype) != wanted:
            raise WeightsError(
                f"{path}: tensor {key!r} is {tensor.dtype} {tuple(tensor.shape)}, its config.json makes it "
                f"{wanted[1]} {wanted[0]}."
            )
    return tensors
