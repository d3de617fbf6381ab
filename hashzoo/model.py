"""HashModel: backbone, head and quantizer; images to codes."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hashzoo.codes import Codes, check_bits
from hashzoo.config import ComponentRef, ModelConfig, PreprocessConfig
from hashzoo.errors import ConfigError, HubError, ImageError, PluginError, UnknownNameError, install_line
from hashzoo.files import sha256
from hashzoo.hookspecs import HashOutput
from hashzoo.precision import Precision, check_precision, without_tf32
from hashzoo.preprocess import ImageLike, Preprocess
from hashzoo.registry import SESSION, registry

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[ImageError], object]


def check_component(kind: str, ref: ComponentRef) -> tuple[str, dict[str, Any]]:
    """Find what a config or recipe names, and check its `args`; a missing plugin is named with the package to install.

    Returns:
        The name to build it by, and its `args` in the types that its constructor asks for.

    Raises:
        UnknownNameError: it is not registered.
        ConfigError: its constructor takes no such `args`.
        PluginError: it cannot be imported, or its constructor does not say what it takes.
    """
    name = ref.name
    if ref.package and f"{ref.package}/{name}" in {f"{c.owner}/{c.name}" for c in registry().components(kind)}:
        name = f"{ref.package}/{name}"
    try:
        return name, registry().check_args(kind, name, ref.args)
    except UnknownNameError as error:
        installed = {plugin.distribution: plugin for plugin in registry().plugins}
        if ref.package is None or (ref.package in installed and installed[ref.package].error is None):
            raise
        if ref.package in installed:
            state = f"which is broken ({installed[ref.package].error}); reinstall it"
        elif ref.package == SESSION:
            state = "which says that the session that trained it called it; register it again in this one"
        else:
            state = (
                "as the config says, not hashzoo; that package is not installed; "
                f"`{install_line(ref.package)}` if you trust who made it"
            )
        raise PluginError(f"The {kind} {name!r} comes with the package {ref.package}, {state}.") from error


def build_component(kind: str, ref: ComponentRef, **given: object) -> nn.Module:
    """Build what a config or recipe names, with its `args` and what hashzoo itself gives.

    Raises:
        HashzooError: as `check_component`, or it cannot be built.
    """
    name, args = check_component(kind, ref)
    return registry().build(kind, name, **given, **args)


class HashModel(nn.Module):
    """backbone -> head -> quantizer.

    Args:
        backbone, head, quantizer: components by registry name.
        bits: K.
        num_classes: C, for heads that make logits.
        preprocess: how images become the network's input.
        name: written into the codes it makes; an index refuses codes of another name.
        pretrained: let the backbone fetch its own published weights (training only).

    Attributes:
        backbone_ref: how the backbone was asked for; kept features are known by it.
        config, folder: of a model that was loaded, what its config.json says and where it was; else None.

    Raises:
        CodesError: `bits` is out of range.
        UnknownNameError, ConfigError, PluginError: a component cannot be found, does not take its `args`, or cannot be built.

    >>> model = HashModel(ComponentRef(name="torchvision/resnet18"), ComponentRef(name="linear"),
    ...                   ComponentRef(name="sign"), bits=12, preprocess=PreprocessConfig(size=(32, 32)), name="untrained")
    >>> model.encode(np.zeros((40, 40, 3), dtype=np.uint8))
    Codes(1 x 12 bits, model='untrained', precision='float32')
    """

    def __init__(
        self,
        backbone: ComponentRef,
        head: ComponentRef,
        quantizer: ComponentRef,
        *,
        bits: int,
        preprocess: PreprocessConfig,
        num_classes: int = 0,
        name: str | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.bits = check_bits(bits)
        self.name = name
        self.preprocess = Preprocess(preprocess)
        self.backbone_ref = backbone
        self.backbone = build_component("backbone", backbone, pretrained=pretrained)
        self.head = build_component(
            "head", head, feature_shape=self.backbone.feature_shape, bits=bits, num_classes=num_classes
        )
        self.quantizer = build_component("quantizer", quantizer)
        self.config: ModelConfig | None = None
        self.folder: Path | None = None

    def forward(self, images: Tensor) -> HashOutput:
        """Map normalised images, float (N, 3, H, W), to u, codes and logits; u and logits are float32 also under autocast."""
        return self.from_features(self.backbone(images))

    def from_features(self, features: Tensor) -> HashOutput:
        """Map the backbone's features, float (N, *feature_shape), to u, codes and logits."""
        made = self.head(features)
        u, logits = made if isinstance(made, tuple) else (made, None)
        u = u.float()
        return HashOutput(u=u, codes=self.quantizer(u), logits=None if logits is None else logits.float())

    @property
    def weights(self) -> str | None:
        """Which weights it was loaded with: the first 16 digits of their file's sha256; None if it was not loaded."""
        return self.config.weights_sha256[:16] if self.config else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def relaxed(self, batch: Tensor, precision: Precision = "float32") -> Tensor:
        """Map a uint8 batch (N, 3, *size), already fitted, to u, float32 (N, K) on the CPU, as `encoding` says."""
        with self.encoding(precision):
            return self(self.preprocess.normalise(batch.to(self.device))).u.float().cpu()

    @contextlib.contextmanager
    def encoding(self, precision: Precision = "float32") -> Iterator[None]:
        """Evaluation mode, without gradients, in one precision; each part's own mode comes back.

        float32 makes codes that are the same on every machine up to rounding, so it takes no TF32 on CUDA either.
        bfloat16 is autocast.

        Raises:
            CodesError: there is no such precision.
        """
        mixed = check_precision(precision) == "bfloat16"
        on_cuda = self.device.type == "cuda"
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with (
                torch.no_grad(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=mixed),
                without_tf32 if on_cuda else contextlib.nullcontext(),
            ):
                yield
        finally:  # each part's own mode, so that a frozen one stays frozen
            for module in training:
                module.training = True

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 64,
        precision: Precision = "float32",
        on_error: OnError = "raise",
    ) -> Codes:
        """Encode images to codes.

        Args:
            images: one image or an iterable (list, generator, batch) of them: paths, bytes, PIL images, uint8 arrays
                (H, W), (H, W, 3) or (N, H, W, 3), uint8 tensors (3, H, W) or (N, 3, H, W).
            batch_size: images a forward pass; never changes a code beyond float rounding.
            precision: of the network. "bfloat16" is faster on CUDA, but some bits of its codes differ from those in
                "float32": encode queries as the index was.
            on_error: "raise" stops at an unreadable image, "skip" leaves it out with a warning that names it, and so does
                a function, which is given the ImageError in place of the warning.

        Returns:
            Codes, one row an image, in order.

        Raises:
            ImageError: an image cannot be read (`on_error="raise"`); the message names it.
            CodesError: there is no such precision.
        """
        batches = self.encode_batches(images, batch_size=batch_size, precision=precision, on_error=on_error)
        rows = [u.numpy() >= 0 for _, u in batches]
        return self.codes(np.concatenate(rows) if rows else np.empty((0, self.bits), dtype=bool), precision)

    def codes(self, bits: NDArray[np.bool_], precision: Precision | None = None) -> Codes:
        """Make codes of this model from bool (N, K), bit k being 1 where u_k >= 0, computed in `precision`."""
        return Codes.from_bits(bits, self.name, self.weights, precision)

    def encode_batches(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 64,
        precision: Precision = "float32",
        on_error: OnError = "raise",
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, the positions of the images that could be read and their u, float32 (n, K)."""
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ImageError(f"on_error is 'raise', 'skip' or a function, not {on_error!r}.")
        if batch_size < 1:
            raise ImageError(f"batch_size is at least 1, not {batch_size}.")
        check_precision(precision)
        numbered = enumerate(_images(images))
        while chunk := list(itertools.islice(numbered, batch_size)):
            ready: list[Tensor] = []
            positions: list[int] = []
            for position, image in chunk:
                try:
                    ready.append(self.preprocess.fitted(image))
                    positions.append(position)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    if on_error == "skip":
                        warnings.warn(f"Skipped: {error}", stacklevel=2)
                    else:
                        on_error(error)
            if ready:
                yield positions, self.relaxed(torch.stack(ready), precision)

    # The ecosystem's names for what the zoo does

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
        from hashzoo.zoo import hub, load

        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return load(f"local-dir:{name}", device="cpu")
        if "/" in name and not name.startswith("hf-hub:"):
            name = f"hf-hub:{name}"
        with hub.access(token, local_files_only):
            return load(f"{name}@{revision}" if revision else name, device="cpu")

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
            ConfigError: the model was not loaded from a folder, `save_directory` holds a model already, or a file of the
                loaded folder is a link or no regular file.
            HubError: as `push_to_hub`.
        """
        from hashzoo.zoo.folder import copy_others, save_folder

        if self.config is None or self.folder is None:
            raise ConfigError(
                "Only a model that was loaded has a config to save; `hashzoo train` writes a new one's folder."
            )
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
        import tempfile

        from hashzoo.release import publish
        from hashzoo.zoo import hub

        if self.config is None or self.folder is None:
            raise HubError("Only a model that was loaded can be published; `hashzoo train` and `eval` make its folder.")
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


def _images(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """See one image, a batch or an iterable as an iterable of images."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        if isinstance(images, str | os.PathLike) and Path(images).is_dir():
            raise ImageError(f"{os.fspath(images)} is a folder; `hashzoo index` encodes folders.")
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return images if images.ndim == 4 else [images]
    if isinstance(images, Iterable):
        return images
    raise ImageError(f"An image is a path, bytes, PIL image, uint8 array or tensor, not {type(images).__name__}.")
