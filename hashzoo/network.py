"""HashNetwork: backbone, head and quantizer; images to codes. It knows no file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hashzoo import encoder
from hashzoo.codes import Codes, check_bits
from hashzoo.config import ComponentRef, PreprocessConfig
from hashzoo.encoder import OnError, Picture
from hashzoo.engines import start_engine
from hashzoo.engines.torch import TorchEngine
from hashzoo.errors import PluginError, UnknownNameError, install_line
from hashzoo.hookspecs import HashOutput
from hashzoo.precision import Precision
from hashzoo.preprocess import Preprocess
from hashzoo.registry import SESSION, registry


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


class HashNetwork(nn.Module):
    """backbone -> head -> quantizer.

    Args:
        backbone, head, quantizer: components by registry name.
        bits: K.
        num_classes: C, for heads that make logits.
        preprocess: how images become the network's input.
        name: written into the codes it makes; an index refuses codes of another name.
        pretrained: let the backbone fetch its own published weights (training only).

    Attributes:
        refs: how "backbone", "head" and "quantizer" were asked for; kept features are known by the backbone's.
        weights_id: which weights it was loaded with, the first 16 digits of their file's sha256; None of weights from no file.

    Raises:
        CodesError: `bits` is out of range.
        UnknownNameError, ConfigError, PluginError: a component cannot be found, does not take its `args`, or cannot be built.

    >>> network = HashNetwork(ComponentRef(name="torchvision/resnet18"), ComponentRef(name="linear"),
    ...                       ComponentRef(name="sign"), bits=12, preprocess=PreprocessConfig(size=(32, 32)), name="untrained")
    >>> network.encode(np.zeros((40, 40, 3), dtype=np.uint8))
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
        self.refs = {"backbone": backbone, "head": head, "quantizer": quantizer}
        self.num_classes = num_classes
        self.backbone = build_component("backbone", backbone, pretrained=pretrained)
        self.head = build_component(
            "head", head, feature_shape=self.backbone.feature_shape, bits=bits, num_classes=num_classes
        )
        self.quantizer = build_component("quantizer", quantizer)
        self.weights_id: str | None = None

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
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def relaxed(self, batch: Tensor, precision: Precision = "float32") -> Tensor:
        """Map a uint8 batch (N, 3, *size), already fitted, to u, float32 (N, K) on the CPU, as `encoding` says."""
        return TorchEngine(self, precision).relaxed(batch)

    @contextlib.contextmanager
    def encoding(self, precision: Precision = "float32") -> Iterator[HashNetwork]:
        """Give the network in evaluation mode, to run without gradients in one precision; it stays in its own mode itself.

        float32 makes codes that are the same on every machine up to rounding, so it takes no TF32 on CUDA either.
        bfloat16 is autocast.

        Raises:
            CodesError: there is no such precision.
        """
        with TorchEngine(self, precision).running() as network:
            yield network

    def encode(
        self,
        images: Picture | Iterable[Picture],
        *,
        batch_size: int = 64,
        precision: Precision = "float32",
        on_error: OnError = "raise",
    ) -> Codes:
        """Encode images to codes.

        Args:
            images: one image or an iterable (list, generator, batch) of them: paths, bytes, PIL images, uint8 arrays
                (H, W), (H, W, 3) or (N, H, W, 3), uint8 tensors (3, H, W) or (N, 3, H, W); or a folder, whose pictures are
                taken by path, those of subfolders too.
            batch_size: images a forward pass; never changes a code beyond float rounding.
            precision: of the network. "bfloat16" is faster on CUDA, but some bits of its codes differ from those in
                "float32": encode queries as the index was.
            on_error: "raise" stops at an unreadable image. "skip" leaves it out, and so does a function, which is given the
                ImageError; `Codes.failed` then says which were left out, and why.

        Returns:
            Codes, one row an image, in order.

        Raises:
            ImageError: an image cannot be read (`on_error="raise"`); the message names it.
            CodesError: there is no such precision.
        """
        return encoder.encode(start_engine(self, precision), images, batch_size=batch_size, on_error=on_error)

    def codes(self, bits: NDArray[np.bool_], precision: Precision | None = None) -> Codes:
        """Make codes of this network from bool (N, K), bit k being 1 where u_k >= 0, computed in `precision`."""
        return Codes.from_bits(bits, self.name, self.weights_id, precision)

    def encode_batches(
        self,
        images: Picture | Iterable[Picture],
        *,
        batch_size: int = 64,
        precision: Precision = "float32",
        on_error: OnError = "raise",
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, the positions of the images that could be read and their u, float32 (n, K)."""
        engine = start_engine(self, precision)
        batches = encoder.encode_batches(engine, images, batch_size=batch_size, on_error=on_error)
        return ((positions, torch.from_numpy(u)) for positions, u in batches)
