"""`HashModel`: a network with the folder that it came from; load, save and make one."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from hashzoo.config import ComponentRef, ModelConfig, PreprocessConfig, validate
from hashzoo.engines import start_engine
from hashzoo.errors import ConfigError, HubError, WeightsError
from hashzoo.files import sha256
from hashzoo.hookspecs import Encoder
from hashzoo.machine import choose_device
from hashzoo.network import HashNetwork, build_component
from hashzoo.precision import Precision
from hashzoo.registry import registry
from hashzoo.zoo import hub
from hashzoo.zoo.folder import Stored, copy_others, network_arguments, open_folder, save_folder
from hashzoo.zoo.names import locate
from hashzoo.zoo.probe import write_probe

M = TypeVar("M", bound="HashModel")


class HashModel(HashNetwork):
    """A network with the folder that its weights came from: what `hashzoo.load`, `train` and `save` give.

    Attributes:
        config: what its config.json says.
        folder: where it was read.
    """

    config: ModelConfig
    folder: Path

    def __init__(self, *args: Any, stored: Stored | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stored is None:
            warnings.warn(
                "A network without a folder is a HashNetwork: make it with hashzoo.create_model or hashzoo.HashNetwork.",
                DeprecationWarning, stacklevel=2,
            )  # fmt: skip
        else:
            self.config, self.folder = stored.config, stored.folder
            self.weights_id = stored.config.weights_sha256[:16]

    def _must_have_folder(self) -> None:
        if not hasattr(self, "folder"):
            raise ConfigError("This network has no folder yet; hashzoo.save(network, FOLDER) gives it one.")

    @classmethod
    def of(cls: type[M], stored: Stored) -> M:
        """Make the model that a folder holds, its weights not yet filled in."""
        return cls(**network_arguments(stored.config), stored=stored)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        token: str | bool | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> HashModel:
        """Load a model from a folder, the Hub (`org/name`) or the zoo, on the CPU; see `hashzoo.load`.

        The cache is where `HF_HOME` says, and is never believed without a look at the hashes.

        Args:
            pretrained_model_name_or_path: a folder, `org/name`, or a name of the zoo.
            token: in place of the user's own; it is sent only where a model is not public. False sends none.
            local_files_only: ask the Hub nothing.
            revision: branch, tag or commit on the Hub.

        Raises:
            HashzooError: as `hashzoo.load`.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return _load(f"local-dir:{name}", "cpu", cls)
        if "/" in name and not name.startswith("hf-hub:"):
            name = f"hf-hub:{name}"
        with hub.access(token, local_files_only):
            return _load(f"{name}@{revision}" if revision else name, "cpu", cls)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json and model.safetensors; with unchanged weights, also the other files of the loaded folder.

        Args:
            save_directory: a new or empty folder.
            repo_id: `org/name`, for `push_to_hub`.
            push_to_hub: publish it as well, and return what the method of that name does.
            push_to_hub_kwargs: for that method.

        Raises:
            ConfigError: `save_directory` holds a model already, or a file of the loaded folder is a link or no regular file.
            HubError: as `push_to_hub`.
        """
        self._must_have_folder()
        saved = save_folder(save_directory, self, self.config)
        if saved.weights_sha256 == self.config.weights_sha256:
            copy_others(self.folder, save_directory)
        return self.push_to_hub(repo_id or "", **push_to_hub_kwargs) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Publish a copy of the folder that the model was loaded from, as `hashzoo publish --push` does.

        Args:
            repo_id: `org/name`.
            commit_message: default "Publish" and the model's name.
            private: of a repository that is made now.
            token: in place of the user's own.
            create_pr: open a pull request in place of a commit on the main branch.

        Returns:
            The address of the commit or pull request, or a sentence that nothing had changed.

        Raises:
            HubError: the folder is not fit to be published, the weights have changed since, or the Hub refuses.
        """
        from hashzoo.release import publish

        self._must_have_folder()
        with tempfile.TemporaryDirectory() as parent:  # a copy, since the card changes, and the Hub's cache must not
            folder = Path(parent, self.config.name)
            self.save_pretrained(folder)
            if sha256(folder / "model.safetensors") != self.config.weights_sha256:
                raise HubError(
                    "The weights are no longer those that were measured; save, evaluate and load them first."
                )
            with hub.access(token):
                plan = publish.plan(folder, repo_id)
                return publish.push(plan, private=bool(private), pr=bool(create_pr), message=commit_message)


def load(name: str | os.PathLike[str], device: str | None = None) -> HashModel:
    """Load a trained model.

    Args:
        name: a name of the zoo (`hashzoo list`), a `Path` of a model's folder (or `local-dir:PATH`), or
            `hf-hub:org/name[@revision]`.
        device: "cpu" or "cuda"; default CUDA where there is one. On either the network runs in float32;
            `encode(..., precision="bfloat16")` says otherwise.

    Raises:
        UnknownNameError: no such model; the message offers close matches.
        ConfigError, WeightsError: the folder is not whole; nothing half-read is returned.
        PluginError: a component's package is not installed; the message names it.
        HashzooError: the device cannot be used.

    >>> model = load("dsbh-cnn3-cifar10-48bit", device="cpu")
    >>> model.name, model.bits
    ('dsbh-cnn3-cifar10-48bit', 48)
    """
    return _load(name if isinstance(name, str) else f"local-dir:{os.fspath(name)}", device, HashModel)


def open_model(folder: str | os.PathLike[str]) -> HashModel:
    """Open a model's folder, on the CPU; as `load` of its path, without a look at devices."""
    return open_folder(Path(folder), HashModel.of)


def _load(name: str, device: str | None, kind: type[M]) -> M:
    device = choose_device(device)
    return open_folder(locate(name), kind.of).to(device).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class EncoderSpec:
    """How to make an encoder in another process: it can be pickled, and holds no weights.

    Args:
        name: what `load` takes.
        weights_id: that the model must have, where it is known; a worker must not encode with others.
        device: as `load` takes it.
        engine: a name of `hashzoo.engines.ENGINES`.
        precision: of the codes.
    """

    name: str
    weights_id: str | None = None
    device: str | None = None
    engine: str = "torch"
    precision: Precision = "float32"

    def open(self) -> Encoder:
        """Load the model and make it ready to encode, for `hashzoo.encoder.encode`.

        Raises:
            WeightsError: the model has other weights than the spec says.
            HashzooError: as `load`.

        >>> EncoderSpec("dsbh-cnn3-cifar10-48bit", device="cpu").open().bits
        48
        """
        model = load(self.name, self.device)
        if self.weights_id not in (None, model.weights_id):
            raise WeightsError(
                f"{self.name} has other weights here ({model.weights_id}) than are asked for ({self.weights_id}); bring the "
                "same model to every machine."
            )
        return start_engine(model, self.precision, self.engine)


def create_model(
    backbone: str,
    *,
    bits: int,
    head: str = "linear",
    quantizer: str = "sign",
    num_classes: int = 0,
    pretrained: bool = False,
    args: Mapping[str, Mapping[str, Any]] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> HashNetwork:
    """Make a network that has no folder yet, from names of the registry; `hashzoo.save` gives it one.

    Args:
        backbone: such as "timm/resnet50", "torchvision/alexnet" or a plugin's.
        bits: K.
        head: by name.
        quantizer: by name.
        num_classes: C, for heads that make logits.
        pretrained: start from the backbone's own published weights.
        args: of "backbone", "head" or "quantizer", as a recipe gives them.
        preprocess: what differs from the input that the backbone was made for, as a recipe says it (`size`, `mean`, ...).
        name: written into the codes; default none.

    Raises:
        HashzooError: a component is unknown, does not take its `args`, or cannot be built.

    >>> network = create_model("torchvision/resnet18", bits=16, preprocess={"size": (32, 32)})
    >>> network.bits, network.backbone.num_features
    (16, 512)
    """
    names = {"backbone": backbone, "head": head, "quantizer": quantizer}
    refs = {
        kind: ComponentRef(
            name=component, package=registry().get(kind, component)[0].owner, args=dict((args or {}).get(kind, {}))
        )
        for kind, component in names.items()
    }
    if preprocess is None or "size" not in preprocess:
        preprocess = {
            **_usual_input(refs["backbone"]),
            **(preprocess or {}),
        }
    return HashNetwork(
        **refs, bits=bits, preprocess=validate(PreprocessConfig, preprocess, "preprocess"), num_classes=num_classes,
        name=name, pretrained=pretrained,
    ).eval()  # fmt: skip


def _usual_input(ref: ComponentRef) -> dict[str, Any]:
    """Say what input a backbone was made for."""
    backbone: Any = build_component("backbone", ref, pretrained=False)
    return dict(backbone.preprocess)


def save(
    network: HashNetwork, folder: str | os.PathLike[str], *, name: str | None = None, license: str = "apache-2.0"
) -> HashModel:
    """Write a network's folder: config.json, model.safetensors and probe.json, which `hashzoo.load(Path(folder))` reads.

    Args:
        network: made by `create_model`, or `HashNetwork`.
        folder: new or empty.
        name: of the model; default the network's, or the folder's.
        license: of the weights.

    Returns:
        The model, as it is read back from the folder.

    Raises:
        ConfigError: the folder holds a model already, or the name is none.

    >>> network = create_model("torchvision/resnet18", bits=16, preprocess={"size": (32, 32)})
    >>> model = save(network, Path(tempfile.mkdtemp()) / "mine")
    >>> model.name, model.weights_id is None
    ('mine', False)
    """
    folder = Path(folder)
    facts = {
        "name": name or network.name or folder.name, "bits": network.bits, "license": license,
        **{kind: ref.model_dump() for kind, ref in network.refs.items()},
        "preprocess": network.preprocess.config.model_dump(), "weights_sha256": "0" * 64, "dtype": "float32",
        "classes": tuple(str(number) for number in range(network.num_classes)),
    }  # fmt: skip
    save_folder(folder, network, validate(ModelConfig, facts, "The network"))
    model = open_model(folder)  # of the weights as stored
    write_probe(folder, model)
    return model
