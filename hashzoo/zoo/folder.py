"""A model's folder: write it, open it strictly."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hashzoo.config import BackboneSource, ModelConfig, read_json
from hashzoo.errors import ConfigError, WeightsError
from hashzoo.files import LIMITS, copy, opened, replacing, sha256, write_text
from hashzoo.model import HashModel
from hashzoo.zoo.names import resolve, shipped_folder

WEIGHTS = "model.safetensors"
BACKBONE = "backbone."
MAX_HEADER = 4 << 20  # bytes; a tensor takes about 120


def stored_dtype(tensor: Tensor, dtype: str) -> torch.dtype:
    """The dtype a tensor has in the file: matrices as the config says, vectors and scalars in float32, counters as they are."""
    if not tensor.is_floating_point():
        return tensor.dtype
    return getattr(torch, dtype) if tensor.ndim > 1 else torch.float32


def save_folder(folder: str | os.PathLike[str], model: HashModel, config: ModelConfig) -> ModelConfig:
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
    write_text(folder / "config.json", config.model_dump_json(indent=2, exclude_none=True) + "\n")
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


def open_folder(folder: str | Path) -> HashModel:
    """Build the model a folder holds, in evaluation mode on the CPU.

    Raises:
        ConfigError: config.json is missing, newer, or wrong.
        PluginError, UnknownNameError: a component is not installed.
        WeightsError: the weights' hash, keys, shapes or dtypes are not the config's, or the backbone's file is another.
    """
    folder = Path(folder)
    config = read_json(ModelConfig, folder / "config.json")
    path = folder / WEIGHTS
    if not path.exists():
        again = f"hashzoo train {folder / 'recipe.toml'} --out runs/{config.name}"
        raise WeightsError(f"{path} is missing; copy the model's folder again, or train it anew with `{again}`.")
    try:
        digest = sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).") from error
    if digest != config.weights_sha256:
        raise WeightsError(
            f"{path} is damaged: its sha256 is not the config's; fetch or copy the model's folder again."
        )
    outline = _outline(config)
    model = _build(config) if outline is None else outline
    expected, tensors = model.state_dict(), dict[str, Tensor]()
    if config.backbone_from:
        tensors = _read_backbone(config.backbone_from, expected)
    own = {key: value for key, value in expected.items() if key not in tensors}
    tensors |= _read_strictly(path, own, config.dtype)
    if model is outline:  # all that it consists of is in the file, so that it may take memory
        model = _build(config)
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in tensors.items()}, strict=True)
    model.config, model.folder = config, folder
    return model.eval()


def _build(config: ModelConfig) -> HashModel:
    return HashModel(
        config.backbone, config.head, config.quantizer, bits=config.bits, preprocess=config.preprocess,
        num_classes=len(config.classes), name=config.name,
    )  # fmt: skip


def _outline(config: ModelConfig) -> HashModel | None:
    """Build a model whose tensors have shapes and dtypes, but no memory; None where its parts look at values meanwhile."""
    try:
        with torch.device("meta"):
            return _build(config)
    except Exception:  # if it was not for the lack of values, it comes again when the model is built
        return None


def _read_backbone(source: BackboneSource, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the backbone's tensors from the file of the model that has them; `like` has their names and shapes."""
    found = [folder / WEIGHTS for folder in (resolve(source.model), shipped_folder() / source.model)]
    path = next((path for path in found if path.exists() and sha256(path) == source.weights_sha256), None)
    if path is None:
        raise WeightsError(
            f"{found[0]} is missing or not the file that a backbone was taken from (sha256 differs); get that version of "
            f"{source.model}, or train the model that takes it anew."
        )
    dtype = read_json(ModelConfig, path.with_name("config.json")).dtype
    wanted = {key: value for key, value in like.items() if key.startswith(BACKBONE)}
    return _read_strictly(path, wanted, dtype, BACKBONE)


def _read_strictly(path: Path, expected: dict[str, Tensor], dtype: str, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of that prefix as stored; any missing, extra, misshapen or mistyped one is an error that names it."""
    try:
        with opened(path) as head:
            if (size := int.from_bytes(head.read(8), "little")) > MAX_HEADER:
                raise SafetensorError(f"a header of {size:,} bytes")
        with safe_open(path, framework="pt") as file:
            keys = {key for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118 - no dict
            for problem, names in (("lacks", expected.keys() - keys), ("has an unknown", keys - expected.keys())):
                if names:
                    raise WeightsError(f"{path} {problem} tensor {min(names)!r}; it does not fit its config.json.")
            tensors = {key: file.get_tensor(key) for key in sorted(keys)}
    except SafetensorError as error:
        raise WeightsError(f"{path} is no whole safetensors file ({error}).") from error
    for key, tensor in tensors.items():
        wanted = (tuple(expected[key].shape), stored_dtype(expected[key], dtype))
        if (tuple(tensor.shape), tensor.dtype) != wanted:
            raise WeightsError(
                f"{path}: tensor {key!r} is {tensor.dtype} {tuple(tensor.shape)}, its config.json makes it "
                f"{wanted[1]} {wanted[0]}."
            )
    return tensors
